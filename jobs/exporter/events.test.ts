import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { scrapeOf } from '../../test/builders/exporter.ts';
import { collectLog, openDatabase } from '../../test/builders/open-database.ts';
import { sampleOf } from '../../test/builders/scrape.ts';
import { addEvent, minutesAgo } from '../../test/builders/service.ts';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';
import type { Database } from '../runtime/database.ts';
import { readEvents } from './events.ts';
import { ServiceTables, type ServiceTablesSettings } from './service-tables.ts';

const GRACE_MS = 60_000;

let postgres: TestDatabase;
let database: Database;
beforeAll(async () => {
  postgres = await createTestDatabase();
  database = openDatabase(postgres.urlAs('counterfoil_exporter'));
});
afterAll(async () => {
  await database.close();
  await postgres.drop();
});
beforeEach(async () => {
  await postgres.query('TRUNCATE event_backups, event_deliveries, counterfoil.replay_events');
});

async function scrape(
  settings: Partial<ServiceTablesSettings> = {},
  on: Database = database,
  statementTimeoutMs = 5_000,
): Promise<string> {
  const tables = new ServiceTables(
    on,
    { eventsTable: 'event_backups', deliveriesTable: 'event_deliveries', timeZone: 'UTC', ...settings },
    [],
  );
  const options = { graceMs: GRACE_MS, statementTimeoutMs };
  return await scrapeOf('events', await readEvents(on, tables, options, AbortSignal.timeout(10_000)));
}

const pending = (text: string) => sampleOf(text, 'counterfoil_pending_events');
const overdue = (text: string) => sampleOf(text, 'counterfoil_overdue_events');
const oldest = (text: string) => sampleOf(text, 'counterfoil_oldest_overdue_event_timestamp_seconds');
const newest = (text: string) => sampleOf(text, 'counterfoil_newest_event_timestamp_seconds');

const lease = async (eventId: string, until: string) => {
  await postgres.query(
    `INSERT INTO event_deliveries (event_id, listener, status, lease_owner, lease_until, attempts)
     VALUES ($1, 'a', 'running', 'pod', now() + $2::interval, 1)`,
    [eventId, until],
  );
};
const park = async (eventId: string) => {
  await postgres.query(
    `INSERT INTO counterfoil.replay_events (event_id, event_name, event_created_at, status, parked_at, parked_reason)
     VALUES ($1, 'e', now(), 'parked', now(), 'no_listener')`,
    [eventId],
  );
};

test('an empty table has none pending and none overdue, and no times', async () => {
  const text = await scrape();
  expect([pending(text), overdue(text), oldest(text), newest(text)]).toEqual([0, 0, undefined, undefined]);
});

test('an event is overdue once it is older than the grace, and a processed one never', async () => {
  const old = minutesAgo(61 / 60);
  await addEvent(postgres, 'a', { createdAt: old });
  await addEvent(postgres, 'b', { createdAt: minutesAgo(50 / 60) });
  await addEvent(postgres, 'c', { createdAt: minutesAgo(90), status: 'processed' });
  const text = await scrape();
  expect([pending(text), overdue(text)]).toEqual([2, 1]);
  expect(oldest(text)).toBeCloseTo(Date.parse(old) / 1000, 2);
  expect(newest(text)).toBeCloseTo(Date.now() / 1000 - 50, -1);
});

test('one under a live lease is not overdue, and one whose lease has ended is', async () => {
  await lease(await addEvent(postgres, 'a', { createdAt: minutesAgo(90) }), '30 seconds');
  expect(overdue(await scrape())).toBe(0);
  await lease(await addEvent(postgres, 'b', { createdAt: minutesAgo(80) }), '-1 second');
  const text = await scrape();
  expect([pending(text), overdue(text)]).toEqual([2, 1]);
  expect(oldest(text)).toBeCloseTo(Date.parse(minutesAgo(80)) / 1000, -1);
});

test('a parked one is pending and not overdue, and one that replay merely has in hand is', async () => {
  await park(await addEvent(postgres, 'a'));
  const due = await addEvent(postgres, 'b');
  await postgres.query(
    `INSERT INTO counterfoil.replay_events (event_id, event_name, event_created_at) VALUES ($1, 'e', now())`,
    [due],
  );
  const text = await scrape();
  expect([pending(text), overdue(text)]).toEqual([2, 1]);
});

test('a hundred parked events before it do not hide an overdue one', async () => {
  for (let n = 0; n < 100; n += 1)
    await park(await addEvent(postgres, `p${n}`, { createdAt: minutesAgo(600) }));
  const at = minutesAgo(30);
  await addEvent(postgres, 'lost', { createdAt: at });
  const text = await scrape();
  expect([pending(text), overdue(text)]).toEqual([101, 1]);
  expect(oldest(text)).toBeCloseTo(Date.parse(at) / 1000, 2);
});

test('beyond those that are looked up one by one the count goes on, without what is parked, up to its limit', async () => {
  await postgres.query(
    `INSERT INTO event_backups (event_id, event_name, payload, status, created_at)
     SELECT 'e' || n, 'e', '{}', 'pending', now() - interval '2 hours' + n * interval '1 millisecond'
       FROM generate_series(1, 12000) AS n`,
  );
  for (let n = 11_001; n <= 11_010; n += 1) await park(`e${n}`);
  await lease('e5', '1 minute');
  const text = await scrape();
  expect([pending(text), overdue(text)]).toEqual([12_000, 12_000 - 10 - 1]);
  await postgres.query(
    `INSERT INTO event_backups (event_id, event_name, payload, status, created_at)
     SELECT 'more' || n, 'e', '{}', 'pending', now() - interval '1 hour' FROM generate_series(1, 95000) AS n`,
  );
  const more = await scrape();
  expect(pending(more)).toBe(100_001);
  expect(overdue(more)).toBeGreaterThanOrEqual(99_980);
  expect(overdue(more)).toBeLessThanOrEqual(100_001);
  // Cut off by the database where it takes too long, and nothing is left behind.
  await expect(scrape({}, database, 1)).rejects.toMatchObject({ id: 'database_busy' });
  expect(pending(await scrape())).toBe(100_001);
});

describe('tables of another form', () => {
  const role = 'counterfoil_exporter';
  beforeAll(async () => {
    const minimal = readFileSync(
      new URL('../../nestjs/sql/event_backups.minimal.sql', import.meta.url),
      'utf8',
    );
    await postgres.query('CREATE SCHEMA shop');
    await postgres.query(`GRANT USAGE ON SCHEMA shop TO ${role}`);
    await postgres.query(`SET search_path = shop; ${minimal}`);
    await postgres.query('SET search_path = public');
    await postgres.query(`GRANT SELECT ON shop.event_backups TO ${role}`);
    await postgres.query(
      `CREATE TABLE shop."Events" (event_id uuid PRIMARY KEY, event_name varchar(99) NOT NULL, payload jsonb,
         status varchar(20) NOT NULL, created_at timestamptz NOT NULL)`,
    );
    await postgres.query(`CREATE INDEX ON shop."Events" (created_at) WHERE status = 'pending'`);
    await postgres.query(
      `CREATE TABLE shop.leases (event_id text NOT NULL, listener text, lease_until timestamptz, PRIMARY KEY (event_id, listener))`,
    );
    await postgres.query(`GRANT SELECT ON shop."Events", shop.leases TO ${role}`);
  });

  test('the plan’s own table, without time zone and deliveries: age alone decides, in the zone that is set', async () => {
    const settings = {
      eventsTable: 'shop.event_backups',
      deliveriesTable: 'shop.none',
      timeZone: 'Asia/Kathmandu',
    };
    await postgres.query(
      `INSERT INTO shop.event_backups (event_id, event_name, payload, status, created_at)
       SELECT 'old', 'e', '{}'::jsonb, 'pending', (now() - interval '61 seconds') AT TIME ZONE 'Asia/Kathmandu'
       UNION ALL
       SELECT 'young', 'e', '{}', 'pending', (now() - interval '50 seconds') AT TIME ZONE 'Asia/Kathmandu'`,
    );
    const text = await scrape(settings);
    expect([pending(text), overdue(text)]).toEqual([2, 1]);
    expect(oldest(text)).toBeCloseTo(Date.now() / 1000 - 61, -1);
    // No index leads to it: it is not measured, instead of read from the whole table.
    expect(newest(text)).toBeUndefined();
    // Read as UTC, both would lie hours ahead.
    expect(overdue(await scrape({ ...settings, timeZone: 'UTC' }))).toBe(0);
  });

  test('ids of type uuid and their leases as text', async () => {
    const settings = { eventsTable: 'shop."Events"', deliveriesTable: 'shop.leases' };
    await postgres.query(
      `INSERT INTO shop."Events" SELECT gen_random_uuid(), 'e', '{}', 'pending', now() - n * interval '10 minutes'
         FROM generate_series(1, 3) AS n`,
    );
    expect(overdue(await scrape(settings))).toBe(3);
    await postgres.query(
      `INSERT INTO shop.leases SELECT event_id::text, 'a', now() + interval '1 minute' FROM shop."Events"
        ORDER BY created_at LIMIT 1`,
    );
    const text = await scrape(settings);
    expect([pending(text), overdue(text)]).toEqual([3, 2]);
    expect(oldest(text)).toBeCloseTo(Date.now() / 1000 - 1_200, -1);
  });

  test('without any index on what is pending nothing is counted, and the statement that makes one is said', async () => {
    await postgres.query('CREATE TABLE shop.bare (LIKE shop.event_backups)');
    await postgres.query(`GRANT SELECT ON shop.bare TO ${role}`);
    const text = await scrape({ eventsTable: 'shop.bare' });
    expect(text).toContain('# off: no index leads to what is pending: CREATE INDEX CONCURRENTLY');
    await postgres.query('CREATE INDEX ON shop.bare (event_name, status)');
    expect(await scrape({ eventsTable: 'shop.bare' })).toContain('# off');
    await postgres.query('CREATE INDEX ON shop.bare (status)');
    expect(pending(await scrape({ eventsTable: 'shop.bare' }))).toBe(0);
  });

  test('no table at all is off; one that this role may not read, or that lacks a column, is a failure', async () => {
    expect(await scrape({ eventsTable: 'shop.nothing' })).toContain('# off: there is no table of events');
    await postgres.query('CREATE TABLE shop.secret (LIKE shop.event_backups)');
    await expect(scrape({ eventsTable: 'shop.secret' })).rejects.toMatchObject({ id: 'grant_missing' });
    await postgres.query('CREATE TABLE shop.narrow (event_id text, status text)');
    await postgres.query(`GRANT SELECT ON shop.narrow TO ${role}`);
    await expect(scrape({ eventsTable: 'shop.narrow' })).rejects.toMatchObject({ id: 'column_missing' });
    await postgres.query(
      'CREATE TABLE shop.dated (event_id text, event_name text, status text, created_at date)',
    );
    await postgres.query(`GRANT SELECT ON shop.dated TO ${role}`);
    await expect(scrape({ eventsTable: 'shop.dated' })).rejects.toMatchObject({ id: 'column_missing' });
  });

  test('a zone that the database does not know is refused by its setting’s name', async () => {
    await expect(scrape({ timeZone: 'Mars/Olympus' })).rejects.toMatchObject({ id: 'settings_invalid' });
  });
});

test('a column that is taken away fails the collection, and the next look sees the table anew', async () => {
  const tables = new ServiceTables(
    database,
    { eventsTable: 'changing', deliveriesTable: 'event_deliveries', timeZone: 'UTC' },
    [],
  );
  const look = async () =>
    await scrapeOf(
      'events',
      await readEvents(
        database,
        tables,
        { graceMs: GRACE_MS, statementTimeoutMs: 5_000 },
        AbortSignal.timeout(10_000),
      ),
    );
  await postgres.query('CREATE TABLE changing (LIKE event_backups INCLUDING INDEXES)');
  await postgres.query('GRANT SELECT ON changing TO counterfoil_exporter');
  expect(pending(await look())).toBe(0);
  await postgres.query('DROP TABLE changing');
  await expect(look()).rejects.toMatchObject({ id: 'table_missing' });
  expect(await look()).toContain('# off');
});

test('a table that a migration holds is not waited for, and is there when it lets go', async () => {
  const log = collectLog();
  const own = openDatabase(postgres.urlAs('counterfoil_exporter'), {}, log);
  await postgres.query('BEGIN');
  try {
    // Held by a migration: ours must neither wait for long nor stand in its way.
    await postgres.query('LOCK TABLE event_backups IN ACCESS EXCLUSIVE MODE');
    await expect(scrape({}, own)).rejects.toMatchObject({ id: 'database_busy' });
  } finally {
    await postgres.query('ROLLBACK');
  }
  expect(pending(await scrape({}, own))).toBe(0);
  await own.close();
});
