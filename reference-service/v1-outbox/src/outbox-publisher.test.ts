import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { Pool } from 'pg';
import { pino } from 'pino';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { waitFor } from '../../../test/builders/wait-for.ts';
import type { TestDatabase } from '../../../test/postgres/database.ts';
import { Metrics } from './metrics.js';
import { OutboxPublisher } from './outbox-publisher.js';
import {
  addOutboxRow,
  billCounts,
  createOutboxDatabase,
  isWaiting,
  openTransaction,
  sessionPayload,
  statuses,
} from './testing/outbox-database.js';

let database: TestDatabase;
let pool: Pool;
let lines: string[];
let metrics: Metrics;
beforeEach(async () => {
  database = await createOutboxDatabase();
  // Who waits for a lock longer than a test takes has found a fault.
  pool = new Pool({ connectionString: database.url, options: '-c lock_timeout=5s' });
  pool.on('error', () => undefined);
  lines = [];
  metrics = new Metrics();
});
afterEach(async () => {
  await pool?.end();
  await database?.drop();
});

function publisher(settings: { batchSize?: number; pollMs?: number } = {}): OutboxPublisher {
  const log = pino({ level: 'info' }, { write: (line: string) => void lines.push(line) });
  return new OutboxPublisher(
    pool,
    { podName: 'pod', pollMs: 60_000, batchSize: 100, stuckMs: 60_000, ...settings },
    metrics,
    log,
  );
}

async function sample(name: string): Promise<number | undefined> {
  const text = await metrics.registry.metrics();
  const line = text.split('\n').find((each) => each.startsWith(`${name} `));
  return line === undefined ? undefined : Number(line.slice(name.length + 1));
}

const PROCESSED = 'event_processed_total{event_type="services.session.completed.v1"';

test('bills what is pending, marks it published and counts it; a published row is not billed', async () => {
  const [open, published] = [randomUUID(), randomUUID()];
  const eventId = await addOutboxRow(database, { sessionId: open });
  await addOutboxRow(database, { sessionId: published, status: 'published' });
  expect(await publisher().publishBatch()).toBe(1);
  expect(await billCounts(database, [open, published])).toEqual([1, 0]);
  const [row] = await database.query(
    'select status, attempts, claimed_by, published_at is not null as dated from domain_events where id = $1',
    [eventId],
  );
  expect(row).toEqual({ status: 'published', attempts: 1, claimed_by: null, dated: true });
  const [bill] = await database.query(
    'select amount_minor, currency, mentor_id, idempotency_key from mentor_payable_ledgers',
  );
  expect(bill).toEqual({
    amount_minor: '12500',
    currency: 'EUR',
    mentor_id: 'mentor-1',
    idempotency_key: `session:${open}:1`,
  });
  expect(await sample(`${PROCESSED},status="processed"}`)).toBe(1);
  expect(await sample('event_duration_seconds_count{event_type="services.session.completed.v1"}')).toBe(1);
  expect(lines.join('')).toContain(eventId);
});

test('takes the oldest rows, and never more than a batch', async () => {
  // Its id is the last, so that only its age puts it first.
  const older = 'zzz';
  const id = await addOutboxRow(database, { status: 'processing', claimedMinutesAgo: 10 });
  await database.query('update domain_events set id = $2 where id = $1', [id, older]);
  for (let n = 0; n < 4; n += 1) await addOutboxRow(database);
  expect(await publisher({ batchSize: 2 }).publishBatch()).toBe(2);
  expect(await statuses(database)).toEqual({ pending: 3, published: 2 });
  expect(await database.query('select status from domain_events where id = $1', [older])).toEqual([
    { status: 'published' },
  ]);
});

test('a row whose claim has run out is taken up again, one under a live claim is not', async () => {
  const [stuck, live] = [randomUUID(), randomUUID()];
  await addOutboxRow(database, { sessionId: stuck, status: 'processing', claimedMinutesAgo: 2 });
  await addOutboxRow(database, { sessionId: live, status: 'processing', claimedMinutesAgo: 0 });
  await database.query(
    `update domain_events set available_at = claimed_at + interval '1 minute' where status = 'processing'`,
  );
  await publisher().publishBatch();
  expect(await billCounts(database, [stuck, live])).toEqual([1, 0]);
  expect(await statuses(database)).toEqual({ processing: 1, published: 1 });
});

test('a row that another publisher is claiming at this moment is passed over, not waited for', async () => {
  const [taken, free] = [randomUUID(), randomUUID()];
  const eventId = await addOutboxRow(database, { sessionId: taken });
  await addOutboxRow(database, { sessionId: free });
  const other = await openTransaction(database.url, 'select id from domain_events where id = $1 for update', [
    eventId,
  ]);
  expect(await publisher().publishBatch()).toBe(1);
  expect(await billCounts(database, [taken, free])).toEqual([0, 1]);
  await other.end('rollback');
});

test('two publishers share the rows: neither waits for the other, and each row is claimed once', async () => {
  const ids = Array.from({ length: 60 }, () => randomUUID());
  for (const sessionId of ids) await addOutboxRow(database, { sessionId });
  const counts = await Promise.all(
    Array.from({ length: 6 }, () => publisher({ batchSize: 20 }).publishBatch()),
  );
  expect(counts.reduce((sum, count) => sum + count)).toBe(60);
  expect(await statuses(database)).toEqual({ published: 60 });
  expect(await billCounts(database, ids)).toEqual(ids.map(() => 1));
  const [attempts] = await database.query('select max(attempts) as most from domain_events');
  expect(attempts).toEqual({ most: 1 });
});

test('an event of no known type, and one that is no completed session, fail for a person; the rest is billed', async () => {
  const sessionId = randomUUID();
  await addOutboxRow(database, { type: 'contract.signed.v1' });
  await addOutboxRow(database, { payload: { ...sessionPayload(randomUUID()), amountMinor: 'Ann Planted' } });
  await addOutboxRow(database, { sessionId });
  await publisher().publishBatch();
  expect(await statuses(database)).toEqual({ failed: 2, published: 1 });
  expect(await billCounts(database, [sessionId])).toEqual([1]);
  const errors = await database.query(`select distinct error from domain_events where status = 'failed'`);
  expect(errors).toEqual([{ error: 'UnusableEventError' }]);
  expect(await sample(`${PROCESSED},status="failed"}`)).toBe(2);
  expect(await publisher().publishBatch()).toBe(0);
  expect(lines.join('')).not.toContain('Planted');
});

test('a failure of the database is tried again later, never at once and never given up', async () => {
  const sessionId = randomUUID();
  await addOutboxRow(database, { sessionId });
  await database.query('alter table mentor_payable_ledgers rename to moved');
  await database.query('update domain_events set attempts = 1000');
  expect(await publisher().publishBatch()).toBe(1);
  const [row] = await database.query(
    `select status, error, claimed_by, available_at > now() + interval '9 minutes' as later from domain_events`,
  );
  expect(row).toEqual({ status: 'pending', error: '42P01', claimed_by: null, later: true });
  expect(await publisher().publishBatch()).toBe(0);
  await database.query('alter table moved rename to mentor_payable_ledgers');
  await database.query('update domain_events set available_at = now()');
  await publisher().publishBatch();
  expect(await billCounts(database, [sessionId])).toEqual([1]);
});

test('on a ledger partitioned by date, whose rows have no unique key, it bills nothing rather than twice', async () => {
  const sessionId = randomUUID();
  await addOutboxRow(database, { sessionId });
  await publisher().publishBatch();
  const partition = new URL('../../sql/partitioned-ledger.sql', import.meta.url);
  await database.query(readFileSync(partition, 'utf8'));
  await addOutboxRow(database, { sessionId });
  expect(await publisher().publishBatch()).toBe(1);
  expect(await billCounts(database, [sessionId])).toEqual([1]);
  expect(await statuses(database)).toEqual({ pending: 1, published: 1 });
  const [open] = await database.query(`select error from domain_events where status = 'pending'`);
  expect(open).toEqual({ error: '42P10' });
});

test('who comes late with a mark changes nothing of a row that was taken over', async () => {
  const sessionId = randomUUID();
  await addOutboxRow(database, { sessionId });
  const ledger = await openTransaction(database.url, 'lock table mentor_payable_ledgers in exclusive mode');
  const late = publisher().publishBatch();
  await waitFor('the bill to wait', () => isWaiting(database, 'v1-outbox bill-session'));
  await database.query(`update domain_events set claimed_by = 'the next one'`);
  await ledger.end('rollback');
  await late;
  expect(await database.query('select status, claimed_by from domain_events')).toEqual([
    { status: 'processing', claimed_by: 'the next one' },
  ]);
  expect(await sample(`${PROCESSED},status="outcome_unknown"}`)).toBe(1);
  expect(await billCounts(database, [sessionId])).toEqual([1]);
});

test('a poll publishes all that has gathered, batch by batch, and goes on after a poll that failed', async () => {
  for (let n = 0; n < 7; n += 1) await addOutboxRow(database);
  await database.query('alter table domain_events rename to moved');
  const running = publisher({ batchSize: 3, pollMs: 50 });
  running.start();
  await waitFor('a poll to fail', async () => lines.some((line) => line.includes('Poll failed')));
  await database.query('alter table moved rename to domain_events');
  await waitFor('all to be published', async () => (await statuses(database)).published === 7);
  await running.stop();
  await addOutboxRow(database);
  expect(await statuses(database)).toEqual({ pending: 1, published: 7 });
});

test('stopping ends the batch in work and claims no other', async () => {
  for (let n = 0; n < 4; n += 1) await addOutboxRow(database);
  const ledger = await openTransaction(database.url, 'lock table mentor_payable_ledgers in exclusive mode');
  const running = publisher({ batchSize: 2 });
  running.start();
  await waitFor('the bills to wait', () => isWaiting(database, 'v1-outbox bill-session'));
  const stopped = running.stop();
  await ledger.end('rollback');
  await stopped;
  expect(await statuses(database)).toEqual({ pending: 2, published: 2 });
});
