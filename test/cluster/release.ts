/** The chart on a real cluster, installed by a real helm as a person would. */
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { findTool } from '../tools/find-tool.ts';
import type { Namespace } from './cluster.ts';

const run = promisify(execFile);
const ownChart = fileURLToPath(new URL('../../charts/counterfoil', import.meta.url));

/** Values over those of one of the chart's examples. */
export interface Layers {
  readonly example?: string;
  readonly values: object;
  /** The folder of another chart than this checkout's. */
  readonly chart?: string;
}

export class Release {
  readonly name: string;
  readonly #namespace: Namespace;
  readonly #helm: string;

  private constructor(name: string, namespace: Namespace, helm: string) {
    this.name = name;
    this.#namespace = namespace;
    this.#helm = helm;
  }

  /** Installs it; the hooks have run when this returns, the workloads may still be starting. */
  static async install(name: string, namespace: Namespace, layers: Layers): Promise<Release> {
    const release = new Release(name, namespace, await findTool('helm'));
    await release.#withValues(layers, (chartAndValues) => release.#call('install', name, ...chartAndValues));
    return release;
  }

  async upgrade(layers: Layers): Promise<void> {
    await this.#withValues(layers, (chartAndValues) => this.#call('upgrade', this.name, ...chartAndValues));
  }

  /** To the revision before; `helm rollback` knows neither chart nor values but those it has kept. */
  async rollback(): Promise<void> {
    await this.#call('rollback', this.name);
  }

  /** What it says to the person who has installed it. */
  async notes(): Promise<string> {
    return await this.#call('get', 'notes', this.name);
  }

  /** `helm test`, with its log; throws where one of the tests fails. */
  async test(): Promise<string> {
    return await this.#call('test', this.name, '--logs', '--timeout', '3m');
  }

  async uninstall(): Promise<string> {
    return await this.#call('uninstall', this.name);
  }

  async #call(...args: readonly string[]): Promise<string> {
    try {
      const { stdout } = await run(this.#helm, ['--namespace', this.#namespace.name, ...args], {
        maxBuffer: 64_000_000,
      });
      return stdout;
    } catch (error) {
      const { stderr = '', stdout = '' } = error as { stderr?: string; stdout?: string };
      throw new Error(`helm ${args[0]}: ${stderr}${stdout}`);
    }
  }

  async #withValues<Result>(
    { example, values, chart = ownChart }: Layers,
    work: (chartAndValues: readonly string[]) => Promise<Result>,
  ): Promise<Result> {
    const folder = mkdtempSync(join(tmpdir(), 'counterfoil-values-'));
    try {
      const own = join(folder, 'values.json');
      writeFileSync(own, JSON.stringify(values));
      const files = [...(example === undefined ? [] : [join(chart, 'examples', example)]), own];
      return await work([chart, ...files.flatMap((file) => ['--values', file])]);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  }
}
