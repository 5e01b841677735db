import { afterEach, beforeEach, expect, test } from 'vitest';
import { waitFor } from '../../../test/builders/wait-for.ts';
import type { TestDatabase } from '../../../test/postgres/database.ts';
import { bills, events } from '../../src/testing/business-rows.js';
import { type ServiceProcess, startService } from '../../src/testing/service-process.js';
import { billCounts, createOutboxDatabase, runFile, sqlFile, statuses } from './testing/outbox-database.js';
import { type OutboxProcess, startOutbox } from './testing/outbox-process.js';

let database: TestDatabase;
let outbox: OutboxProcess;
let successor: ServiceProcess;
beforeEach(async () => {
  database = await createOutboxDatabase();
  await database.query(sqlFile('republish_to_outbox.sql'));
  [outbox, successor] = await Promise.all([startOutbox(database.url), startService(database.url)]);
});
afterEach(async () => {
  await Promise.all([outbox?.kill(), successor?.stop()]);
  await database?.drop();
});

test('both versions complete the same sessions at once: one event and one bill each, whoever was first', async () => {
  const ids = await Promise.all(
    Array.from({ length: 100 }, (_, n) => (n % 2 === 0 ? outbox : successor).createSession()),
  );
  // One tenth reaches each version alone at first, so that both complete some; the others reach both at once.
  for (const [service, share] of [
    [outbox, ids.slice(0, 10)],
    [successor, ids.slice(10, 20)],
  ] as const)
    for (const id of share) await service.post(`/sessions/${id}/complete`);
  const answers = await Promise.all(
    ids.flatMap((id) => [outbox, successor].map((service) => service.post(`/sessions/${id}/complete`))),
  );
  expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([200]));
  await waitFor('every session to be billed', async () =>
    (await billCounts(database, ids)).every((count) => count > 0),
  );
  await waitFor('the outbox to be empty', async () => !('pending' in (await statuses(database))));
  expect(await billCounts(database, ids)).toEqual(ids.map(() => 1));
  const [written] = await database.query<{ outbox: number; backups: number }>(
    `select (select count(*)::integer from domain_events) as outbox,
       (select count(*)::integer from event_backups where payload ->> 'sessionId' = any($1::text[])) as backups`,
    [ids],
  );
  expect((written?.outbox ?? 0) + (written?.backups ?? 0)).toBe(100);
  expect(Math.min(written?.outbox ?? 0, written?.backups ?? 0)).toBeGreaterThan(0);
});

test('an event that the successor lost is handed to the outbox and billed once, also when both deliver it', async () => {
  await successor.arm('lose');
  const id = await successor.createSession();
  await successor.post(`/sessions/${id}/complete`);
  const [event] = await events(database, id);
  expect(event?.status).toBe('pending');
  expect(await bills(database, id)).toEqual([]);
  const answer = await database.query('select republish_to_outbox($1) as inserted', [event?.id]);
  expect(answer).toEqual([{ inserted: true }]);
  await waitFor('the bill', async () => (await bills(database, id)).length > 0);
  await waitFor('published', async () => (await statuses(database)).published === 1);
  const [bill] = await bills(database, id);
  expect(bill).toMatchObject({ amount: '12500', currency: 'EUR', key: `session:${id}:1` });
  // Only the replay of the successor closes its own row, and it finds the bill.
  expect((await events(database, id))[0]?.status).toBe('pending');
  const replay = await successor.admin('/admin/events/replay', { eventIds: [event?.id] });
  expect(replay.status).toBe(200);
  expect((await events(database, id))[0]?.status).toBe('processed');
  expect(await bills(database, id)).toEqual([bill]);
});

test('after a rollback to it the predecessor works on, on a restored outbox', async () => {
  const before = await outbox.createSession();
  await outbox.post(`/sessions/${before}/complete`);
  await waitFor('published', async () => (await statuses(database)).published === 1);
  await runFile(database.url, 'retire_domain_events.sql');
  const id = await outbox.createSession();
  expect((await outbox.post(`/sessions/${id}/complete`)).status).toBe(500);
  await runFile(database.url, 'restore_domain_events.sql');
  expect((await outbox.post(`/sessions/${id}/complete`)).status).toBe(200);
  await waitFor('both to be billed', async () =>
    (await billCounts(database, [before, id])).every((n) => n === 1),
  );
});
