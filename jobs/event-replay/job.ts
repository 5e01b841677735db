import type { Settings } from '../runtime/config.ts';
import { RunFailure } from '../runtime/failures.ts';
import { pause } from '../runtime/pause.ts';
import type { Job, RunContext, RunResult } from '../runtime/run-job.ts';
import { toRunFailure } from '../runtime/sqlstates.ts';
import { CheckPlans } from './check-plans.ts';
import { noCounts, type ReplayCounts } from './counts.ts';
import { dryRun } from './dry-run.ts';
import { eventReplaySettings } from './env.ts';
import { type EventsTable, normalizeIds, readEventsTable } from './events-table.ts';
import { HandedEvents } from './handed-events.ts';
import { Intake } from './intake.ts';
import { Items } from './items.ts';
import { type Publisher, publishTo } from './publisher.ts';
import { Replay, type ReplayEnd } from './replay.ts';
import { findFunction, publishByFunction } from './republisher.ts';
import { auditRun } from './request-queries.ts';
import { takeNamed } from './requests.ts';
import { openService, type Service } from './service.ts';
import { declareSource } from './table-queries.ts';

type Context = RunContext<typeof eventReplaySettings>;

/** How often a run shows in `job_runs` that it is alive. */
const TOUCH_EVERY_MS = 15_000;
/** A continuous run is audited this often while it has something to tell; a once-run at its end. */
const AUDIT_EVERY_MS = 3_600_000;
/** Part of the shutdown time that is kept for writing outcomes and giving claims back. */
const SHUTDOWN_MARGIN = 0.25;
/** How soon a run notices that it was frozen. */
const FREEZE_LOOK_MS = 2_000;
const DAY_MS = 86_400_000;
/** Pause of a continuous run after a failure that may pass. */
const FAILURE_PAUSE_MS = 1_000;

/** Sends the pending events of the service to its replay endpoint, again and again until each has an end. */
export const eventReplayJob: Job<typeof eventReplaySettings> = {
  name: 'event-replay',
  settings: eventReplaySettings,
  mode: (settings) => (settings.CF_DRY_RUN ? 'dry-run' : settings.CF_MODE),
  hasState: () => true,
  exitsOnFindings: () => false,
  async run(context) {
    const { settings, database } = context;
    checkSettings(settings);
    const events = await readEventsTable(database, {
      eventsTable: settings.CF_EVENTS_TABLE,
      deliveriesTable: settings.CF_DELIVERIES_TABLE,
      timeZone: settings.CF_SERVICE_TIME_ZONE,
      aggregateKey: settings.CF_AGGREGATE_KEY,
    });
    await checkSource(context, events);
    if (events.deliveries === undefined) {
      context.logger.info('there is no readable table of deliveries: age alone decides what is overdue');
    }
    if (settings.CF_DRY_RUN) return await foresee(context, events);
    const counts = noCounts();
    const touching = setInterval(() => {
      context.touch({ ...counts }).catch((error: unknown) => {
        context.logger.warn({ err: error }, 'the run could not show that it is alive');
      });
    }, TOUCH_EVERY_MS);
    try {
      return settings.CF_MODE === 'once'
        ? await runOnce(context, events, counts)
        : await runContinuously(context, events, counts);
    } finally {
      clearInterval(touching);
    }
  },
};

function checkSettings(settings: Settings<typeof eventReplaySettings>): void {
  const problems: string[] = [];
  for (const name of ['CF_EVENT_IDS', 'CF_LIMIT'] as const) {
    const given = settings[name] !== undefined && settings[name] !== 0;
    if (given && settings.CF_MODE === 'continuous')
      problems.push(`${name}: is for a single run; leave it out with CF_MODE=continuous`);
  }
  if (settings.CF_REPUBLISH_FUNCTION === undefined) {
    for (const name of ['CF_REPLAY_URL', 'CF_REPLAY_TOKEN'] as const)
      if (settings[name] === undefined)
        problems.push(`${name}: is required unless CF_REPUBLISH_FUNCTION is set`);
  }
  if (problems.length > 0) throw new RunFailure('settings_invalid', problems.join('; '));
}

/** Two events tables in one state schema would take each other's events for gone. */
async function checkSource({ settings, database }: Context, events: EventsTable): Promise<void> {
  const source = { installation: settings.CF_INSTALLATION, events_table: events.name };
  const declared = await declareSource(database, source, settings.CF_DRY_RUN ? 'read' : 'write');
  if (declared.events_table !== events.name) {
    throw new RunFailure(
      'installation_conflict',
      `the state schema ${database.schema} belongs to ${declared.events_table} of the installation ` +
        `${declared.installation}, and this run reads ${events.name}: name another schema in CF_SCHEMA`,
    );
  }
}

async function foresee(context: Context, events: EventsTable): Promise<RunResult> {
  const { settings, database, logger } = context;
  const counts = await dryRun(database, logger, events, {
    graceMs: settings.CF_GRACE_SECONDS,
    eventIds: settings.CF_EVENT_IDS,
    limit: settings.CF_LIMIT,
  });
  return { outcome: 'succeeded', counts, message: 'dry run: nothing was sent and nothing was written' };
}

async function runOnce(context: Context, events: EventsTable, counts: ReplayCounts): Promise<RunResult> {
  const { settings } = context;
  const leaseMs = settings.CF_LEASE_SECONDS;
  const lease = await context.lease('event-replay', { ttlMs: leaseMs, waitMs: leaseMs });
  if (lease === undefined) {
    return { outcome: 'skipped', counts: {}, message: 'another run holds the lease event-replay' };
  }
  const audit = auditor(context, counts);
  let end: ReplayEnd;
  try {
    end = await session(context, events, counts, lease.lost);
  } catch (error) {
    await context.touch({ ...counts });
    throw error;
  } finally {
    await audit();
  }
  if (lease.lost.aborted) {
    throw new RunFailure('lease_lost', 'the lease event-replay was lost: what was claimed was given back');
  }
  return { outcome: outcomeOf(end), counts: { ...counts }, message: messageOf(end) };
}

function outcomeOf(end: ReplayEnd): 'succeeded' | 'partial' {
  switch (end) {
    case 'nothing_due':
    case 'limit_reached':
      return 'succeeded';
    case 'no_progress':
    case 'stopped':
      return 'partial';
  }
}

function messageOf(end: ReplayEnd): string {
  switch (end) {
    case 'nothing_due':
      return 'nothing is due any more';
    case 'limit_reached':
      return 'CF_LIMIT was reached: more may be due';
    case 'no_progress':
      return 'claims led to nothing again and again: ended, so as not to turn in circles';
    case 'stopped':
      return 'stopped before all was done: what was not sent was given back';
  }
}

/** Stands by, works while it holds the lease, and outlives what passes: a restart of the database, an outage. */
async function runContinuously(
  context: Context,
  events: EventsTable,
  counts: ReplayCounts,
): Promise<RunResult> {
  const { settings, signal, logger } = context;
  const leaseMs = settings.CF_LEASE_SECONDS;
  const audit = auditor(context, counts);
  let frozen = false;
  const auditing = setInterval(() => void audit(), AUDIT_EVERY_MS);
  try {
    while (!signal.aborted) {
      try {
        if (await context.isFrozen()) {
          if (!frozen) logger.warn('frozen: nothing is sent until the freeze is released');
          frozen = true;
          await pause(FREEZE_LOOK_MS, signal);
          continue;
        }
        frozen = false;
        const lease = await context.lease('event-replay', { ttlMs: leaseMs, waitMs: leaseMs });
        if (lease === undefined) continue;
        try {
          await session(context, events, counts, lease.lost);
        } finally {
          // Its timers end here, and a standby need not wait for the lease to run out.
          await lease.release();
        }
      } catch (error) {
        const failure = toRunFailure(error);
        if (failure.exitCode === 2 || failure.id === 'internal') throw failure;
        logger.warn({ failureId: failure.id, err: failure }, 'interrupted: going on in a moment');
        await pause(FAILURE_PAUSE_MS, signal);
      }
    }
  } catch (error) {
    await context.touch({ ...counts });
    throw error;
  } finally {
    clearInterval(auditing);
    await audit();
  }
  return { outcome: 'succeeded', counts: { ...counts }, message: 'stopped as asked' };
}

/** One stretch of work under the lease of the run. */
async function session(
  context: Context,
  events: EventsTable,
  counts: ReplayCounts,
  lost: AbortSignal,
): Promise<ReplayEnd> {
  const { settings, database, logger, runId, signal } = context;
  const eventIds = settings.CF_EVENT_IDS && normalizeIds(settings.CF_EVENT_IDS, events.idType);
  if (eventIds !== undefined) {
    const portions = takeNamed({ database, logger, events }, counts, settings.CF_EVENT_IDS ?? [], null);
    for await (const soFar of portions) logger.info(soFar, 'took in the events that were named');
  }
  const looksForMore = eventIds === undefined;
  const plans = new CheckPlans(database, events, settings.CF_CHECKS_FILE);
  const target = await openTarget(context);
  const handed = new HandedEvents(database, logger, events, plans, {
    graceMs: settings.CF_HANDED_GRACE_SECONDS,
    target: target.service === undefined ? 'outbox' : 'endpoint',
  });
  const intake = new Intake(
    database,
    logger,
    events,
    handed,
    {
      graceMs: settings.CF_GRACE_SECONDS,
      installation: settings.CF_INSTALLATION,
      runId,
      looksForMore,
      reopensHanded: target.service !== undefined,
      keepDoneMs: settings.CF_KEEP_DONE_DAYS * DAY_MS,
    },
    counts,
  );
  const halt = new AbortController();
  let looking = false;
  const watching = setInterval(() => {
    // While the database is away, one look waits for it and no others pile up behind.
    if (looking) return;
    looking = true;
    context
      .isFrozen()
      .then(
        (frozen) => {
          if (frozen) halt.abort();
        },
        (error: unknown) => logger.warn({ err: error }, 'could not look for a freeze'),
      )
      .finally(() => {
        looking = false;
      });
  }, FREEZE_LOOK_MS);
  const policy = {
    handlerAttempts: settings.CF_HANDLER_ATTEMPTS,
    unfinishedCalls: settings.CF_UNFINISHED_CALLS,
    backoffMs: settings.CF_BACKOFF_SECONDS,
    backoffMaxMs: settings.CF_BACKOFF_MAX_SECONDS,
    transportBackoffMs: settings.CF_TRANSPORT_BACKOFF_SECONDS,
    transportBackoffMaxMs: settings.CF_TRANSPORT_BACKOFF_MAX_SECONDS,
  };
  const drainMs = settings.CF_SHUTDOWN_SECONDS * (1 - SHUTDOWN_MARGIN);
  const stop = AbortSignal.any([signal, lost, halt.signal]);
  const replay = new Replay(
    {
      mode: settings.CF_MODE,
      lanes: settings.CF_LANES,
      batchSize: settings.CF_BATCH_SIZE,
      claimSize: settings.CF_CLAIM_SIZE,
      limit: settings.CF_LIMIT,
      pollMs: settings.CF_POLL_SECONDS,
      drainMs,
      looksForMore,
      policy,
      claims: {
        claimedBy: settings.CF_POD_NAME,
        leaseMs: settings.CF_LEASE_SECONDS,
        inAggregateOrder: settings.CF_AGGREGATE_KEY !== undefined,
        eventIds,
        recordSize: settings.CF_CLAIM_SIZE,
      },
    },
    { database, logger, events, publisher: target.publisher, intake, plans, counts, stop },
  );
  const works: Promise<ReplayEnd | undefined>[] = [replay.run()];
  // A run that was given its events by name looks for nothing else; an outbox rebuilds and corrects nothing.
  if (looksForMore && target.service !== undefined) {
    const items = new Items(
      {
        mode: settings.CF_MODE,
        installation: settings.CF_INSTALLATION,
        runId,
        claimedBy: settings.CF_POD_NAME,
        lanes: settings.CF_REBUILD_LANES,
        leaseMs: settings.CF_LEASE_SECONDS,
        callMs: settings.CF_CALL_SECONDS,
        pollMs: settings.CF_POLL_SECONDS,
        drainMs,
        replayUrl: settings.CF_REPLAY_URL ?? '',
        correctionsUrl: settings.CF_CORRECTIONS_URL,
        policy,
      },
      { database, logger, service: target.service, counts, stop },
    );
    works.push(items.run().then(() => undefined));
  }
  try {
    // One that fails stops the other, which then gives back what it holds.
    for (const work of works) work.catch(() => halt.abort());
    const ends = await Promise.allSettled(works);
    for (const end of ends) if (end.status === 'rejected') throw end.reason;
    const [first] = ends;
    return first?.status === 'fulfilled' && first.value !== undefined ? first.value : 'stopped';
  } finally {
    clearInterval(watching);
    await target.service?.close();
  }
}

/** Where events go: to the service, or to the outbox that stands in for it. */
async function openTarget({
  settings,
  database,
}: Context): Promise<{ readonly publisher: Publisher; readonly service: Service | undefined }> {
  if (settings.CF_REPUBLISH_FUNCTION !== undefined) {
    const qualified = await findFunction(database, settings.CF_REPUBLISH_FUNCTION);
    return { publisher: publishByFunction(database, qualified), service: undefined };
  }
  const service = openService({
    token: settings.CF_REPLAY_TOKEN ?? '',
    lanes: settings.CF_LANES,
    connections: settings.CF_LANES + settings.CF_REBUILD_LANES,
    deadlineMs: settings.CF_CALL_SECONDS,
  });
  return { publisher: publishTo(service, settings.CF_REPLAY_URL ?? '', settings.CF_CALL_SECONDS), service };
}

/** Writes one audit row for what was done since the last one, if anything was. Never ends a run. */
function auditor(context: Context, counts: ReplayCounts): () => Promise<void> {
  const { settings, database, logger, runId } = context;
  let before: ReplayCounts = noCounts();
  return async () => {
    const now = { ...counts };
    const since = Object.fromEntries(
      Object.entries(now).map(([name, value]) => [name, value - before[name as keyof ReplayCounts]]),
    ) as Record<keyof ReplayCounts, number>;
    const { sent, parked, unparked, taken_in, reopened, item_calls, handed_settled, purged } = since;
    if (sent + parked + unparked + taken_in + reopened + item_calls + handed_settled + purged === 0) return;
    before = now;
    try {
      await auditRun(database, {
        installation: settings.CF_INSTALLATION,
        runId,
        reason: settings.CF_REASON ?? null,
        scope: {
          mode: settings.CF_MODE,
          ...(settings.CF_EVENT_IDS === undefined ? {} : { event_ids: settings.CF_EVENT_IDS }),
          ...(settings.CF_LIMIT === 0 ? {} : { limit: settings.CF_LIMIT }),
        },
        counts: since,
      });
    } catch (error) {
      logger.error({ err: error }, 'the audit row of this run could not be written');
    }
  };
}
