/**
 * Decides what needs a person, and says why: only what waits for an approval or a decision. What the jobs mend by
 * themselves, or are at work on, is not in it.
 */
import type { FindingGroup, OpenRequest, ReplayGroup } from './queries.ts';

export interface PersonStep {
  readonly count: number;
  /** What to do, as one line. */
  readonly text: string;
}

/** A bill that the predecessor's publisher, which polls every half minute, has not written by then is stuck. */
const HANDED_TOO_LONG_SECONDS = 3_600;

/** Parked until other listeners come, which a release brings: nobody has to decide. */
const waitsForRelease = new Set(['no_listener', 'unknown_version']);

export function stepsForAPerson(status: {
  readonly findings: readonly FindingGroup[];
  readonly requests: readonly OpenRequest[];
  readonly replay: readonly ReplayGroup[];
}): readonly PersonStep[] {
  const steps = new Map<string, number>();
  const add = (count: number, text: string | undefined) => {
    if (count > 0 && text !== undefined) steps.set(text, (steps.get(text) ?? 0) + count);
  };
  for (const group of status.findings) if (group.status === 'open') add(group.findings, stepOf(group));
  for (const { waiting } of status.requests)
    for (const { id, requested_by: by, findings } of waiting)
      add(
        Math.max(1, findings),
        `approve or refuse the correction that ${by} asks for: SELECT counterfoil.approve(${id}, '…')`,
      );
  for (const group of status.replay) {
    if (group.status === 'parked' && !waitsForRelease.has(group.parked_reason ?? ''))
      add(group.unnamed, `see why the event was parked (${group.parked_reason}), mend that, then unpark it`);
    if (group.status === 'handed_to_outbox' && (group.waited_seconds ?? 0) > HANDED_TOO_LONG_SECONDS)
      add(group.events, 'given to the outbox, some of them more than an hour ago: look at its publisher');
  }
  return [...steps].map(([text, count]) => ({ count, text }));
}

/** What a person has to do about findings that stand alike; nothing where the machine is at it. */
function stepOf(group: FindingGroup): string | undefined {
  const reason = group.repair_reason === null ? '' : ` (${group.repair_reason})`;
  switch (group.kind) {
    case 'missing':
      return stepOfMissing(group, reason);
    case 'duplicate':
    case 'amount': {
      if (group.repair === 'needs_approval' || group.repair === 'approved') return undefined;
      const wrong = group.kind === 'duplicate' ? 'billed more than once' : 'billed a wrong amount';
      return group.repair === 'given_up'
        ? `${wrong}, and the correction was not made${reason}: correct it by hand, or request it anew`
        : `${wrong}: request a correction, which another person approves`;
    }
    case 'orphan':
      return 'a bill without a session: find out what it is for';
  }
}

function stepOfMissing({ cause, repair }: FindingGroup, reason: string): string | undefined {
  switch (cause) {
    case 'event_pending':
      return undefined;
    case 'event_parked':
      return 'see why the event was parked, mend that, then unpark it';
    case 'never_published':
    case 'processed_without_ledger': {
      const what =
        cause === 'never_published' ? 'no event was ever written' : 'the handler ran and wrote no bill';
      if (repair === 'requested') return undefined;
      return repair === 'given_up'
        ? `${what}, and the service did not rebuild it${reason}: bill it from the session`
        : `${what}: switch the repair on (CF_REPAIR), or request a rebuild`;
    }
    default:
      return 'no event row is left to tell why: look at the session, then request a rebuild';
  }
}
