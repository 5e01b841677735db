/** backup-retention as a job: finds how far it may go, deletes in portions or drops days, and then old records of runs. */
import { type Check, readChecks } from '../checks/parse.ts';
import { RunFailure } from '../runtime/failures.ts';
import type { Lease } from '../runtime/job-lock.ts';
import { pause } from '../runtime/pause.ts';
import type { Job, RunResult } from '../runtime/run-job.ts';
import { errorCode } from '../runtime/sqlstates.ts';
import { backupRetentionSettings, type RetentionContext } from './env.ts';
import { limitOf, needsOf } from './holds.ts';
import { type PurgeContext, type WalkEnd, walk } from './purge.ts';
import { dropDay, isOver, listRunGroups, purgeRuns, readCheckStates, readClock } from './queries.ts';
import { timeZoneExists } from './table-queries.ts';
import { type Day, type EventsTable, findEventsTable } from './tables.ts';

const LEASE = 'backup-retention';
const DAY_MS = 86_400_000;
/** How often a run shows that it is alive, and looks whether it was frozen. */
const TOUCH_EVERY_MS = 5_000;
/** The owner's function looks at a whole day before it takes its lock. Below the shutdown time, so that SIGTERM waits. */
const DROP_TIMEOUT_MS = 20_000;
const RUNS_PER_STATEMENT = 1_000;

export const backupRetentionJob: Job<typeof backupRetentionSettings> = {
  name: 'backup-retention',
  settings: backupRetentionSettings,
  mode: (settings) => (settings.CF_DRY_RUN ? 'dry_run' : 'purge'),
  hasState: () => true,
  exitsOnFindings: () => false,
  async run(context) {
    const { settings } = context;
    const checks = readChecks(settings.CF_CHECKS_FILE);
    const needs = needsOf(checks, settings.CF_RETENTION_DAYS);
    if (needs.length > 0)
      throw new RunFailure('settings_invalid', `CF_RETENTION_DAYS: is too few: ${needs.join('; ')}`);
    const table = await findTable(context);
    const ttlMs = settings.CF_LEASE_SECONDS;
    const lease = await context.lease(LEASE, { ttlMs, waitMs: ttlMs });
    if (lease === undefined)
      return { outcome: 'skipped', counts: {}, message: `another run holds the lease ${LEASE}` };
    return await new Retention(context, checks, table, lease).run();
  },
};

async function findTable({ database, settings }: RetentionContext): Promise<EventsTable> {
  return await database.read(
    async (transaction) => {
      if (!(await timeZoneExists(transaction, settings.CF_SERVICE_TIME_ZONE)))
        throw new RunFailure(
          'settings_invalid',
          'CF_SERVICE_TIME_ZONE: the database knows no such time zone',
        );
      return await findEventsTable(transaction, {
        eventsTable: settings.CF_EVENTS_TABLE,
        deliveriesTable: settings.CF_DELIVERIES_TABLE,
        dropFunction: settings.CF_RETENTION_DROP_FUNCTION,
        timeZone: settings.CF_SERVICE_TIME_ZONE,
      });
    },
    { userSearchPath: true },
  );
}

/** One run, under its lease. */
class Retention {
  readonly #context: RetentionContext;
  readonly #checks: readonly Check[];
  readonly #table: EventsTable;
  readonly #lease: Lease;
  readonly #stop: AbortController = new AbortController();
  /** What stays for the next run, or for a person, in the words of the run's message. */
  readonly #remarks: string[] = [];
  #touchedAt = performance.now();
  readonly #counts = {
    scanned: 0,
    purged: 0,
    /** Processed and old enough, and named by something that is open. */
    held: 0,
    /** Locked by somebody: left for the next run. */
    locked: 0,
    portions: 0,
    days_dropped: 0,
    days_left: 0,
    runs_purged: 0,
  };

  constructor(context: RetentionContext, checks: readonly Check[], table: EventsTable, lease: Lease) {
    this.#context = context;
    this.#checks = checks;
    this.#table = table;
    this.#lease = lease;
  }

  async run(): Promise<RunResult> {
    const { settings, signal } = this.#context;
    const stop = () => this.#stop.abort();
    const budget = setTimeout(() => {
      this.#remarks.push('the time budget is used up');
      stop();
    }, settings.CF_RETENTION_BUDGET_SECONDS);
    signal.addEventListener('abort', stop, { once: true });
    if (signal.aborted) stop();
    this.#lease.lost.addEventListener('abort', stop, { once: true });
    try {
      await this.#purge();
    } catch (error) {
      await this.#context.touch({ ...this.#counts });
      throw error;
    } finally {
      clearTimeout(budget);
      signal.removeEventListener('abort', stop);
    }
    this.#lease.check();
    if (signal.aborted) this.#remarks.push('stopped as asked');
    const whole = !this.#stop.signal.aborted && this.#remarks.length === 0;
    const done = settings.CF_DRY_RUN ? 'dry run: nothing was deleted' : 'what is old enough is gone';
    return {
      outcome: whole ? 'succeeded' : 'partial',
      counts: { ...this.#counts },
      message: whole ? done : `left for the next run: ${this.#remarks.join('; ')}`,
    };
  }

  async #purge(): Promise<void> {
    const { database, settings, logger } = this.#context;
    const { now, states } = await database.read(async (transaction) => ({
      now: await readClock(transaction),
      states: await readCheckStates(transaction),
    }));
    const may = limitOf(now, settings.CF_RETENTION_DAYS, this.#checks, states);
    if ('unverified' in may) {
      const names = may.unverified.join(', ');
      this.#remarks.push(
        `nothing is verified yet by the check ${names}: run billing-reconciliation with CF_MODE=full`,
      );
      logger.warn({ checks: may.unverified }, 'a check has not verified anything yet: every event stays');
    } else {
      logger.info(
        { limit: may.limit, dryRun: settings.CF_DRY_RUN },
        'events processed before the limit may go',
      );
      await this.#purgeEvents(may.limit);
    }
    if (settings.CF_RETENTION_RUNS_DAYS > 0) await this.#purgeRuns(now);
  }

  async #purgeEvents(limit: string): Promise<void> {
    const { settings, logger, database } = this.#context;
    const purge: PurgeContext = {
      database,
      settings: {
        limit,
        checks: this.#checks,
        batchSize: settings.CF_RETENTION_BATCH_SIZE,
        statementMs: settings.CF_RETENTION_STATEMENT_MILLISECONDS,
        pauseMs: settings.CF_RETENTION_PAUSE_MILLISECONDS,
      },
      stop: this.#stop.signal,
      beforePortion: async () => await this.#beforeWork(),
    };
    for (const day of this.#table.days) {
      if (!(await this.#isOver(day, limit))) break;
      if (!(await this.#takeDay(purge, day))) return;
    }
    if (this.#table.deletable === undefined) {
      logger.info('this role may not delete from the default partition: its rows stay');
      return;
    }
    const { counts, end } = await walk(
      purge,
      this.#table.deletable,
      settings.CF_DRY_RUN ? 'nothing' : 'events',
    );
    this.#counts.scanned += counts.scanned;
    this.#counts.purged += counts.gone;
    this.#counts.held += counts.held;
    this.#counts.locked += counts.locked;
    this.#counts.portions += counts.portions;
    if (counts.locked > 0) this.#remarks.push('rows were locked by somebody');
    this.#note(end);
  }

  async #isOver(day: Day, limit: string): Promise<boolean> {
    return await this.#context.database.read(
      async (transaction) => await isOver(transaction, day.day, limit, day.timeZone),
    );
  }

  /** Drops a day of which every row may go; says whether the walk goes on. */
  async #takeDay(purge: PurgeContext, day: Day): Promise<boolean> {
    const { settings, logger } = this.#context;
    const { counts, end } = await walk(purge, day, 'nothing');
    this.#counts.scanned += counts.scanned;
    this.#counts.held += counts.held;
    this.#counts.portions += counts.portions;
    if (end !== 'done') {
      this.#note(end);
      return false;
    }
    // By its time each row was created before the limit, so what is not ripe is open, or was processed lately.
    if (counts.gone < counts.scanned) {
      this.#counts.days_left += 1;
      const open = counts.scanned - counts.ripe;
      logger.info({ day: day.day, open, held: counts.held }, 'a day stays: not all of its events may go');
      return true;
    }
    if (!settings.CF_DRY_RUN) {
      if (day.deliveries !== undefined) {
        const emptied = await walk(purge, day, 'deliveries');
        if (emptied.end !== 'done') {
          this.#note(emptied.end);
          return false;
        }
      }
      if (!(await this.#drop(day))) return !this.#stop.signal.aborted;
    }
    this.#counts.days_dropped += 1;
    this.#counts.purged += counts.gone;
    logger.info({ day: day.day, events: counts.gone, dryRun: settings.CF_DRY_RUN }, 'a day is dropped');
    await pause(purge.settings.pauseMs, this.#stop.signal);
    return true;
  }

  async #drop(day: Day): Promise<boolean> {
    const { logger, database } = this.#context;
    const { dropFunction = '' } = this.#table;
    await this.#beforeWork();
    if (this.#stop.signal.aborted) return false;
    try {
      const dropped = await database.transaction(
        { repeatable: true, statementTimeoutMs: DROP_TIMEOUT_MS },
        async (transaction) => await dropDay(transaction, dropFunction, day.day),
      );
      if (dropped) return true;
      logger.info({ day: day.day }, 'a day stays: its owner’s function did not drop it');
    } catch (error) {
      const code = error instanceof RunFailure ? errorCode(error.cause) : undefined;
      // Too slow, or held up by others: the next run tries again.
      if (code !== '57014' && code !== '55P03') throw error;
      logger.warn({ day: day.day, code }, 'a day could not be dropped in time');
      this.#remarks.push(`the day ${day.day} could not be dropped in time`);
    }
    this.#counts.days_left += 1;
    return false;
  }

  async #purgeRuns(now: string): Promise<void> {
    const { settings, database } = this.#context;
    if (settings.CF_DRY_RUN || this.#stop.signal.aborted) return;
    const from = Date.parse(now.replace(' ', 'T').replace(/\+00$/, 'Z'));
    const limit = new Date(from - settings.CF_RETENTION_RUNS_DAYS * DAY_MS).toISOString();
    for (const group of await listRunGroups(database)) {
      // Without a success every run still tells for how long there has been none.
      if (group.succeeded_at === null) continue;
      for (;;) {
        await this.#beforeWork();
        if (this.#stop.signal.aborted) return;
        const gone = await purgeRuns(database, group, limit, RUNS_PER_STATEMENT);
        this.#counts.runs_purged += gone;
        if (gone < RUNS_PER_STATEMENT) break;
        await pause(settings.CF_RETENTION_PAUSE_MILLISECONDS, this.#stop.signal);
      }
    }
  }

  #note(end: WalkEnd['end']): void {
    if (end === 'unreadable')
      this.#remarks.push(
        'a request is open whose scope names neither events, findings nor a time: every event stays',
      );
  }

  async #beforeWork(): Promise<void> {
    this.#lease.check();
    if (performance.now() - this.#touchedAt < TOUCH_EVERY_MS) return;
    this.#touchedAt = performance.now();
    await this.#context.touch({ ...this.#counts });
    if (await this.#context.isFrozen()) {
      this.#remarks.push('frozen');
      this.#stop.abort();
    }
  }
}
