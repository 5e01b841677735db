/** The jobs as their pods run them: event-replay continuously, billing-reconciliation again and again. */
import { execFile, spawn } from 'node:child_process';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const root = (name: string) => fileURLToPath(new URL(`../${name}`, import.meta.url));
const LAST_LINES = 4_000;

export interface JobsOptions {
  readonly databaseUrl: string;
  readonly serviceUrl: string;
  readonly token: string;
}

export interface ContinuousReplay {
  /** SIGTERM; rejects when it had ended before, or ends with another code than 0. */
  stop(): Promise<void>;
}

const environmentOf = ({ databaseUrl }: JobsOptions) => ({
  PATH: process.env.PATH,
  DATABASE_URL: databaseUrl,
  CF_INSTALLATION: 'chaos',
});

/** event-replay as the Deployment of the production example, with waits short enough for a kill every few seconds. */
export function startReplay(options: JobsOptions): ContinuousReplay {
  const child = spawn(process.execPath, [root('jobs/event-replay/main.ts')], {
    env: {
      ...environmentOf(options),
      CF_MODE: 'continuous',
      CF_REPLAY_URL: `${options.serviceUrl}/admin/events/replay`,
      CF_REPLAY_TOKEN: options.token,
      CF_GRACE_SECONDS: '1',
      CF_LEASE_SECONDS: '3',
      CF_CALL_SECONDS: '5',
      CF_POLL_SECONDS: '1',
      CF_BACKOFF_SECONDS: '1',
      CF_BACKOFF_MAX_SECONDS: '1',
      CF_TRANSPORT_BACKOFF_SECONDS: '1',
      CF_TRANSPORT_BACKOFF_MAX_SECONDS: '1',
      // It is not the event that kills the service here: none must be parked for having been there often.
      CF_UNFINISHED_CALLS: '100',
      CF_HANDLER_ATTEMPTS: '100',
      CF_LOG_LEVEL: 'warn',
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
  return {
    async stop() {
      const before = child.exitCode;
      child.kill('SIGTERM');
      const code = await exited;
      if (before !== null || code !== 0) throw new Error(`event-replay ended with ${code}:\n${output}`);
    },
  };
}

/** One run of billing-reconciliation with repair; rejects with its log unless it ends with 0. */
export async function reconcile(options: JobsOptions, mode: 'tail' | 'full'): Promise<void> {
  await promisify(execFile)(process.execPath, [root('jobs/billing-reconciliation/main.ts')], {
    env: {
      ...environmentOf(options),
      CF_CHECKS_FILE: root('scripts/demo-checks.yaml'),
      CF_MODE: mode,
      CF_REPAIR: 'true',
      CF_REPAIR_LIMIT: '100000',
      CF_LEASE_SECONDS: '3',
      CF_LOG_LEVEL: 'warn',
    },
  }).catch((error: Error & { stdout?: string }) => {
    throw new Error(`billing-reconciliation failed: ${error.message}\n${error.stdout?.slice(-LAST_LINES)}`);
  });
}

export interface Schedule {
  /** Waits for the run in hand. */
  stop(): Promise<{ readonly runs: number; readonly failed: number }>;
}

/**
 * `tail` as its CronJob starts it, every few seconds instead of every minute. A run may fail while the database is
 * away, and the next one makes up for it.
 */
export function scheduleReconciliation(options: JobsOptions, everyMs: number): Schedule {
  const stopping = new AbortController();
  let runs = 0;
  let failed = 0;
  const work = async () => {
    while (!stopping.signal.aborted) {
      await delay(everyMs, undefined, { signal: stopping.signal }).catch(() => undefined);
      if (stopping.signal.aborted) return;
      runs += 1;
      await reconcile(options, 'tail').catch(() => {
        failed += 1;
      });
    }
  };
  const ended = work();
  return {
    async stop() {
      stopping.abort();
      await ended;
      return { runs, failed };
    },
  };
}
