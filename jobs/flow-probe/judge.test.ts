import { describe, expect, test } from 'vitest';
import { describeFaults, type Found, judge } from './judge.ts';
import type { BillLook, EventRow } from './queries.ts';

const bill = (override: Partial<BillLook> = {}): BillLook => ({
  rows: '1',
  amount: 'right',
  currency: 'right',
  ...override,
});
const event = (override: Partial<EventRow> = {}): EventRow => ({
  event_id: 'e-1',
  status: 'processed',
  listeners_begun: 1,
  listeners_failed: 0,
  listeners_running: 0,
  ...override,
});
const found = (look: Partial<BillLook> = {}, ...rows: EventRow[]): Found => ({
  bill: bill(look),
  events: [{ name: 'a.v1', rows }],
});
const pending = (override: Partial<EventRow> = {}) => event({ status: 'pending', ...override });

describe('the bill', () => {
  test('one live row with amount and currency is right; so is one of which neither is measured', () => {
    expect(judge(found({}, event()), 'one').kind).toBe('right');
    expect(judge(found({ amount: 'not_measured', currency: 'not_measured' }, event()), 'one').kind).toBe(
      'right',
    );
  });

  test('none is late: it may still come', () => {
    expect(judge(found({ rows: '0' }, event()), 'one')).toEqual({
      kind: 'late',
      faults: [{ fault: 'bill_missing' }],
    });
  });

  test('a second row is wrong at once, unless the check allows it', () => {
    expect(judge(found({ rows: '2' }, event()), 'one')).toEqual({
      kind: 'wrong',
      faults: [{ fault: 'bill_duplicate' }],
    });
    expect(judge(found({ rows: '2' }, event()), 'at_least_one').kind).toBe('right');
    expect(judge(found({ rows: '2' }, event()), 'net_sum').kind).toBe('right');
  });

  test('a wrong amount is wrong at once, unless more parts of a sum may come; a wrong currency always is', () => {
    expect(judge(found({ amount: 'wrong' }, event()), 'one').faults).toEqual([{ fault: 'bill_amount' }]);
    expect(judge(found({ amount: 'wrong' }, event()), 'one').kind).toBe('wrong');
    expect(judge(found({ amount: 'wrong' }, event()), 'net_sum')).toEqual({
      kind: 'late',
      faults: [{ fault: 'bill_amount' }],
    });
    expect(judge(found({ currency: 'wrong' }, event()), 'net_sum').kind).toBe('wrong');
  });
});

describe('its event', () => {
  test.each([
    ['event_never_written', []],
    ['event_lost', [pending({ listeners_begun: 0 })]],
    ['event_failed', [pending({ listeners_failed: 1 })]],
    ['event_running', [pending({ listeners_running: 1, listeners_failed: 1 })]],
    ['event_pending', [pending()]],
    ['event_pending', [pending({ listeners_begun: null, listeners_failed: null, listeners_running: null })]],
    ['event_lost', [event(), pending({ listeners_begun: 0 })]],
  ])('is %s', (fault, rows) => {
    expect(judge(found({}, ...rows), 'one')).toEqual({ kind: 'late', faults: [{ fault, event: 'a.v1' }] });
  });

  test('is not asked for where there is no table of events', () => {
    expect(judge({ bill: bill(), events: [] }, 'one').kind).toBe('right');
  });
});

test('faults are said in one sentence', () => {
  const { faults } = judge(found({ rows: '0' }, pending({ listeners_begun: 0 })), 'one');
  expect(describeFaults(faults)).toBe(
    'there is no bill; the event a.v1 is pending and no listener was started: lost',
  );
});
