/**
 * Where the repair after an abort stands. Everything is read from the tables anew, so that a restart, a second replica
 * and a bill that a person mends later all lead to the same answer.
 */

/**
 * `off`: nobody is asked. `waiting`: pods of the aborted version may still write. `requested`: no job has taken it up.
 * `repairing`: the jobs are at work. `clean`: verified through the end of the range, and nothing stands in it.
 * `not_clean`: the jobs have done what they can, and something stands.
 */
export const repairStates = ['off', 'waiting', 'requested', 'repairing', 'clean', 'not_clean'] as const;
export type RepairState = (typeof repairStates)[number];

/** What is shown of it. */
export interface AbortRepair {
  readonly hash: string;
  readonly state: RepairState;
  /** Milliseconds since 1970. */
  readonly since: number;
}

/** One abort: what its requests, its row of the audit and its Events carry. */
export interface Abort {
  readonly namespace: string;
  readonly rollout: string;
  readonly hash: string;
  /** When the controller aborted, as text in UTC. */
  readonly at: string;
}

export interface RequestProgress {
  readonly status: 'open' | 'taken' | 'done' | 'refused';
  readonly requestedAt: number;
  readonly finishedAt: number | undefined;
}

/** What the tables say of one abort. */
export interface RepairProgress {
  readonly now: number;
  readonly replay: RequestProgress | undefined;
  readonly verify: RequestProgress | undefined;
  /** Findings in the range that are of the aborted version, or of nobody knows which. */
  readonly suspected: number;
  readonly open: number;
  /** Of its events, those that replay has given up. */
  readonly parked: number;
  /** Whether every check is verified through the end of the range. */
  readonly verifiedThrough: boolean;
  /** Whether a replay or a rebuild is still on its way. */
  readonly atWork: boolean;
  /** When the last finding of the range was settled. */
  readonly lastResolvedAt: number | undefined;
}

/** How long jobs that are still at work are waited for after the verification. */
const PATIENCE_MS = 1_800_000;

export function repairStateOf(abort: Abort, progress: RepairProgress): AbortRepair {
  const { now, replay, verify } = progress;
  const stands = (state: RepairState, since: number | undefined): AbortRepair => ({
    hash: abort.hash,
    state,
    since: since ?? now,
  });
  if (replay === undefined && verify === undefined) return stands('waiting', Date.parse(abort.at));
  if (replay?.status === 'open') return stands('requested', replay.requestedAt);
  const begunAt = replay?.requestedAt ?? verify?.requestedAt;
  if (verify === undefined || verify.status === 'open' || verify.status === 'taken')
    return stands('repairing', begunAt);
  if (verify.status === 'refused') return stands('not_clean', verify.finishedAt);
  const { suspected, open, parked, verifiedThrough, atWork, lastResolvedAt } = progress;
  if (open + suspected + parked === 0)
    return verifiedThrough
      ? stands('clean', Math.max(verify.finishedAt ?? 0, lastResolvedAt ?? 0) || undefined)
      : stands('repairing', begunAt);
  // What was seen once is looked at again by the next run, and what is open may be on its way.
  const hopeful = parked === 0 && (atWork || open === 0);
  if (hopeful && now - (verify.finishedAt ?? now) < PATIENCE_MS) return stands('repairing', begunAt);
  return stands('not_clean', verify.finishedAt);
}

/** Whether it is time to ask for the verification: the replay has ended, or has had long enough. */
export function mayVerify({ now, replay, verify }: RepairProgress): boolean {
  if (replay === undefined || verify !== undefined) return false;
  return replay.status === 'done' || replay.status === 'refused' || now - replay.requestedAt > PATIENCE_MS;
}
