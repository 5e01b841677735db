import { describe, expect, it } from 'vitest';
import { mayVerify, type RepairProgress, type RequestProgress, repairStateOf } from './abort-state.ts';

const NOW = Date.parse('2026-11-27T12:00:00Z');
const MINUTE = 60_000;
const abort = { namespace: 'shop', rollout: 'shop', hash: 'bad', at: '2026-11-27T11:00:00.000Z' };
const request = (status: RequestProgress['status'], minutesAgo: number, ended?: number): RequestProgress => ({
  status,
  requestedAt: NOW - minutesAgo * MINUTE,
  finishedAt: ended === undefined ? undefined : NOW - ended * MINUTE,
});
const progress = (more: Partial<RepairProgress>): RepairProgress => ({
  now: NOW,
  replay: request('done', 50, 45),
  verify: request('done', 44, 40),
  suspected: 0,
  open: 0,
  parked: 0,
  verifiedThrough: true,
  atWork: false,
  lastResolvedAt: undefined,
  ...more,
});
const state = (more: Partial<RepairProgress>) => {
  const { state: word, since } = repairStateOf(abort, progress(more));
  return `${word} for ${(NOW - since) / MINUTE} min`;
};

describe('the repair after an abort', () => {
  it.each([
    ['before anything is asked', { replay: undefined, verify: undefined }, 'waiting for 60 min'],
    ['asked and not taken', { replay: request('open', 50), verify: undefined }, 'requested for 50 min'],
    ['taken', { replay: request('taken', 50), verify: undefined }, 'repairing for 50 min'],
    ['replayed, not yet verified', { verify: request('open', 44) }, 'repairing for 50 min'],
    ['being verified', { verify: request('taken', 44) }, 'repairing for 50 min'],
    ['without a table of events', { replay: undefined, verify: request('open', 44) }, 'repairing for 44 min'],
    ['verified and nothing stands', {}, 'clean for 40 min'],
    ['mended by a person later', { lastResolvedAt: NOW - 5 * MINUTE }, 'clean for 5 min'],
    ['not verified to the end', { verifiedThrough: false }, 'repairing for 50 min'],
    ['a finding is open', { open: 1 }, 'not_clean for 40 min'],
    ['a finding was seen once', { suspected: 1 }, 'not_clean for 40 min'],
    ['an event is parked', { parked: 1 }, 'not_clean for 40 min'],
    ['refused to verify', { verify: request('refused', 44, 40) }, 'not_clean for 40 min'],
    ['refused to replay, and nothing stands', { replay: request('refused', 50, 50) }, 'clean for 40 min'],
  ])('%s', (_, more, word) => {
    expect(state(more)).toBe(word);
  });

  it('is waited for while jobs are at work or a finding was seen once, for half an hour; never for a parked event', () => {
    const just = { verify: request('done', 44, 29) };
    expect(state({ ...just, open: 1, atWork: true })).toBe('repairing for 50 min');
    expect(state({ ...just, suspected: 1 })).toBe('repairing for 50 min');
    expect(state({ ...just, open: 1 })).toBe('not_clean for 29 min');
    expect(state({ ...just, parked: 1, atWork: true })).toBe('not_clean for 29 min');
    expect(state({ verify: request('done', 44, 31), open: 1, atWork: true })).toBe('not_clean for 31 min');
  });
});

describe('the verification', () => {
  it.each([
    ['the replay has ended', { replay: request('done', 5, 1) }, true],
    ['the replay was refused', { replay: request('refused', 5, 1) }, true],
    ['the replay has not begun', { replay: request('open', 29) }, false],
    ['the replay goes on', { replay: request('taken', 29) }, false],
    ['nobody has replayed for half an hour', { replay: request('open', 31) }, true],
    ['nothing was asked', { replay: undefined }, false],
  ])('is due or not when %s', (_, more, due) => {
    expect(mayVerify(progress({ verify: undefined, ...more }))).toBe(due);
  });

  it('is asked for once', () => {
    expect(mayVerify(progress({ verify: request('open', 1) }))).toBe(false);
  });
});
