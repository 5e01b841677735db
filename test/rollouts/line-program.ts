/** A long-lived program that answers each JSON line with one: Argo's evaluator, and Prometheus in simulated time. */
import { type ChildProcessByStdio, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface, type Interface } from 'node:readline';
import type { Readable, Writable } from 'node:stream';

export class LineProgram {
  readonly #process: ChildProcessByStdio<Writable, Readable, null>;
  readonly #lines: Interface;
  readonly #waiting: ((line: string | undefined) => void)[] = [];

  constructor(file: string) {
    this.#process = spawn(file, { stdio: ['pipe', 'pipe', 'inherit'] });
    this.#lines = createInterface({ input: this.#process.stdout });
    this.#lines.on('line', (line) => this.#waiting.shift()?.(line));
    this.#lines.on('close', () => {
      for (const waiting of this.#waiting.splice(0)) waiting(undefined);
    });
    // What the program says about its end stands on standard error; whoever waits is told by the end of its output.
    this.#process.on('error', () => this.#lines.close());
    this.#process.stdin.on('error', () => undefined);
  }

  /** @throws Error with what the program has against the request */
  async ask<Answer>(request: object): Promise<Answer> {
    const line = await new Promise<string | undefined>((resolve) => {
      this.#waiting.push(resolve);
      this.#process.stdin.write(`${JSON.stringify(request)}\n`);
    });
    if (line === undefined) throw new Error('the program has ended before its answer');
    const answer = JSON.parse(line) as Answer & { readonly error?: string };
    if (answer.error !== undefined) throw new Error(answer.error);
    return answer;
  }

  async close(): Promise<void> {
    this.#process.stdin.end();
    if (this.#process.exitCode === null) await once(this.#process, 'exit');
  }
}
