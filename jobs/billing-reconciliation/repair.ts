/**
 * Asks event-replay to replay what is pending behind open findings. Only that cause is mended by machine here:
 * a missing event has to be rebuilt by the service, and a wrong or second bill is never mended by replay.
 */
import { listReplayable, requestReplay, writeAudit } from './queries.ts';
import type { CheckRun } from './reconcile.ts';

/**
 * One request per check, together at most the limit of the run.
 * @param runs the checks whose lease this run holds
 */
export async function requestRepair(runs: readonly CheckRun[]): Promise<void> {
  let left = runs[0]?.context.settings.CF_REPAIR_LIMIT ?? 0;
  for (const run of runs) {
    if (left === 0) return;
    const { context, plan, tally } = run;
    run.lease.check();
    const asked = await context.database.transaction({}, async (transaction) => {
      const eventIds = await listReplayable(transaction, plan.check.name, left);
      if (eventIds.length === 0) return 0;
      const requestId = await requestReplay(transaction, plan.check.name, eventIds);
      await writeAudit(transaction, {
        installation: context.settings.CF_INSTALLATION,
        runId: context.runId,
        action: 'replay_requested',
        reason: 'open findings whose event is still pending',
        ...(requestId === undefined ? {} : { requestId }),
        scope: { check: plan.check.name },
        counts: { events: eventIds.length },
      });
      return eventIds.length;
    });
    left -= asked;
    tally.count('replays_requested', asked);
  }
}
