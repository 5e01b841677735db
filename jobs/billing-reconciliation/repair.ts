/**
 * Asks event-replay to mend open findings: to send what is pending behind them, and to let the service rebuild the
 * event of what was never published, or was processed without a bill. A wrong or second bill is never mended by
 * machine, and a bill without its fact is a person's. A few go first, of each kind; the next request waits until the
 * last one has ended and its keys were judged again, and a wrong or second bill that turns up after any of them stops
 * the repair for as long as it stands.
 */
import type { Transaction } from '../runtime/database.ts';
import { formatInstant } from './instant.ts';
import { writeAudit } from './queries.ts';
import type { CheckRun } from './reconcile.ts';
import {
  findLastRepair,
  type LastRepair,
  listRebuildable,
  listReplayable,
  type RepairKind,
  requestRepair,
} from './repair-queries.ts';

/** Enough to see whether a repair mends or harms, few enough to be corrected by hand. */
const PROBE = 10;

const repairs = [
  {
    kind: 'replay',
    counted: 'replays_requested',
    reason: 'open findings whose event is still pending',
    list: listReplayable,
  },
  {
    kind: 'rebuild',
    counted: 'rebuilds_requested',
    reason: 'open findings whose event was never published, or processed without a bill',
    list: listRebuildable,
  },
] as const satisfies readonly {
  readonly kind: RepairKind;
  readonly list: (transaction: Transaction, check: string, limit: number) => Promise<string[]>;
  readonly [more: string]: unknown;
}[];

/** A request that was made, with the events or findings that it names. */
interface Asked {
  readonly kind: RepairKind;
  readonly counted: (typeof repairs)[number]['counted'];
  readonly reason: string;
  readonly requestId: string | undefined;
  readonly ids: readonly string[];
}

/** Ids in one log line; the request has them all. */
const MOST_NAMED = 20;

/**
 * At most one request of each kind per check, together at most the limit of the run.
 * @param runs the checks whose lease this run holds
 */
export async function askForRepair(runs: readonly CheckRun[]): Promise<void> {
  let left = runs[0]?.context.settings.CF_REPAIR_LIMIT ?? 0;
  for (const run of runs) {
    if (left === 0) return;
    run.lease.check();
    left -= await repairCheck(run, left);
  }
}

/** Gives the number of events and findings that were asked for. */
async function repairCheck(run: CheckRun, limit: number): Promise<number> {
  const { context, plan, horizon, tally } = run;
  const { name } = plan.check;
  const lookedAt = formatInstant(horizon.now);
  const asked = await context.database.transaction({}, async (transaction) => {
    const last = new Map<RepairKind, LastRepair | undefined>();
    for (const { kind } of repairs) last.set(kind, await findLastRepair(transaction, name, kind, lookedAt));
    const harmful = [...last.values()].find((one) => one !== undefined && one.harm.length > 0);
    if (harmful !== undefined) {
      await stop(run, transaction, harmful);
      return [];
    }
    const made: Asked[] = [];
    let left = limit;
    for (const { kind, counted, reason, list } of repairs) {
      const before = last.get(kind);
      if (left === 0 || before?.judged === false) continue;
      const ids = await list(transaction, name, before?.proven === true ? left : Math.min(left, PROBE));
      if (ids.length === 0) continue;
      const requestId = await requestRepair(transaction, name, kind, ids, reason);
      await writeAudit(transaction, {
        ...entryOf(run),
        action: `${kind}_requested`,
        reason,
        ...(requestId === undefined ? {} : { requestId }),
        counts: { [kind === 'replay' ? 'events' : 'findings']: ids.length },
      });
      left -= ids.length;
      made.push({ kind, counted, reason, requestId, ids });
    }
    return made;
  });
  for (const { kind, counted, reason, requestId, ids } of asked) {
    tally.count(counted, ids.length);
    const named = ids.slice(0, MOST_NAMED);
    context.logger.info(
      {
        check: name,
        requestId,
        count: ids.length,
        ...(kind === 'replay' ? { eventIds: named } : { findings: named }),
      },
      `asked for a ${kind}: ${reason}`,
    );
  }
  return asked.reduce((sum, { ids }) => sum + ids.length, 0);
}

/** Says what stands in the way: in the log at each run, in the audit once. */
async function stop(run: CheckRun, transaction: Transaction, last: LastRepair): Promise<void> {
  run.context.logger.warn(
    { check: run.plan.check.name, request: last.id, findings: last.harm },
    'repair is stopped: wrong or second bills were first seen after its last request; acknowledge or waive them to go on',
  );
  if (last.told) return;
  await writeAudit(transaction, {
    ...entryOf(run),
    action: 'repair_stopped',
    reason: `first seen since: findings ${last.harm.join(', ')}`,
    requestId: last.id,
    counts: { findings: last.harm.length },
  });
}

const entryOf = ({ context, plan }: CheckRun) => ({
  installation: context.settings.CF_INSTALLATION,
  runId: context.runId,
  scope: { check: plan.check.name },
});
