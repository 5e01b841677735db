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
const chart = fileURLToPath(new URL('../../charts/counterfoil', import.meta.url));

/** Values over those of a file of charts/counterfoil/examples. */
export interface Layers {
  readonly example?: string;
  readonly values: object;
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
    await release.#withValues(layers, (files) => release.#call('install', name, chart, ...files));
    return release;
  }

  async upgrade(layers: Layers): Promise<void> {
    await this.#withValues(layers, (files) => this.#call('upgrade', this.name, chart, ...files));
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
    { example, values }: Layers,
    work: (files: readonly string[]) => Promise<Result>,
  ): Promise<Result> {
    const folder = mkdtempSync(join(tmpdir(), 'counterfoil-values-'));
    try {
      const own = join(folder, 'values.json');
      writeFileSync(own, JSON.stringify(values));
      const files = [...(example === undefined ? [] : [join(chart, 'examples', example)]), own];
      return await work(files.flatMap((file) => ['--values', file]));
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  }
}
