/** Asks tools/argo-rollouts, which judges by Argo's own code: one process, one line for each question. */
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface, type Interface } from 'node:readline';
import type { AnalysisTemplate, KubernetesObject, Metric } from './rollout-files.ts';

export type Phase = 'Successful' | 'Failed' | 'Error' | 'Inconclusive' | 'Running' | 'Pending';

/** What a metric's source says. */
export type Answer =
  | { readonly vector: readonly string[] }
  | { readonly scalar: string }
  | { readonly error: string }
  | { readonly status: number; readonly body: unknown }
  | { readonly job: 'Complete' | 'Failed'; readonly seconds: number };

/** From so many seconds on it says that. */
export type TimedAnswer = readonly [seconds: number, answer: Answer];

export interface Measurement {
  readonly phase: Phase;
  readonly value: string;
  readonly message: string;
}

export interface AnalysisRun {
  readonly phase: Phase;
  readonly message: string;
  readonly endedAt?: number;
  readonly metrics: Readonly<
    Record<
      string,
      {
        readonly phase: Phase;
        readonly count: number;
        readonly failed: number;
        readonly error: number;
        readonly dryRun: boolean;
      }
    >
  >;
}

export class AnalysisVerdict {
  readonly #child: ChildProcessWithoutNullStreams;
  readonly #lines: Interface;
  readonly #waiting: { readonly resolve: (line: string) => void; readonly reject: (error: Error) => void }[] =
    [];

  constructor(program: string) {
    this.#child = spawn(program);
    this.#child.stderr.pipe(process.stderr);
    this.#lines = createInterface(this.#child.stdout);
    this.#lines.on('line', (line) => this.#waiting.shift()?.resolve(line));
    this.#child.once('close', (code) => {
      for (const { reject } of this.#waiting.splice(0))
        reject(new Error(`analysis-verdict ended with ${code}`));
    });
  }

  /** One measurement; without an answer the address in the metric is asked. */
  async measure(
    metric: Metric,
    args: Readonly<Record<string, string>>,
    answer?: Answer,
  ): Promise<Measurement> {
    return await this.#ask({ do: 'measure', metric, args, answer });
  }

  async run(run: {
    readonly templates: readonly AnalysisTemplate[];
    readonly args?: Readonly<Record<string, string>>;
    readonly dryRun?: readonly string[];
    readonly until: number;
    readonly answers: Readonly<Record<string, readonly TimedAnswer[]>>;
  }): Promise<AnalysisRun> {
    return await this.#ask({ do: 'run', ...run });
  }

  /** Why the controller would not take them; none where it does. */
  async validate(objects: readonly KubernetesObject[]): Promise<readonly string[]> {
    const { problems } = await this.#ask<{ problems: readonly string[] }>({ do: 'validate', objects });
    return [...problems].sort();
  }

  async stop(): Promise<void> {
    this.#child.stdin.end();
    if (this.#child.exitCode === null) await once(this.#child, 'close');
  }

  async #ask<Result>(question: object): Promise<Result> {
    const line = await new Promise<string>((resolve, reject) => {
      this.#waiting.push({ resolve, reject });
      this.#child.stdin.write(`${JSON.stringify(question)}\n`);
    });
    const answer = JSON.parse(line) as Result & { readonly error?: string };
    if (typeof answer.error === 'string') throw new Error(answer.error);
    return answer;
  }
}
