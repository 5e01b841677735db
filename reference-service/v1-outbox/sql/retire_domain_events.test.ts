import { randomUUID } from 'node:crypto';
import { Client } from 'pg';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { waitFor } from '../../../test/builders/wait-for.ts';
import { createTestDatabase, type TestDatabase } from '../../../test/postgres/database.ts';
import {
  addOutboxRow,
  createOutboxDatabase,
  isWaiting,
  openTransaction,
  runFile,
  sqlFile,
  statuses,
} from '../src/testing/outbox-database.js';

let database: TestDatabase;
beforeEach(async () => {
  database = await createOutboxDatabase();
});
afterEach(async () => {
  await database?.drop();
});

const retire = (before = '') => runFile(database.url, 'retire_domain_events.sql', before);
const restore = (before = '') => runFile(database.url, 'restore_domain_events.sql', before);

async function rowsOf(table: 'domain_events' | 'domain_events_backup'): Promise<string[]> {
  const rows = await database.query<{ row: string }>(`select t::text as row from ${table} t order by id`);
  return rows.map(({ row }) => row);
}

async function isThere(table: string): Promise<boolean> {
  const [row] = await database.query<{ there: boolean }>('select to_regclass($1) is not null as there', [
    table,
  ]);
  return row?.there === true;
}

test('retires the outbox with a backup equal to it, and a second run changes nothing', async () => {
  for (let n = 0; n < 3; n += 1) await addOutboxRow(database, { status: 'published' });
  const before = await rowsOf('domain_events');
  expect((await retire()).detail).toEqual({ outcome: 'retired', rows: 3, backup: 3 });
  expect(await isThere('domain_events')).toBe(false);
  expect(await rowsOf('domain_events_backup')).toEqual(before);
  expect((await retire()).detail).toEqual({ outcome: 'retired_already', backup: 3 });
  expect(await rowsOf('domain_events_backup')).toEqual(before);
});

test.each(['pending', 'processing', 'failed'])(
  'one %s row refuses it, and nothing is dropped or made',
  async (status) => {
    await addOutboxRow(database, { status: 'published' });
    await addOutboxRow(database, { status });
    await expect(retire()).rejects.toMatchObject({
      code: '55000',
      message: `retire_domain_events: rows are not published yet: 1 ${status}`,
    });
    expect(await statuses(database)).toEqual({ published: 1, [status]: 1 });
    expect(await isThere('domain_events_backup')).toBe(false);
  },
);

const INSERT_ONE = `insert into domain_events (event_type, aggregate_id, payload) values ('a.b.v1', 'c', '{}')`;

test('an event in an uncommitted transaction does not slip in between: it is waited for, then it refuses', async () => {
  const writer = await openTransaction(database.url, INSERT_ONE);
  const retirement = retire();
  retirement.catch(() => undefined);
  await waitFor('the retirement to wait', () => isWaiting(database, 'retire_domain_events'));
  await writer.end('commit');
  await expect(retirement).rejects.toMatchObject({ code: '55000' });
  expect(await statuses(database)).toEqual({ pending: 1 });
});

test('an event whose transaction rolls back does not refuse it', async () => {
  const writer = await openTransaction(database.url, INSERT_ONE);
  const retirement = retire();
  await waitFor('the retirement to wait', () => isWaiting(database, 'retire_domain_events'));
  await writer.end('rollback');
  expect((await retirement).detail).toMatchObject({ outcome: 'retired', rows: 0 });
});

test('a writer that comes during the retirement fails as a whole and writes nothing', async () => {
  await addOutboxRow(database, { status: 'published' });
  const reader = await openTransaction(database.url, 'select 1 from domain_events');
  const retirement = retire();
  await waitFor('the retirement to wait', () => isWaiting(database, 'retire_domain_events'));
  const late = openTransaction(database.url, INSERT_ONE);
  late.catch(() => undefined);
  await waitFor('the writer to wait', () => isWaiting(database, 'insert into domain_events'));
  await reader.end('rollback');
  expect((await retirement).detail).toMatchObject({ outcome: 'retired', rows: 1 });
  await expect(late).rejects.toMatchObject({ code: '42P01' });
});

test('it gives up after five seconds behind a long transaction, and holds nobody up for longer', async () => {
  const reader = await openTransaction(database.url, 'select 1 from domain_events');
  await expect(retire()).rejects.toMatchObject({ code: '55P03' });
  await reader.end('rollback');
  expect(await isThere('domain_events')).toBe(true);
});

test.each(['retire_domain_events.sql', 'restore_domain_events.sql'])(
  '%s refuses a snapshot older than its lock, and an empty database',
  async (file) => {
    const isolated = runFile(database.url, file, "set default_transaction_isolation = 'repeatable read'");
    await expect(isolated).rejects.toMatchObject({ code: '25000' });
    const empty = await createTestDatabase();
    try {
      await expect(runFile(empty.url, file)).rejects.toMatchObject({ code: '42P01' });
    } finally {
      await empty.drop();
    }
  },
);

test('both files run inside a transaction of the caller, and go with its rollback', async () => {
  await addOutboxRow(database, { status: 'published' });
  const client = new Client({ connectionString: database.url });
  await client.connect();
  try {
    await client.query('begin');
    await client.query(sqlFile('retire_domain_events.sql'));
    await client.query(sqlFile('restore_domain_events.sql'));
    await client.query('rollback');
  } finally {
    await client.end();
  }
  expect(await statuses(database)).toEqual({ published: 1 });
  expect(await isThere('domain_events_backup')).toBe(false);
});

test('restores a retired outbox as it was: rows, key, checks, defaults and index; a second run changes nothing', async () => {
  for (let n = 0; n < 3; n += 1) await addOutboxRow(database, { status: 'published' });
  const before = await rowsOf('domain_events');
  await retire();
  expect((await restore()).detail).toEqual({
    outcome: 'restored',
    before: null,
    after: { published: 3 },
    fromBackup: 3,
    backToPending: 0,
  });
  expect(await rowsOf('domain_events')).toEqual(before);
  const id = await addOutboxRow(database);
  await expect(
    database.query(
      `insert into domain_events (id, event_type, aggregate_id, payload) values ($1, 'a', 'b', '{}')`,
      [id],
    ),
  ).rejects.toMatchObject({ code: '23505' });
  await expect(addOutboxRow(database, { status: 'done' })).rejects.toMatchObject({ code: '23514' });
  const [index] = await database.query<{ n: number }>(
    `select count(*)::integer as n from pg_indexes where tablename = 'domain_events' and indexdef like '%WHERE%'`,
  );
  expect(index).toEqual({ n: 1 });

  const again = await restore();
  expect(again.detail).toEqual({
    outcome: 'there_already',
    before: { pending: 1, published: 3 },
    after: { pending: 1, published: 3 },
    fromBackup: 0,
    backToPending: 0,
  });
  expect(again.text).toContain('before {');
});

test('keeps rows written since, and the newer state of a row that the backup has too', async () => {
  const old = await addOutboxRow(database, { status: 'published' });
  const changed = await addOutboxRow(database, { status: 'published' });
  await retire();
  // As a deployment of the predecessor does that makes its table by itself.
  await database.query(sqlFile('domain_events.sql'));
  const written = await addOutboxRow(database);
  await database.query(`insert into domain_events select * from domain_events_backup where id = $1`, [
    changed,
  ]);
  await database.query(`update domain_events set status = 'failed' where id = $1`, [changed]);
  expect((await restore()).detail).toMatchObject({
    outcome: 'there_already',
    before: { failed: 1, pending: 1 },
    after: { failed: 1, pending: 1, published: 1 },
    fromBackup: 1,
  });
  const rows = await database.query('select id, status from domain_events');
  expect(rows).toEqual(
    expect.arrayContaining([
      { id: old, status: 'published' },
      { id: changed, status: 'failed' },
      { id: written, status: 'pending' },
    ]),
  );
});

test('where nothing was ever dropped, rows being processed for less than an hour become pending, older ones and others stay', async () => {
  const recent = await addOutboxRow(database, { status: 'processing', claimedMinutesAgo: 59 });
  const older = await addOutboxRow(database, { status: 'processing', claimedMinutesAgo: 61 });
  await addOutboxRow(database, { status: 'failed' });
  await addOutboxRow(database, { status: 'published', claimedMinutesAgo: 5 });
  expect((await restore()).detail).toEqual({
    outcome: 'there_already',
    before: { failed: 1, processing: 2, published: 1 },
    after: { failed: 1, pending: 1, processing: 1, published: 1 },
    fromBackup: 0,
    backToPending: 1,
  });
  expect(
    await database.query(
      `select id, status, claimed_by from domain_events where id in ($1, $2) order by status`,
      [recent, older],
    ),
  ).toEqual([
    { id: recent, status: 'pending', claimed_by: null },
    { id: older, status: 'processing', claimed_by: 'somebody' },
  ]);
  expect((await restore()).detail).toMatchObject({ backToPending: 0 });
});

test('two restorations at once restore each row once', async () => {
  for (let n = 0; n < 20; n += 1) await addOutboxRow(database, { status: 'published' });
  await retire();
  const reports = await Promise.all([restore(), restore()]);
  expect(reports.map(({ detail }) => detail.fromBackup).sort()).toEqual([0, 20]);
  expect(await statuses(database)).toEqual({ published: 20 });
});

test('retired again after a restoration, the backup holds the rows of both and their newest state', async () => {
  await addOutboxRow(database, { status: 'published' });
  await retire();
  await restore();
  const later = await addOutboxRow(database, { status: 'published' });
  await database.query(`update domain_events set error = 'newer' where id <> $1`, [later]);
  const before = await rowsOf('domain_events');
  expect((await retire()).detail).toEqual({ outcome: 'retired', rows: 2, backup: 2 });
  expect(await rowsOf('domain_events_backup')).toEqual(before);
});

test.each([
  ['loses a row', 'return null;'],
  ['changes a row', `new.error := 'changed'; return new;`],
])('a backup that %s stops the retirement, and nothing is dropped', async (_, body) => {
  await addOutboxRow(database, { status: 'published' });
  await retire();
  await restore();
  // What a trigger left behind by somebody could do.
  await database.query(`
    create function meddle() returns trigger language plpgsql as $$ begin ${body} end $$;
    create trigger meddle before insert on domain_events_backup for each row execute function meddle();`);
  await expect(retire()).rejects.toMatchObject({ code: '22000' });
  expect(await statuses(database)).toEqual({ published: 1 });
});

test('owner and rights of the outbox are back after a restoration by somebody else, and nobody got more', async () => {
  const [writer, reader] = [`v1_writer_${randomUUID().slice(0, 8)}`, `v1_reader_${randomUUID().slice(0, 8)}`];
  await database.query(`create role ${writer}; create role ${reader};
    alter table domain_events owner to ${writer};
    grant insert, select on domain_events to ${reader};`);
  try {
    await retire();
    await restore();
    const [table] = await database.query(
      `select pg_get_userbyid(relowner) as owner,
         has_table_privilege($1, oid, 'insert') as inserts, has_table_privilege($1, oid, 'delete') as deletes
       from pg_class where oid = 'domain_events'::regclass`,
      [reader],
    );
    expect(table).toEqual({ owner: writer, inserts: true, deletes: false });
  } finally {
    await database.query(`drop owned by ${writer}, ${reader}`);
    await database.query(`drop role ${writer}; drop role ${reader}`);
  }
});
