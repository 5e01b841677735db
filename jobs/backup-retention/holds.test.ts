import { describe, expect, test } from 'vitest';
import { hashDefinition } from '../checks/hash.ts';
import { parseChecks, readChecks } from '../checks/parse.ts';
import { holdsOf, limitOf, needsOf } from './holds.ts';

const checks = readChecks(undefined);
const [check] = checks;
const state = (verified: string | null, override: object = {}) => ({
  name: 'session-billing',
  definition_hash: check === undefined ? '' : hashDefinition(check),
  verified_through: verified,
  ...override,
});
const NOW = '2026-11-27 12:00:00.5+00';

describe('the limit', () => {
  test('counts from what is verified', () => {
    expect(limitOf(NOW, 30, checks, [state('2026-11-20 12:00:00+00')])).toEqual({
      limit: '2026-10-21T12:00:00.000Z',
    });
  });

  test('never counts from later than now, whatever stands in the table', () => {
    expect(limitOf(NOW, 30, checks, [state('2027-11-20 12:00:00+00')])).toEqual({
      limit: '2026-10-28T12:00:00.500Z',
    });
  });

  test('a clock that has jumped ahead by a year moves nothing', () => {
    const before = limitOf(NOW, 30, checks, [state('2026-11-27 11:50:00+00')]);
    expect(limitOf('2027-11-27 12:00:00+00', 30, checks, [state('2026-11-27 11:50:00+00')])).toEqual(before);
  });

  test('is not there while a check is missing, unverified, or another by its definition', () => {
    for (const states of [[], [state(null)], [state('2026-11-20 12:00:00+00', { definition_hash: 'other' })]])
      expect(limitOf(NOW, 30, checks, states)).toEqual({ unverified: ['session-billing'] });
  });

  test('is that of the check that is furthest behind', () => {
    const declared = parseChecks({
      checks: [
        { name: 'a', facts: side, ledger: side, event: { name: 'e', key: ['id'] } },
        { name: 'b', facts: side, ledger: side, event: { name: 'e', key: ['id'] } },
        { name: 'without-event', facts: side, ledger: side },
      ],
    });
    const states = declared.slice(0, 2).map((one, n) => ({
      name: one.name,
      definition_hash: hashDefinition(one),
      verified_through: `2026-11-2${n} 00:00:00+00`,
    }));
    expect(limitOf(NOW, 10, declared, states)).toEqual({ limit: '2026-11-10T00:00:00.000Z' });
  });
});
const side = { table: 't', key: ['id'], at: 'at' };

test('a check that looks back further than events are kept is named, with the days that it needs', () => {
  const declared = parseChecks({
    checks: [
      {
        name: 'a',
        facts: side,
        ledger: side,
        lookback: '30d',
        grace: '1s',
        event: { name: 'e', key: ['id'] },
      },
    ],
  });
  expect(needsOf(declared, 30)).toEqual(['check a needs 31']);
  expect(needsOf(declared, 31)).toEqual([]);
});

describe('open requests', () => {
  const one = (scope: unknown) => holdsOf([{ id: '7', scope }]);

  test('hold what they name', () => {
    expect(
      holdsOf([
        { id: '1', scope: { event_ids: ['a', 'b'] } },
        { id: '2', scope: { findings: [3, '4'] } },
        {
          id: '3',
          scope: {
            from: '2026-11-01T00:00:00+01:00',
            to: '2026-11-02T00:00:00Z',
            published_hash: 'x',
            abort: {},
          },
        },
      ]),
    ).toEqual({
      eventIds: ['a', 'b'],
      findings: ['3', '4'],
      ranges: [{ from: '2026-10-31T23:00:00.000Z', to: '2026-11-02T00:00:00.000Z' }],
      unreadable: undefined,
    });
  });

  test.each([
    [{}],
    [null],
    ['all'],
    [{ published_hash: 'x' }],
    [{ event_ids: [] }],
    [{ event_ids: [1] }],
    [{ event_ids: ['a\0'] }],
    [{ findings: ['1; drop'] }],
    [{ from: '2026-11-01T00:00:00', to: '2026-11-02T00:00:00' }],
    [{ from: 'yesterdayZ', to: '2026-11-02T00:00:00Z' }],
  ])('hold everything where nobody here understands them: %j', (scope) => {
    expect(one(scope).unreadable).toBe('7');
  });
});
