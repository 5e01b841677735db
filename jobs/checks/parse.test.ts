import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { RunFailure } from '../runtime/failures.ts';
import { hashDefinition } from './hash.ts';
import { parseChecks, readChecks, splitTableName } from './parse.ts';

const side = (override: object = {}) => ({ table: 'a', key: ['id'], at: 'at', ...override });
const declared = (override: object = {}) => ({
  checks: [{ name: 'one', facts: side(), ledger: side({ table: 'b' }), ...override }],
});

function problemsOf(given: unknown): string {
  try {
    parseChecks(given);
  } catch (error) {
    expect(error).toBeInstanceOf(RunFailure);
    expect((error as RunFailure).id).toBe('checks_invalid');
    return (error as RunFailure).message;
  }
  throw new Error('nothing was wrong');
}

function fileWith(text: string): string {
  const path = join(mkdtempSync(join(tmpdir(), 'counterfoil-checks-')), 'checks.yaml');
  writeFileSync(path, text);
  return path;
}

describe('the file of checks', () => {
  test('without a file, the tables of the plan are checked', () => {
    expect(readChecks(undefined)).toMatchObject([
      {
        name: 'session-billing',
        facts: { table: 'sessions', key: ['id'], at: 'completed_at', amount: null },
        ledger: { table: 'mentor_payable_ledgers', key: ['session_id'], at: 'created_at' },
        cardinality: 'one',
        event: { name: 'services.session.completed.v1', key: ['sessionId'] },
        grace: 600_000,
        lookback: 86_400_000,
      },
    ]);
  });

  test('YAML with every part of the language is read', () => {
    const [check] = readChecks(
      fileWith(`
checks:
- name: invoices
  facts:
    table: 'Billing.Invoices'
    key: [tenant, id]
    at: issued
    amount: {column: total, scale: {default: 2, JPY: 0}}
    currency: currency
    where: [{column: status, op: in, value: [done, paid]}, {column: test, op: notNull}]
  ledger:
    table: ledger
    key: [tenant, invoice]
    at: booked
    amount: minor
    currency: currency
    reverses: {sign: {column: entry, negative: [credit]}}
  cardinality: net_sum
  tolerance: {default: 0, JPY: 1}
  event: {name: invoice.issued.v1, key: [tenant, invoice], match: {total: total}}
  since: 2026-01-01
  grace: 90s
  lookback: 2d
`),
    );
    expect(check).toMatchObject({
      facts: { amount: { column: 'total', scale: { default: 2, byCurrency: { JPY: 0 } } } },
      ledger: { amount: { column: 'minor', scale: { default: 0, byCurrency: {} } } },
      tolerance: { default: 0, byCurrency: { JPY: 1 } },
      since: '2026-01-01T00:00:00Z',
      grace: 90_000,
      lookback: 172_800_000,
    });
  });

  test('a file that is not there, or not YAML, is refused without a word of it', () => {
    expect(() => readChecks('/nowhere/checks.yaml')).toThrow('CF_CHECKS_FILE');
    expect(() => readChecks(fileWith('checks: [secret-word: {'))).toThrow(/not YAML/);
    try {
      readChecks(fileWith('checks: [secret-word: {'));
    } catch (error) {
      expect(String((error as Error).message)).not.toContain('secret-word');
    }
  });

  test('an empty file and a list that is empty are refused', () => {
    expect(problemsOf(null)).toContain('must be');
    expect(problemsOf({ checks: [] })).toContain('checks: is too short');
  });

  test('all problems of all checks come together, by check and path and without a value', () => {
    const message = problemsOf({
      checks: [
        {
          name: 'one',
          facts: side({ table: 'a.b.canary', extra: 1 }),
          ledger: side({ key: [] }),
          cardinality: 'canary',
          grace: 'canary',
          colour: 'canary',
        },
        { name: 'BAD NAME', facts: side(), ledger: side() },
        {
          name: 'two',
          facts: side({ where: [{ column: 'x', op: 'like', value: 'canary' }] }),
          ledger: side(),
        },
      ],
    });
    for (const part of [
      'one: facts.table: must be table or schema.table',
      'one: facts: extra: unknown',
      'one: ledger.key: is too short',
      'one: cardinality: must be one of one, at_least_one, net_sum',
      'one: grace: must be a number and one of s, m, h, d',
      'one: colour: unknown',
      'checks[1]: name: must be a lower-case name',
      'two: facts.where[0].op: is not one of the known forms',
    ])
      expect(message).toContain(part);
    expect(message).not.toContain('canary');
  });

  test.each([
    [{ ledger: side({ key: ['a', 'b'] }) }, 'ledger.key: must have as many columns'],
    [{ event: { name: 'e', key: ['a', 'b'] } }, 'event.key: must have as many payload keys'],
    [{ event: { name: 'e', key: ["a'b"] } }, 'event.key[0]: must be a plain name'],
    [{ cardinality: 'net_sum' }, 'facts.amount: is required with cardinality net_sum'],
    [{ tolerance: { default: 0, EUR: 1 } }, 'tolerance: needs a currency'],
    [{ tolerance: { EUR: 1 } }, 'tolerance: needs default'],
    [
      { facts: side({ amount: { column: 'x', scale: { default: 2, EUR: 1 } } }) },
      'facts.currency: is required',
    ],
    [
      { cardinality: 'at_least_one', ledger: side({ reverses: { sign: { column: 'k', negative: ['-'] } } }) },
      'ledger.reverses: a sign column goes with',
    ],
    [{ ledger: side({ reverses: { colum: 'x' } }) }, 'ledger.reverses: must be {column, references}'],
    [{ grace: '0s' }, 'grace: must be at least 1s'],
    [{ since: '2026-02-31T99:00:00Z' }, 'since: must be a date that exists'],
    [{ since: '2026-01-01T00:00:00' }, 'since: must be a date, or a time with Z'],
  ])('what does not go together is refused: %j', (override, problem) => {
    expect(problemsOf(declared(override))).toContain(problem);
  });

  test('two checks of one name are refused', () => {
    const twice = [...declared().checks, ...declared().checks];
    expect(problemsOf({ checks: twice })).toContain('one: is declared twice');
  });

  test.each([
    ['sessions', undefined, 'sessions'],
    ['billing.Sessions', 'billing', 'Sessions'],
    ['"my.schema"."a ""b"""', 'my.schema', 'a "b"'],
  ])('a table name is read as it stands: %s', (text, schema, name) => {
    expect(splitTableName(text)).toEqual({ schema, name });
  });
});

describe('the hash of a definition', () => {
  test('does not change with the order of keys, nor by writing out a default', () => {
    const [one] = parseChecks(declared());
    const [other] = parseChecks({
      checks: [{ ledger: { at: 'at', key: ['id'], table: 'b' }, tolerance: 0, facts: side(), name: 'one' }],
    });
    expect(one).toBeDefined();
    expect(one && hashDefinition(one)).toBe(other && hashDefinition(other));
  });

  test('changes with the meaning', () => {
    const [one] = parseChecks(declared());
    const [other] = parseChecks(declared({ tolerance: 1 }));
    expect(one && hashDefinition(one)).not.toBe(other && hashDefinition(other));
  });
});
