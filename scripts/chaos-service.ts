/** The built reference service as a process that is killed and started again on the same port. */
import { type ChildProcess, spawn } from 'node:child_process';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { request } from 'undici';

export interface ServiceOptions {
  readonly databaseUrl: string;
  readonly port: number;
  readonly token: string;
  readonly podName: string;
  readonly leaseSeconds: number;
  /** Its clock is this much ahead of the true one; a negative number: behind. */
  readonly clockShiftMs: number;
  readonly timeZone: string;
  /** A folder in which Node keeps compiled code: the service is started hundreds of times. */
  readonly compileCache: string;
}

export interface ServiceUnderTrial {
  readonly podName: string;
  /** Resolves once it answers that it is ready; rejects with its last lines if it ends first. */
  readonly ready: Promise<void>;
  /** SIGKILL; resolves when the process is gone. */
  kill(): Promise<void>;
  /** SIGTERM, as Kubernetes ends it; resolves with its exit code. */
  stop(): Promise<number | null>;
}

const READY_WITHIN_MS = 60_000;
const LAST_LINES = 4_000;
const main = fileURLToPath(new URL('../reference-service/dist/main.js', import.meta.url));
const clock = new URL('chaos-clock.ts', import.meta.url).href;

export function startServiceUnderTrial(options: ServiceOptions): ServiceUnderTrial {
  const child = spawn(process.execPath, options.clockShiftMs === 0 ? [main] : ['--import', clock, main], {
    env: {
      PATH: process.env.PATH,
      TZ: options.timeZone,
      NODE_COMPILE_CACHE: options.compileCache,
      CHAOS_CLOCK_SHIFT_MS: String(options.clockShiftMs),
      HOST: '127.0.0.1',
      PORT: String(options.port),
      DATABASE_URL: options.databaseUrl,
      REPLAY_TOKEN: options.token,
      POD_NAME: options.podName,
      FAULTS: 'true',
      LISTENER_LEASE_SECONDS: String(options.leaseSeconds),
      LOG_LEVEL: 'warn',
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const killAtExit = () => child.kill('SIGKILL');
  process.once('exit', killAtExit);
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      output = (output + chunk.toString()).slice(-LAST_LINES);
    });
  }
  const exited = new Promise<number | null>((resolve) => {
    child.once('exit', (code) => {
      process.off('exit', killAtExit);
      resolve(code);
    });
  });
  const ready = waitUntilReady(child, options.port, () => output);
  // A kill may come before it is ready, with nobody waiting for that any more.
  ready.catch(() => undefined);
  return {
    podName: options.podName,
    ready,
    async kill() {
      child.kill('SIGKILL');
      await exited;
    },
    async stop() {
      child.kill('SIGTERM');
      return await exited;
    },
  };
}

async function waitUntilReady(child: ChildProcess, port: number, output: () => string): Promise<void> {
  const deadline = Date.now() + READY_WITHIN_MS;
  while (Date.now() < deadline) {
    if (child.exitCode !== null || child.signalCode !== null)
      throw new Error(`the service ended at its start:\n${output()}`);
    try {
      const { statusCode, body } = await request(`http://127.0.0.1:${port}/health/ready`, {
        headersTimeout: 2_000,
      });
      await body.dump();
      if (statusCode === 200) return;
    } catch {
      // Nobody listens yet.
    }
    await delay(10);
  }
  throw new Error(`the service was not ready within ${READY_WITHIN_MS / 1_000} s:\n${output()}`);
}

/** Makes a share of the listeners slow, so that a kill finds events under way. */
export async function slowListeners(
  port: number,
  token: string,
  fault: { readonly rate: number; readonly ms: number },
): Promise<void> {
  const { statusCode, body } = await request(`http://127.0.0.1:${port}/admin/faults`, {
    method: 'POST',
    headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
    body: JSON.stringify({ fault: 'slow', forSeconds: 86_400, ...fault }),
  });
  await body.dump();
  if (statusCode >= 300) throw new Error(`the service refused the fault: HTTP ${statusCode}`);
}
