/** The forms that the table of events comes in, each with exactly the documented grants. */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import {
  addOldEvent,
  deliveriesLeft,
  emptyEvents,
  eventsLeft,
  retain,
  useTables,
  verifyChecks,
} from '../../test/builders/retention.ts';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';

let database: TestDatabase;
beforeAll(async () => {
  database = await createTestDatabase();
});
afterAll(async () => {
  await database.drop();
});

const ofSql = (name: string) => `nestjs/sql/${name}.sql`;

describe.each([
  ['the minimal table, by its blocks', [ofSql('event_backups.minimal'), ofSql('event_deliveries')]],
  [
    'the extended table, by its index',
    [ofSql('event_backups'), ofSql('event_backups.extend'), ofSql('event_deliveries')],
  ],
])('%s', (_title, files) => {
  beforeAll(async () => {
    await useTables(database, ...files);
  });
  beforeEach(async () => {
    await emptyEvents(database);
    await verifyChecks(database);
  });

  test('old processed events go, pending and young ones stay, over several portions and a second run', async () => {
    await database.query(
      `INSERT INTO event_backups (event_id, event_name, payload, status, created_at)
       SELECT 'e-' || n, 'e', jsonb_build_object('filler', repeat('x', 300)),
              CASE WHEN n % 10 = 0 THEN 'pending' ELSE 'processed' END, now() - interval '60 days' + n * interval '1 second'
         FROM generate_series(1, 2000) AS n`,
    );
    await addOldEvent(database, { id: 'young', created: 29 });
    const end = await retain(database, { CF_RETENTION_BATCH_SIZE: '3' });
    expect(end.exitCode, end.log).toBe(0);
    expect(end.counts).toMatchObject({ purged: 1_800 });
    expect(end.counts.portions).toBeGreaterThan(10);
    const left = await eventsLeft(database);
    expect(left).toHaveLength(201);
    expect(left).toContain('young');
    expect(await retain(database)).toMatchObject({ outcome: 'succeeded', counts: { purged: 0 } });
    expect(await eventsLeft(database)).toEqual(left);
  });
});

describe('other types of columns', () => {
  test('uuid ids, a varchar status and times with their zone', async () => {
    await database.query('DROP TABLE event_deliveries, event_backups CASCADE');
    await database.query(`
      CREATE TABLE event_backups (event_id uuid PRIMARY KEY, event_name varchar(200) NOT NULL, payload json NOT NULL,
        status varchar(20) NOT NULL, created_at timestamptz NOT NULL DEFAULT now(), processed_at timestamptz);
      CREATE INDEX ON event_backups (created_at);
      CREATE TABLE event_deliveries (event_id uuid NOT NULL, listener text NOT NULL);
      GRANT SELECT, DELETE ON event_backups TO counterfoil_retention`);
    await emptyEvents(database);
    await verifyChecks(database);
    const ids = ['00000000-0000-4000-8000-000000000001', '00000000-0000-4000-8000-000000000002'];
    for (const [n, id] of ids.entries()) {
      await database.query(
        `INSERT INTO event_backups VALUES ($1, 'e', '{}', 'processed', now() - $2::double precision * interval '1 day')`,
        [id, 31 - 2 * n],
      );
      await database.query(`INSERT INTO event_deliveries VALUES ($1, 'bill')`, [id]);
    }
    // Nothing takes the deliveries along, so they are ours to delete, or nothing is.
    const refused = await retain(database);
    expect(refused.exitCode).toBe(2);
    expect(refused.message).toContain(
      'GRANT SELECT, DELETE ON "public"."event_deliveries" TO counterfoil_retention',
    );
    expect(await eventsLeft(database)).toEqual(ids);
    await database.query('GRANT SELECT, DELETE ON event_deliveries TO counterfoil_retention');
    expect(await retain(database)).toMatchObject({ exitCode: 0, counts: { purged: 1 } });
    expect(await eventsLeft(database)).toEqual([ids[1]]);
    expect(await deliveriesLeft(database)).toEqual([ids[1]]);
  });
});

describe('a table that is partitioned by day', () => {
  const days = async () =>
    (
      await database.query<{ name: string }>(
        `SELECT c.relname AS name FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
          WHERE i.inhparent = 'event_backups'::regclass AND c.relname ~ '[0-9]{8}$' ORDER BY 1`,
      )
    ).map(({ name }) => name);
  const dayOf = async (daysAgo: number): Promise<string> => {
    const [row] = await database.query<{ name: string }>(
      `SELECT 'event_backups_' || to_char((now() AT TIME ZONE 'UTC')::date - $1::integer, 'YYYYMMDD') AS name`,
      [daysAgo],
    );
    return row?.name ?? '';
  };
  /** Partitions of these days, as those that were made when they were to come. */
  const addDays = async (...daysAgo: readonly number[]) => {
    for (const ago of daysAgo) {
      await database.query(
        `DO $$ DECLARE day date := (now() AT TIME ZONE 'UTC')::date - ${ago}; BEGIN
           EXECUTE format('CREATE TABLE %I PARTITION OF event_backups FOR VALUES FROM (%L) TO (%L)',
                          'event_backups_' || to_char(day, 'YYYYMMDD'), day, day + 1);
         END $$`,
      );
    }
  };
  const at = async (id: string, daysAgo: number, more: object = {}) =>
    await addOldEvent(database, { id, created: daysAgo, ...more });

  beforeEach(async () => {
    // The days of the file are those of the session's zone; its test database runs in UTC.
    await database.query(`SET TimeZone = 'UTC'`);
    await database.query(
      `DROP FUNCTION IF EXISTS event_backups_create_days, event_backups_drop_day, event_backups_drop_one_day`,
    );
    await useTables(database, ofSql('event_backups.partitioned'));
    await emptyEvents(database);
    await verifyChecks(database);
    await addDays(70, 60, 50, 40, 29);
  });

  test('days of which every event may go are dropped whole, with their deliveries; younger ones stay', async () => {
    for (const ago of [70, 60, 50, 40, 29]) await at(`day-${ago}`, ago);
    const before = await days();
    const end = await retain(database);
    expect(end.exitCode, end.log).toBe(0);
    expect(end).toMatchObject({ outcome: 'succeeded', counts: { days_dropped: 4, days_left: 0, purged: 4 } });
    expect(await eventsLeft(database)).toEqual(['day-29']);
    expect(await deliveriesLeft(database)).toEqual(['day-29']);
    const gone = await Promise.all([70, 60, 50, 40].map(dayOf));
    expect(await days()).toEqual(before.filter((name) => !gone.includes(name)));
  });

  test('a day stays that has a pending event, one that was processed lately, or one that a finding names, and holds up no other', async () => {
    await at('open', 70, { status: 'pending' });
    await at('beside-open', 70);
    await at('lately', 60, { processed: 29 });
    await at('named', 50);
    await at('free', 40);
    await database.query(
      `INSERT INTO counterfoil.discrepancies (check_name, kind, key, status, cause, event_id, ledger_rows, first_run_id)
       VALUES ('session-billing', 'missing', '["x"]', 'open', 'processed_without_ledger', 'named', 0, gen_random_uuid())`,
    );
    const end = await retain(database);
    expect(end).toMatchObject({ outcome: 'succeeded', counts: { days_dropped: 1, days_left: 3, held: 1 } });
    expect(await eventsLeft(database)).toEqual(['beside-open', 'lately', 'named', 'open']);
  });

  test('of the default partition rows go by the portion, with their deliveries', async () => {
    await at('no-day-old', 90);
    await at('no-day-open', 90, { status: 'pending' });
    expect(await retain(database)).toMatchObject({
      outcome: 'succeeded',
      counts: { purged: 1, days_dropped: 4 },
    });
    expect(await eventsLeft(database)).toEqual(['no-day-open']);
    expect(await deliveriesLeft(database)).toEqual(['no-day-open']);
  });

  test('a dry run says which days would be dropped, and drops none', async () => {
    await at('old', 60);
    const before = await days();
    expect(await retain(database, { CF_DRY_RUN: 'true' })).toMatchObject({
      counts: { days_dropped: 4, purged: 1 },
    });
    expect(await days()).toEqual(before);
  });

  test('an event that is opened again while its day is looked at keeps the day: the function looks for itself', async () => {
    await at('one', 60);
    const [row] = await database.query<{ dropped: boolean }>(
      `SELECT event_backups_drop_one_day((now() AT TIME ZONE 'UTC')::date - 50) AS dropped`,
    );
    expect(row?.dropped).toBe(true);
    await database.query(`UPDATE event_backups SET status = 'pending'`);
    const [kept] = await database.query<{ dropped: boolean }>(
      `SELECT event_backups_drop_one_day((now() AT TIME ZONE 'UTC')::date - 60) AS dropped`,
    );
    expect(kept?.dropped).toBe(false);
    for (const offset of [0, -1]) {
      const [today] = await database.query<{ dropped: boolean }>(
        `SELECT event_backups_drop_one_day((now() AT TIME ZONE 'UTC')::date - $1::integer) AS dropped`,
        [offset],
      );
      expect(today?.dropped).toBe(false);
    }
  });

  test('it is refused where the function is not there, or may not be called', async () => {
    expect(await retain(database, { CF_RETENTION_DROP_FUNCTION: 'nowhere' })).toMatchObject({ exitCode: 2 });
    await database.query('REVOKE EXECUTE ON FUNCTION event_backups_drop_one_day FROM counterfoil_retention');
    const end = await retain(database);
    expect(end.exitCode).toBe(2);
    expect(end.message).toContain('GRANT EXECUTE ON FUNCTION public.event_backups_drop_one_day(date)');
  });

  test('without the index by which a day is read, it is refused with the statement that makes it', async () => {
    await database.query('DROP INDEX event_backups_created_at');
    const end = await retain(database);
    expect(end.exitCode).toBe(2);
    expect(end.message).toContain('CREATE INDEX ON "public"."event_backups" (created_at)');
  });

  test('Postgres refuses the role every other way to take rows from a day', async () => {
    await at('old', 60);
    const { openDatabase } = await import('../../test/builders/open-database.ts');
    const retention = openDatabase(database.urlAs('counterfoil_retention'));
    for (const text of [
      'DELETE FROM public.event_backups',
      `DELETE FROM public.${await dayOf(60)}`,
      `DROP TABLE public.${await dayOf(60)}`,
      `SELECT public.event_backups_create_days(1)`,
      `SELECT public.event_backups_drop_day('1 day')`,
    ])
      await expect(
        retention.transaction({}, async (transaction) => await transaction.script(text)),
        text,
      ).rejects.toMatchObject({ id: 'grant_missing' });
    await retention.close();
    expect(await eventsLeft(database)).toEqual(['old']);
  });
});
