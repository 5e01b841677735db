/**
 * What every run does around its work: settings, log, database, schema level, freeze, run record, SIGTERM,
 * exit code. The one place that logs a failure and the one that decides an exit code.
 */
import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { type Environment, readSettings, type Settings, type SettingsShape } from './config.ts';
import { Database } from './database.ts';
import { runtimeSettings } from './env.ts';
import { RunFailure } from './failures.ts';
import { acquireLease, type Lease } from './job-lock.ts';
import { createLogger, type LogDestination, type Logger } from './logger.ts';
import {
  finishRunRecord,
  type RunCounts,
  type RunEnd,
  type RunOutcome,
  startRunRecord,
  touchRunRecord,
} from './run-record.ts';
import { checkSchemaVersion } from './schema-level.ts';
import { listenForShutdown } from './shutdown.ts';
import { toRunFailure } from './sqlstates.ts';

type RuntimeSettings = Settings<typeof runtimeSettings>;

/** The version of the bundle, as in package.json. */
export const bundleVersion: string = (
  JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { version: string }
).version;

/** After SIGTERM the database is waited for no longer than this: the rest of the time is for ending by ourselves. */
const RETRY_SHARE_OF_SHUTDOWN = 0.75;

/** What a job is handed for one run. */
export interface RunContext<Shape extends SettingsShape> {
  readonly settings: Settings<Shape> & RuntimeSettings;
  readonly database: Database;
  readonly logger: Logger;
  readonly runId: string;
  /** Aborted at SIGTERM: take nothing new, finish or give back what is in hand. */
  readonly signal: AbortSignal;
  /** Takes a lease that is given back when the run ends; nothing when it stays held for `waitMs`. */
  lease(
    name: string,
    options: { readonly ttlMs: number; readonly waitMs: number },
  ): Promise<Lease | undefined>;
  /** Whether a freeze began since the run did, that is not its own: a run that lasts has to ask. */
  isFrozen(): Promise<boolean>;
  /** Shows in `job_runs` that the run is alive. Does nothing for a run without a record. */
  touch(counts: RunCounts): Promise<void>;
}

export interface RunResult {
  readonly outcome: Exclude<RunOutcome, 'failed' | 'refused'>;
  /** What was done, as numbers by snake_case name; stored in `job_runs.counts` and logged. */
  readonly counts: RunCounts;
  /** Whether discrepancies are open (exit 3 where the caller asked for it). */
  readonly openFindings?: boolean;
  /** One sentence for a person, where the outcome needs one. */
  readonly message?: string;
}

export interface Job<Shape extends SettingsShape> {
  readonly name: string;
  /** The job's own settings; those of every job are added. */
  readonly settings: Shape;
  /** The mode that is recorded, such as `tail` or `once`. */
  mode(settings: Settings<Shape>): string;
  /** Whether the run has state: a schema to check and a record to write. False for an audit that only reads. */
  hasState(settings: Settings<Shape>): boolean;
  /** Whether exit codes 3 and 4 are wanted: canary gates, scripts and people; never schedules. */
  exitsOnFindings(settings: Settings<Shape>): boolean;
  run(context: RunContext<Shape>): Promise<RunResult>;
}

export interface RunOptions {
  readonly environment: Environment;
  readonly logDestination?: LogDestination;
  /** Ends the process when a run does not stop by its deadline. A test passes its own. */
  readonly exit?: (code: number) => void;
}

/** Runs a job once and gives the exit code; never throws. */
export async function runJob<Shape extends SettingsShape>(
  job: Job<Shape>,
  options: RunOptions,
): Promise<number> {
  let settings: Settings<Shape> & RuntimeSettings;
  try {
    settings = readSettings({ ...runtimeSettings, ...job.settings }, options.environment) as Settings<Shape> &
      RuntimeSettings;
  } catch (error) {
    const logger = createLogger(
      { job: job.name, level: 'info', installation: 'unknown' },
      options.logDestination,
    );
    return logFailure(logger, toRunFailure(error)).exitCode;
  }
  const runId = randomUUID();
  const logger = createLogger(
    { job: job.name, level: settings.CF_LOG_LEVEL, installation: settings.CF_INSTALLATION },
    options.logDestination,
  ).child({ runId });
  const exit = options.exit ?? ((code: number) => process.exit(code));
  const shutdown = listenForShutdown(settings.CF_SHUTDOWN_SECONDS, () => {
    exit(
      logFailure(
        logger,
        new RunFailure('deadline_exceeded', 'the run did not stop in time after SIGTERM: cut off'),
      ).exitCode,
    );
  });
  const database = new Database(
    {
      url: settings.DATABASE_URL,
      applicationName: `counterfoil-${job.name}`,
      schema: settings.CF_SCHEMA,
      poolSize: settings.CF_DATABASE_POOL_SIZE,
      connectTimeoutMs: settings.CF_DATABASE_CONNECT_TIMEOUT_SECONDS,
      lockTimeoutMs: settings.CF_LOCK_TIMEOUT_SECONDS,
      retryMs: settings.CF_DATABASE_RETRY_SECONDS,
    },
    logger,
  );
  shutdown.signal.addEventListener('abort', () => {
    database.limitRetries(Date.now() + settings.CF_SHUTDOWN_SECONDS * RETRY_SHARE_OF_SHUTDOWN);
  });
  try {
    const end = await runWithRecord(job, settings, database, logger, runId, shutdown.signal);
    return end.exitCode;
  } finally {
    await database.close().catch((error: unknown) => {
      logger.warn({ err: error }, 'the database connections did not close cleanly');
    });
    shutdown.dispose();
  }
}

async function runWithRecord<Shape extends SettingsShape>(
  job: Job<Shape>,
  settings: Settings<Shape> & RuntimeSettings,
  database: Database,
  logger: Logger,
  runId: string,
  signal: AbortSignal,
): Promise<RunEnd> {
  const leases = new Set<Lease>();
  const hasState = job.hasState(settings);
  let recorded = false;
  // What the run last showed of itself: a failure does not undo what was done before it.
  let shown: RunCounts = {};
  let end: RunEnd;
  try {
    if (hasState) {
      await checkSchemaVersion(database);
      await startRunRecord(database, {
        runId,
        job: job.name,
        mode: job.mode(settings),
        installation: settings.CF_INSTALLATION,
        pod: settings.CF_POD_NAME,
        version: bundleVersion,
      });
      recorded = true;
    }
    const freeze = hasState ? await findFreeze(database, settings.CF_FREEZE_ID) : undefined;
    const result: RunResult =
      freeze === undefined
        ? await job.run({
            settings,
            database,
            logger,
            runId,
            signal,
            async lease(name, request) {
              const lease = await acquireLease(database, logger, { name, holder: runId, signal, ...request });
              if (lease === undefined) return undefined;
              leases.add(lease);
              const release = async () => {
                // A run that lasts takes its lease again and again: what is given back is not kept.
                leases.delete(lease);
                await lease.release();
              };
              return { ...lease, release };
            },
            async isFrozen() {
              return hasState && (await findFreeze(database, settings.CF_FREEZE_ID)) !== undefined;
            },
            async touch(counts) {
              shown = counts;
              if (recorded) await touchRunRecord(database, runId, counts);
            },
          })
        : { outcome: 'skipped', counts: {}, message: `frozen until ${freeze.until}: freeze ${freeze.id}` };
    end = {
      outcome: result.outcome,
      exitCode: exitCodeOf(result, job.exitsOnFindings(settings)),
      counts: result.counts,
      ...(result.message === undefined ? {} : { message: result.message }),
    };
    logger.info(
      { outcome: end.outcome, exitCode: end.exitCode, counts: end.counts },
      end.message ?? 'run finished',
    );
  } catch (error) {
    const failure = logFailure(logger, toRunFailure(error));
    end = {
      outcome:
        failure.id === 'endpoint_down' ? 'endpoint_down' : failure.exitCode === 2 ? 'refused' : 'failed',
      exitCode: failure.exitCode,
      counts: shown,
      failureId: failure.id,
      message: failure.message,
    };
  }
  for (const lease of leases) {
    await lease.release().catch((error: unknown) => {
      logger.warn({ err: error, lease: lease.name }, 'a lease was not given back: it runs out by itself');
    });
  }
  if (recorded) {
    try {
      await finishRunRecord(database, runId, end);
    } catch (error) {
      // What was done is done and stands in the tables; but nobody can see that it was, so it is no success.
      const failure = logFailure(logger, toRunFailure(error));
      return { ...end, outcome: 'failed', exitCode: end.exitCode === 2 ? 2 : failure.exitCode };
    }
  }
  return end;
}

/** The table of design: exit 3 and 4 only where the caller asked, since Kubernetes knows no "failed but fine". */
export function exitCodeOf(result: Pick<RunResult, 'outcome' | 'openFindings'>, onFindings: boolean): number {
  switch (result.outcome) {
    case 'succeeded':
      return onFindings && result.openFindings === true ? 3 : 0;
    case 'partial':
    case 'skipped':
    case 'implausible':
      return onFindings ? 4 : 0;
    case 'endpoint_down':
      return 1;
  }
}

function logFailure(logger: Logger, failure: RunFailure): RunFailure {
  const known = { failureId: failure.id, exitCode: failure.exitCode };
  // Frames help where the failure came from somewhere else, and only there.
  const origin = failure.cause ?? (failure.id === 'internal' ? failure : undefined);
  logger.error(origin === undefined ? known : { ...known, err: origin }, failure.message);
  return failure;
}

const findFreeze = async (
  database: Database,
  ownFreezeId: string | undefined,
): Promise<{ id: string; until: string } | undefined> =>
  await database.read(async (transaction) => {
    const [freeze] = await transaction.query<{ id: string; until: string }>(
      `-- runtime: findFreeze
       SELECT id, frozen_until AS until FROM freezes
        WHERE frozen_until > clock_timestamp() AND released_at IS NULL
          AND id IS DISTINCT FROM $1::bigint
        ORDER BY frozen_until DESC LIMIT 1`,
      [ownFreezeId ?? null],
    );
    return freeze;
  });
