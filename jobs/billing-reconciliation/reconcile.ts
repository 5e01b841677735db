/**
 * One run over one check: looks again at what is not settled, sweeps what its mode asks for, records what
 * changed. The order matters: a finding is opened by the look of a later run, so what this run suspects it must
 * not see twice; and the watermark moves only behind windows that were read and recorded on both sides.
 */
import type { InspectedCheck } from '../checks/inspect.ts';
import type { Transaction } from '../runtime/database.ts';
import type { Lease } from '../runtime/job-lock.ts';
import { pause } from '../runtime/pause.ts';
import type { ReconciliationContext } from './env.ts';
import {
  bringBackWaived,
  type Discrepancy,
  type FindingChange,
  listByIds,
  listUnsettled,
  recordSeen,
  resolveGone,
  type UnsettledFinding,
} from './findings.ts';
import { decideHorizon, type Horizon, observe } from './horizon.ts';
import { addMs, earliest, formatInstant, type Instant, latest, parseInstant } from './instant.ts';
import type { Look } from './look.ts';
import {
  advanceRotation,
  advanceVerified,
  type CheckState,
  completeRotation,
  isLeased,
  noteHeldBack,
  recordWindow,
} from './queries.ts';
import type { Tally } from './tally.ts';
import { type Coverage, paceOf, type Range, sweep } from './windows.ts';

/** What one run needs for one check. */
export interface CheckRun {
  readonly context: ReconciliationContext;
  readonly plan: InspectedCheck;
  readonly look: Look;
  readonly lease: Lease;
  readonly state: CheckState;
  readonly horizon: Horizon;
  readonly tally: Tally;
}

export interface Reconciled {
  /** Whether everything that the mode asks for was looked at. */
  readonly complete: boolean;
  /** For a person: what was not looked at, and why. */
  readonly remark: string | undefined;
}

/** Findings that are looked at again in one transaction. */
const FINDINGS_PER_BATCH = 500;
/** How often `full` asks whether `tail` is done. */
const YIELD_PAUSE_MS = 250;

export const leaseName = (check: string, mode: string): string =>
  `billing-reconciliation:${check}${mode === 'full' ? ':full' : ''}`;

/** The horizon of a check now; drawn back where its columns are wall clocks. */
export async function findHorizon(
  context: ReconciliationContext,
  plan: InspectedCheck,
  look: Look,
): Promise<Horizon> {
  const { settings, database, signal } = context;
  const seen = await observe(database, settings.CF_STATE !== 'none', async (ms) => {
    await pause(ms, signal);
  });
  const horizon = decideHorizon(seen, {
    graceMs: plan.check.grace,
    blindGraceMs: settings.CF_BLIND_GRACE_SECONDS,
    maxLagMs: settings.CF_MAX_LAG_SECONDS,
  });
  return {
    ...horizon,
    settled: horizon.settled === undefined ? undefined : await look.settle(horizon.settled),
    lookTo: horizon.lookTo === undefined ? undefined : await look.settle(horizon.lookTo),
  };
}

export async function reconcile(run: CheckRun): Promise<Reconciled> {
  const { context, horizon, plan, look, tally } = run;
  tally.count('future_facts', await look.futureFacts(horizon.now));
  await write(run, async (transaction) => await bringBackWaived(transaction, plan.check.name));
  const looked = await lookAgain(run);
  await write(run, async (transaction) => {
    await noteHeldBack(transaction, plan.check.name, horizon.heldBackBy);
    return [];
  });
  const coverage = await sweepMode(run);
  const remarks: string[] = [];
  if (!looked) remarks.push('not all findings were looked at again');
  if (coverage !== undefined && !coverage.complete)
    remarks.push(`covered ${coverage.windows} of about ${coverage.plannedWindows} windows`);
  const { CF_MODE: mode, CF_GATE_SINCE: gate } = context.settings;
  const blind = horizon.lookTo === undefined;
  if (blind) remarks.push('nothing could be looked at: no time is known to be settled yet');
  const due = addMs(horizon.now, -plan.check.grace);
  const behind = horizon.lookTo === undefined || horizon.lookTo < due || parseInstantOr(gate) >= due;
  if (gate !== undefined && behind) remarks.push('the horizon has not passed what the gate asks about');
  // A schedule goes on with the next slice; who asks for an answer is told that there is none yet.
  const asked = context.settings.CF_EXIT_ON_FINDINGS || gate !== undefined;
  const sliceEnded = mode === 'full' && coverage?.complete === false && !context.signal.aborted && !asked;
  return {
    complete:
      looked && !blind && (coverage?.complete !== false || sliceEnded) && !(gate !== undefined && behind),
    remark: remarks.length === 0 ? undefined : `check ${plan.check.name}: ${remarks.join('; ')}`,
  };
}

const parseInstantOr = (text: string | undefined): Instant => (text === undefined ? 0n : parseInstant(text));

/** Reads what a mode asks for; nothing where no time is known to be settled, or single findings were named. */
async function sweepMode(run: CheckRun): Promise<Coverage | undefined> {
  const { context, state, horizon, plan, look } = run;
  const { settings } = context;
  const { lookTo } = horizon;
  if (lookTo === undefined) return undefined;
  const since = plan.check.since === null ? undefined : parseInstant(plan.check.since);
  const notBefore = (at: Instant) => (since === undefined ? at : latest(at, since));
  const begin = async () => notBefore((await look.first()) ?? lookTo);
  const gate = settings.CF_GATE_SINCE === undefined ? lookTo : parseInstant(settings.CF_GATE_SINCE);
  const verified = state.verified_through === null ? undefined : parseInstant(state.verified_through);
  switch (settings.CF_MODE) {
    case 'tail':
    case 'incremental': {
      const overlap = verified === undefined || settings.CF_MODE === 'incremental' ? plan.check.lookback : 0;
      const from = notBefore(earliest(addMs(verified ?? lookTo, -overlap), gate));
      // Where nothing is verified yet, only a look that leaves nothing out before it may say that all is.
      const verifies = verified !== undefined || from <= (await begin());
      return await sweepRange(run, { from, to: lookTo }, verifies ? 'watermark' : 'nothing');
    }
    case 'full': {
      const first = await begin();
      const cursor = state.rotation_cursor === null ? first : parseInstant(state.rotation_cursor);
      const coverage = await sweepRange(
        run,
        { from: earliest(latest(cursor, first), gate), to: lookTo },
        'rotation',
      );
      if (!coverage.complete) return coverage;
      let completed = false;
      await write(run, async (transaction) => {
        completed = await completeRotation(transaction, state);
        if (horizon.settled !== undefined)
          await advanceVerified(transaction, state, formatInstant(earliest(horizon.settled, lookTo)));
        return [];
      });
      if (!completed)
        context.logger.warn(
          { check: state.name },
          'the definition of a check changed during its rotation, which begins anew',
        );
      return coverage;
    }
    case 'verify': {
      if (settings.CF_VERIFY_FINDINGS !== undefined) {
        const ids = settings.CF_VERIFY_FINDINGS.split(',');
        await judgeAndRecord(
          run,
          await context.database.read(
            async (transaction) => await listByIds(transaction, plan.check.name, ids),
          ),
        );
      }
      if (settings.CF_VERIFY_FROM === undefined) return undefined;
      const asked = settings.CF_VERIFY_TO === undefined ? lookTo : parseInstant(settings.CF_VERIFY_TO);
      const range = {
        from: notBefore(parseInstant(settings.CF_VERIFY_FROM)),
        to: earliest(asked, lookTo),
      };
      const coverage = await sweepRange(run, range, 'nothing');
      return asked > lookTo || range.from >= range.to ? { ...coverage, complete: false } : coverage;
    }
  }
}

/**
 * Reads a range window by window and records each before the next.
 * @param moves what the progress moves: the watermark, the rotation's cursor, or nothing
 */
export async function sweepRange(
  run: CheckRun,
  range: Range,
  moves: 'watermark' | 'rotation' | 'nothing',
): Promise<Coverage> {
  const { context, look, horizon, state, tally } = run;
  const { settings, signal } = context;
  const { name } = state;
  const sliceEnd =
    moves === 'rotation' && settings.CF_FULL_SLICE_SECONDS > 0
      ? Date.now() + settings.CF_FULL_SLICE_SECONDS
      : Number.POSITIVE_INFINITY;
  let touchedAt = Date.now();
  return await sweep(
    range,
    paceOf(settings),
    context.logger,
    async () => {
      if (signal.aborted || Date.now() >= sliceEnd) return true;
      run.lease.check();
      if (moves === 'rotation') await yieldToTail(run);
      return signal.aborted;
    },
    async (window, timeoutMs) => {
      const read = await look.window(window, horizon.lookTo ?? window.to, horizon.settled, timeoutMs);
      await write(run, async (transaction) => {
        const changes = await record(run, transaction, read.discrepancies);
        const to = formatInstant(window.to);
        // What may still change has to be read once more before anything rests on it.
        const settled = horizon.settled !== undefined && window.to <= horizon.settled;
        if (moves === 'rotation') {
          await recordWindow(transaction, name, context.runId, {
            from: formatInstant(window.from),
            to,
            facts: read.facts,
            ledger: read.ledger,
          });
        }
        if (settled) {
          if (moves === 'rotation') await advanceRotation(transaction, state, to);
          if (moves === 'watermark') await advanceVerified(transaction, state, to);
        }
        return changes;
      });
      tally.count('windows', 1);
      tally.count('facts', read.facts);
      tally.count('ledger_rows', read.ledger);
      if (Date.now() - touchedAt > 5000) {
        touchedAt = Date.now();
        await context.touch(tally.counts());
      }
      return { tookMs: read.tookMs, rows: Math.max(read.facts, read.ledger) };
    },
  );
}

/** The tail is cheap and its figures age by the minute: the rotation steps aside while it runs. */
async function yieldToTail(run: CheckRun): Promise<void> {
  const { context, plan } = run;
  const until = Date.now() + context.settings.CF_LEASE_SECONDS;
  while (!context.signal.aborted && Date.now() < until) {
    const busy = await context.database.read(
      async (transaction) => await isLeased(transaction, leaseName(plan.check.name, 'tail')),
    );
    if (!busy) return;
    await pause(YIELD_PAUSE_MS, context.signal);
  }
}

/** Judges every finding that is not settled anew, by its key; false when the run was told to stop before the end. */
async function lookAgain(run: CheckRun): Promise<boolean> {
  const { context, plan } = run;
  let after = '0';
  for (;;) {
    if (context.signal.aborted) return false;
    const batch = await context.database.read(
      async (transaction) => await listUnsettled(transaction, plan.check.name, after, FINDINGS_PER_BATCH),
    );
    const last = batch.at(-1);
    if (last === undefined) return true;
    await judgeAndRecord(run, batch);
    after = last.id;
  }
}

export async function judgeAndRecord(run: CheckRun, findings: readonly UnsettledFinding[]): Promise<void> {
  const { look, horizon, tally } = run;
  const judged = await look.judge(findings, horizon.now, horizon.settled);
  tally.count('looked_again', findings.length);
  await write(run, async (transaction) => [
    ...(await resolveGone(transaction, judged.gone, 'no longer seen when its key was judged again')),
    ...(await record(run, transaction, judged.seen)),
  ]);
}

const record = async (
  run: CheckRun,
  transaction: Transaction,
  seen: readonly Discrepancy[],
): Promise<FindingChange[]> =>
  await recordSeen(transaction, run.plan.check.name, run.context.runId, formatInstant(run.horizon.now), seen);

/** Writes under the lease, and reports changes once they are committed. */
async function write(
  run: CheckRun,
  work: (transaction: Transaction) => Promise<FindingChange[]>,
): Promise<void> {
  run.lease.check();
  let changes: FindingChange[] = [];
  await run.context.database.transaction({ repeatable: true }, async (transaction) => {
    const made = await work(transaction);
    // The attempt after a commit that was not heard of finds nothing left to change.
    if (made.length > 0) changes = made;
  });
  for (const change of changes) run.tally.note(run.plan.check.name, change);
}
