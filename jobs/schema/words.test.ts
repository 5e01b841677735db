/** The words of the columns: the same in the migrated schema, in docs/glossary.md and in the types of the code. */
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';
import { tableUnder } from '../../test/repo/markdown.ts';

const read = (path: string) => readFileSync(new URL(`../../${path}`, import.meta.url), 'utf8');
const glossary = read('docs/glossary.md');

let postgres: TestDatabase;
beforeAll(async () => {
  postgres = await createTestDatabase();
});
afterAll(async () => {
  await postgres.drop();
});

const wordsOfGlossary = (column: string) =>
  tableUnder(glossary, column)
    .map(([word]) => word)
    .sort();

/** `table.column` and its words, of every CHECK that lists texts. */
async function wordsOfSchema(): Promise<Map<string, string[]>> {
  const rows = await postgres.query<{ column: string; definition: string }>(
    `SELECT c.relname || '.' || a.attname AS "column", pg_get_constraintdef(k.oid) AS definition
       FROM pg_constraint k
       JOIN pg_class c ON c.oid = k.conrelid
       JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.conkey[1]
      WHERE k.contype = 'c' AND c.relnamespace = 'counterfoil'::regnamespace AND cardinality(k.conkey) = 1
        AND pg_get_constraintdef(k.oid) LIKE '%ANY (ARRAY[%'`,
  );
  return new Map(
    rows.map(({ column, definition }) => [
      column,
      [...definition.matchAll(/'(\w+)'::text/g)].map((match) => match[1] ?? '').sort(),
    ]),
  );
}

/** The members of `export type Name = 'a' | 'b'`. */
function wordsOfType(path: string, name: string): string[] {
  const declaration = new RegExp(`export type ${name} =([^;]+);`).exec(read(path))?.[1];
  if (declaration === undefined) throw new Error(`${path} has no type ${name}`);
  return [...declaration.matchAll(/'(\w+)'/g)].map((match) => match[1] ?? '').sort();
}

test('every column of words stands in the glossary with exactly the words that the schema allows', async () => {
  const schema = await wordsOfSchema();
  expect([...schema.keys()].sort()).toEqual([
    'discrepancies.cause',
    'discrepancies.kind',
    'discrepancies.status',
    'job_runs.outcome',
    'reconciliation_windows.side',
    'replay_events.parked_reason',
    'replay_events.status',
    'request_items.status',
    'requests.kind',
    'requests.status',
  ]);
  for (const [column, words] of schema) expect([column, wordsOfGlossary(column)]).toEqual([column, words]);
});

test.each([
  // A run writes `running` itself; no result has it.
  ['job_runs.outcome', 'jobs/runtime/run-record.ts', 'RunOutcome', ['running']],
  ['discrepancies.kind', 'jobs/checks/verdict-sql.ts', 'Kind', []],
  ['discrepancies.status', 'jobs/billing-reconciliation/findings.ts', 'FindingStatus', []],
  ['discrepancies.cause', 'jobs/billing-reconciliation/classify.ts', 'Cause', []],
  ['replay_events.parked_reason', 'jobs/event-replay/decide.ts', 'ParkReason', []],
  ['replay_events.status', 'jobs/event-replay/claim-queries.ts', 'EventStatus', []],
  ['request_items.status', 'jobs/event-replay/item-queries.ts', 'ItemStatus', []],
  ['requests.kind', 'jobs/event-replay/request-queries.ts', 'RequestKind', ['verify']],
  ['replay_events.last_outcome', 'jobs/event-replay/decide.ts', 'EventOutcome', []],
])('the words of %s are those of the type in %s: %s', (column, path, name, notInCode) => {
  expect([...wordsOfType(path, name), ...notInCode].sort()).toEqual(wordsOfGlossary(column));
});

test('a word that only one side knows would be noticed', async () => {
  await postgres.query(
    `ALTER TABLE counterfoil.requests DROP CONSTRAINT requests_kind_check,
       ADD CONSTRAINT requests_kind_check CHECK (kind IN ('replay', 'verify', 'rebuild', 'correction', 'new'))`,
  );
  expect((await wordsOfSchema()).get('requests.kind')).not.toEqual(wordsOfGlossary('requests.kind'));
  expect(() => wordsOfGlossary('requests.nothing')).toThrow('no heading');
});
