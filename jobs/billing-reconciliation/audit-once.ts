/**
 * One audit by a role that can only read: no schema, no lease, no record. Both looks happen in this run, the
 * second after the sweep and with fresh snapshots, so what is reported was seen twice.
 */
import type { InspectedCheck } from '../checks/inspect.ts';
import type { ReconciliationContext } from './env.ts';
import { type Discrepancy, distinct, type UnsettledFinding } from './findings.ts';
import type { Horizon } from './horizon.ts';
import { addMs, earliest, formatInstant, type Instant, latest, parseInstant } from './instant.ts';
import type { Look } from './look.ts';
import type { Reconciled } from './reconcile.ts';
import { present, type Tally } from './tally.ts';
import { paceOf, type Range, sweep } from './windows.ts';

export async function auditOnce(
  context: ReconciliationContext,
  plan: InspectedCheck,
  look: Look,
  horizon: Horizon,
  tally: Tally,
): Promise<Reconciled> {
  const { settings, signal, logger } = context;
  const range = await rangeOf(context, plan, look, horizon);
  tally.count('future_facts', await look.futureFacts(horizon.now));
  if (range === undefined)
    return { complete: false, remark: `check ${plan.check.name}: nothing lies before the horizon` };
  const suspected: Discrepancy[] = [];
  const coverage = await sweep(
    range,
    paceOf(settings),
    logger,
    () => Promise.resolve(signal.aborted),
    async (window, timeoutMs) => {
      const read = await look.window(window, range.to, horizon.settled, timeoutMs);
      suspected.push(...read.discrepancies);
      tally.count('windows', 1);
      tally.count('facts', read.facts);
      tally.count('ledger_rows', read.ledger);
      return { tookMs: read.tookMs, rows: Math.max(read.facts, read.ledger) };
    },
  );
  const once = distinct(suspected);
  tally.count('suspected', once.length);
  const confirmed = await look.judge(once.map(asUnsettled), horizon.now, horizon.settled);
  const gate = settings.CF_GATE_SINCE === undefined ? undefined : parseInstant(settings.CF_GATE_SINCE);
  for (const one of confirmed.seen) {
    tally.report(reported(plan.check.name, one));
    const asked = settings.CF_VERIFY_HASH === undefined || one.publishedHash === settings.CF_VERIFY_HASH;
    if (asked && (gate === undefined || parseInstant(one.factAt) >= gate)) tally.count('standing_open', 1);
  }
  tally.count('opened', confirmed.seen.length);
  return {
    complete: coverage.complete && !fallsShort(context, plan, horizon, range),
    remark: coverage.complete
      ? undefined
      : `check ${plan.check.name}: covered ${coverage.windows} of about ${coverage.plannedWindows} windows`,
  };
}

/** Whether a gate or a named range asks about more than could be read. */
function fallsShort(
  context: ReconciliationContext,
  plan: InspectedCheck,
  horizon: Horizon,
  range: Range,
): boolean {
  const { settings } = context;
  if (settings.CF_MODE === 'verify' && range.from >= range.to) return true;
  const lookTo = horizon.lookTo ?? 0n;
  if (settings.CF_GATE_SINCE !== undefined && lookTo < addMs(horizon.now, -plan.check.grace)) return true;
  return settings.CF_VERIFY_TO !== undefined && parseInstant(settings.CF_VERIFY_TO) > lookTo;
}

async function rangeOf(
  context: ReconciliationContext,
  plan: InspectedCheck,
  look: Look,
  horizon: Horizon,
): Promise<Range | undefined> {
  const { settings } = context;
  const { lookTo } = horizon;
  if (lookTo === undefined) return undefined;
  const begin = await beginOf(context, plan, look, lookTo);
  const since = plan.check.since === null ? begin : latest(begin, parseInstant(plan.check.since));
  const to =
    settings.CF_VERIFY_TO === undefined ? lookTo : earliest(lookTo, parseInstant(settings.CF_VERIFY_TO));
  return { from: since, to };
}

async function beginOf(
  context: ReconciliationContext,
  plan: InspectedCheck,
  look: Look,
  lookTo: Instant,
): Promise<Instant> {
  const { settings } = context;
  switch (settings.CF_MODE) {
    case 'full':
      return (await look.first()) ?? lookTo;
    case 'verify':
      return settings.CF_VERIFY_FROM === undefined ? lookTo : parseInstant(settings.CF_VERIFY_FROM);
    case 'tail':
    case 'incremental': {
      const begin = addMs(lookTo, -plan.check.lookback);
      return settings.CF_GATE_SINCE === undefined
        ? begin
        : earliest(begin, parseInstant(settings.CF_GATE_SINCE));
    }
  }
}

const asUnsettled = (one: Discrepancy, position: number): UnsettledFinding => ({
  id: String(position),
  kind: one.kind,
  key: one.key,
  row_id: one.rowId,
  status: 'suspected',
});

const reported = (check: string, one: Discrepancy) => ({
  check,
  kind: one.kind,
  key: JSON.parse(one.key) as (string | null)[],
  status: 'open' as const,
  ...present({
    row_id: one.rowId === '' ? null : one.rowId,
    cause: one.cause,
    event_id: one.eventId,
    published_hash: one.publishedHash,
    fact_at: formatInstant(parseInstant(one.factAt)),
    expected_minor: one.expectedMinor,
    actual_minor: one.actualMinor,
    currency: one.currency,
  }),
  ...(one.provisional ? { provisional: true as const } : {}),
});
