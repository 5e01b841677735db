/** What may run at the same moment in several exporters, with the exporter's own role. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { openDatabase } from '../../test/builders/open-database.ts';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';
import type { Database } from '../runtime/database.ts';
import { noteAbort, readEventsForm, readProgress, requestRepair } from './abort-queries.ts';

let server: TestDatabase;
let databases: Database[];
beforeAll(async () => {
  server = await createTestDatabase();
  databases = Array.from({ length: 8 }, () =>
    openDatabase(server.urlAs('counterfoil_exporter'), { lockTimeoutMs: 10_000 }),
  );
});
afterAll(async () => {
  await Promise.all(databases.map(async (one) => await one.close()));
  await server.drop();
});

const noted = (hash: string) => ({
  abort: { namespace: 'shop', rollout: 'shop', hash, at: '2026-11-27T10:00:00.000Z' },
  from: '2026-11-27T09:00:00.000Z',
});
const first = () => {
  const [database] = databases;
  if (database === undefined) throw new Error('no database');
  return database;
};

it('eight exporters at the same moment write one request and one row of the audit for each of many aborts', async () => {
  for (let time = 0; time < 20; time += 1) {
    const one = noted(`hash-${time}`);
    const notes = await Promise.all(
      databases.map(async (database) => await noteAbort(database, 'race', one)),
    );
    const request = { kind: 'replay', noted: one, to: undefined, byHash: true } as const;
    const asked = await Promise.all(
      databases.map(async (database) => await requestRepair(database, 'race', request)),
    );
    expect([notes.filter(Boolean).length, asked.filter(Boolean).length]).toEqual([1, 1]);
  }
  const [counted] = await server.query(
    `SELECT (SELECT count(*) FROM counterfoil.requests)::integer AS requests,
            (SELECT count(*) FROM counterfoil.audit)::integer AS audited`,
  );
  expect(counted).toEqual({ requests: 20, audited: 40 });
});

it('a request of a person for the same version is another one', async () => {
  const one = noted('by-hand');
  await server.query(
    `INSERT INTO counterfoil.requests (kind, scope, reason)
     VALUES ('replay', '{"from": "2026-11-27T09:00:00Z", "to": "2026-11-27T10:00:00Z", "published_hash": "by-hand"}', 'x')`,
  );
  expect((await readProgress(first(), 'race', one)).replay).toBeUndefined();
  expect(
    await requestRepair(first(), 'race', { kind: 'replay', noted: one, to: undefined, byHash: true }),
  ).toBe(true);
  expect((await readProgress(first(), 'race', one)).replay?.status).toBe('open');
});

it('a range that would end before it begins lasts a second: a clock was wrong, and the request must be understood', async () => {
  const one = { ...noted('clock'), from: '2199-01-01T00:00:00.000Z' };
  await requestRepair(first(), 'race', { kind: 'verify', noted: one, to: undefined, byHash: true });
  const [row] = await server.query<{ scope: { from: string; to: string } }>(
    `SELECT scope FROM counterfoil.requests WHERE scope -> 'abort' ->> 'hash' = 'clock'`,
  );
  expect(row?.scope).toMatchObject({
    from: '2199-01-01T00:00:00.000000Z',
    to: '2199-01-01T00:00:01.000000Z',
  });
});

it('the table of events is found by its name, schema and case included, and what it lacks is seen', async () => {
  await server.query('CREATE SCHEMA "Shop"');
  await server.query('CREATE TABLE "Shop"."Events" (event_id text, published_hash text)');
  await server.query('CREATE TABLE "Shop".plain (event_id text)');
  // Not for us to see is not the same as not there.
  await expect(readEventsForm(first(), 'Shop.Events')).rejects.toMatchObject({ id: 'grant_missing' });
  await server.query('GRANT USAGE ON SCHEMA "Shop" TO counterfoil_exporter');
  expect(await readEventsForm(first(), 'Shop.Events')).toEqual({ hasHash: true });
  expect(await readEventsForm(first(), 'Shop.plain')).toEqual({ hasHash: false });
  expect(await readEventsForm(first(), 'shop.events')).toBeUndefined();
  expect(await readEventsForm(first(), 'event_backups')).toBeDefined();
});
