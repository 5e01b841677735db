import { describe, expect, it } from 'vitest';
import {
  type Attempts,
  type CallEnd,
  decide,
  type EventOutcome,
  LONGEST_EVENT_ID,
  type Policy,
} from './decide.ts';

const policy: Policy = {
  handlerAttempts: 5,
  unfinishedCalls: 3,
  backoffMs: 30_000,
  backoffMaxMs: 3_600_000,
  transportBackoffMs: 5_000,
  transportBackoffMaxMs: 60_000,
};
const now = 1_790_000_000_000;
const none: Attempts = { handler: 0, transport: 0, unfinished: 0 };

function judge(
  end: CallEnd | undefined,
  options: {
    attempts?: Partial<Attempts>;
    endpointAnswered?: boolean;
    chance?: number;
    eventId?: string;
  } = {},
) {
  return decide(
    { eventId: options.eventId ?? 'e1', attempts: { ...none, ...options.attempts } },
    { endpointAnswered: options.endpointAnswered ?? false },
    end,
    policy,
    { now, chance: options.chance ?? 1 },
  );
}
const answered = (outcome: EventOutcome, retryable = true): CallEnd => ({
  kind: 'answered',
  outcome,
  retryable,
});

describe('before a call', () => {
  it('sends an event that was never tried', () => {
    expect(judge(undefined)).toEqual({ next: 'replay', attempts: none });
  });

  it.each([
    ['sends an event with one attempt left', { handler: 4 }, 'replay', undefined],
    ['parks an event whose attempts are used up', { handler: 5 }, 'park', 'attempts_exhausted'],
    ['sends an event with one unfinished call less than the limit', { unfinished: 2 }, 'replay', undefined],
    [
      'parks an event that has crashed the service too often',
      { unfinished: 3 },
      'park',
      'crashes_the_service',
    ],
    ['sends an event however often the endpoint was away', { transport: 1_000 }, 'replay', undefined],
  ] as const)('%s', (_title, attempts, next, reason) => {
    const decision = judge(undefined, { attempts });
    expect(decision).toMatchObject(reason === undefined ? { next } : { next, reason });
    expect(decision.attempts).toEqual({ ...none, ...attempts });
  });

  it('parks an event whose id the endpoint would refuse, and sends the longest that it takes', () => {
    expect(judge(undefined, { eventId: '' })).toMatchObject({ next: 'park', reason: 'invalid_payload' });
    expect(judge(undefined, { eventId: 'x'.repeat(LONGEST_EVENT_ID + 1) })).toMatchObject({ next: 'park' });
    expect(judge(undefined, { eventId: 'x'.repeat(LONGEST_EVENT_ID) })).toMatchObject({ next: 'replay' });
  });
});

describe('after an answer', () => {
  const before = { handler: 1, transport: 2, unfinished: 1 };
  it.each([
    ['processed', 'done', undefined, { handler: 2, unfinished: 0 }],
    ['already_processed', 'done', undefined, { handler: 1, unfinished: 0 }],
    ['in_flight', 'wait', undefined, { handler: 1, unfinished: 1 }],
    ['not_found', 'wait', undefined, { handler: 2, unfinished: 0 }],
    ['no_listener', 'park', 'no_listener', { handler: 1, unfinished: 0 }],
    ['unknown_version', 'park', 'unknown_version', { handler: 1, unfinished: 0 }],
    ['invalid_payload', 'park', 'invalid_payload', { handler: 1, unfinished: 0 }],
    ['outcome_unknown', 'wait', undefined, { handler: 2, unfinished: 1 }],
    ['failed', 'wait', undefined, { handler: 2, unfinished: 0 }],
  ] as const)('%s leads to %s', (outcome, next, reason, attempts) => {
    const decision = judge(answered(outcome), { attempts: before });
    expect(decision).toMatchObject(reason === undefined ? { next } : { next, reason });
    expect(decision.attempts).toEqual({ ...before, ...attempts });
  });

  it('parks a failure that the service calls final, at the first attempt', () => {
    expect(judge(answered('failed', false))).toMatchObject({ next: 'park', reason: 'not_retryable' });
  });

  it.each(['failed', 'outcome_unknown', 'not_found'] as const)(
    'parks an event after its last attempt, and not one attempt earlier: %s',
    (outcome) => {
      expect(judge(answered(outcome), { attempts: { handler: 3 } })).toMatchObject({ next: 'wait' });
      expect(judge(answered(outcome), { attempts: { handler: 4 } })).toMatchObject({
        next: 'park',
        reason: 'attempts_exhausted',
      });
    },
  );

  it('waits four times as long after each failed attempt, up to the longest wait', () => {
    const waits = [0, 1, 2, 3].map((handler) => {
      const decision = judge(answered('failed'), { attempts: { handler } });
      return decision.next === 'wait' ? decision.until - now : undefined;
    });
    expect(waits).toEqual([30_000, 120_000, 480_000, 1_920_000]);
    const generous = { ...policy, handlerAttempts: 100 };
    const late = decide(
      { eventId: 'e1', attempts: { ...none, handler: 20 } },
      { endpointAnswered: false },
      answered('failed'),
      generous,
      { now, chance: 1 },
    );
    expect(late).toMatchObject({ next: 'wait', until: now + generous.backoffMaxMs });
  });

  it('spreads waits between a half and the whole', () => {
    expect(judge(answered('failed'), { chance: 0 })).toMatchObject({ until: now + 15_000 });
    expect(judge(answered('failed'), { chance: 0.5 })).toMatchObject({ until: now + 22_500 });
  });

  it('waits for a handler that is at work for as long as it takes, without burning an attempt', () => {
    const decision = judge(answered('in_flight'), { attempts: { handler: 4 } });
    expect(decision).toEqual({ next: 'wait', until: now + 30_000, attempts: { ...none, handler: 4 } });
  });
});

describe('after a call without an answer', () => {
  it('never burns an attempt of the handler while the endpoint is away', () => {
    const decision = judge({ kind: 'unreached' }, { attempts: { handler: 4, transport: 7 } });
    expect(decision).toEqual({
      next: 'wait',
      until: now + 60_000,
      attempts: { handler: 4, transport: 8, unfinished: 0 },
    });
  });

  it('doubles the wait for the endpoint, up to the longest', () => {
    const waits = [0, 1, 2, 3, 4, 500].map((transport) => {
      const decision = judge({ kind: 'unreached' }, { attempts: { transport } });
      return decision.next === 'wait' ? decision.until - now : undefined;
    });
    expect(waits).toEqual([5_000, 10_000, 20_000, 40_000, 60_000, 60_000]);
  });

  it('counts a call that was cut as unfinished, and parks the event at the limit', () => {
    expect(judge({ kind: 'cut' })).toMatchObject({ next: 'wait', attempts: { ...none, unfinished: 1 } });
    expect(judge({ kind: 'cut' }, { attempts: { unfinished: 1 } })).toMatchObject({ next: 'wait' });
    expect(judge({ kind: 'cut' }, { attempts: { unfinished: 2 } })).toMatchObject({
      next: 'park',
      reason: 'crashes_the_service',
    });
  });

  it('takes silence for trouble of the endpoint while it answers nobody', () => {
    expect(judge({ kind: 'unclear' }, { attempts: { unfinished: 2 } })).toMatchObject({
      next: 'wait',
      attempts: { ...none, transport: 1, unfinished: 2 },
    });
  });

  it('takes silence for trouble of this event where the endpoint has answered others since its last attempt', () => {
    const options = { attempts: { unfinished: 2 }, endpointAnswered: true };
    expect(judge({ kind: 'unclear' }, options)).toMatchObject({
      next: 'park',
      reason: 'crashes_the_service',
    });
  });

  it('holds nothing against an event whose call we ended ourselves', () => {
    expect(judge({ kind: 'abandoned' }, { endpointAnswered: true })).toEqual({
      next: 'wait',
      until: now + 5_000,
      attempts: none,
    });
  });
});
