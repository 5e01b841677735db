/**
 * Asks event-replay to replay what is pending behind open findings. Only that cause is mended by machine here:
 * a missing event has to be rebuilt by the service, and a wrong or second bill is never mended by replay. A few
 * events go first; the next request waits until the last one has ended and its keys were judged again, and a
 * wrong or second bill that turns up after it stops the repair for as long as it stands.
 */
import { formatInstant } from './instant.ts';
import { findLastRepair, listReplayable, requestReplay, writeAudit } from './queries.ts';
import type { CheckRun } from './reconcile.ts';

/** Enough to see whether a replay mends or harms, few enough to be corrected by hand. */
const PROBE = 10;

/**
 * At most one request per check, together at most the limit of the run.
 * @param runs the checks whose lease this run holds
 */
export async function requestRepair(runs: readonly CheckRun[]): Promise<void> {
  let left = runs[0]?.context.settings.CF_REPAIR_LIMIT ?? 0;
  for (const run of runs) {
    if (left === 0) return;
    run.lease.check();
    const asked = await repairCheck(run, left);
    left -= asked;
    run.tally.count('replays_requested', asked);
  }
}

/** Gives the number of events that were asked for. */
async function repairCheck(run: CheckRun, limit: number): Promise<number> {
  const { context, plan, horizon } = run;
  const { name } = plan.check;
  const entry = {
    installation: context.settings.CF_INSTALLATION,
    runId: context.runId,
    scope: { check: name },
  };
  return await context.database.transaction({}, async (transaction) => {
    const last = await findLastRepair(transaction, name, formatInstant(horizon.now));
    if (last !== undefined && last.harm.length > 0) {
      context.logger.warn(
        { check: name, request: last.id, findings: last.harm },
        'repair is stopped: wrong or second bills were first seen after its last request; acknowledge or waive them to go on',
      );
      if (!last.told) {
        await writeAudit(transaction, {
          ...entry,
          action: 'repair_stopped',
          reason: `first seen since: findings ${last.harm.join(', ')}`,
          requestId: last.id,
          counts: { findings: last.harm.length },
        });
      }
      return 0;
    }
    if (last?.judged === false) return 0;
    const most = last?.proven === true ? limit : Math.min(limit, PROBE);
    const eventIds = await listReplayable(transaction, name, most);
    if (eventIds.length === 0) return 0;
    const requestId = await requestReplay(transaction, name, eventIds);
    await writeAudit(transaction, {
      ...entry,
      action: 'replay_requested',
      reason: 'open findings whose event is still pending',
      ...(requestId === undefined ? {} : { requestId }),
      counts: { events: eventIds.length },
    });
    return eventIds.length;
  });
}
