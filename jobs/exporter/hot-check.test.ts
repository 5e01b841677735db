import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { sessionBilling } from '../../test/builders/checks.ts';
import { scrapeOf } from '../../test/builders/exporter.ts';
import { collectLog, openDatabase } from '../../test/builders/open-database.ts';
import { nonZero, parseSeries, sampleOf } from '../../test/builders/scrape.ts';
import {
  addBilledSession,
  addEvent,
  addLedgerRow,
  addSession,
  minutesAgo,
} from '../../test/builders/service.ts';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';
import { parseChecks } from '../checks/parse.ts';
import type { Database } from '../runtime/database.ts';
import { HotCheck } from './hot-check.ts';
import { ServiceTables } from './service-tables.ts';

let postgres: TestDatabase;
let database: Database;
beforeAll(async () => {
  postgres = await createTestDatabase();
  const extend = readFileSync(new URL('../../nestjs/sql/event_backups.extend.sql', import.meta.url), 'utf8');
  await postgres.query(extend);
  database = openDatabase(postgres.urlAs('counterfoil_exporter'));
});
afterAll(async () => {
  await database.close();
  await postgres.drop();
});
beforeEach(async () => {
  await postgres.query('TRUNCATE sessions, mentor_payable_ledgers, event_backups, event_deliveries CASCADE');
});

const log = collectLog();

const tablesOf = (checks: readonly object[], eventsTable = 'event_backups', timeZone = 'UTC') =>
  new ServiceTables(
    database,
    { eventsTable, deliveriesTable: 'event_deliveries', timeZone },
    parseChecks({ checks }),
  );

async function scrape(
  checks: readonly object[] = [sessionBilling()],
  eventsTable?: string,
  timeZone?: string,
): Promise<string> {
  const hot = new HotCheck(database, tablesOf(checks, eventsTable, timeZone), log.logger, {
    lossDelayMs: 60_000,
    statementTimeoutMs: 5_000,
  });
  return await scrapeOf('hot_check', await hot.read(AbortSignal.timeout(10_000)));
}

const secondsAgo = (seconds: number) => minutesAgo(seconds / 60);

/** An event of a session, by this version. */
async function publish(
  sessionId: string,
  hash: string | null,
  row: Parameters<typeof addEvent>[2] = {},
): Promise<string> {
  const id = await addEvent(postgres, sessionId, { createdAt: minutesAgo(5), status: 'processed', ...row });
  await postgres.query('UPDATE event_backups SET published_hash = $2 WHERE event_id = $1', [id, hash]);
  return id;
}

/** A completed session whose event this version has published, with its right bill or without. */
async function complete(
  hash: string | null,
  { at = minutesAgo(5), billed = true }: { readonly at?: string; readonly billed?: boolean } = {},
): Promise<string> {
  const add = billed ? addBilledSession : addSession;
  const { id } = await add(postgres, { completedAt: at });
  await publish(id, hash, { createdAt: at });
  return id;
}

const facts = (text: string) => nonZero(text, 'counterfoil_hot_facts');
const discrepancies = (text: string) => nonZero(text, 'counterfoil_hot_discrepancies');

describe('facts of the last minutes', () => {
  test('are judged per version that published their event, and per kind', async () => {
    await complete('stable');
    await complete('stable');
    await complete('stable', { billed: false });
    await complete('canary');
    const twice = await complete('canary');
    await addLedgerRow(postgres, { sessionId: twice, createdAt: minutesAgo(4) });
    const wrong = await complete('canary', { billed: false });
    await addLedgerRow(postgres, { sessionId: wrong, createdAt: minutesAgo(4), amountMinor: '999' });
    const foreign = await complete('canary', { billed: false });
    await addLedgerRow(postgres, { sessionId: foreign, createdAt: minutesAgo(4), currency: 'USD' });
    const text = await scrape();
    expect(facts(text)).toEqual(['session-billing canary: 4', 'session-billing stable: 3']);
    expect(discrepancies(text)).toEqual([
      'session-billing canary amount: 2',
      'session-billing canary duplicate: 1',
      'session-billing stable missing: 1',
    ]);
    expect(sampleOf(text, 'counterfoil_hot_amounts_measured')).toBe(1);
    expect(sampleOf(text, 'counterfoil_hot_versions_measured')).toBe(1);
    // What is right is there as well, at 0: a ratio has both sides.
    expect(
      sampleOf(text, 'counterfoil_hot_discrepancies', { published_hash: 'stable', kind: 'amount' }),
    ).toBe(0);
    expect(sampleOf(text, 'counterfoil_hot_facts', { published_hash: 'unknown' })).toBe(0);
  });

  test('are those between 15 minutes and 20 seconds ago, and no others', async () => {
    await complete('v', { at: secondsAgo(15 * 60 + 5), billed: false });
    await complete('v', { at: secondsAgo(15 * 60 - 10), billed: false });
    await complete('v', { at: secondsAgo(25), billed: false });
    await complete('v', { at: secondsAgo(10), billed: false });
    expect(discrepancies(await scrape())).toEqual(['session-billing v missing: 2']);
  });

  test('that are billed late, or long before, are billed: a look-up by index settles it', async () => {
    const late = await complete('v', { at: minutesAgo(14), billed: false });
    await addLedgerRow(postgres, { sessionId: late, createdAt: secondsAgo(1) });
    const early = await complete('v', { billed: false });
    await addLedgerRow(postgres, { sessionId: early, createdAt: minutesAgo(600) });
    const text = await scrape();
    expect([facts(text), discrepancies(text)]).toEqual([['session-billing v: 2'], []]);
  });

  test('whose bill was reversed are missing, and whose second bill was reversed are right', async () => {
    const undone = await complete('v', { billed: false });
    const row = await addLedgerRow(postgres, { sessionId: undone, createdAt: minutesAgo(5) });
    await addLedgerRow(postgres, { sessionId: undone, createdAt: minutesAgo(4), reversesId: row });
    const mended = await complete('v');
    const second = await addLedgerRow(postgres, { sessionId: mended, createdAt: minutesAgo(4) });
    await addLedgerRow(postgres, { sessionId: mended, createdAt: minutesAgo(3), reversesId: second });
    expect(discrepancies(await scrape())).toEqual(['session-billing v missing: 1']);
  });

  test('are attributed by an event far away in time too, by the newest of several, and else to nobody', async () => {
    const { id: far } = await addSession(postgres, { completedAt: minutesAgo(5) });
    await publish(far, 'far', { createdAt: minutesAgo(300) });
    const again = await complete('first', { at: minutesAgo(6), billed: false });
    await publish(again, 'second', { createdAt: minutesAgo(2) });
    await addSession(postgres, { completedAt: minutesAgo(5) });
    await complete(null, { billed: false });
    const { id: other } = await addSession(postgres, { completedAt: minutesAgo(5) });
    await publish(other, 'wrong-event', { eventName: 'services.session.evaluated.v1' });
    expect(discrepancies(await scrape())).toEqual([
      'session-billing far missing: 1',
      'session-billing second missing: 1',
      'session-billing unknown missing: 3',
    ]);
  });

  test('older than what the check is declared to judge are left out', async () => {
    await complete('v', { at: minutesAgo(10), billed: false });
    await complete('v', { at: minutesAgo(4), billed: false });
    const since = new Date(Date.now() - 5 * 60_000).toISOString();
    expect(discrepancies(await scrape([sessionBilling({ since })]))).toEqual([
      'session-billing v missing: 1',
    ]);
  });

  test('without amounts on both sides: wrong ones are not measured, and have no series', async () => {
    const plain = sessionBilling({
      facts: { table: 'sessions', key: ['id'], at: 'completed_at' },
      ledger: { table: 'mentor_payable_ledgers', key: ['session_id'], at: 'created_at' },
    });
    const id = await complete('v', { billed: false });
    await addLedgerRow(postgres, { sessionId: id, createdAt: minutesAgo(4), amountMinor: '1' });
    const text = await scrape([plain]);
    expect(sampleOf(text, 'counterfoil_hot_amounts_measured')).toBe(0);
    const kinds = parseSeries(text).filter(({ name }) => name === 'counterfoil_hot_discrepancies');
    expect([...new Set(kinds.map(({ labels }) => labels.kind))].sort()).toEqual(['duplicate', 'missing']);
    expect(facts(text)).toEqual(['session-billing v: 1']);
  });

  test('of several checks are each judged by their own', async () => {
    await complete('v', { billed: false });
    const strict = sessionBilling({
      name: 'none-due',
      facts: { ...sessionBilling().facts, where: [{ column: 'currency', op: 'eq', value: 'JPY' }] },
    });
    expect(facts(await scrape([sessionBilling(), strict]))).toEqual(['session-billing v: 1']);
  });
});

describe('events of the last minutes', () => {
  const events = (text: string) => nonZero(text, 'counterfoil_hot_events');
  const lost = (text: string) => nonZero(text, 'counterfoil_hot_lost_events');

  test('count as lost by their version when they are still pending after the loss delay', async () => {
    await publish('a', 'canary', { status: 'pending', createdAt: secondsAgo(65) });
    await publish('b', 'canary', { status: 'pending', createdAt: secondsAgo(50) });
    await publish('c', 'canary', { createdAt: secondsAgo(70) });
    await publish('d', 'stable', { createdAt: secondsAgo(15 * 60 - 10) });
    await publish('e', 'stable', { status: 'pending', createdAt: secondsAgo(15 * 60 + 5) });
    await publish('f', null, { status: 'pending', createdAt: minutesAgo(3) });
    const text = await scrape();
    expect(events(text)).toEqual(['canary: 2', 'stable: 1', 'unknown: 1']);
    expect(lost(text)).toEqual(['canary: 1', 'unknown: 1']);
  });

  test('under a live lease are not lost, and under one that has ended they are', async () => {
    const lease = async (id: string, until: string) =>
      await postgres.query(
        `INSERT INTO event_deliveries (event_id, listener, status, lease_owner, lease_until, attempts)
         VALUES ($1, 'a', 'running', 'pod', now() + $2::interval, 1)`,
        [id, until],
      );
    await lease(await publish('a', 'v', { status: 'pending' }), '10 seconds');
    expect(lost(await scrape())).toEqual([]);
    await lease(await publish('b', 'v', { status: 'pending' }), '-1 second');
    expect(lost(await scrape())).toEqual(['v: 1']);
  });
});

describe('labels of versions', () => {
  test('are bounded: the 20 with most rows, and the rest as other, with nothing lost', async () => {
    for (let n = 1; n <= 25; n += 1) {
      await postgres.query(
        `INSERT INTO event_backups (event_id, event_name, payload, status, created_at, published_hash)
         SELECT 'v' || $1::int || '-' || k, 'e', '{}', 'processed', now() - interval '3 minutes', 'v' || $1::int
           FROM generate_series(1, $1::int) AS k`,
        [n],
      );
    }
    const text = await scrape();
    const versions = nonZero(text, 'counterfoil_hot_events');
    expect(versions).toHaveLength(21);
    expect(versions).toContain('v25: 25');
    expect(versions).toContain('other: 15');
    expect(sampleOf(text, 'counterfoil_hot_events', { published_hash: 'v5' })).toBeUndefined();
  });

  test('never hold a text that is no hash', async () => {
    await publish('a', 'Erika Mustermann', { status: 'pending' });
    await publish('b', '', { status: 'pending' });
    const text = await scrape();
    expect(text).not.toContain('Erika');
    expect(nonZero(text, 'counterfoil_hot_lost_events')).toEqual(['other: 1', 'unknown: 1']);
  });
});

describe('what cannot be measured', () => {
  const withTable = async (definition: string) => {
    await postgres.query(`DROP TABLE IF EXISTS bare`);
    await postgres.query(`CREATE TABLE bare (LIKE event_backups)`);
    if (definition !== '') await postgres.query(definition);
    await postgres.query(`GRANT SELECT ON bare TO counterfoil_exporter`);
  };

  test('without an index on created_at: neither events nor facts per version, and one line says what would do', async () => {
    await withTable('');
    expect(await scrape([sessionBilling()], 'bare')).toContain(
      '# off: check session-billing: no index leads from a fact to its event: CREATE INDEX CONCURRENTLY ON "public"."bare" (created_at)',
    );
  });

  test('without an index on the payload key: events, but no facts', async () => {
    await withTable('CREATE INDEX ON bare (created_at)');
    await complete('v', { billed: false });
    const text = await scrape([sessionBilling()], 'bare');
    expect(sampleOf(text, 'counterfoil_hot_events', { published_hash: 'unknown' })).toBe(0);
    expect(sampleOf(text, 'counterfoil_hot_facts', { published_hash: 'unknown' })).toBeUndefined();
    expect(log.messages().at(-1)).toContain(
      `CREATE INDEX CONCURRENTLY ON "public"."bare" ((payload ->> 'sessionId'))`,
    );
  });

  test('without a column that says which version: all is one, unknown, and that is said', async () => {
    await withTable('ALTER TABLE bare DROP COLUMN published_hash');
    await postgres.query('CREATE INDEX ON bare (created_at)');
    await complete('v', { billed: false });
    const text = await scrape([sessionBilling()], 'bare');
    expect(discrepancies(text)).toEqual(['session-billing unknown missing: 1']);
    expect(sampleOf(text, 'counterfoil_hot_versions_measured')).toBe(0);
  });

  test('without a table of events: facts, and nothing of events', async () => {
    await complete('v', { billed: false });
    const text = await scrape([sessionBilling()], 'no_such_table');
    expect(discrepancies(text)).toEqual(['session-billing unknown missing: 1']);
    expect(sampleOf(text, 'counterfoil_hot_events')).toBeUndefined();
    expect(sampleOf(text, 'counterfoil_hot_versions_measured')).toBe(0);
  });

  test('a check whose ledger has no index takes no other with it', async () => {
    await postgres.query(
      `CREATE TABLE IF NOT EXISTS slow_ledger (id bigint PRIMARY KEY, session_id uuid, created_at timestamptz)`,
    );
    await postgres.query('GRANT SELECT ON slow_ledger TO counterfoil_exporter');
    await complete('v', { billed: false });
    const slow = sessionBilling({
      name: 'slow',
      facts: { table: 'sessions', key: ['id'], at: 'completed_at' },
      ledger: { table: 'slow_ledger', key: ['session_id'], at: 'created_at' },
    });
    const text = await scrape([slow, sessionBilling()]);
    expect(discrepancies(text)).toEqual(['session-billing v missing: 1']);
    expect(parseSeries(text).some(({ labels }) => labels.check === 'slow')).toBe(false);
    expect(log.messages().at(-1)).toContain('slow_ledger');
    expect(await scrape([slow], 'no_such_table')).toContain('# off: check slow');
  });
});

describe('tables of another form', () => {
  test('keys of two columns and of other types, wall clocks in a zone of their own, and rows that reverse by a sign', async () => {
    await postgres.query('CREATE SCHEMA shop');
    await postgres.query(
      `CREATE TABLE shop.orders (tenant text, no bigint, paid_at timestamp, total numeric, currency text, PRIMARY KEY (tenant, no))`,
    );
    await postgres.query('CREATE INDEX ON shop.orders (paid_at)');
    await postgres.query(
      `CREATE TABLE shop.entries (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tenant varchar(9), order_no text,
         at timestamp, amount numeric, currency text, type text)`,
    );
    await postgres.query('CREATE INDEX ON shop.entries (at)');
    await postgres.query('CREATE INDEX ON shop.entries (tenant, order_no)');
    await postgres.query(
      `CREATE TABLE shop.events (event_id bigint PRIMARY KEY, event_name text, payload jsonb, status text,
         created_at timestamp, published_hash text)`,
    );
    await postgres.query('CREATE INDEX ON shop.events (created_at)');
    await postgres.query(`CREATE INDEX ON shop.events ((payload ->> 'no'))`);
    await postgres.query('GRANT USAGE ON SCHEMA shop TO counterfoil_exporter');
    await postgres.query('GRANT SELECT ON ALL TABLES IN SCHEMA shop TO counterfoil_exporter');
    const at = `(now() - interval '5 minutes') AT TIME ZONE 'Asia/Kathmandu'`;
    // The same number at two tenants, one of which has no bill; and a key that is no number, which is nobody's.
    await postgres.query(
      `INSERT INTO shop.orders VALUES ('a', 1, ${at}, 10.50, 'EUR'), ('b', 1, ${at}, 10.50, 'EUR'), ('a', 2, ${at}, 7, 'EUR'),
                                      ('a', 3, ${at}, 7, 'EUR'), ('a', 4, ${at}, 7, 'EUR')`,
    );
    await postgres.query(
      `INSERT INTO shop.entries (tenant, order_no, at, amount, currency, type)
       VALUES ('a', '1', ${at}, 10.5, 'EUR', 'bill'), ('a', 'manual-7', ${at}, 1, 'EUR', 'bill'), (NULL, NULL, ${at}, 1, 'EUR', 'bill'),
              ('a', '2', ${at}, 7, 'EUR', 'bill'), ('a', '2', ${at}, 7, 'EUR', 'void'),
              ('a', '3', ${at}, 7, 'EUR', 'bill'), ('a', '3', ${at}, 7, 'EUR', 'bill'), ('a', '3', ${at}, 7, 'EUR', 'void'),
              ('a', '4', ${at}, 6, 'EUR', 'bill')`,
    );
    await postgres.query(
      `INSERT INTO shop.events SELECT 10 * no + ascii(tenant), 'order.paid.v1', jsonb_build_object('tenant', tenant, 'no', no),
              'processed', paid_at, 'of-' || tenant FROM shop.orders`,
    );
    const check = {
      name: 'orders',
      facts: {
        table: 'shop.orders',
        key: ['tenant', 'no'],
        at: 'paid_at',
        amount: { column: 'total', scale: 2 },
        currency: 'currency',
      },
      ledger: {
        table: 'shop.entries',
        key: ['tenant', 'order_no'],
        at: 'at',
        amount: { column: 'amount', scale: 2 },
        currency: 'currency',
        reverses: { sign: { column: 'type', negative: ['void'] } },
      },
      event: { name: 'order.paid.v1', key: ['tenant', 'no'] },
    };
    const text = await scrape([check], 'shop.events', 'Asia/Kathmandu');
    expect(facts(text)).toEqual(['orders of-a: 4', 'orders of-b: 1']);
    expect(discrepancies(text)).toEqual([
      'orders of-a amount: 1',
      'orders of-a missing: 1',
      'orders of-b missing: 1',
    ]);
    // Read as UTC, all of it lies in the future.
    expect(facts(await scrape([check], 'shop.events', 'UTC'))).toEqual([]);
  });
});

test('ten thousand facts of which the planner knows nothing take no longer for that', async () => {
  const unknown = ['sessions', 'event_backups', 'mentor_payable_ledgers'];
  for (const table of unknown) await postgres.query(`ALTER TABLE ${table} SET (autovacuum_enabled = off)`);
  await postgres.query(
    `INSERT INTO sessions (id, contract_id, mentor_id, amount_minor, currency, completed_at)
     SELECT gen_random_uuid(), 'c', 'm', 1, 'EUR', now() - interval '14 minutes' + n * interval '80 milliseconds'
       FROM generate_series(1, 10000) AS n`,
  );
  await postgres.query(
    `INSERT INTO event_backups (event_id, event_name, payload, status, created_at, published_hash)
     SELECT 'e-' || id, 'services.session.completed.v1', jsonb_build_object('sessionId', id), 'processed',
            completed_at AT TIME ZONE 'UTC', 'v' FROM sessions`,
  );
  await postgres.query(
    `INSERT INTO mentor_payable_ledgers (session_id, mentor_id, amount_minor, currency, idempotency_key, created_at)
     SELECT id, 'm', 1, 'EUR', id::text, completed_at FROM sessions`,
  );
  // A nested loop over them makes a hundred million comparisons: the limit of five seconds would cut it off.
  expect(facts(await scrape())).toEqual(['session-billing v: 10000']);
  for (const table of unknown) await postgres.query(`ALTER TABLE ${table} RESET (autovacuum_enabled)`);
});

test('the plan of the hot check scans neither facts, ledger nor events', async () => {
  await postgres.query(
    `INSERT INTO sessions (id, contract_id, mentor_id, amount_minor, currency, completed_at)
     SELECT gen_random_uuid(), 'c', 'm', 1, 'EUR', now() - n * interval '1 minute' FROM generate_series(1, 20000) AS n`,
  );
  await postgres.query(
    `INSERT INTO event_backups (event_id, event_name, payload, status, created_at, published_hash)
     SELECT 'e-' || id, 'services.session.completed.v1', jsonb_build_object('sessionId', id), 'processed',
            completed_at AT TIME ZONE 'UTC', 'v' FROM sessions`,
  );
  await postgres.query(
    `INSERT INTO mentor_payable_ledgers (session_id, mentor_id, amount_minor, currency, idempotency_key, created_at)
     SELECT id, 'm', 1, 'EUR', id::text, completed_at FROM sessions`,
  );
  await postgres.query('ANALYZE sessions, event_backups, mentor_payable_ledgers');
  await postgres.query('SELECT pg_stat_force_next_flush()');
  const reads = async () => {
    const [row] = await postgres.query<{ rows: string }>(
      `SELECT sum(seq_tup_read)::text AS rows FROM pg_stat_user_tables
        WHERE relname IN ('sessions', 'event_backups', 'mentor_payable_ledgers')`,
    );
    return Number(row?.rows ?? 0);
  };
  const before = await reads();
  const own = openDatabase(postgres.urlAs('counterfoil_exporter'));
  const hot = new HotCheck(own, tablesOf([sessionBilling()]), log.logger, {
    lossDelayMs: 60_000,
    statementTimeoutMs: 5_000,
  });
  const text = await scrapeOf('hot_check', await hot.read(AbortSignal.timeout(10_000)));
  await own.close();
  await postgres.query('SELECT pg_stat_force_next_flush()');
  expect(facts(text)).toEqual(['session-billing v: 14']);
  // The statistics of its backends are flushed when they end; those of earlier tests, on tiny tables, may come between.
  expect((await reads()) - before).toBeLessThan(1_000);
});
