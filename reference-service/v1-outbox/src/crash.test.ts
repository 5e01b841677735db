import { afterEach, beforeEach, expect, test } from 'vitest';
import { waitFor } from '../../../test/builders/wait-for.ts';
import type { TestDatabase } from '../../../test/postgres/database.ts';
import {
  addOutboxRow,
  billCounts,
  createOutboxDatabase,
  isWaiting,
  openTransaction,
  statuses,
} from './testing/outbox-database.js';
import { type OutboxProcess, startOutbox } from './testing/outbox-process.js';

let database: TestDatabase;
const running: OutboxProcess[] = [];
beforeEach(async () => {
  database = await createOutboxDatabase();
});
afterEach(async () => {
  await Promise.all(running.splice(0).map((each) => each.kill()));
  await database?.drop();
});

async function start(env: Record<string, string> = {}): Promise<OutboxProcess> {
  const started = await startOutbox(database.url, { OUTBOX_STUCK_SECONDS: '1', ...env });
  running.push(started);
  return started;
}

async function completedSessions(service: OutboxProcess, count: number): Promise<string[]> {
  return await Promise.all(
    Array.from({ length: count }, async () => {
      const id = await service.createSession();
      await service.post(`/sessions/${id}/complete`);
      return id;
    }),
  );
}

/** What Postgres still does for a dead process must not decide a test. */
const endItsConnections = () =>
  database.query(
    `select pg_terminate_backend(pid) from pg_stat_activity
     where datname = current_database() and application_name like 'v1-outbox%'`,
  );

const allPublished = (count: number) =>
  waitFor('all to be published', async () => (await statuses(database)).published === count);

test('killed between claim and bill, its rows stay processing and the next process bills each once', async () => {
  const first = await start();
  const ledger = await openTransaction(database.url, 'lock table mentor_payable_ledgers in exclusive mode');
  const ids = await completedSessions(first, 5);
  await waitFor('the claims', async () => (await statuses(database)).processing === 5);
  await waitFor('the bills to wait', () => isWaiting(database, 'v1-outbox bill-session'));
  await first.kill();
  await endItsConnections();
  await ledger.end('rollback');
  expect(await statuses(database)).toEqual({ processing: 5 });
  expect(await billCounts(database, ids)).toEqual([0, 0, 0, 0, 0]);
  await start();
  await allPublished(5);
  expect(await billCounts(database, ids)).toEqual([1, 1, 1, 1, 1]);
});

test('killed between bill and mark, the next process finds each bill and writes no second one', async () => {
  const first = await start({ OUTBOX_STUCK_SECONDS: '60' });
  const ledger = await openTransaction(database.url, 'lock table mentor_payable_ledgers in exclusive mode');
  const ids = await completedSessions(first, 3);
  await waitFor('the claims', async () => (await statuses(database)).processing === 3);
  const rows = await openTransaction(database.url, 'select id from domain_events order by id for update');
  await ledger.end('rollback');
  await waitFor('the mark to wait', () => isWaiting(database, 'v1-outbox mark-events'));
  await first.kill();
  await endItsConnections();
  await rows.end('rollback');
  expect(await statuses(database)).toEqual({ processing: 3 });
  expect(await billCounts(database, ids)).toEqual([1, 1, 1]);
  // Not before its claim has run out.
  const next = await start();
  await completedSessions(next, 1);
  await waitFor('a newer event to be published', async () => (await statuses(database)).published === 1);
  expect(await statuses(database)).toEqual({ processing: 3, published: 1 });
  await database.query('update domain_events set available_at = clock_timestamp()');
  await allPublished(4);
  expect(await billCounts(database, ids)).toEqual([1, 1, 1]);
  expect(next.output().match(/Session is billed already/g)).toHaveLength(3);
});

test('killed again and again in the middle of publishing, it bills every session and none twice', async () => {
  const ids = Array.from({ length: 400 }, () => crypto.randomUUID());
  for (const sessionId of ids) await addOutboxRow(database, { sessionId });
  let killsInWork = 0;
  for (let published = 0; published < 300; ) {
    const service = await start({ OUTBOX_BATCH_SIZE: '20', POOL_SIZE: '2' });
    const enough = published + 20;
    await waitFor('some to be published', async () => ((await statuses(database)).published ?? 0) >= enough);
    await service.kill();
    await endItsConnections();
    const now = await statuses(database);
    published = now.published ?? 0;
    if ((now.processing ?? 0) > 0) killsInWork += 1;
  }
  await start();
  await allPublished(400);
  // Else the kills prove nothing.
  expect(killsInWork).toBeGreaterThan(0);
  expect(new Set(await billCounts(database, ids))).toEqual(new Set([1]));
});
