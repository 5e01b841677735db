import { setTimeout as delay } from 'node:timers/promises';
import { Injectable } from '@nestjs/common';
import { Pool } from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';
import { NO_METRICS } from './metrics.js';
import { type BackedDelivery, OnBackedEvent } from './on-backed-event.js';
import type { CounterfoilOptions } from './options.js';
import { pgDriver } from './pg-driver.js';
import { deliveryRows, isProcessed, storePending } from './testing/stored-events.js';
import { EVENT, eventually, gate, startTrial, type Trial } from './testing/trial-app.js';

/** Longer than a claim takes on a busy machine, short enough to be waited for. */
const LEASE_MS = 1_000;

let runs: { eventId: string; attempt: number }[];
let hold: (eventId: string) => Promise<void> | undefined;

@Injectable()
class Listeners {
  @OnBackedEvent(EVENT, { orderBy: 'sessionId' })
  async bill(_payload: unknown, { eventId, attempt }: BackedDelivery): Promise<void> {
    runs.push({ eventId, attempt });
    await hold(eventId);
  }
}

let database: TestDatabase;
const trials: Trial[] = [];
beforeAll(async () => {
  database = await createTestDatabase();
});
afterAll(async () => {
  await database?.drop();
});
beforeEach(() => {
  runs = [];
  hold = () => undefined;
});
afterEach(async () => {
  for (const trial of trials.splice(0)) {
    await trial.stop();
    trial.log.lines = [];
  }
});

async function start(options: Partial<CounterfoilOptions> = {}): Promise<Trial> {
  const trial = await startTrial(database.url, [Listeners], { listenerLeaseMs: LEASE_MS, ...options });
  trials.push(trial);
  return trial;
}

const refusedToStart = (trial: Trial, eventId: string) =>
  eventually('a line about it', () =>
    trial.log.lines.some((line) => line.includes('its lease has run out') && line.includes(eventId)),
  );

test('a commit that takes longer than the lease starts no listener; a replay does, once', async () => {
  await database.query(`create function slow_commit() returns trigger language plpgsql as $$
    begin perform pg_sleep(${(LEASE_MS + 300) / 1_000}); return null; end $$`);
  await database.query(`create constraint trigger slow_commit after insert on event_backups
    deferrable initially deferred for each row when (new.payload ? 'slow') execute function slow_commit()`);
  const left: string[] = [];
  const trial = await start({
    metrics: { ...NO_METRICS, leftPending: (_eventType, reason) => void left.push(reason) },
  });
  const eventId = await trial.publish({ slow: true });
  await refusedToStart(trial, eventId);
  expect(runs).toEqual([]);
  await eventually('an empty process', () => trial.deliveries.inFlight === 0);
  expect(left).toEqual(['claim_failed']);
  expect((await trial.replay([eventId])).body.results).toEqual([{ eventId, outcome: 'processed' }]);
  expect(runs).toEqual([{ eventId, attempt: 2 }]);
});

test('a claim whose answer comes later than the lease starts no listener beside that of another process', async () => {
  const pool = new Pool({ connectionString: database.url, max: 5 });
  const inner = pgDriver(pool);
  // As through a network that stands still: the server has long done it when the answer arrives.
  const answered = gate();
  const late = await start({
    driver: {
      transaction: (work) => inner.transaction(work),
      async run(sql, params) {
        const answer = await inner.run(sql, params);
        if (sql.includes('claim-listeners')) await answered.opened;
        return answer;
      },
    },
  });
  const other = await start();
  try {
    const eventId = 'late-claim';
    await storePending(database, eventId, EVENT, {});
    const asked = late.replay([eventId]);
    await eventually('the claim', async () => (await deliveryRows(database, eventId)).length > 0);
    const slow = gate();
    hold = () => slow.opened;
    const elsewhere = eventually('the lease to run out', async () => {
      const { body } = await other.replay([eventId], { deadlineMs: 500 });
      return body.results[0]?.error === 'deadline';
    });
    await elsewhere;
    expect(runs).toEqual([{ eventId, attempt: 2 }]);
    answered.open();
    expect((await asked).body.results).toEqual([
      { eventId, outcome: 'in_flight', retryable: true, error: 'lease_ran_out' },
    ]);
    slow.open();
    await eventually('processed', () => isProcessed(database, eventId));
    expect(runs).toHaveLength(1);
  } finally {
    answered.open();
    await late.stop();
    trials.shift();
    await pool.end();
  }
});

test('a listener whose lease was taken over while it waited for its turn is not started beside the other', async () => {
  const trial = await start();
  const first = gate();
  hold = () => first.opened;
  const running = await trial.publish({ sessionId: 's' });
  await eventually('the first run', () => runs.length === 1);
  const waiting = await trial.publish({ sessionId: 's' });
  await eventually('its claim', async () => (await deliveryRows(database, waiting)).length > 0);
  await database.query(
    `update event_deliveries set lease_owner = 'another pod', lease_until = clock_timestamp() + interval '1 minute'
     where event_id = $1`,
    [waiting],
  );
  // Renewals go on meanwhile, of the first and not of what belongs to somebody else.
  await delay(LEASE_MS * 1.5);
  first.open();
  await eventually('processed', () => isProcessed(database, running));
  await refusedToStart(trial, waiting);
  expect(runs.map(({ eventId }) => eventId)).toEqual([running]);
  expect(await deliveryRows(database, waiting)).toMatchObject([{ status: 'running', attempts: 1 }]);
});

test('a listener that waits for its turn keeps its lease and is started, however long that takes', async () => {
  const trial = await start();
  const first = gate();
  // Opened for good when the first one has ended.
  hold = () => first.opened;
  const running = await trial.publish({ sessionId: 's' });
  await eventually('the first run', () => runs.length === 1);
  const waiting = await trial.publish({ sessionId: 's' });
  await delay(LEASE_MS * 1.5);
  expect(runs).toHaveLength(1);
  first.open();
  await eventually('processed', () => isProcessed(database, waiting));
  expect(runs).toEqual([
    { eventId: running, attempt: 1 },
    { eventId: waiting, attempt: 1 },
  ]);
});
