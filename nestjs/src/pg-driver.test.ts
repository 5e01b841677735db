import { drizzle } from 'drizzle-orm/node-postgres';
import { Pool } from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';
import { drizzleDriver } from './drizzle-driver.js';
import { pgDriver } from './pg-driver.js';

let database: TestDatabase;
let pool: Pool;
beforeAll(async () => {
  database = await createTestDatabase();
  // One connection: what is left of a transaction is seen by the next statement.
  pool = new Pool({ connectionString: database.url, max: 1 });
});
afterAll(async () => {
  await pool?.end();
  await database?.drop();
});

const limit = { statementTimeoutMs: 200 };

test.each([
  ['pgDriver', () => pgDriver(pool, undefined, limit)],
  ['drizzleDriver', () => drizzleDriver(drizzle({ client: pool }), limit)],
])('%s limits statements in its transactions, and nothing after them', async (_name, make) => {
  const driver = make();
  await expect(driver.transaction((tx) => tx.run('select pg_sleep(10)', []))).rejects.toMatchObject({
    code: '57014',
  });
  const within = await driver.transaction((tx) => tx.run('show statement_timeout', []));
  expect(within.rows).toEqual([{ statement_timeout: '200ms' }]);
  expect((await driver.run('show statement_timeout', [])).rows).toEqual([{ statement_timeout: '0' }]);
});

test('a transaction with a limit takes no round trip more', async () => {
  const sent: unknown[] = [];
  const client = await pool.connect();
  const query = client.query.bind(client) as (...args: unknown[]) => unknown;
  client.query = ((...args: unknown[]) => {
    sent.push(args[0]);
    return query(...args);
  }) as typeof client.query;
  client.release();
  await pgDriver(pool, undefined, limit).transaction((tx) => tx.run('select 1', []));
  expect(sent).toEqual(['begin; set local statement_timeout = 200', 'select 1', 'commit']);
});

test('a limit that is none is refused at once', () => {
  expect(() => pgDriver(pool, undefined, { statementTimeoutMs: Number.NaN })).toThrow(/statementTimeoutMs/);
});
