/**
 * Decides what becomes of one event: before a call whether it is sent at all, after a call what its end means.
 * Pure: clock and chance are arguments, nothing is read and nothing is written.
 * It never drops an event and never repeats one for ever: every way back to `wait` either burns a budget, or
 * waits for something outside the event (the endpoint, a handler that is at work).
 */

/** What the endpoint can say of one event, and what is said of one that was given to the outbox in its place. */
export type EventOutcome =
  | 'processed'
  | 'already_processed'
  | 'in_flight'
  | 'not_found'
  | 'no_listener'
  | 'unknown_version'
  | 'invalid_payload'
  | 'outcome_unknown'
  | 'failed'
  | 'handed_to_outbox';

/** How a call ended for one event of it. */
export type CallEnd =
  /** The service gave its answer. `retryable` is read for `failed` alone. */
  | { readonly kind: 'answered'; readonly outcome: EventOutcome; readonly retryable: boolean }
  /** It certainly reached no handler: refused, not resolved, not connected, or the module says so. */
  | { readonly kind: 'unreached' }
  /** The connection broke after the request had gone out: what a crash of the service looks like. */
  | { readonly kind: 'cut' }
  /** No answer in time, or one that cannot be read: the handler may have run. A timeout is no failure (P21). */
  | { readonly kind: 'unclear' }
  /** We ended the call ourselves, to stop in time. */
  | { readonly kind: 'abandoned' };

export type ParkReason =
  | 'attempts_exhausted'
  | 'crashes_the_service'
  | 'no_listener'
  | 'unknown_version'
  | 'invalid_payload'
  | 'not_retryable'
  | 'fact_changed';

export interface Attempts {
  /** Calls that reached a handler. */
  readonly handler: number;
  /** Calls that did not, as far as we know. */
  readonly transport: number;
  /** Calls that were begun and never came to an end. */
  readonly unfinished: number;
}

export interface ReplayRow {
  readonly eventId: string;
  readonly attempts: Attempts;
  /** Whether its fact is still what the payload says; looked at where a check compares them, and for events of an aborted version. */
  readonly fact?: 'agrees' | 'changed';
}

/** What has happened around the row since its last attempt. */
export interface History {
  /** The endpoint has properly answered some call since then: it was up, so trouble is this event's own. */
  readonly endpointAnswered: boolean;
}

export interface Policy {
  readonly handlerAttempts: number;
  readonly unfinishedCalls: number;
  readonly backoffMs: number;
  readonly backoffMaxMs: number;
  readonly transportBackoffMs: number;
  readonly transportBackoffMaxMs: number;
}

export interface Moment {
  /** By the database's clock, in milliseconds since 1970. */
  readonly now: number;
  /** From 0 up to 1, for the jitter. */
  readonly chance: number;
}

export type Decision = { readonly attempts: Attempts } & (
  | { readonly next: 'replay' }
  | { readonly next: 'wait' /** In milliseconds since 1970. */; readonly until: number }
  | { readonly next: 'park'; readonly reason: ParkReason }
  | { readonly next: 'done' }
  /** Given to the outbox of the service's predecessor: open until its bill is seen. */
  | { readonly next: 'hand_over' }
);

/** The longest event id that the endpoint takes; one that is longer would make it refuse the whole call. */
export const LONGEST_EVENT_ID = 200;

/** Handlers fail on something that needs time; four times as long covers three quarters of an hour in five. */
const HANDLER_BACKOFF_FACTOR = 4;
const TRANSPORT_BACKOFF_FACTOR = 2;

/** @param end nothing before the call */
export function decide(
  row: ReplayRow,
  history: History,
  end: CallEnd | undefined,
  policy: Policy,
  moment: Moment,
): Decision {
  if (end === undefined) return beforeCall(row, policy);
  switch (end.kind) {
    case 'answered':
      return answered(row.attempts, end, policy, moment);
    case 'unreached':
      return waitForEndpoint(row.attempts, policy, moment);
    case 'cut':
      return unfinished(row.attempts, policy, moment);
    case 'unclear':
      return history.endpointAnswered
        ? unfinished(row.attempts, policy, moment)
        : waitForEndpoint(row.attempts, policy, moment);
    case 'abandoned':
      return { next: 'wait', until: later(policy.transportBackoffMs, moment), attempts: row.attempts };
  }
}

/** Counters may have grown while nobody looked: a run that was killed, a limit that was lowered. */
function beforeCall({ eventId, attempts, fact }: ReplayRow, policy: Policy): Decision {
  if (eventId.length === 0 || eventId.length > LONGEST_EVENT_ID)
    return { next: 'park', reason: 'invalid_payload', attempts };
  if (attempts.unfinished >= policy.unfinishedCalls)
    return { next: 'park', reason: 'crashes_the_service', attempts };
  if (attempts.handler >= policy.handlerAttempts)
    return { next: 'park', reason: 'attempts_exhausted', attempts };
  if (fact === 'changed') return { next: 'park', reason: 'fact_changed', attempts };
  return { next: 'replay', attempts };
}

function answered(
  before: Attempts,
  answer: { readonly outcome: EventOutcome; readonly retryable: boolean },
  policy: Policy,
  moment: Moment,
): Decision {
  // The call came to an end, so this event does not crash the service; an attempt that fails still counts.
  const ended = { ...before, unfinished: 0 };
  const reached = { ...ended, handler: before.handler + 1 };
  switch (answer.outcome) {
    case 'processed':
      return { next: 'done', attempts: reached };
    case 'already_processed':
      return { next: 'done', attempts: ended };
    case 'handed_to_outbox':
      // Burns an attempt, so that what goes to and fro between outbox and endpoint comes to an end.
      return { next: 'hand_over', attempts: reached };
    case 'in_flight':
      // Somebody's handler is at work, or there is no room: burns nothing, and proves nothing.
      return { next: 'wait', until: later(policy.backoffMs, moment), attempts: before };
    case 'no_listener':
    case 'unknown_version':
    case 'invalid_payload':
      return { next: 'park', reason: answer.outcome, attempts: ended };
    case 'outcome_unknown':
      // The handler was reached and may still run: the call before it is not proven harmless.
      return waitForHandler({ ...before, handler: before.handler + 1 }, policy, moment);
    case 'not_found':
      // We saw the row pending a moment before: a lagging replica, or the wrong database. Bounded as a failure is.
      return waitForHandler(reached, policy, moment);
    case 'failed':
      return answer.retryable
        ? waitForHandler(reached, policy, moment)
        : { next: 'park', reason: 'not_retryable', attempts: reached };
  }
}

function waitForHandler(attempts: Attempts, policy: Policy, moment: Moment): Decision {
  if (attempts.handler >= policy.handlerAttempts)
    return { next: 'park', reason: 'attempts_exhausted', attempts };
  const waitMs = policy.backoffMs * HANDLER_BACKOFF_FACTOR ** (attempts.handler - 1);
  return { next: 'wait', until: later(Math.min(waitMs, policy.backoffMaxMs), moment), attempts };
}

function waitForEndpoint(before: Attempts, policy: Policy, moment: Moment): Decision {
  const attempts = { ...before, transport: before.transport + 1 };
  return { next: 'wait', until: later(transportWaitMs(attempts.transport, policy), moment), attempts };
}

function unfinished(before: Attempts, policy: Policy, moment: Moment): Decision {
  const attempts = { ...before, unfinished: before.unfinished + 1 };
  if (attempts.unfinished >= policy.unfinishedCalls)
    return { next: 'park', reason: 'crashes_the_service', attempts };
  return { next: 'wait', until: later(transportWaitMs(attempts.unfinished, policy), moment), attempts };
}

function transportWaitMs(times: number, policy: Policy): number {
  return Math.min(
    policy.transportBackoffMs * TRANSPORT_BACKOFF_FACTOR ** Math.min(times - 1, 20),
    policy.transportBackoffMaxMs,
  );
}

/** Between a half and the whole of the wait: what failed together does not come back together. */
function later(waitMs: number, moment: Moment): number {
  return Math.round(moment.now + waitMs * (0.5 + moment.chance / 2));
}
