import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';
import { Database } from '../runtime/database.ts';
import { type FailureId, RunFailure } from '../runtime/failures.ts';
import { createLogger } from '../runtime/logger.ts';
import { inspectCheck, inspectEvents } from './inspect.ts';
import { parseChecks } from './parse.ts';

let testDatabase: TestDatabase;
let database: Database;

beforeAll(async () => {
  testDatabase = await createTestDatabase();
});
afterAll(async () => {
  await testDatabase.drop();
});
beforeEach(async () => {
  // Connections keep a role's search_path: each test begins with new ones.
  await database?.close();
  database = new Database(
    {
      url: testDatabase.urlAs('counterfoil_jobs'),
      applicationName: 'inspect-test',
      schema: 'counterfoil',
      poolSize: 2,
      connectTimeoutMs: 5000,
      lockTimeoutMs: 1000,
      retryMs: 0,
    },
    createLogger({ job: 'test', level: 'error', installation: 'test' }),
  );
  await testDatabase.query(`DROP SCHEMA IF EXISTS shop, "Odd ""Schema" CASCADE`);
  await testDatabase.query(`CREATE SCHEMA shop`);
  await testDatabase.query(`GRANT USAGE ON SCHEMA shop TO counterfoil_jobs`);
  await testDatabase.query(
    `ALTER DEFAULT PRIVILEGES IN SCHEMA shop GRANT SELECT ON TABLES TO counterfoil_jobs`,
  );
  await testDatabase.query(
    `CREATE TABLE shop.orders (id uuid PRIMARY KEY, paid_at timestamptz, total bigint)`,
  );
  await testDatabase.query(`CREATE INDEX ON shop.orders (paid_at)`);
  await testDatabase.query(
    `CREATE TABLE shop.entries (id bigint PRIMARY KEY, order_id uuid, at timestamptz, amount bigint, undoes bigint)`,
  );
  await testDatabase.query(`CREATE INDEX ON shop.entries (order_id)`);
  await testDatabase.query(`CREATE INDEX ON shop.entries (at)`);
});
afterAll(async () => {
  await database.close();
});

const facts = { table: 'shop.orders', key: ['id'], at: 'paid_at' };
const ledger = { table: 'shop.entries', key: ['order_id'], at: 'at' };

async function inspect(override: object = {}) {
  const [check] = parseChecks({ checks: [{ name: 'orders', facts, ledger, ...override }] });
  if (check === undefined) throw new Error('no check');
  return await database.read(async (transaction) => await inspectCheck(transaction, check), {
    userSearchPath: true,
  });
}

async function refusalOf(override: object = {}): Promise<RunFailure> {
  try {
    await inspect(override);
  } catch (error) {
    if (error instanceof RunFailure) return error;
    throw error;
  }
  throw new Error('nothing was refused');
}

/** Executes every statement of a refusal, as the person who reads it would. */
async function mend(failure: RunFailure): Promise<void> {
  const statements = failure.message.match(/(?:CREATE|ALTER|GRANT) [^;]+;/g) ?? [];
  expect(statements).not.toEqual([]);
  for (const statement of statements) await testDatabase.query(statement);
}

describe('what a check needs of the tables', () => {
  test('tables with their columns, indices and rights are taken', async () => {
    expect(await inspect()).toMatchObject({
      facts: { name: '"shop"."orders"', primaryKey: ['id'] },
      reversedId: undefined,
    });
  });

  test.each<[string, FailureId, string, object]>([
    ['index on facts at', 'index_missing', 'DROP INDEX shop.orders_paid_at_idx', {}],
    ['index on facts key', 'index_missing', 'ALTER TABLE shop.orders DROP CONSTRAINT orders_pkey', {}],
    ['index on ledger at', 'index_missing', 'DROP INDEX shop.entries_at_idx', {}],
    ['index on ledger key', 'index_missing', 'DROP INDEX shop.entries_order_id_idx', {}],
    [
      'index on the reversing column',
      'index_missing',
      'SELECT 1',
      { ledger: { ...ledger, reverses: { column: 'undoes' } } },
    ],
    [
      'column of the time',
      'column_missing',
      'ALTER TABLE shop.entries DROP COLUMN amount',
      { ledger: { ...ledger, amount: 'amount' } },
    ],
    ['right to read', 'grant_missing', 'REVOKE SELECT ON shop.orders FROM counterfoil_jobs', {}],
    ['right to the schema', 'grant_missing', 'REVOKE USAGE ON SCHEMA shop FROM counterfoil_jobs', {}],
  ])(
    'a missing %s is refused, and the statement in the message mends it',
    async (_, id, breaking, override) => {
      await testDatabase.query(breaking);
      const failure = await refusalOf(override);
      expect(failure).toMatchObject({ id, exitCode: 2 });
      await mend(failure);
      await expect(inspect(override)).resolves.toBeDefined();
    },
  );

  test('a missing table is refused, with what it would have to hold at least', async () => {
    const override = { facts: { ...facts, table: 'shop.baskets' } };
    const failure = await refusalOf(override);
    expect(failure.id).toBe('table_missing');
    await mend(failure);
    const next = await refusalOf(override);
    expect(next.id).toBe('index_missing');
    await mend(next);
    await expect(inspect(override)).resolves.toBeDefined();
  });

  test('a table off the search_path is refused, with the statement that puts it there', async () => {
    const override = { facts: { ...facts, table: 'orders' } };
    const failure = await refusalOf(override);
    expect(failure.id).toBe('table_missing');
    expect(failure.message).toContain('search_path');
    await mend(failure);
    const fresh = new Database(
      {
        url: testDatabase.urlAs('counterfoil_jobs'),
        applicationName: 'inspect-test',
        schema: 'counterfoil',
        poolSize: 1,
        connectTimeoutMs: 5000,
        lockTimeoutMs: 1000,
        retryMs: 0,
      },
      createLogger({ job: 'test', level: 'error', installation: 'test' }),
    );
    const [check] = parseChecks({ checks: [{ name: 'orders', ledger, ...override }] });
    if (check === undefined) throw new Error('no check');
    const found = await fresh.read(async (transaction) => await inspectCheck(transaction, check), {
      userSearchPath: true,
    });
    expect(found.facts.name).toBe('"shop"."orders"');
    await fresh.close();
    await testDatabase.query(
      `ALTER ROLE counterfoil_jobs IN DATABASE "${testDatabase.name}" RESET search_path`,
    );
  });

  test('everything that is missing is said at once', async () => {
    await testDatabase.query('DROP INDEX shop.orders_paid_at_idx, shop.entries_at_idx');
    const { message } = await refusalOf();
    expect(message).toContain('(paid_at)');
    expect(message).toContain('"shop"."entries" ("at")');
  });

  test('an index that is partial serves where the check implies its predicate, and only there', async () => {
    await testDatabase.query('DROP INDEX shop.orders_paid_at_idx');
    await testDatabase.query('ALTER TABLE shop.orders ADD COLUMN status text');
    await testDatabase.query(`CREATE INDEX ON shop.orders (paid_at) WHERE status = 'done'`);
    const done = { facts: { ...facts, where: [{ column: 'status', op: 'eq', value: 'done' }] } };
    await expect(inspect(done)).resolves.toBeDefined();
    expect((await refusalOf()).id).toBe('index_missing');
    await testDatabase.query(`CREATE INDEX ON shop.orders (paid_at) WHERE paid_at IS NOT NULL`);
    await expect(inspect()).resolves.toBeDefined();
  });

  test('part of a composite key is enough where it names one row, and not where it does not', async () => {
    await testDatabase.query('ALTER TABLE shop.orders ADD COLUMN tenant text');
    await testDatabase.query('ALTER TABLE shop.entries ADD COLUMN tenant text');
    const composite = {
      facts: { ...facts, key: ['tenant', 'id'] },
      ledger: { ...ledger, key: ['tenant', 'order_id'] },
    };
    const failure = await refusalOf(composite);
    expect(failure.message).toContain('entries');
    expect(failure.message).not.toContain('"shop"."orders" has no index');
    await mend(failure);
    await expect(inspect(composite)).resolves.toBeDefined();
  });

  test('a view is taken when the table below it is indexed, and refused when it is not', async () => {
    await testDatabase.query(
      `CREATE VIEW shop.paid AS SELECT id, paid_at FROM shop.orders WHERE paid_at IS NOT NULL`,
    );
    const override = { facts: { ...facts, table: 'shop.paid' } };
    expect((await inspect(override)).facts.primaryKey).toEqual([]);
    await testDatabase.query('DROP INDEX shop.orders_paid_at_idx');
    expect((await refusalOf(override)).message).toContain('the table below the view');
  });

  test('a partitioned table is taken with an index on it or on each partition', async () => {
    await testDatabase.query(
      `CREATE TABLE shop.parted (id uuid, paid_at timestamptz, PRIMARY KEY (id, paid_at)) PARTITION BY RANGE (paid_at)`,
    );
    await testDatabase.query(`CREATE TABLE shop.parted_1 PARTITION OF shop.parted DEFAULT`);
    const override = { facts: { ...facts, table: 'shop.parted' } };
    const failure = await refusalOf(override);
    expect(failure.message).toContain('CREATE INDEX ON "shop"."parted" ("paid_at");');
    await testDatabase.query('CREATE INDEX ON shop.parted_1 (paid_at)');
    await expect(inspect(override)).resolves.toBeDefined();
    await testDatabase.query('DROP INDEX shop.parted_1_paid_at_idx');
    await mend(failure);
    await expect(inspect(override)).resolves.toBeDefined();
  });

  test('quotes, spaces, dots and mixed case in names are kept', async () => {
    await testDatabase.query(`CREATE SCHEMA "Odd ""Schema"`);
    await testDatabase.query(`GRANT USAGE ON SCHEMA "Odd ""Schema" TO counterfoil_jobs`);
    await testDatabase.query(
      `CREATE TABLE "Odd ""Schema"."The.Orders" ("Id" uuid PRIMARY KEY, "Paid ""At" timestamptz)`,
    );
    await testDatabase.query(`GRANT SELECT ON "Odd ""Schema"."The.Orders" TO counterfoil_jobs`);
    const override = {
      facts: { table: '"Odd ""Schema"."The.Orders"', key: ['Id'], at: 'Paid "At' },
    };
    await mend(await refusalOf(override));
    await expect(inspect(override)).resolves.toBeDefined();
  });

  test.each([
    [
      'a time that is a date',
      `ALTER TABLE shop.orders ALTER paid_at TYPE date`,
      {},
      'at has to be a timestamp',
    ],
    [
      'an amount that is a text',
      `ALTER TABLE shop.entries ALTER amount TYPE text`,
      { ledger: { ...ledger, amount: 'amount' } },
      'amount has to be a number',
    ],
    [
      'keys that cannot be compared',
      `ALTER TABLE shop.entries ALTER order_id TYPE bigint USING 1`,
      {},
      'cannot be compared',
    ],
    [
      'a reversal without a single primary key',
      `ALTER TABLE shop.entries DROP CONSTRAINT entries_pkey`,
      { ledger: { ...ledger, reverses: { column: 'undoes' } } },
      'ledger.reverses.references',
    ],
  ])('%s is refused in words', async (_, breaking, override, words) => {
    await testDatabase.query(breaking);
    const failure = await refusalOf(override);
    expect(failure).toMatchObject({ id: 'column_missing' });
    expect(failure.message).toContain(words);
  });

  test('a domain counts as the type below it', async () => {
    await testDatabase.query(`CREATE DOMAIN shop.order_id AS uuid`);
    await testDatabase.query(`ALTER TABLE shop.entries ALTER order_id TYPE shop.order_id`);
    await expect(inspect()).resolves.toBeDefined();
  });
});

describe('the table of events', () => {
  const look = async (table: string) =>
    await database.read(
      async (transaction) => await inspectEvents(transaction, table, new Set(['sessionId', 'other'])),
      { userSearchPath: true },
    );

  test('its optional columns and the index on the payload key are noticed', async () => {
    expect(await look('event_backups')).toMatchObject({
      indexedKeys: new Set(['sessionId']),
      hasPublishedHash: false,
    });
    await testDatabase.query('ALTER TABLE event_backups ADD COLUMN published_hash text');
    await testDatabase.query('DROP INDEX event_backups_session_id');
    expect(await look('event_backups')).toMatchObject({ indexedKeys: new Set(), hasPublishedHash: true });
  });

  test('where it is missing or may not be read, that is said and nothing fails', async () => {
    expect(await look('no_events')).toContain('there is no table "no_events"');
    await testDatabase.query('REVOKE SELECT ON event_backups FROM counterfoil_jobs');
    expect(await look('event_backups')).toContain('GRANT SELECT');
  });
});
