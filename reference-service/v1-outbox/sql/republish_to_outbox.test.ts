import { randomUUID } from 'node:crypto';
import { Client } from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { addEvent } from '../../../test/builders/service.ts';
import { createTestDatabase, type TestDatabase } from '../../../test/postgres/database.ts';
import { createOutboxDatabase, sessionPayload, sqlFile } from '../src/testing/outbox-database.js';

let database: TestDatabase;
beforeAll(async () => {
  database = await createOutboxDatabase();
  await database.query(sqlFile('republish_to_outbox.sql'));
});
afterAll(async () => {
  await database?.drop();
});

async function onceAs<Row>(url: string, text: string, params: readonly unknown[] = []): Promise<Row[]> {
  const client = new Client({ connectionString: url });
  await client.connect();
  try {
    return (await client.query(text, [...params])).rows as Row[];
  } finally {
    await client.end();
  }
}

const republish = async (
  eventId: string | null,
  url = database.urlAs('counterfoil_jobs'),
): Promise<unknown> => {
  const [row] = await onceAs<{ inserted: boolean }>(url, 'select republish_to_outbox($1) as inserted', [
    eventId,
  ]);
  return row?.inserted;
};

const inOutbox = (eventId: string) =>
  database.query('select event_type, aggregate_id, payload, status from domain_events where id = $1', [
    eventId,
  ]);

const backups = () => database.query('select e::text, xmin::text from event_backups e order by event_id');

test('hands an event to the outbox once and says so, and a repeat inserts nothing and says that', async () => {
  const sessionId = randomUUID();
  const eventId = await addEvent(database, sessionId, { payload: sessionPayload(sessionId) });
  const other = await addEvent(database, randomUUID());
  const before = await backups();
  expect(await republish(eventId)).toBe(true);
  expect(await republish(eventId)).toBe(false);
  expect(await inOutbox(eventId)).toEqual([
    {
      event_type: 'services.session.completed.v1',
      aggregate_id: sessionId,
      payload: sessionPayload(sessionId),
      status: 'pending',
    },
  ]);
  expect(await inOutbox(other)).toEqual([]);
  // Not one backup was written to, not even with the same values.
  expect(await backups()).toEqual(before);
});

test('an event that the outbox has published already is not put back to pending', async () => {
  const eventId = await addEvent(database, randomUUID());
  await republish(eventId);
  await database.query(`update domain_events set status = 'published' where id = $1`, [eventId]);
  expect(await republish(eventId)).toBe(false);
  expect(await inOutbox(eventId)).toMatchObject([{ status: 'published' }]);
});

test('50 concurrent calls insert one row, and one of them says that it did', async () => {
  const eventId = await addEvent(database, randomUUID());
  const clients = await Promise.all(
    Array.from({ length: 50 }, async () => {
      const client = new Client({ connectionString: database.urlAs('counterfoil_jobs') });
      await client.connect();
      return client;
    }),
  );
  const answers = await Promise.all(
    clients.map((client) => client.query('select republish_to_outbox($1) as inserted', [eventId])),
  );
  await Promise.all(clients.map((client) => client.end()));
  expect(answers.filter(({ rows }) => rows[0].inserted === true)).toHaveLength(1);
  expect(answers.filter(({ rows }) => rows[0].inserted === false)).toHaveLength(49);
  expect(await inOutbox(eventId)).toHaveLength(1);
});

test('an unknown event, no id and a type without listener are refused, each with its own code and no content', async () => {
  const contract = await addEvent(database, randomUUID(), { eventName: 'contract.signed.v1' });
  await expect(republish('no such event of mine')).rejects.toMatchObject({
    code: 'P0002',
    message: 'republish_to_outbox: there is no such event in event_backups',
  });
  await expect(republish(null)).rejects.toMatchObject({ code: '22004' });
  await expect(republish(contract)).rejects.toMatchObject({ code: '0A000' });
  expect(await inOutbox(contract)).toEqual([]);
});

test('where the outbox is retired it is refused and says what to run', async () => {
  const retired = await createTestDatabase();
  try {
    await retired.query(sqlFile('republish_to_outbox.sql'));
    const eventId = await addEvent(retired, randomUUID());
    await expect(republish(eventId, retired.url)).rejects.toMatchObject({
      code: '42P01',
      hint: 'Run restore_domain_events.sql first.',
    });
  } finally {
    await retired.drop();
  }
});

test('the jobs may call it and still write no table of the service, and nobody else may call it', async () => {
  const eventId = await addEvent(database, randomUUID());
  await expect(republish(eventId, database.urlAs('counterfoil_exporter'))).rejects.toMatchObject({
    code: '42501',
  });
  for (const statement of [
    `insert into domain_events (event_type, aggregate_id, payload) values ('a', 'b', '{}')`,
    'select 1 from domain_events',
    `update event_backups set status = 'processed'`,
  ]) {
    await expect(onceAs(database.urlAs('counterfoil_jobs'), statement)).rejects.toMatchObject({
      code: '42501',
    });
  }
  expect(await republish(eventId)).toBe(true);
});

test('a search path of the caller, with tables and functions of the same names, changes nothing', async () => {
  await database.query(`
    create schema trap; grant usage on schema trap to counterfoil_jobs;
    create table trap.domain_events (like public.domain_events including all);
    create table trap.event_backups (like public.event_backups);
    create function trap.to_regclass(text) returns regclass language sql as $$ select null::regclass $$;`);
  const eventId = await addEvent(database, randomUUID());
  const client = new Client({ connectionString: database.urlAs('counterfoil_jobs') });
  await client.connect();
  try {
    await client.query('begin; set local search_path = trap, pg_catalog, public');
    const { rows } = await client.query('select public.republish_to_outbox($1) as inserted', [eventId]);
    await client.query('commit');
    expect(rows).toEqual([{ inserted: true }]);
  } finally {
    await client.end();
  }
  expect(await inOutbox(eventId)).toHaveLength(1);
});

test('the file can be run again, and keeps its rights', async () => {
  await database.query(sqlFile('republish_to_outbox.sql'));
  const eventId = await addEvent(database, randomUUID());
  expect(await republish(eventId)).toBe(true);
  await expect(republish(eventId, database.urlAs('counterfoil_exporter'))).rejects.toMatchObject({
    code: '42501',
  });
});
