import { Injectable } from '@nestjs/common';
import { Pool } from 'pg';
import { Registry } from 'prom-client';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';
import { type BackedDelivery, OnBackedEvent } from './on-backed-event.js';
import type { CounterfoilOptions } from './options.js';
import { pgDriver } from './pg-driver.js';
import { promClientMetrics } from './prom-client-metrics.js';
import { isProcessed, storePending } from './testing/stored-events.js';
import { EVENT, eventually, gate, startTrial, type Trial } from './testing/trial-app.js';

/** Stands for personal data: it must appear in no metric. */
const CANARY = 'hedy.lamarr@example.org';
const NOBODY = 'contract.signed.v1';

let bill: (delivery: BackedDelivery) => Promise<void> | void;
let mail: () => Promise<void> | void;

@Injectable()
class Billing {
  @OnBackedEvent(EVENT)
  async bill(_payload: unknown, delivery: BackedDelivery): Promise<void> {
    await bill(delivery);
  }
}
@Injectable()
class Mailing {
  @OnBackedEvent(EVENT)
  async mail(): Promise<void> {
    await mail();
  }
}

let database: TestDatabase;
beforeAll(async () => {
  database = await createTestDatabase();
});
afterAll(async () => {
  await database?.drop();
});
beforeEach(() => {
  bill = () => undefined;
  mail = () => undefined;
});

/** A service with metrics of its own. */
interface Counted {
  trial: Trial;
  /** What is not 0, without the durations' buckets. */
  counts(): Promise<Record<string, number>>;
  text(): Promise<string>;
}

async function start(options: Partial<CounterfoilOptions> = {}): Promise<Counted> {
  const registry = new Registry();
  const metrics = promClientMetrics(registry);
  const trial = await startTrial(database.url, [Billing, Mailing], { metrics, ...options });
  return {
    trial,
    text: () => registry.metrics(),
    async counts() {
      const lines = (await registry.metrics()).split('\n').filter((line) => /^[a-z].* [^0]/.test(line));
      return Object.fromEntries(
        lines
          .filter((line) => !/_bucket|_sum|_info|_limit|_in_flight|_waiting/.test(line))
          .map((line) => [
            line
              .slice(0, line.lastIndexOf(' '))
              .replaceAll(`event_type="${EVENT}",`, '')
              .replace(`{event_type="${EVENT}"}`, ''),
            Number(line.split(' ').at(-1)),
          ]),
      );
    },
  };
}

const COMMITTED = 'event_published_total{status="committed"}';
const PROCESSED = 'event_processed_total{status="processed"}';
const leftPending = (reason: string): string => `counterfoil_event_left_pending_total{reason="${reason}"}`;
const ran = (listener: string, outcome: string): string =>
  `counterfoil_listener_runs_total{listener="${listener}",outcome="${outcome}"}`;

test('an event that is processed counts once on each way, with its duration', async () => {
  const { trial, counts } = await start();
  try {
    const eventId = await trial.publish({ email: CANARY });
    await eventually('processed', () => isProcessed(database, eventId));
    await eventually('idle', () => trial.deliveries.inFlight === 0);
    expect(await counts()).toEqual({
      [COMMITTED]: 1,
      [PROCESSED]: 1,
      event_duration_seconds_count: 1,
      [ran('bill', 'succeeded')]: 1,
      [ran('mail', 'succeeded')]: 1,
    });
  } finally {
    await trial.stop();
  }
});

test('a transaction that is rolled back counts nowhere, and leaves no gauge up', async () => {
  const { trial, counts, text } = await start();
  try {
    const work = trial.publisher.transaction(async (tx) => {
      await trial.publisher.publish(tx, { name: EVENT, payload: {} });
      throw new Error('changed my mind');
    });
    await expect(work).rejects.toThrow('changed my mind');
    expect(await counts()).toEqual({});
    expect(await text()).toContain('\ncounterfoil_events_in_flight 0');
  } finally {
    await trial.stop();
  }
});

test('what is refused, and what the database refuses, counts as publish errors', async () => {
  const { trial, counts } = await start();
  try {
    await expect(trial.publish(`${CANARY}\u0000`)).rejects.toThrow();
    await expect(trial.publish({}, 'No Name')).rejects.toThrow();
    await storePending(database, 'taken', EVENT, {});
    const taken = trial.publisher.transaction((tx) =>
      trial.publisher.publish(tx, { name: EVENT, payload: {}, eventId: 'taken' }),
    );
    await expect(taken).rejects.toMatchObject({ code: '23505' });
    expect(await counts()).toEqual({
      'event_published_total{status="refused"}': 1,
      'event_published_total{event_type="undeclared",status="refused"}': 1,
      'event_published_total{status="failed"}': 1,
      event_publish_error_total: 3,
    });
  } finally {
    await trial.stop();
  }
});

test('a failing listener leaves its event pending once; the replay that mends it counts as processed', async () => {
  const { trial, counts } = await start();
  try {
    mail = () => {
      throw new Error(CANARY);
    };
    const eventId = await trial.publish();
    await eventually('idle', async () => (await counts())[leftPending('listener_failed')] === 1);
    expect(await counts()).toEqual({
      [COMMITTED]: 1,
      'event_processed_total{status="failed"}': 1,
      [leftPending('listener_failed')]: 1,
      [ran('bill', 'succeeded')]: 1,
      [ran('mail', 'failed')]: 1,
    });
    mail = () => undefined;
    await trial.replay([eventId]);
    expect(await counts()).toMatchObject({
      [COMMITTED]: 1,
      [PROCESSED]: 1,
      [leftPending('listener_failed')]: 1,
      [ran('mail', 'succeeded')]: 1,
      'counterfoil_replay_results_total{outcome="processed"}': 1,
    });
  } finally {
    await trial.stop();
  }
});

test('what nobody listens to, and what finds no room, is left pending for its reason', async () => {
  const { trial, counts, text } = await start({ maxInFlight: 1, maxWaiting: 1 });
  const slow = gate();
  bill = () => slow.opened;
  try {
    await trial.publish({}, NOBODY);
    for (let count = 0; count < 4; count += 1) await trial.publish();
    await eventually('two left', async () => (await counts())[leftPending('overload')] === 2);
    expect(await text()).toContain('\ncounterfoil_events_in_flight 1\n');
    expect(await text()).toContain('\ncounterfoil_events_waiting 1\n');
    slow.open();
    await eventually('two processed', async () => (await counts())[PROCESSED] === 2);
    expect(await counts()).toMatchObject({
      [COMMITTED]: 4,
      'event_published_total{event_type="undeclared",status="committed"}': 1,
      'counterfoil_event_left_pending_total{event_type="undeclared",reason="no_listener"}': 1,
      [leftPending('overload')]: 2,
    });
  } finally {
    slow.open();
    await trial.stop();
  }
});

test('a listener past its deadline is given up, counted once, and not again when it ends after all', async () => {
  const { trial, counts } = await start({ listenerDeadlineMs: 100, listenerLeaseMs: 1_000 });
  const slow = gate();
  bill = () => slow.opened;
  try {
    await trial.publish();
    await eventually('given up', async () => (await counts())[leftPending('given_up')] === 1);
    const given = {
      [COMMITTED]: 1,
      'event_processed_total{status="outcome_unknown"}': 1,
      [leftPending('given_up')]: 1,
      [ran('bill', 'given_up')]: 1,
      [ran('mail', 'succeeded')]: 1,
    };
    expect(await counts()).toEqual(given);
    slow.open();
    const next = await trial.publish();
    await eventually('the next is processed', () => isProcessed(database, next));
    await eventually('idle', () => trial.deliveries.inFlight === 0);
    expect(await counts()).toEqual({
      ...given,
      [COMMITTED]: 2,
      [PROCESSED]: 1,
      event_duration_seconds_count: 1,
      [ran('bill', 'succeeded')]: 1,
      [ran('mail', 'succeeded')]: 2,
    });
  } finally {
    slow.open();
    await trial.stop();
  }
});

test('what shutdown leaves is counted by the drain, and as left pending', async () => {
  const { trial, counts } = await start({ drainDeadlineMs: 50 });
  const slow = gate();
  bill = () => slow.opened;
  try {
    await trial.publish();
    await eventually('in flight', async () => (await counts())[ran('mail', 'succeeded')] === 1);
    await trial.deliveries.drain();
    expect(await counts()).toEqual({
      [COMMITTED]: 1,
      [leftPending('shutdown')]: 1,
      counterfoil_drain_left_total: 1,
      [ran('mail', 'succeeded')]: 1,
    });
  } finally {
    slow.open();
    await trial.stop();
  }
});

test('a replay is never counted as left pending, and a dry run not at all', async () => {
  const { trial, counts } = await start();
  try {
    await storePending(database, 'stored', EVENT, { email: CANARY });
    await trial.replay(['stored'], { dryRun: true });
    expect(await counts()).toEqual({});
    bill = () => {
      throw new Error(CANARY);
    };
    await trial.replay(['stored', 'nowhere']);
    expect(await counts()).toEqual({
      'event_processed_total{status="failed"}': 1,
      [ran('bill', 'failed')]: 1,
      [ran('mail', 'succeeded')]: 1,
      'counterfoil_replay_results_total{outcome="failed"}': 1,
      'counterfoil_replay_results_total{outcome="not_found"}': 1,
    });
  } finally {
    await trial.stop();
  }
});

test('of all that a process publishes, each event is processed, left pending, in flight or waiting', async () => {
  const pool = new Pool({ connectionString: database.url, max: 4 });
  const inner = pgDriver(pool);
  let statements = 0;
  const { trial, text } = await start({
    maxInFlight: 5,
    maxWaiting: 5,
    driver: {
      transaction: (work) => inner.transaction(work),
      async run(sql, params) {
        statements += 1;
        // Now and then a claim is lost.
        if (statements % 7 === 0 && sql.includes('claim-listeners')) {
          throw Object.assign(new Error(CANARY), { code: '57P01' });
        }
        return await inner.run(sql, params);
      },
    },
  });
  let turn = 0;
  bill = async () => {
    turn += 1;
    if (turn % 5 === 0) throw new Error(CANARY);
    await new Promise((resolve) => setImmediate(resolve));
  };
  const total = async (pattern: RegExp): Promise<number> =>
    (await text())
      .split('\n')
      .filter((line) => pattern.test(line))
      .reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0);
  const sums = async () => ({
    committed: await total(/^event_published_total\{.*committed/),
    processed: await total(/^event_processed_total\{.*"processed"/),
    left: await total(/^counterfoil_event_left_pending_total/),
    open: await total(/^counterfoil_events_(in_flight|waiting) /),
  });
  try {
    await Promise.all(Array.from({ length: 60 }, () => trial.publish({ email: CANARY })));
    await eventually('settled', async () => (await sums()).open === 0);
    const { committed, processed, left } = await sums();
    expect(committed).toBe(60);
    expect(processed + left).toBe(60);
    expect(left).toBeGreaterThan(0);
    expect(processed).toBeGreaterThan(0);
    expect(await text()).not.toContain(CANARY);
  } finally {
    await trial.stop();
    await pool.end();
  }
});

test('metrics that throw lose no event and are complained of once', async () => {
  const broken = new Proxy(
    {},
    {
      get: () => () => {
        throw new Error(CANARY);
      },
    },
  ) as NonNullable<CounterfoilOptions['metrics']>;
  const { trial } = await start({ metrics: broken });
  const from = trial.log.lines.length;
  try {
    const eventId = await trial.publish();
    await eventually('processed', () => isProcessed(database, eventId));
    const complaints = trial.log.lines.filter((line) => line.includes('Metrics failed'));
    expect(complaints).toHaveLength(1);
    expect(trial.log.lines.slice(from).join()).not.toContain(CANARY);
  } finally {
    await trial.stop();
  }
});
