import { Injectable } from '@nestjs/common';
import { Pool } from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';
import type { CounterfoilDriver } from './driver.js';
import { OnBackedEvent } from './on-backed-event.js';
import type { CounterfoilOptions } from './options.js';
import { pgDriver } from './pg-driver.js';
import { deliveryRows, eventRow, expireLeases, isProcessed, storePending } from './testing/stored-events.js';
import { EVENT, eventually, type Gate, gate, startTrial, type Trial } from './testing/trial-app.js';

/** What the listeners of this file do; set by each test. */
let bill: () => Promise<void> | void;
let notify: () => Promise<void> | void;
let seen: (payload: unknown) => void;

@Injectable()
class Listeners {
  @OnBackedEvent(EVENT)
  async bill(payload: unknown): Promise<void> {
    seen(payload);
    await bill();
  }
  @OnBackedEvent(EVENT)
  notify(): Promise<void> | void {
    return notify();
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
  bill = () => undefined;
  notify = () => undefined;
  seen = () => undefined;
});
afterEach(async () => {
  for (const trial of trials.splice(0)) {
    await trial.stop();
    trial.log.lines = [];
  }
});

async function start(options: Partial<CounterfoilOptions> = {}): Promise<Trial> {
  const trial = await startTrial(database.url, [Listeners], options);
  trials.push(trial);
  return trial;
}

const bothRecorded = async (eventId: string): Promise<boolean> => {
  const rows = await deliveryRows(database, eventId);
  return rows.length === 2 && rows.every(({ status }) => status !== 'running');
};

const leaseUntil = async (eventId: string): Promise<number | undefined> => {
  const [row] = await database.query<{ ms: string | null }>(
    `select extract(epoch from max(lease_until)) * 1000 as ms from event_deliveries where event_id = $1`,
    [eventId],
  );
  return row?.ms ? Number(row.ms) : undefined;
};

test('a listener that fails leaves the event pending, its sibling succeeds, and a replay runs only the failed one', async () => {
  const trial = await start();
  let bills = 0;
  let notices = 0;
  bill = () => {
    bills += 1;
    if (bills === 1) throw Object.assign(new TypeError('card of Ada refused'), { code: 'CARD_REFUSED' });
  };
  notify = () => {
    notices += 1;
  };
  const eventId = await trial.publish();
  await eventually('both recorded', () => bothRecorded(eventId));
  expect(await eventRow(database, eventId)).toEqual({ status: 'pending', processed: false });
  expect(await deliveryRows(database, eventId)).toEqual([
    { listener: 'bill', status: 'failed', attempts: 1, error: 'CARD_REFUSED' },
    { listener: 'notify', status: 'succeeded', attempts: 1, error: null },
  ]);

  const { body } = await trial.replay([eventId]);
  expect(body.results).toEqual([{ eventId, outcome: 'processed' }]);
  expect([bills, notices]).toEqual([2, 1]);
  expect(await eventRow(database, eventId)).toEqual({ status: 'processed', processed: true });
  expect(await deliveryRows(database, eventId)).toEqual([
    { listener: 'bill', status: 'succeeded', attempts: 2, error: null },
    { listener: 'notify', status: 'succeeded', attempts: 1, error: null },
  ]);
  expect(trial.log.lines.join('\n')).not.toContain('Ada');
});

test('a listener that throws at once does not keep its sibling from running', async () => {
  const trial = await start();
  notify = () => {
    throw new Error('at once');
  };
  const eventId = await trial.publish();
  await eventually('both recorded', () => bothRecorded(eventId));
  expect((await deliveryRows(database, eventId)).map(({ status }) => status)).toEqual([
    'succeeded',
    'failed',
  ]);
});

test('a fast listener is recorded while its slow sibling still runs', async () => {
  const trial = await start();
  const slow = gate();
  bill = () => slow.opened;
  const eventId = await trial.publish();
  await eventually('notify recorded', async () =>
    (await deliveryRows(database, eventId)).some(({ status }) => status === 'succeeded'),
  );
  expect(await eventRow(database, eventId)).toEqual({ status: 'pending', processed: false });
  slow.open();
  await eventually('processed', () => isProcessed(database, eventId));
});

test('the lease is renewed while a listener runs, so that another process leaves it alone', async () => {
  const trial = await start({ listenerLeaseMs: 900 });
  const other = await start({ listenerLeaseMs: 900 });
  const slow = gate();
  bill = () => slow.opened;
  const eventId = await trial.publish();
  const first = await eventually('a lease', () => leaseUntil(eventId));
  await eventually(
    'a lease past its first end',
    async () => ((await leaseUntil(eventId)) ?? 0) > first + 900,
  );
  expect((await other.replay([eventId])).body.results).toEqual([
    { eventId, outcome: 'in_flight', retryable: true },
  ]);
  slow.open();
  await eventually('processed', () => isProcessed(database, eventId));
  expect(await deliveryRows(database, eventId)).toMatchObject([{ attempts: 1 }, { attempts: 1 }]);
});

test('a listener whose lease ran out is taken over, and its late outcome does not overwrite the new one', async () => {
  const first = await start();
  const gates: Gate[] = [gate(), gate()];
  let runs = 0;
  bill = () => gates[runs++]?.opened;
  const eventId = await first.publish();
  await eventually('the first run', () => runs === 1);
  await eventually('notify recorded', async () =>
    (await deliveryRows(database, eventId)).some(({ status }) => status === 'succeeded'),
  );
  await expireLeases(database, eventId);

  const second = await start();
  const answer = second.replay([eventId]);
  await eventually('the second run', () => runs === 2);
  gates[0]?.open();
  await eventually('the late outcome', () =>
    first.log.lines.some((line) => line.includes('the lease was taken over')),
  );
  expect(await deliveryRows(database, eventId)).toMatchObject([
    { listener: 'bill', status: 'running', attempts: 2 },
    {},
  ]);
  gates[1]?.open();
  expect((await answer).body.results).toEqual([{ eventId, outcome: 'processed' }]);
});

test('a listener past its deadline loses its lease, and the event can be replayed in the same process', async () => {
  const trial = await start({ listenerLeaseMs: 1_000, listenerDeadlineMs: 400 });
  const hung = gate();
  let runs = 0;
  bill = () => {
    runs += 1;
    return runs === 1 ? hung.opened : undefined;
  };
  const eventId = await trial.publish();
  await eventually('given up', () => trial.log.lines.some((line) => line.includes('past its deadline')));
  await eventually(
    'replayed',
    async () => (await trial.replay([eventId])).body.results[0]?.outcome === 'processed',
  );
  hung.open();
});

test('beyond the bound on work in flight events stay pending, and a replay waits for room', async () => {
  const trial = await start({ maxInFlight: 1, maxWaiting: 0 });
  const slow = gate();
  let runs = 0;
  bill = () => {
    runs += 1;
    return slow.opened;
  };
  const first = await trial.publish();
  await eventually('the first run', () => runs === 1);
  const second = await trial.publish();
  await eventually('a line about it', () =>
    trial.log.lines.some((line) => line.includes('No room for more events')),
  );
  expect(await deliveryRows(database, second)).toEqual([]);

  expect((await trial.replay([second], { deadlineMs: 200 })).body.results).toEqual([
    { eventId: second, outcome: 'in_flight', retryable: true, error: 'at_capacity' },
  ]);
  const answer = trial.replay([second]);
  slow.open();
  expect((await answer).body.results).toEqual([{ eventId: second, outcome: 'processed' }]);
  expect(await isProcessed(database, first)).toBe(true);
});

test('a burst waits for room in its order, up to the bounds on waiting, and the rest stays pending', async () => {
  const trial = await start({ maxInFlight: 1, maxWaiting: 3, maxWaitingLength: 40 });
  const slow = gate();
  const run: unknown[] = [];
  bill = () => slow.opened;
  seen = (payload) => run.push((payload as { n: number }).n);
  const ids = [await trial.publish({ n: 0 })];
  await eventually('the first run', () => run.length === 1);
  for (const payload of [{ n: 1 }, { n: 2, note: 'longer than is left' }, { n: 3 }, { n: 4 }, { n: 5 }]) {
    ids.push(await trial.publish(payload));
  }
  expect([trial.deliveries.inFlight, trial.deliveries.waiting]).toEqual([1, 3]);
  slow.open();
  const [, , tooLong = '', , , tooMany = ''] = ids;
  await eventually('all that waited', () => trial.deliveries.inFlight === 0);
  expect(run).toEqual([0, 1, 3, 4]);
  for (const left of [tooLong, tooMany]) {
    expect(await eventRow(database, left)).toEqual({ status: 'pending', processed: false });
    expect(await deliveryRows(database, left)).toEqual([]);
  }
  expect((await trial.replay([tooLong, tooMany])).body.results.map(({ outcome }) => outcome)).toEqual([
    'processed',
    'processed',
  ]);
});

test('what only waits when shutdown ends is not started, and is logged with what was in work', async () => {
  const trial = await start({ maxInFlight: 1, drainDeadlineMs: 50 });
  const slow = gate();
  let runs = 0;
  bill = () => {
    runs += 1;
    return slow.opened;
  };
  await trial.publish();
  await eventually('the run', () => runs === 1);
  const waiting = await trial.publish();
  await trial.deliveries.drain();
  expect(trial.log.lines.find((line) => line.includes('Stopping with events in work'))).toContain(waiting);
  slow.open();
  await eventually('the end of the run', () => trial.deliveries.inFlight === 0);
  expect(runs).toBe(1);
  expect(await deliveryRows(database, waiting)).toEqual([]);
});

test('shutdown waits for the listeners in work, and starts no replay meanwhile', async () => {
  const trial = await start();
  const slow = gate();
  let runs = 0;
  bill = () => {
    runs += 1;
    return slow.opened;
  };
  const eventId = await trial.publish();
  await eventually('the run', () => runs === 1);
  const drained = trial.deliveries.drain();
  expect(await trial.replay([eventId])).toMatchObject({ status: 503, outcome: 'not-started' });
  slow.open();
  await drained;
  expect(await isProcessed(database, eventId)).toBe(true);
  expect(trial.log.lines.join('\n')).toContain('Every event in work is done');

  const late = await trial.publish();
  expect(await deliveryRows(database, late)).toEqual([]);
  expect(await eventRow(database, late)).toEqual({ status: 'pending', processed: false });
});

test('shutdown ends at its deadline and logs the ids that are left', async () => {
  const trial = await start({ drainDeadlineMs: 50 });
  const slow = gate();
  let runs = 0;
  bill = () => {
    runs += 1;
    return slow.opened;
  };
  const eventId = await trial.publish();
  await eventually('the run', () => runs === 1);
  await trial.deliveries.drain();
  const line = trial.log.lines.find((entry) => entry.includes('Stopping with events in work'));
  expect(line).toContain(eventId);
  expect(line).toContain('bill');
  slow.open();
  await eventually('the late outcome', () => isProcessed(database, eventId));
});

test('an outcome that the database did not take is written again, and the listener runs once', async () => {
  const pool = new Pool({ connectionString: database.url, max: 5 });
  const inner = pgDriver(pool);
  let refusals = 0;
  const driver: CounterfoilDriver = {
    transaction: (work) => inner.transaction(work),
    // The statement reaches the server on a connection that the server then cuts: a real error of a real client.
    async run(text, params) {
      if (text.includes('mark-listeners') && refusals === 0) {
        refusals += 1;
        return await inner.run('select pg_terminate_backend(pg_backend_pid())', []);
      }
      return await inner.run(text, params);
    },
  };
  const trial = await start({ driver });
  let runs = 0;
  bill = () => {
    runs += 1;
  };
  try {
    const eventId = await trial.publish();
    await eventually('processed', () => isProcessed(database, eventId));
    expect(runs).toBe(1);
    expect(trial.log.lines.some((line) => line.includes('Outcome could not be written'))).toBe(true);
  } finally {
    await trial.stop();
    trials.pop();
    await pool.end();
  }
});

describe('an outcome that the database never takes', () => {
  /** A driver on which every mark is cut by the server. */
  const unmarkable = () => {
    const pool = new Pool({ connectionString: database.url, max: 5 });
    const inner = pgDriver(pool);
    const driver: CounterfoilDriver = {
      transaction: (work) => inner.transaction(work),
      run: (text, params) =>
        text.includes('mark-listeners')
          ? inner.run('select pg_terminate_backend(pg_backend_pid())', [])
          : inner.run(text, params),
    };
    return { pool, driver };
  };
  const failsToMark = (trial: Trial) =>
    eventually('a failed mark', () => trial.log.lines.some((line) => line.includes('could not be written')));
  const givenUp = (trial: Trial) => trial.log.lines.some((line) => line.includes('Outcome given up'));

  test('is given up when the lease has run out, not before, and a replay runs the listener again', async () => {
    const { pool, driver } = unmarkable();
    const trial = await start({ driver, listenerLeaseMs: 1_500, maxInFlight: 1 });
    const other = await start();
    try {
      const eventId = await trial.publish();
      await failsToMark(trial);
      expect((await other.replay([eventId])).body.results).toMatchObject([{ outcome: 'in_flight' }]);
      expect(givenUp(trial)).toBe(false);
      await eventually('given up', () => givenUp(trial));
      expect((await other.replay([eventId])).body.results).toEqual([{ eventId, outcome: 'processed' }]);
    } finally {
      await trial.stop();
      trials.shift();
      await pool.end();
    }
  });

  test('holds up no shutdown beyond its deadline', async () => {
    const { pool, driver } = unmarkable();
    const trial = await start({ driver, listenerLeaseMs: 60_000, drainDeadlineMs: 300 });
    try {
      await trial.publish();
      await failsToMark(trial);
      const startedAt = performance.now();
      await trial.deliveries.drain();
      expect(performance.now() - startedAt).toBeLessThan(2_000);
      expect(trial.log.lines.some((line) => line.includes('Stopping with events in work'))).toBe(true);
      await eventually('given up', () => givenUp(trial));
    } finally {
      await trial.stop();
      trials.pop();
      await pool.end();
    }
  });
});

test('a running listener never has less than two thirds of its lease left', async () => {
  const trial = await start({ listenerLeaseMs: 8_000 });
  const slow = gate();
  bill = () => slow.opened;
  const eventId = await trial.publish();
  let least = 8_000;
  for (const endsAt = performance.now() + 3_500; performance.now() < endsAt; ) {
    const [row] = await database.query<{ ms: string }>(
      `select extract(epoch from min(lease_until) - clock_timestamp()) * 1000 as ms
       from event_deliveries where event_id = $1 and status = 'running'`,
      [eventId],
    );
    if (row?.ms) least = Math.min(least, Number(row.ms));
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  slow.open();
  await eventually('processed', () => isProcessed(database, eventId));
  expect(least).toBeGreaterThan((8_000 * 2) / 3);
});

test('an event that cannot be claimed stays pending until a replay', async () => {
  const pool = new Pool({ connectionString: database.url, max: 5 });
  const inner = pgDriver(pool);
  let cut = true;
  const driver: CounterfoilDriver = {
    transaction: (work) => inner.transaction(work),
    run: (text, params) =>
      cut && text.includes('claim-listeners')
        ? inner.run('select pg_terminate_backend(pg_backend_pid())', [])
        : inner.run(text, params),
  };
  const trial = await start({ driver });
  try {
    // Claimed after the commit, since a statement follows it in its transaction.
    const eventId = await trial.publisher.transaction(async (tx) => {
      const id = await trial.publisher.publish(tx, { name: EVENT, payload: {} });
      await tx.run('select 1', []);
      return id;
    });
    await eventually('a line about it', () =>
      trial.log.lines.some((line) => line.includes('could not be claimed')),
    );
    expect((await trial.replay([eventId])).body.results).toEqual([
      { eventId, outcome: 'in_flight', retryable: true, error: '57P01' },
    ]);
    cut = false;
    expect((await trial.replay([eventId])).body.results).toEqual([{ eventId, outcome: 'processed' }]);
  } finally {
    await trial.stop();
    trials.pop();
    await pool.end();
  }
});

test('the last two listeners recorded at the same moment by two processes still close the event', async () => {
  const trial = await start();
  await storePending(database, 'two-at-once', EVENT);
  await database.query(
    `insert into event_deliveries (event_id, listener, status, attempts)
     values ('two-at-once', 'bill', 'succeeded', 1), ('two-at-once', 'notify', 'succeeded', 1)`,
  );
  expect((await trial.replay(['two-at-once'])).body.results).toEqual([
    { eventId: 'two-at-once', outcome: 'already_processed' },
  ]);
  expect(await eventRow(database, 'two-at-once')).toEqual({ status: 'processed', processed: true });
});

test('connections that the server ends do not end the process, and the next event goes through', async () => {
  const trial = await start();
  const before = await trial.publish();
  await eventually('processed', () => isProcessed(database, before));
  await database.query(
    `select pg_terminate_backend(pid) from pg_stat_activity
     where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'`,
  );
  await eventually('a line about it', () =>
    trial.log.lines.some((line) => line.includes('connection was lost')),
  );
  const eventId = await eventually('a new connection', () => trial.publish().catch(() => undefined));
  await eventually('processed', () => isProcessed(database, eventId));
});
