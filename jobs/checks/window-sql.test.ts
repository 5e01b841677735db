import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';
import { Database } from '../runtime/database.ts';
import { createLogger } from '../runtime/logger.ts';
import { type InspectedCheck, inspectCheck } from './inspect.ts';
import { judgeKeys, judgeRows } from './key-sql.ts';
import { parseChecks } from './parse.ts';
import { type Statement } from './sql-parts.ts';
import { type WindowRow } from './verdict-sql.ts';
import { compareWindow } from './window-sql.ts';

let testDatabase: TestDatabase;
let database: Database;

beforeAll(async () => {
  testDatabase = await createTestDatabase({ template: 'template0' });
  database = new Database(
    {
      url: testDatabase.url,
      applicationName: 'window-sql-test',
      schema: 'counterfoil',
      poolSize: 2,
      connectTimeoutMs: 5000,
      lockTimeoutMs: 1000,
      retryMs: 0,
    },
    createLogger({ job: 'test', level: 'error', installation: 'test' }),
  );
  await testDatabase.query(`
    CREATE TABLE fact (id bigint PRIMARY KEY, tenant text, number integer, at timestamptz, status text,
                       amount numeric, currency text, UNIQUE (tenant, number))`);
  await testDatabase.query(`CREATE INDEX ON fact (at)`);
  // The number as a text, as another table has it; and facts whose key no two of them can share.
  await testDatabase.query(`
    CREATE TABLE text_fact (LIKE fact INCLUDING ALL, number_text text GENERATED ALWAYS AS (number::text) STORED)`);
  await testDatabase.query(`CREATE INDEX ON text_fact (tenant, number_text)`);
  await testDatabase.query(`
    CREATE TABLE unique_fact (id bigint, tenant text, number integer, at timestamptz, status text, amount numeric,
                              currency text, PRIMARY KEY (tenant, number))`);
  await testDatabase.query(`CREATE INDEX ON unique_fact (at)`);
  await testDatabase.query(`
    CREATE TABLE bill (id bigint PRIMARY KEY, tenant text, number bigint, at timestamptz, kind text,
                       minor bigint, currency text, reverses bigint)`);
  await testDatabase.query(`CREATE INDEX ON bill (at)`);
  await testDatabase.query(`CREATE INDEX ON bill (number, tenant)`);
  await testDatabase.query(`CREATE INDEX ON bill (reverses)`);
});
afterAll(async () => {
  await database.close();
  await testDatabase.drop();
});

const rowsOf = async (statement: Statement): Promise<WindowRow[]> =>
  await database.read(
    async (transaction) => await transaction.query<WindowRow>(statement.text, statement.params),
    {
      userSearchPath: true,
    },
  );

async function planOf(override: object): Promise<InspectedCheck> {
  const [check] = parseChecks({ checks: [{ name: 'property', ...override }] });
  if (check === undefined) throw new Error('no check');
  return await database.read(async (transaction) => await inspectCheck(transaction, check), {
    userSearchPath: true,
  });
}

interface Fact {
  readonly tenant: string | null;
  readonly number: number | null;
  readonly minutes: number | null;
  readonly status: 'done' | 'draft';
  readonly amount: number | null;
  readonly currency: string | null;
}
interface Bill {
  readonly tenant: string | null;
  readonly number: number | null;
  readonly minutes: number;
  readonly kind: 'fee' | 'credit' | 'test';
  readonly amount: number | null;
  readonly currency: string | null;
  /** Position of the row it reverses, if that is an earlier one. */
  readonly reverses: number | null;
}
interface Case {
  readonly facts: readonly Fact[];
  readonly bills: readonly Bill[];
  readonly cardinality: 'one' | 'at_least_one' | 'net_sum';
  readonly reversal: 'none' | 'column' | 'sign';
  readonly tolerance: number;
  readonly slackMinutes: number;
  readonly cuts: readonly number[];
  readonly table: 'fact' | 'text_fact' | 'unique_fact';
}

const DAY = 24 * 60;
const tenant = fc.constantFrom('a', 'b\'"', null);
const number = fc.option(fc.integer({ min: 0, max: 4 }), { nil: null, freq: 8 });
const amount = fc.option(fc.constantFrom(100, 101, 200), { nil: null, freq: 6 });
const currency = fc.constantFrom('EUR', 'EUR', 'EUR', 'JPY', null);
const minutes = fc.integer({ min: 0, max: DAY });
const caseOf: fc.Arbitrary<Case> = fc
  .record({
    facts: fc.uniqueArray(
      fc.record({
        tenant,
        number,
        minutes: fc.option(minutes, { nil: null, freq: 8 }),
        status: fc.constantFrom('done' as const, 'done' as const, 'draft' as const),
        amount,
        currency,
      }),
      { maxLength: 10, selector: ({ tenant: one, number: other }) => `${one} ${other}` },
    ),
    bills: fc.array(
      fc.record({
        tenant,
        number,
        minutes,
        kind: fc.constantFrom('fee' as const, 'fee' as const, 'credit' as const, 'test' as const),
        amount,
        currency,
        reverses: fc.option(fc.integer({ min: 0, max: 12 }), { nil: null, freq: 2 }),
      }),
      { maxLength: 14 },
    ),
    cardinality: fc.constantFrom('one', 'at_least_one', 'net_sum'),
    reversal: fc.constantFrom('none', 'column', 'sign'),
    tolerance: fc.constantFrom(0, 1),
    slackMinutes: fc.constantFrom(0, 30, 300, 2 * DAY),
    cuts: fc.array(minutes, { maxLength: 4 }),
    table: fc.constantFrom('fact', 'text_fact', 'unique_fact'),
  })
  .map((given) => ({
    ...given,
    facts:
      given.table === 'unique_fact'
        ? given.facts.filter((fact) => fact.tenant !== null && fact.number !== null)
        : given.facts,
  }))
  // The language refuses this pair.
  .filter(({ cardinality, reversal }) => !(cardinality === 'at_least_one' && reversal === 'sign'));

/** The same question asked of the rows as they are, with nothing of windows, indices or SQL in it. */
function naive(given: Case): Set<string> {
  const found = new Set<string>();
  const signed = given.reversal === 'sign';
  const byColumn = given.reversal === 'column';
  const reversed = new Set(byColumn ? given.bills.map(({ reverses }) => reverses) : []);
  const live = given.bills
    .map((bill, id) => ({ ...bill, id }))
    .filter(({ kind }) => kind !== 'test')
    .filter((bill) => !byColumn || (bill.reverses === null && !reversed.has(bill.id)));
  const sameKey = (one: { tenant: unknown; number: unknown }, other: { tenant: unknown; number: unknown }) =>
    one.tenant !== null && one.number !== null && one.tenant === other.tenant && one.number === other.number;
  const facts = given.facts.filter((fact) => fact.status === 'done' && fact.minutes !== null);
  const print = (row: { tenant: unknown; number: unknown }) =>
    JSON.stringify([row.tenant, row.number && String(row.number)].map((part) => (part === 0 ? '0' : part)));
  const sumOf = (rows: readonly (typeof live)[number][]) => {
    const known = rows.filter((row) => row.amount !== null);
    return known.length === 0
      ? null
      : known.reduce((sum, row) => sum + (signed && row.kind === 'credit' ? -1 : 1) * (row.amount ?? 0), 0);
  };
  for (const [id, fact] of given.facts.entries()) {
    if (!facts.includes(fact)) continue;
    if (fact.tenant === null || fact.number === null) {
      if (!(given.cardinality === 'net_sum' && fact.amount === 0)) found.add(`missing row ${id}`);
      continue;
    }
    const rows = live.filter((bill) => sameKey(fact, bill));
    const count =
      signed && given.cardinality !== 'net_sum'
        ? rows.reduce((total, { kind }) => total + (kind === 'credit' ? -1 : 1), 0)
        : rows.length;
    const net = sumOf(rows);
    const differs = (one: number | null) =>
      one !== null && fact.amount !== null && Math.abs(one - fact.amount) > given.tolerance;
    const currencies = new Set(rows.map((row) => row.currency).filter((code) => code !== null));
    const wrongCurrency =
      currencies.size > 1 ||
      (fact.currency !== null && [...currencies].some((code) => code !== fact.currency));
    const wrongAmount =
      given.cardinality === 'net_sum' || signed ? differs(net) : rows.some((row) => differs(row.amount));
    const oneSided = (value: 'amount' | 'currency') =>
      rows.some((row) => (fact[value] === null ? row[value] !== null : row[value] === null));
    const missing =
      given.cardinality === 'net_sum'
        ? (count === 0 && fact.amount !== 0) ||
          (net === 0 && fact.amount !== null && Math.abs(fact.amount) > given.tolerance)
        : count <= 0;
    if (missing) found.add(`missing ${print(fact)}`);
    else if (given.cardinality === 'one' && count > 1) found.add(`duplicate ${print(fact)}`);
    else if (wrongCurrency || wrongAmount || oneSided('currency') || oneSided('amount'))
      found.add(`amount ${print(fact)}`);
  }
  for (const bill of live) {
    if (bill.tenant === null || bill.number === null) {
      if (!(signed && bill.kind === 'credit')) found.add(`orphan row ${bill.id}`);
      continue;
    }
    if (facts.some((fact) => sameKey(fact, bill))) continue;
    const rows = live.filter((other) => sameKey(bill, other));
    const count =
      signed && given.cardinality !== 'net_sum'
        ? rows.reduce((total, { kind }) => total + (kind === 'credit' ? -1 : 1), 0)
        : rows.length;
    if (given.cardinality === 'net_sum' ? sumOf(rows) !== 0 : count > 0) found.add(`orphan ${print(bill)}`);
  }
  return found;
}

const BASE = Date.parse('2026-06-01T00:00:00Z');
const at = (offset: number) => new Date(BASE + offset * 60_000).toISOString();

const printRow = (row: WindowRow) =>
  row.row_id === null ? `${row.kind} ${JSON.stringify(row.key)}` : `${row.kind} row ${row.row_id.join(' ')}`;

describe('windows against the naive question', () => {
  test('whatever the windows and the slack, the same discrepancies come out', {
    timeout: 120_000,
  }, async () => {
    await fc.assert(
      fc.asyncProperty(caseOf, async (given) => {
        const factRows = given.facts.map((fact, id) => ({
          ...fact,
          id,
          at: fact.minutes === null ? null : at(fact.minutes),
          // Major units with two decimals, but none for JPY.
          amount: fact.amount === null ? null : fact.currency === 'JPY' ? fact.amount : fact.amount / 100,
        }));
        const billRows = given.bills.map((bill, id) => ({
          ...bill,
          id,
          at: at(bill.minutes),
          minor: bill.amount,
        }));
        await testDatabase.query('TRUNCATE fact, text_fact, unique_fact, bill');
        await testDatabase.query(
          `INSERT INTO ${given.table} (id, tenant, number, at, status, amount, currency)
           SELECT id, tenant, number, at, status, amount, currency FROM jsonb_populate_recordset(NULL::fact, $1)`,
          [JSON.stringify(factRows)],
        );
        await testDatabase.query(`INSERT INTO bill SELECT * FROM jsonb_populate_recordset(NULL::bill, $1)`, [
          JSON.stringify(billRows),
        ]);
        const plan = await planOf({
          facts: {
            table: given.table,
            key: ['tenant', given.table === 'text_fact' ? 'number_text' : 'number'],
            at: 'at',
            amount: { column: 'amount', scale: { default: 2, JPY: 0 } },
            currency: 'currency',
            where: [{ column: 'status', op: 'eq', value: 'done' }],
          },
          ledger: {
            table: 'bill',
            key: ['tenant', 'number'],
            at: 'at',
            amount: 'minor',
            currency: 'currency',
            where: [{ column: 'kind', op: 'ne', value: 'test' }],
            reverses:
              given.reversal === 'none'
                ? null
                : given.reversal === 'column'
                  ? { column: 'reverses' }
                  : { sign: { column: 'kind', negative: ['credit'] } },
          },
          cardinality: given.cardinality,
          tolerance: given.tolerance,
        });
        const options = { timeZone: 'UTC', slackMs: given.slackMinutes * 60_000 };
        const edges = [...new Set([0, ...given.cuts, DAY + 1])].sort((one, other) => one - other);
        const seen: WindowRow[] = [];
        for (const [position, from] of edges.slice(0, -1).entries()) {
          const window = { from: at(from), to: at(edges[position + 1] ?? 0), settledTo: at(2 * DAY) };
          seen.push(...(await rowsOf(compareWindow(plan, options, window))));
        }
        const found = seen.filter((row) => row.kind !== null);
        const expected = naive(given);
        expect(new Set(found.map(printRow))).toEqual(expected);
        // The second look by key must come to the same verdicts, or findings would flap.
        const keyed = found.filter((row) => row.row_id === null);
        const again =
          keyed.length === 0
            ? []
            : await rowsOf(
                judgeKeys(
                  plan,
                  options,
                  keyed.map(({ key }) => key as string[]),
                  at(2 * DAY),
                ),
              );
        const rest: WindowRow[] = [];
        for (const [side, kind] of [
          ['facts', 'missing'],
          ['ledger', 'orphan'],
        ] as const) {
          const ids = found.flatMap((row) => (row.kind === kind && row.row_id !== null ? [row.row_id] : []));
          if (ids.length > 0) rest.push(...(await rowsOf(judgeRows(plan, options, side, ids, at(2 * DAY)))));
        }
        const detail = (row: WindowRow) =>
          [
            printRow(row),
            row.fact_at,
            row.ledger_rows,
            row.expected_minor,
            row.actual_minor,
            row.currency,
          ].join(' ');
        expect(new Set([...again, ...rest].map(detail))).toEqual(new Set(found.map(detail)));
      }),
      { numRuns: 300 },
    );
  });
});
