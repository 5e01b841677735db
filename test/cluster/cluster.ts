/** A real cluster, by kubectl: a namespace of its own for each journey, gone when it ends. */
import { execFile, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterEach, expect } from 'vitest';
import { collect } from './diagnostics.ts';

const run = promisify(execFile);

/** What the pods of the journeys are made of: 2 MB, with a shell. */
export const IMAGE = 'busybox:1.36';

/** Tests of this file that have ended, and how many of them failed: a namespace is looked at before it goes. */
const seen = { passed: 0, failed: 0 };
afterEach(({ task }) => {
  if (task.result?.state === 'fail') seen.failed += 1;
  else seen.passed += 1;
});

export async function kubectl(...args: readonly string[]): Promise<string> {
  const { stdout } = await run('kubectl', [...args], { maxBuffer: 64_000_000 });
  return stdout;
}

async function applyText(namespace: string, text: string): Promise<void> {
  const child = spawn('kubectl', ['-n', namespace, 'apply', '-f', '-'], {
    stdio: ['pipe', 'ignore', 'pipe'],
  });
  let errors = '';
  child.stderr.on('data', (chunk: Buffer) => {
    errors += chunk.toString();
  });
  child.stdin.end(text);
  const code = await new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  if (code !== 0) throw new Error(`kubectl apply: ${errors}`);
}

export class Namespace {
  readonly name: string;

  private constructor(name: string) {
    this.name = name;
  }

  static async create(): Promise<Namespace> {
    const name = `counterfoil-test-${randomBytes(4).toString('hex')}`;
    await kubectl('create', 'namespace', name);
    return new Namespace(name);
  }

  /** Removes it with all that is in it; after a failure only once what tells of it has been collected. */
  async remove(): Promise<void> {
    // Where no test has ended at all, what came before them has failed.
    if (seen.failed > 0 || seen.passed === 0) {
      const journey = expect.getState().testPath?.split('/').at(-1)?.replace('.test.ts', '') ?? 'journey';
      process.stderr.write(`${this.name}: ${await collect(this.name, journey)}
`);
    }
    await kubectl('delete', 'namespace', this.name, '--wait=false', '--ignore-not-found');
  }

  async apply(...objects: readonly object[]): Promise<void> {
    await applyText(this.name, JSON.stringify({ apiVersion: 'v1', kind: 'List', items: objects }));
  }

  async kubectl(...args: readonly string[]): Promise<string> {
    return await kubectl('-n', this.name, ...args);
  }

  /** One object as it is now. */
  async get<Shape = Record<string, unknown>>(...args: readonly string[]): Promise<Shape> {
    return JSON.parse(await this.kubectl('get', ...args, '-o', 'json')) as Shape;
  }

  /**
   * A kubeconfig of the exporter's service account, with the rights of jobs/exporter/rbac.yaml and no others.
   * @param through another address of the API server, such as that of a proxy
   */
  async exporterKubeconfig(through?: (server: URL) => Promise<URL>): Promise<string> {
    const rbac = fileURLToPath(new URL('../../jobs/exporter/rbac.yaml', import.meta.url));
    await applyText(this.name, readFileSync(rbac, 'utf8'));
    const token = (await this.kubectl('create', 'token', 'counterfoil-exporter', '--duration=1h')).trim();
    const admin = JSON.parse(
      await kubectl('config', 'view', '--raw', '--minify', '--flatten', '-o', 'json'),
    ) as {
      clusters: { cluster: Record<string, unknown> & { server: string } }[];
    };
    const own = admin.clusters[0]?.cluster;
    if (own === undefined) throw new Error('the kubeconfig names no cluster');
    const server = new URL(own.server);
    // Behind a proxy its certificate is still that of the API server, which always has this name.
    const cluster =
      through === undefined
        ? own
        : { ...own, server: (await through(server)).origin, 'tls-server-name': 'kubernetes' };
    const path = join(mkdtempSync(join(tmpdir(), 'counterfoil-kubeconfig-')), 'config');
    writeFileSync(
      path,
      JSON.stringify({
        apiVersion: 'v1',
        kind: 'Config',
        clusters: [{ name: 'test', cluster }],
        users: [{ name: 'exporter', user: { token } }],
        contexts: [{ name: 'test', context: { cluster: 'test', user: 'exporter', namespace: this.name } }],
        'current-context': 'test',
      }),
      { mode: 0o600 },
    );
    return path;
  }
}

/** Puts an image into the nodes where a command for that is given; else they pull it, or have it. */
export async function loadImage(image = IMAGE): Promise<void> {
  const command = process.env.IMAGE_LOAD_COMMAND;
  if (command === undefined || command === '') return;
  await run('sh', ['-c', `${command} ${image}`]);
}

/** Waits until something is so on the cluster; fails with its description, and with what was last seen. */
export async function eventually<Result>(
  description: string,
  seconds: number,
  look: () => Promise<Result | undefined | false>,
): Promise<Result> {
  const deadline = Date.now() + seconds * 1000;
  let last: unknown;
  for (;;) {
    try {
      const seen = await look();
      if (seen !== undefined && seen !== false) return seen;
      last = seen;
    } catch (error) {
      last = error;
    }
    if (Date.now() > deadline) throw new Error(`waited in vain: ${description}; last: ${String(last)}`);
    // Each look is a process of its own, and there are two cores: five a second would keep one of them busy.
    await delay(1_000);
  }
}
