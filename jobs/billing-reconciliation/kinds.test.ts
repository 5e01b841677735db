import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { checksFile, sessionBilling } from '../../test/builders/checks.ts';
import { emptyTables, findingsOf, kindsOf, reconcile } from '../../test/builders/reconciliation.ts';
import {
  addBilledSession,
  addEvent,
  addLedgerRow,
  addSession,
  minutesAgo,
} from '../../test/builders/service.ts';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';

let database: TestDatabase;

beforeAll(async () => {
  database = await createTestDatabase();
});
afterAll(async () => {
  await database.drop();
});
beforeEach(async () => {
  await emptyTables(database);
});

const full = (checks: object = sessionBilling()) =>
  reconcile(database, { CF_MODE: 'full', CF_CHECKS_FILE: checksFile(checks) });

describe('what is found, and its nearest neighbour that is not', () => {
  test('a completed session without a bill is missing; one with its bill is not', async () => {
    const lost = await addSession(database);
    await addBilledSession(database);
    expect(await full()).toMatchObject({ exitCode: 0, outcome: 'succeeded' });
    expect(await findingsOf(database)).toMatchObject([
      {
        kind: 'missing',
        key: JSON.stringify([lost.id]),
        row_id: '',
        status: 'suspected',
        ledger_rows: 0,
        expected_minor: '1000',
        actual_minor: null,
        currency: 'EUR',
      },
    ]);
  });

  test('a session that is not completed, or completed within the grace, is not missing', async () => {
    await addSession(database, { completedAt: null });
    await addSession(database, { completedAt: minutesAgo(9) });
    const due = await addSession(database, { completedAt: minutesAgo(11) });
    await full();
    expect(await kindsOf(database)).toEqual([`missing ${due.id}`]);
  });

  test('two bills are a duplicate, near each other or weeks apart; one that was reversed is not', async () => {
    const near = await addBilledSession(database);
    await addLedgerRow(database, { sessionId: near.id });
    const far = await addBilledSession(database, { completedAt: minutesAgo(60 * 24 * 30) });
    await addLedgerRow(database, { sessionId: far.id });
    const corrected = await addSession(database);
    const wrong = await addLedgerRow(database, { sessionId: corrected.id, amountMinor: '1' });
    await addLedgerRow(database, { sessionId: corrected.id, amountMinor: '-1', reversesId: wrong });
    await addLedgerRow(database, { sessionId: corrected.id });
    await full();
    expect(await kindsOf(database)).toEqual([`duplicate ${far.id}`, `duplicate ${near.id}`].sort());
    expect((await findingsOf(database))[0]).toMatchObject({ ledger_rows: 2, actual_minor: '2000' });
  });

  test('a bill that was reversed and never made again is missing', async () => {
    const session = await addSession(database, { completedAt: minutesAgo(60 * 24 * 9) });
    const bill = await addLedgerRow(database, {
      sessionId: session.id,
      createdAt: minutesAgo(60 * 24 * 9),
    });
    await addLedgerRow(database, { sessionId: session.id, reversesId: bill });
    await full();
    expect(await kindsOf(database)).toEqual([`missing ${session.id}`]);
  });

  test('an amount that is off by more than the tolerance is found; one within it is not', async () => {
    const off = await addSession(database, { amountMinor: '1000' });
    await addLedgerRow(database, { sessionId: off.id, amountMinor: '1003' });
    const within = await addSession(database, { amountMinor: '1000' });
    await addLedgerRow(database, { sessionId: within.id, amountMinor: '998' });
    const yen = await addSession(database, { amountMinor: '1000', currency: 'JPY' });
    await addLedgerRow(database, { sessionId: yen.id, amountMinor: '1001', currency: 'JPY' });
    await full(sessionBilling({ tolerance: { default: 2, JPY: 0 } }));
    expect(await kindsOf(database)).toEqual([`amount ${off.id}`, `amount ${yen.id}`].sort());
    expect((await findingsOf(database)).find(({ key }) => key.includes(off.id))).toMatchObject({
      expected_minor: '1000',
      actual_minor: '1003',
    });
  });

  test('the right number in the wrong currency is a wrong amount', async () => {
    const session = await addSession(database, { currency: 'EUR' });
    await addLedgerRow(database, { sessionId: session.id, currency: 'USD' });
    await full();
    expect(await kindsOf(database)).toEqual([`amount ${session.id}`]);
  });

  test('a bill without a session, or of one that is not completed, is an orphan', async () => {
    const open = await addSession(database, { completedAt: null });
    await addLedgerRow(database, { sessionId: open.id });
    const nobody = randomUUID();
    await addLedgerRow(database, { sessionId: nobody });
    await addBilledSession(database);
    await full();
    expect(await kindsOf(database)).toEqual([`orphan ${nobody}`, `orphan ${open.id}`].sort());
  });

  test('a bill long before or after its session is that session’s bill all the same', async () => {
    const early = await addSession(database, { completedAt: minutesAgo(60) });
    await addLedgerRow(database, { sessionId: early.id, createdAt: minutesAgo(60 * 24 * 20) });
    const late = await addSession(database, { completedAt: minutesAgo(60 * 24 * 20) });
    await addLedgerRow(database, { sessionId: late.id, createdAt: minutesAgo(60) });
    await full();
    expect(await kindsOf(database)).toEqual([]);
  });

  test('what lies before since is not judged, not even as an orphan', async () => {
    await addSession(database, { completedAt: minutesAgo(60 * 24 * 3) });
    await addLedgerRow(database, { createdAt: minutesAgo(60 * 24 * 3) });
    const billedLate = await addSession(database, { completedAt: minutesAgo(60 * 24 * 3) });
    await addLedgerRow(database, { sessionId: billedLate.id });
    await addLedgerRow(database, { sessionId: billedLate.id });
    const judged = await addSession(database);
    await full(sessionBilling({ since: minutesAgo(60 * 24 * 2) }));
    expect(await kindsOf(database)).toEqual([`missing ${judged.id}`]);
  });

  test('splits add up with net_sum, and several bills are fine with at_least_one', async () => {
    const split = await addSession(database, { amountMinor: '1000' });
    await addLedgerRow(database, { sessionId: split.id, amountMinor: '400' });
    await addLedgerRow(database, { sessionId: split.id, amountMinor: '600' });
    await full(sessionBilling({ cardinality: 'net_sum' }));
    expect(await kindsOf(database)).toEqual([]);
    await full(sessionBilling({ cardinality: 'at_least_one' }));
    expect(await kindsOf(database)).toEqual([`amount ${split.id}`]);
    expect(await findingsOf(database)).toMatchObject([{ actual_minor: '400' }]);
  });

  test.each(['one', 'at_least_one', 'net_sum'])(
    'what was billed is unknown where one row has no amount, and so is what was expected: %s',
    async (cardinality) => {
      await database.query(
        `CREATE TABLE IF NOT EXISTS trips (id bigint PRIMARY KEY, at timestamptz, amount bigint)`,
      );
      await database.query(
        `CREATE TABLE IF NOT EXISTS trip_bills (trip bigint, at timestamptz, amount bigint)`,
      );
      for (const index of ['trips (at)', 'trip_bills (trip)', 'trip_bills (at)'])
        await database.query(`CREATE INDEX ON ${index}`);
      await database.query('GRANT SELECT ON trips, trip_bills TO counterfoil_jobs');
      await database.query('TRUNCATE trips, trip_bills');
      const [near, far] = [minutesAgo(60), minutesAgo(60 * 24 * 9)];
      await database.query('INSERT INTO trips VALUES (1, $1, 1000), (2, $1, NULL), (3, $1, 1000)', [near]);
      // Trip 4 does not exist; the bills of trip 3 lie far from it, so the other pass judges it.
      await database.query(
        `INSERT INTO trip_bills VALUES (1, $1, 400), (1, $1, NULL), (2, $1, 7), (3, $2, 400), (3, $2, NULL),
                                     (4, $1, 5), (4, $1, NULL)`,
        [near, far],
      );
      await full({
        name: 'trips',
        facts: { table: 'trips', key: ['id'], at: 'at', amount: 'amount' },
        ledger: { table: 'trip_bills', key: ['trip'], at: 'at', amount: 'amount' },
        cardinality,
      });
      const amounts = (await findingsOf(database)).map((one) => [
        one.key,
        one.expected_minor,
        one.actual_minor,
      ]);
      expect(amounts.sort()).toEqual([
        ['["1"]', '1000', null],
        ['["2"]', null, '7'],
        ['["3"]', '1000', null],
        ['["4"]', null, null],
      ]);
    },
  );

  test('sessions completed in the future are counted and not judged, and neither is their bill', async () => {
    await addSession(database, { completedAt: minutesAgo(-600) });
    const billed = await addSession(database, { completedAt: minutesAgo(-600) });
    await addLedgerRow(database, { sessionId: billed.id });
    const end = await full();
    expect(await kindsOf(database)).toEqual([]);
    expect(end.counts.future_facts).toBe(2);
  });
});

describe('the cause of a missing bill', () => {
  const causes = async () => (await findingsOf(database)).map(({ cause }) => cause);

  test('an event that is pending, and its id', async () => {
    const session = await addSession(database);
    await addEvent(database, session.id, { status: 'processed', eventName: 'another.event.v1' });
    const eventId = await addEvent(database, session.id);
    await full();
    expect(await findingsOf(database)).toMatchObject([{ cause: 'event_pending', event_id: eventId }]);
  });

  test('an event that replay has parked', async () => {
    const session = await addSession(database);
    const eventId = await addEvent(database, session.id);
    await database.query(
      `INSERT INTO counterfoil.replay_events (event_id, event_name, event_created_at, status, parked_reason)
       VALUES ($1, 'e', now(), 'parked', 'attempts_exhausted')`,
      [eventId],
    );
    await full();
    expect(await causes()).toEqual(['event_parked']);
  });

  test('an event that was processed without leaving a bill', async () => {
    const session = await addSession(database);
    await addEvent(database, session.id, { status: 'processed' });
    await full();
    expect(await causes()).toEqual(['processed_without_ledger']);
  });

  test('no event where older ones are kept, and unknown where they may have been purged', async () => {
    await addSession(database, { completedAt: minutesAgo(60) });
    await addSession(database, { completedAt: minutesAgo(300) });
    await addEvent(database, randomUUID(), { status: 'processed', createdAt: minutesAgo(120) });
    // An old pending row outlives retention and proves nothing.
    await addEvent(database, randomUUID(), { createdAt: minutesAgo(600) });
    await full();
    expect((await causes()).sort()).toEqual(['never_published', 'unknown']);
  });

  test('it is followed as it changes, on the look of a later run', async () => {
    const session = await addSession(database);
    const eventId = await addEvent(database, session.id);
    await full();
    await database.query(`UPDATE event_backups SET status = 'processed' WHERE event_id = $1`, [eventId]);
    const end = await reconcile(database, { CF_MODE: 'tail', CF_CHECKS_FILE: checksFile(sessionBilling()) });
    expect(await causes()).toEqual(['processed_without_ledger']);
    expect(end.counts).toMatchObject({ opened: 1, updated: 0 });
  });

  test('without the expression index, events are sought around the time of the fact', async () => {
    await database.query('DROP INDEX event_backups_session_id');
    const near = await addSession(database);
    await addEvent(database, near.id);
    const far = await addSession(database);
    await addEvent(database, far.id, { createdAt: minutesAgo(600) });
    await full();
    const found = new Map((await findingsOf(database)).map(({ key, cause }) => [key, cause]));
    expect(found.get(JSON.stringify([near.id]))).toBe('event_pending');
    expect(found.get(JSON.stringify([far.id]))).toBe('never_published');
    await database.query(
      `CREATE INDEX event_backups_session_id ON event_backups ((payload ->> 'sessionId'))`,
    );
  });

  test('the hash that published it, where the column exists', async () => {
    await database.query('ALTER TABLE event_backups ADD COLUMN published_hash text');
    const session = await addSession(database);
    const eventId = await addEvent(database, session.id);
    await database.query(`UPDATE event_backups SET published_hash = 'abc123' WHERE event_id = $1`, [eventId]);
    // What only a person may settle names its version, too; a bill without a session has none.
    const twice = await addBilledSession(database);
    await addLedgerRow(database, { sessionId: twice.id });
    const wrong = await addSession(database);
    await addLedgerRow(database, { sessionId: wrong.id, amountMinor: '1' });
    for (const { id } of [twice, wrong]) await addEvent(database, id, { status: 'processed' });
    await database.query(`UPDATE event_backups SET published_hash = 'def456' WHERE status = 'processed'`);
    await addLedgerRow(database);
    await full();
    const hashes = (await findingsOf(database)).map(({ kind, published_hash }) => [kind, published_hash]);
    expect(Object.fromEntries(hashes)).toEqual({
      ...{ missing: 'abc123', duplicate: 'def456', amount: 'def456', orphan: null },
    });
    await database.query('ALTER TABLE event_backups DROP COLUMN published_hash');
  });

  test('unknown without a table of events or without an event in the check, and the run says so once', async () => {
    await addSession(database);
    const end = await reconcile(database, { CF_MODE: 'full', CF_EVENTS_TABLE: 'no_events' });
    expect(await causes()).toEqual(['unknown']);
    expect(end.lines.filter(({ msg }) => String(msg).startsWith('no table of events'))).toHaveLength(1);
    await emptyTables(database);
    await addSession(database);
    await full(sessionBilling({ event: null }));
    expect(await causes()).toEqual(['unknown']);
  });

  test('unknown beside a json payload that Postgres cannot read: the run goes on and says so once', async () => {
    await database.query(`CREATE TABLE json_events (LIKE event_backups INCLUDING DEFAULTS)`);
    await database.query(`ALTER TABLE json_events ALTER COLUMN payload TYPE json USING payload::json`);
    await database.query(`CREATE INDEX ON json_events (created_at)`);
    await database.query(`GRANT SELECT ON json_events TO counterfoil_jobs`);
    for (const minutes of [60, 600]) await addSession(database, { completedAt: minutesAgo(minutes) });
    await database.query(
      `INSERT INTO json_events (event_id, event_name, payload, created_at)
       SELECT gen_random_uuid(), 'services.session.completed.v1', '{"note": "\\u0000", "sessionId": "\\u0000"}',
              (now() AT TIME ZONE 'UTC') - n * interval '1 hour' FROM unnest(array[1, 10]) AS n`,
    );
    const end = await reconcile(database, { CF_MODE: 'full', CF_EVENTS_TABLE: 'json_events' });
    expect(end).toMatchObject({ exitCode: 0, outcome: 'succeeded' });
    expect(await causes()).toEqual(['unknown', 'unknown']);
    expect(end.lines.filter(({ msg }) => String(msg).includes('cannot be read (22P05)'))).toHaveLength(1);
  });

  test('unknown where events cannot be found in time: the run goes on and says so once', async () => {
    await database.query(`
      CREATE VIEW slow_events AS SELECT * FROM event_backups WHERE pg_sleep(0.5) IS NOT NULL;
      GRANT SELECT ON slow_events TO counterfoil_jobs`);
    for (const minutes of [60, 600]) {
      const session = await addSession(database, { completedAt: minutesAgo(minutes) });
      await addEvent(database, session.id, { createdAt: minutesAgo(minutes) });
    }
    const end = await reconcile(database, {
      CF_MODE: 'full',
      CF_EVENTS_TABLE: 'slow_events',
      CF_WINDOW_TIMEOUT_MILLISECONDS: '300',
    });
    expect(end).toMatchObject({ exitCode: 0, outcome: 'succeeded' });
    expect(await causes()).toEqual(['unknown', 'unknown']);
    expect(end.lines.filter(({ msg }) => String(msg).includes('make the expression index'))).toHaveLength(1);
  });

  test('payloads of a megabyte are read no further than their key', async () => {
    const session = await addSession(database);
    await addEvent(database, session.id, {
      payload: { sessionId: session.id, blob: 'x'.repeat(1_000_000) },
    });
    const end = await full();
    expect(await causes()).toEqual(['event_pending']);
    expect(end.log.length).toBeLessThan(10_000);
  });
});

describe('conditions of a check', () => {
  test.each<[object, string[]]>([
    [{ column: 'currency', op: 'eq', value: 'EUR' }, ['EUR']],
    [{ column: 'currency', op: 'ne', value: 'EUR' }, ['JPY', 'USD']],
    [{ column: 'currency', op: 'in', value: ['EUR', 'JPY'] }, ['EUR', 'JPY']],
    [{ column: 'currency', op: 'notIn', value: ['EUR', 'JPY'] }, ['USD']],
    [{ column: 'amount_minor', op: 'gte', value: 20 }, ['JPY', 'USD']],
    [{ column: 'amount_minor', op: 'lt', value: 20 }, ['EUR']],
    [{ column: 'completed_at', op: 'notNull' }, ['EUR', 'JPY', 'USD']],
    [{ column: 'completed_at', op: 'isNull' }, []],
  ])('%j takes what it names and nothing else', async (condition, expected) => {
    for (const [currency, amountMinor] of [
      ['EUR', '10'],
      ['JPY', '20'],
      ['USD', '30'],
    ] as const)
      await addSession(database, { currency, amountMinor });
    const { facts } = sessionBilling();
    await full(sessionBilling({ facts: { ...facts, where: [condition] } }));
    expect((await findingsOf(database)).map(({ currency }) => currency).sort()).toEqual(expected);
  });
});

describe('rows without a key', () => {
  test('a fact that no bill can name is missing, a bill that names no fact is an orphan, by their own ids', async () => {
    await database.query(`CREATE TABLE visits (id bigint PRIMARY KEY, number text, at timestamptz)`);
    await database.query(
      `CREATE TABLE visit_bills (id bigint, part bigint, number text, at timestamptz, PRIMARY KEY (id, part))`,
    );
    for (const index of ['visits (number)', 'visits (at)', 'visit_bills (number)', 'visit_bills (at)'])
      await database.query(`CREATE INDEX ON ${index}`);
    await database.query(`GRANT SELECT ON visits, visit_bills TO counterfoil_jobs`);
    await database.query(`INSERT INTO visits VALUES (1, NULL, $1), (2, 'a', $1)`, [minutesAgo(60)]);
    await database.query(`INSERT INTO visit_bills VALUES (1, 9, NULL, $1), (2, 9, 'a', $1)`, [
      minutesAgo(60),
    ]);
    const check = {
      name: 'visits',
      facts: { table: 'visits', key: ['number'], at: 'at' },
      ledger: { table: 'visit_bills', key: ['number'], at: 'at' },
    };
    await full(check);
    const second = await reconcile(database, { CF_MODE: 'tail', CF_CHECKS_FILE: checksFile(check) });
    expect(second.counts).toMatchObject({ opened: 2 });
    expect(await findingsOf(database)).toMatchObject([
      { kind: 'orphan', key: '[null]', row_id: '["1","9"]', status: 'open' },
      { kind: 'missing', key: '[null]', row_id: '1', status: 'open', cause: 'unknown' },
    ]);
    await database.query(`UPDATE visits SET number = 'b' WHERE id = 1`);
    await database.query(`UPDATE visit_bills SET number = 'b' WHERE id = 1`);
    await reconcile(database, { CF_MODE: 'tail', CF_CHECKS_FILE: checksFile(check) });
    expect((await findingsOf(database)).map(({ status }) => status)).toEqual(['resolved', 'resolved']);
  });
});

describe('the types of keys', () => {
  test.each([
    ['uuid', 'text', '0b5c7a9e-0000-4000-8000-000000000001'],
    ['text', 'uuid', '0b5c7a9e-0000-4000-8000-000000000001'],
    ['bigint', 'text', '9007199254740993'],
    ['text', 'bigint', '9223372036854775807'],
    ['bigint', 'integer', '7'],
    ['numeric', 'bigint', '9007199254740993'],
    ['bigint', 'numeric', '9007199254740993'],
    ['varchar(40)', 'text', `o'neil "quoted" \\ ü`],
    ['text', 'char(40)', 'fixed'],
    ['uuid', 'char(36)', '0b5c7a9e-0000-4000-8000-000000000001'],
  ])('a %s is found in a %s, and its neighbour is not taken for it', async (factType, ledgerType, key) => {
    await database.query('DROP TABLE IF EXISTS one, other');
    await database.query(`CREATE TABLE one (id ${factType} PRIMARY KEY, at timestamptz)`);
    await database.query(
      `CREATE TABLE other (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, one ${ledgerType}, at timestamptz)`,
    );
    for (const index of ['one (at)', 'other (one)', 'other (at)'])
      await database.query(`CREATE INDEX ON ${index}`);
    await database.query('GRANT SELECT ON one, other TO counterfoil_jobs');
    const neighbour = key.replace(/.$/, (last) => (last === '1' ? '2' : '1'));
    const insert = (table: string, column: string, type: string, value: string, at: string) =>
      database.query(`INSERT INTO ${table} (${column}, at) VALUES ($1::text::${type}, $2)`, [value, at]);
    await insert('one', 'id', factType, key, minutesAgo(60));
    await insert('one', 'id', factType, neighbour, minutesAgo(60));
    // Far away in time, so that the look-up by index has to find it.
    await insert('other', 'one', ledgerType, key, minutesAgo(600));
    const end = await full({
      name: 'types',
      facts: { table: 'one', key: ['id'], at: 'at' },
      ledger: { table: 'other', key: ['one'], at: 'at' },
    });
    expect(end.outcome).toBe('succeeded');
    expect(await kindsOf(database)).toEqual([`missing ${neighbour}`]);
  });

  test('a ledger key that cannot be a uuid is an orphan and fails nothing', async () => {
    await database.query('DROP TABLE IF EXISTS other');
    await database.query(`CREATE TABLE other (id bigint PRIMARY KEY, session text, at timestamptz)`);
    for (const index of ['other (session)', 'other (at)']) await database.query(`CREATE INDEX ON ${index}`);
    await database.query('GRANT SELECT ON other TO counterfoil_jobs');
    await database.query(`INSERT INTO other VALUES (1, 'manual-7', $1)`, [minutesAgo(60)]);
    const check = {
      name: 'manual',
      facts: { table: 'sessions', key: ['id'], at: 'completed_at' },
      ledger: { table: 'other', key: ['session'], at: 'at' },
    };
    await full(check);
    await full(check);
    expect(await findingsOf(database)).toMatchObject([
      { kind: 'orphan', key: '["manual-7"]', status: 'open' },
    ]);
  });

  test('schemas, views, quotes and mixed case in names are read as they stand', async () => {
    await database.query(`CREATE SCHEMA "Billing"`);
    await database.query(
      `CREATE TABLE "Billing"."All Orders" ("Order ""Id""" bigint PRIMARY KEY, "doneAt" timestamptz, state text)`,
    );
    await database.query(
      `CREATE VIEW "Billing"."Orders" AS SELECT * FROM "Billing"."All Orders" WHERE state <> 'draft'`,
    );
    await database.query(
      `CREATE TABLE "Billing"."Ledger" (id bigint PRIMARY KEY, "orderId" bigint, "At" timestamptz)`,
    );
    await database.query(`CREATE INDEX ON "Billing"."All Orders" ("doneAt")`);
    await database.query(`CREATE INDEX ON "Billing"."Ledger" ("orderId")`);
    await database.query(`CREATE INDEX ON "Billing"."Ledger" ("At")`);
    await database.query(`GRANT USAGE ON SCHEMA "Billing" TO counterfoil_jobs`);
    await database.query(`GRANT SELECT ON ALL TABLES IN SCHEMA "Billing" TO counterfoil_jobs`);
    await database.query(`INSERT INTO "Billing"."All Orders" VALUES (1, $1, 'done'), (2, $1, 'draft')`, [
      minutesAgo(60),
    ]);
    const end = await full({
      name: 'orders',
      facts: { table: 'Billing.Orders', key: ['Order "Id"'], at: 'doneAt' },
      ledger: { table: 'Billing.Ledger', key: ['orderId'], at: 'At' },
    });
    expect(end.outcome).toBe('succeeded');
    expect(await kindsOf(database)).toEqual(['missing 1']);
  });
});
