/** billing-reconciliation as a job: reads the checks, inspects the tables, and takes one check after the other. */
import { hashDefinition } from '../checks/hash.ts';
import { type EventsTable, type InspectedCheck, inspectCheck, inspectEvents } from '../checks/inspect.ts';
import { type Check, readChecks } from '../checks/parse.ts';
import { zoneExists } from '../checks/window-sql.ts';
import { RunFailure } from '../runtime/failures.ts';
import type { Lease } from '../runtime/job-lock.ts';
import type { Job, RunResult } from '../runtime/run-job.ts';
import { auditOnce } from './audit-once.ts';
import { billingReconciliationSettings, type ReconciliationContext } from './env.ts';
import { countStanding, listAbsent, type Standing } from './findings.ts';
import { settleGateSince } from './gate-since.ts';
import { formatInstant, latest, parseInstant } from './instant.ts';
import { Look } from './look.ts';
import { type CheckState, declareCheck, redeclareCheck, writeAudit } from './queries.ts';
import { type CheckRun, findHorizon, leaseName, reconcile } from './reconcile.ts';
import { askForRepair } from './repair.ts';
import { answerRequests } from './requests.ts';
import { Tally } from './tally.ts';

export const billingReconciliationJob: Job<typeof billingReconciliationSettings> = {
  name: 'billing-reconciliation',
  settings: billingReconciliationSettings,
  mode: (settings) => settings.CF_MODE,
  hasState: (settings) => settings.CF_STATE !== 'none',
  exitsOnFindings: (settings) => settings.CF_EXIT_ON_FINDINGS,
  async run(asked) {
    refuseContradictions(asked);
    const context = await withGateSettled(asked);
    const { settings } = context;
    const checks = readChecks(settings.CF_CHECKS_FILE);
    const plans = await inspect(context, checks);
    const events = await findEvents(context, checks);
    const tally = new Tally(context.logger);
    const result =
      settings.CF_STATE === 'none'
        ? await runWithoutState(context, plans, events, tally)
        : await runWithState(context, plans, events, tally);
    if (settings.CF_REPORT_FILE !== undefined) {
      tally.writeReport(settings.CF_REPORT_FILE, {
        run_id: context.runId,
        installation: settings.CF_INSTALLATION,
        mode: settings.CF_MODE,
        outcome: result.outcome,
        checks: checks.map(({ name }) => name),
      });
    }
    return result;
  },
};

async function withGateSettled(context: ReconciliationContext): Promise<ReconciliationContext> {
  const { CF_GATE_SINCE: since } = context.settings;
  if (since === undefined) return context;
  const settled = await settleGateSince(context.database, since);
  return { ...context, settings: { ...context.settings, CF_GATE_SINCE: settled } };
}

async function runWithState(
  context: ReconciliationContext,
  plans: readonly InspectedCheck[],
  events: EventsTable | undefined,
  tally: Tally,
): Promise<RunResult> {
  let result: RunResult;
  try {
    result = await takeChecks(context, plans, events, tally);
  } catch (error) {
    // What changed before stays changed, so it is audited whatever ended the run.
    await auditChanges(context, plans, tally).catch((lost: unknown) => {
      context.logger.warn({ err: lost }, 'the changes of this run have no audit row');
    });
    throw error;
  }
  await auditChanges(context, plans, tally);
  return result;
}

async function takeChecks(
  context: ReconciliationContext,
  plans: readonly InspectedCheck[],
  events: EventsTable | undefined,
  tally: Tally,
): Promise<RunResult> {
  const { settings, signal } = context;
  const remarks: string[] = [];
  const runs: CheckRun[] = [];
  let complete = true;
  for (const plan of plans) {
    if (signal.aborted) {
      complete = false;
      remarks.push(`check ${plan.check.name}: not begun`);
      continue;
    }
    const lease = await takeLease(context, plan.check.name);
    if (lease === undefined) {
      remarks.push(`check ${plan.check.name}: another run is at work`);
      continue;
    }
    const state = await declare(context, plan.check);
    const look = new Look(context, plan, events);
    const run = {
      context,
      plan,
      look,
      lease,
      state,
      horizon: await findHorizon(context, plan, look),
      tally,
    };
    noteHorizon(run);
    runs.push(run);
    const done = await reconcile(run);
    complete &&= done.complete;
    if (done.remark !== undefined) remarks.push(done.remark);
  }
  if (settings.CF_MODE === 'tail' || settings.CF_MODE === 'verify')
    complete = (await answerRequests(runs, runs.length === plans.length)) && complete;
  if (settings.CF_REPAIR && !signal.aborted) await askForRepair(runs);
  const absent = await findAbsent(context, plans);
  if (absent.length > 0) {
    complete = false;
    remarks.push(`of these checks there is no finding ${absent.join(', ')}`);
  }
  const standing = await countAll(context, plans);
  tally.count('standing_suspected', standing.suspected);
  tally.count('standing_open', standing.open);
  tally.count('standing_acknowledged', standing.acknowledged);
  const skipped = plans.length > 0 && runs.length === 0 && !signal.aborted;
  const gated = settings.CF_GATE_SINCE !== undefined;
  return {
    outcome: skipped ? 'skipped' : complete && runs.length === plans.length ? 'succeeded' : 'partial',
    counts: tally.counts(),
    openFindings: standing.open > 0 || (gated && standing.suspected > 0),
    ...(remarks.length === 0 ? {} : { message: remarks.join('; ') }),
  };
}

/** Of the findings that `verify` was to look at, those that do not exist. */
async function findAbsent(
  context: ReconciliationContext,
  plans: readonly InspectedCheck[],
): Promise<readonly string[]> {
  const ids = context.settings.CF_VERIFY_FINDINGS?.split(',');
  if (ids === undefined) return [];
  const names = plans.map(({ check }) => check.name);
  return await context.database.read(async (transaction) => await listAbsent(transaction, names, ids));
}

/** The findings of all checks that stand now; of a gate or a named scope, those that it asks about. */
async function countAll(context: ReconciliationContext, plans: readonly InspectedCheck[]): Promise<Standing> {
  const { settings } = context;
  const begins = [settings.CF_GATE_SINCE, settings.CF_VERIFY_FROM].filter((from) => from !== undefined);
  const [first, ...more] = begins.map(parseInstant);
  const scope = {
    from: first === undefined ? undefined : formatInstant(latest(first, ...more)),
    to: settings.CF_VERIFY_TO,
    hash: settings.CF_VERIFY_HASH,
    ids: settings.CF_VERIFY_FINDINGS?.split(','),
  };
  return await context.database.read(async (transaction) => {
    const total = { suspected: 0, open: 0, acknowledged: 0 };
    for (const { check } of plans) {
      const one = await countStanding(transaction, check.name, scope);
      total.suspected += one.suspected;
      total.open += one.open;
      total.acknowledged += one.acknowledged;
    }
    return total;
  });
}

async function runWithoutState(
  context: ReconciliationContext,
  plans: readonly InspectedCheck[],
  events: EventsTable | undefined,
  tally: Tally,
): Promise<RunResult> {
  const remarks: string[] = [];
  let complete = true;
  for (const plan of plans) {
    const look = new Look(context, plan, events);
    const horizon = await findHorizon(context, plan, look);
    noteHorizon({ context, plan, horizon });
    const done = await auditOnce(context, plan, look, horizon, tally);
    complete &&= done.complete;
    if (done.remark !== undefined) remarks.push(done.remark);
  }
  const counts = tally.counts();
  return {
    outcome: complete ? 'succeeded' : 'partial',
    counts,
    openFindings: (counts.standing_open ?? 0) > 0,
    ...(remarks.length === 0 ? {} : { message: remarks.join('; ') }),
  };
}

/** Settings that are fine one by one and mean nothing together. */
function refuseContradictions({ settings }: ReconciliationContext): void {
  const problems: string[] = [];
  const { CF_VERIFY_FROM: from, CF_VERIFY_TO: to, CF_VERIFY_HASH: hash, CF_VERIFY_FINDINGS: ids } = settings;
  const scoped = (from ?? to ?? hash ?? ids) !== undefined;
  if (scoped && settings.CF_MODE !== 'verify')
    problems.push('CF_VERIFY_FROM, _TO, _HASH and _FINDINGS go with CF_MODE=verify');
  if (!scoped && settings.CF_MODE === 'verify')
    problems.push('CF_MODE=verify needs CF_VERIFY_FROM, CF_VERIFY_HASH or CF_VERIFY_FINDINGS');
  if (from === undefined && to !== undefined) problems.push('CF_VERIFY_TO needs CF_VERIFY_FROM');
  if (from !== undefined && to !== undefined && parseInstant(to) <= parseInstant(from))
    problems.push('CF_VERIFY_TO must be later than CF_VERIFY_FROM');
  if (ids !== undefined && (from ?? to ?? hash) !== undefined) problems.push('CF_VERIFY_FINDINGS goes alone');
  if (settings.CF_STATE === 'none') {
    if (settings.CF_MODE === 'verify' && from === undefined)
      problems.push('CF_STATE=none with CF_MODE=verify needs CF_VERIFY_FROM');
    if (settings.CF_REPAIR) problems.push('CF_REPAIR needs state');
    if (ids !== undefined) problems.push('CF_VERIFY_FINDINGS needs state');
  }
  if (problems.length > 0) throw new RunFailure('settings_invalid', problems.join('; '));
}

/** All checks are inspected before the first begins: whoever mends the tables learns of everything at once. */
async function inspect(
  context: ReconciliationContext,
  checks: readonly Check[],
): Promise<readonly InspectedCheck[]> {
  const { database, settings } = context;
  return await database.read(
    async (transaction) => {
      const zone = zoneExists(settings.CF_SERVICE_TIME_ZONE);
      const [known] = await transaction.query<{ there: boolean }>(zone.text, zone.params);
      if (known?.there !== true) {
        throw new RunFailure(
          'settings_invalid',
          'CF_SERVICE_TIME_ZONE is not a zone of this server: see SELECT name FROM pg_timezone_names',
        );
      }
      const plans: InspectedCheck[] = [];
      const failures: RunFailure[] = [];
      for (const check of checks) {
        try {
          plans.push(await inspectCheck(transaction, check));
        } catch (error) {
          if (!(error instanceof RunFailure)) throw error;
          failures.push(error);
        }
      }
      const [first] = failures;
      if (first !== undefined)
        throw new RunFailure(first.id, failures.map(({ message }) => message).join('; '));
      return plans;
    },
    { userSearchPath: true },
  );
}

async function findEvents(
  context: ReconciliationContext,
  checks: readonly Check[],
): Promise<EventsTable | undefined> {
  const keys = new Set(checks.flatMap(({ event }) => event?.key ?? []));
  if (keys.size === 0) return undefined;
  const found = await context.database.read(
    async (transaction) => await inspectEvents(transaction, context.settings.CF_EVENTS_TABLE, keys),
    { userSearchPath: true },
  );
  if (typeof found !== 'string') return found;
  context.logger.warn({ reason: found }, 'no table of events: the causes of missing bills stay unknown');
  return undefined;
}

async function takeLease(context: ReconciliationContext, check: string): Promise<Lease | undefined> {
  const ttlMs = context.settings.CF_LEASE_SECONDS;
  return await context.lease(leaseName(check, context.settings.CF_MODE), { ttlMs, waitMs: ttlMs });
}

/** @throws RunFailure `check_conflict` where another installation means something else by this name */
async function declare(context: ReconciliationContext, check: Check): Promise<CheckState> {
  const { database, settings, logger } = context;
  const hash = hashDefinition(check);
  return await database.transaction({ repeatable: true }, async (transaction) => {
    const state = await declareCheck(transaction, check, hash, settings.CF_INSTALLATION);
    if (state === undefined) throw new RunFailure('internal', `check ${check.name} was not recorded`);
    if (state.definition_hash === hash) return state;
    if (state.installation !== settings.CF_INSTALLATION) {
      throw new RunFailure(
        'check_conflict',
        `check ${check.name}: installation ${state.installation} declares it otherwise; give one of them another name`,
      );
    }
    await redeclareCheck(transaction, check, hash, settings.CF_INSTALLATION);
    logger.info({ check: check.name }, 'the definition of a check has changed: its findings are judged anew');
    return { ...state, definition_hash: hash, verified_through: null, rotation_cursor: null };
  });
}

function noteHorizon({ context, plan, horizon }: Pick<CheckRun, 'context' | 'plan' | 'horizon'>): void {
  const { logger } = context;
  const check = plan.check.name;
  if (!horizon.exact) {
    logger.info(
      { check },
      'this role cannot see when the transactions of others began: waiting longer; GRANT pg_read_all_stats makes the horizon exact',
    );
  }
  if (horizon.heldBackBy !== undefined)
    logger.warn({ check, heldBackBy: horizon.heldBackBy }, 'the horizon is held back');
  if (horizon.settled === undefined)
    logger.info({ check }, 'nothing is known to be settled yet: a later run will tell');
}

async function auditChanges(
  context: ReconciliationContext,
  plans: readonly InspectedCheck[],
  tally: Tally,
): Promise<void> {
  const { suspected = 0, opened = 0, resolved = 0, waived = 0 } = tally.counts();
  if (suspected + opened + resolved + waived === 0) return;
  await context.database.transaction({}, async (transaction) => {
    await writeAudit(transaction, {
      installation: context.settings.CF_INSTALLATION,
      runId: context.runId,
      action: 'reconciled',
      scope: { mode: context.settings.CF_MODE, checks: plans.map(({ check }) => check.name) },
      counts: { suspected, opened, resolved, waived },
    });
  });
}
