import { describe, expect, test } from 'vitest';
import { causeOf } from './classify.ts';
import { parseInstant } from './instant.ts';

const at = parseInstant('2026-11-23T12:00:00Z');
const event = { eventId: 'e1', status: 'pending', parked: false };

describe('the cause of a missing bill', () => {
  test('a pending event is pending, unless replay has parked it', () => {
    expect(causeOf(event, at, undefined)).toBe('event_pending');
    expect(causeOf({ ...event, parked: true }, at, undefined)).toBe('event_parked');
  });

  test('a processed event left no bill', () => {
    expect(causeOf({ ...event, status: 'processed' }, at, undefined)).toBe('processed_without_ledger');
  });

  test('a status that is not known is no reason to guess', () => {
    expect(causeOf({ ...event, status: 'strange' }, at, undefined)).toBe('unknown');
  });

  test('no event at all was never published, unless it may have been purged', () => {
    expect(causeOf(undefined, at, at)).toBe('never_published');
    expect(causeOf(undefined, at, at + 1n)).toBe('unknown');
    expect(causeOf(undefined, at, undefined)).toBe('unknown');
  });
});
