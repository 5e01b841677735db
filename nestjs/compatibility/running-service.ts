/** A service of the matrix as a process of its own. */
import { execFileSync, spawn } from 'node:child_process';
import { delimiter, join } from 'node:path';
import { eventually } from '../src/testing/trial-app.js';

/** The service as a process. */
export interface RunningService {
  url: string;
  /** All it has printed so far. */
  output(): string;
  /** Lets the listener that holds go on. */
  letGo(): void;
  signal(signal: NodeJS.Signals): void;
  /** How it ended. */
  ended: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
}

/** Starts a compiled service and waits until it listens. */
export async function startService(
  node: string,
  folder: string,
  main: string,
  env: Readonly<Record<string, string>>,
): Promise<RunningService> {
  const child = spawn(node, [main], {
    cwd: folder,
    env: { PATH: process.env.PATH ?? '', NO_COLOR: '1', ...env },
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      output += chunk.toString();
    });
  }
  const ended: RunningService['ended'] = new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code, signal) => resolve({ code, signal }));
  });
  const url = await eventually(`${main} listens`, () => {
    if (child.exitCode !== null) throw new Error(`${main} has ended`);
    return /trial \{"url":"([^"]+)"/.exec(output)?.[1];
  }).catch((error: Error) => {
    child.kill('SIGKILL');
    throw new Error(`${error.message}\n${output}`);
  });
  return {
    url,
    output: () => output,
    letGo: () => child.stdin.write('go\n'),
    signal: (signal) => child.kill(signal),
    ended,
  };
}

/** A Node of this machine that is older than the one that runs the tests, and can `require` an ES module. */
export function olderNode(): { path: string; version: string } | undefined {
  for (const folder of (process.env.PATH ?? '').split(delimiter)) {
    const path = join(folder, 'node');
    try {
      const version = execFileSync(path, ['--version'], { encoding: 'utf8', stdio: 'pipe' }).trim();
      const [major = 0, minor = 0] = version.slice(1).split('.').map(Number);
      const requiresModules = major >= 23 || (major === 22 && minor >= 12) || (major === 20 && minor >= 19);
      if (requiresModules && major < Number(process.versions.node.split('.')[0])) return { path, version };
    } catch {
      // No node there.
    }
  }
  return undefined;
}
