import { Inject, Injectable, type OnModuleInit } from '@nestjs/common';
import type { PoolClient } from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';
import type { DriverTransaction } from './driver.js';
import { EventPublisher } from './event-publisher.js';
import { type EventMetrics, NO_METRICS } from './metrics.js';
import { type BackedDelivery, OnBackedEvent } from './on-backed-event.js';
import type { CounterfoilOptions } from './options.js';
import { deliveryRows, eventRow, isProcessed } from './testing/stored-events.js';
import { EVENT, eventually, gate, startTrial, type Trial } from './testing/trial-app.js';

const FOLLOW_UP = 'services.session.billed.v1';

let bill: (delivery: BackedDelivery) => Promise<void> | void;
let followUps: unknown[] = [];

@Injectable()
class Listeners {
  @OnBackedEvent(EVENT)
  bill(_payload: unknown, delivery: BackedDelivery): Promise<void> | void {
    return bill(delivery);
  }
  @OnBackedEvent(FOLLOW_UP)
  followUp(payload: unknown): void {
    followUps.push(payload);
  }
}

let database: TestDatabase;
const trials: Trial[] = [];
const unhandled: unknown[] = [];
const noteUnhandled = (reason: unknown) => unhandled.push(reason);
beforeAll(async () => {
  database = await createTestDatabase();
  process.on('unhandledRejection', noteUnhandled);
});
afterAll(async () => {
  process.off('unhandledRejection', noteUnhandled);
  await database?.drop();
});
beforeEach(() => {
  bill = () => undefined;
  followUps = [];
});
afterEach(async () => {
  for (const trial of trials.splice(0)) {
    await trial.stop();
    trial.log.lines = [];
  }
  expect(unhandled).toEqual([]);
});

async function start(
  options: Partial<CounterfoilOptions> = {},
  providers: Parameters<typeof startTrial>[1] = [Listeners],
): Promise<Trial> {
  const trial = await startTrial(database.url, providers, options);
  trials.push(trial);
  return trial;
}

/** Metrics that keep each call as one line. */
function notedMetrics(): { calls: string[]; metrics: EventMetrics } {
  const calls: string[] = [];
  const metrics = new Proxy(NO_METRICS, {
    get: (target, name: keyof EventMetrics) => (eventType: unknown, what: unknown, more: unknown) => {
      if (name !== 'declare')
        calls.push(
          [name, eventType, what, more]
            .filter((part) => part !== undefined && typeof part !== 'number')
            .join(' '),
        );
      (target[name] as (...args: unknown[]) => void)(eventType, what, more);
    },
  });
  return { calls, metrics };
}

test('an event that nobody listens to stays pending, and says so', async () => {
  const { calls, metrics } = notedMetrics();
  const trial = await start({ metrics });
  const name = 'services.session.archived.v1';
  const eventId = await trial.publish({}, name);
  await eventually('a line about it', () =>
    trial.log.lines.some((line) => line.includes('no listener') && line.includes(eventId)),
  );
  expect(await eventRow(database, eventId)).toEqual({ status: 'pending', processed: false });
  expect(await deliveryRows(database, eventId)).toEqual([]);
  expect((await trial.replay([eventId])).body.results).toEqual([{ eventId, outcome: 'no_listener' }]);
  expect(calls).toEqual([
    'published undeclared committed',
    'leftPending undeclared no_listener',
    'replayed no_listener',
  ]);
});

test('a listener that rejects late is recorded as failed, and its rejection is handled', async () => {
  const trial = await start();
  const late = gate();
  bill = async () => {
    await late.opened;
    throw Object.assign(new Error('late'), { code: 'LATE' });
  };
  const eventId = await trial.publish();
  await eventually('the run', () => trial.deliveries.inFlight === 1);
  late.open();
  await eventually('failed', async () => (await deliveryRows(database, eventId))[0]?.status === 'failed');
  expect(await deliveryRows(database, eventId)).toEqual([
    { listener: 'bill', status: 'failed', attempts: 1, error: 'LATE' },
  ]);
});

test('a log that cannot be written fails no transaction, ends no process and holds no room', async () => {
  const trial = await start({ listenerLeaseMs: 60_000, publishes: undefined });
  const { lines } = trial.log;
  lines.push = () => {
    throw new Error('the disk is full');
  };
  try {
    bill = () => {
      throw new Error('and billing fails');
    };
    await expect(trial.publish()).resolves.toEqual(expect.any(String));
    await expect(trial.publish({}, 'services.session.archived.v1')).resolves.toEqual(expect.any(String));
    await trial.publisher.transaction(async (tx) => {
      await trial.publisher.publish(tx, { name: EVENT, payload: {} });
      tx.afterCommit(() => {
        throw new Error('as well');
      });
      await tx.run('select 1', []);
    });
    await eventually('an empty process', () => trial.deliveries.inFlight === 0);
  } finally {
    trial.log.lines = [];
  }
});

test('a listener that never returns is told so, counted as unknown and never as failed, and holds no room', async () => {
  const { calls, metrics } = notedMetrics();
  const trial = await start({
    metrics,
    maxInFlight: 1,
    maxWaiting: 0,
    listenerLeaseMs: 1_000,
    listenerDeadlineMs: 400,
  });
  let signal: AbortSignal | undefined;
  bill = (delivery) => {
    signal = delivery.signal;
    return new Promise(() => undefined);
  };
  const eventId = await trial.publish();
  await eventually('the signal', () => signal?.aborted);
  expect(trial.deliveries.inFlight).toBe(0);
  expect(await deliveryRows(database, eventId)).toEqual([
    { listener: 'bill', status: 'running', attempts: 1, error: null },
  ]);
  bill = () => undefined;
  const next = await trial.publish();
  await eventually('the next one', () => isProcessed(database, next));
  expect(calls.slice(0, 4)).toEqual([
    `published ${EVENT} committed`,
    `listenerRan ${EVENT} bill given_up`,
    `processed ${EVENT} outcome_unknown`,
    `leftPending ${EVENT} given_up`,
  ]);
});

test('a listener that ends after its deadline is still recorded where nobody has taken it over', async () => {
  const { calls, metrics } = notedMetrics();
  const trial = await start({ metrics, listenerLeaseMs: 1_000, listenerDeadlineMs: 400 });
  const late = gate();
  bill = () => late.opened;
  const eventId = await trial.publish();
  await eventually('given up', () => trial.log.lines.some((line) => line.includes('past its deadline')));
  late.open();
  await eventually('processed', () => isProcessed(database, eventId));
  // Counted once, when it was given up.
  expect(calls.filter((call) => call.startsWith('processed'))).toEqual([
    `processed ${EVENT} outcome_unknown`,
  ]);
});

test('a signal asked for in time is not aborted by a listener’s own end', async () => {
  const trial = await start();
  let signal: AbortSignal | undefined;
  bill = (delivery) => {
    signal = delivery.signal;
  };
  const eventId = await trial.publish();
  await eventually('processed', () => isProcessed(database, eventId));
  expect(signal?.aborted).toBe(false);
});

test('what a listener publishes in a transaction that rolls back is not there, and its own event stays pending', async () => {
  const trial = await start();
  let followUpId = '';
  bill = () =>
    trial.publisher.transaction(async (tx) => {
      followUpId = await trial.publisher.publish(tx, { name: FOLLOW_UP, payload: { undone: true } });
      throw new Error('changed its mind');
    });
  const eventId = await trial.publish();
  await eventually('failed', async () => (await deliveryRows(database, eventId))[0]?.status === 'failed');
  expect(await eventRow(database, followUpId)).toBeUndefined();

  bill = () =>
    trial.publisher.transaction(async (tx) => {
      followUpId = await trial.publisher.publish(tx, { name: FOLLOW_UP, payload: { undone: false } });
    });
  expect((await trial.replay([eventId])).body.results).toEqual([{ eventId, outcome: 'processed' }]);
  await eventually('the follow-up', () => isProcessed(database, followUpId));
  expect(followUps).toEqual([{ undone: false }]);
});

test('an event published while the application starts waits, pending, until every provider is ready', async () => {
  let early = '';
  let ready = false;
  const seen: unknown[] = [];
  @Injectable()
  class Early implements OnModuleInit {
    constructor(@Inject(EventPublisher) private readonly events: EventPublisher<PoolClient>) {}
    async onModuleInit(): Promise<void> {
      early = await this.events.publishAfterTheFact({ name: EVENT, payload: {} });
      // As long as a listener would take to be started and recorded.
      for (let n = 0; n < 20; n += 1) await database.query('select 1');
      seen.push(await eventRow(database, early), await deliveryRows(database, early));
      ready = true;
    }
  }
  bill = () => {
    seen.push(ready);
  };
  await start({}, [Early, Listeners]);
  await eventually('processed', () => isProcessed(database, early));
  expect(seen).toEqual([{ status: 'pending', processed: false }, [], true]);
});

test('an event without a transaction of the caller has one of its own', async () => {
  const trial = await start();
  const eventId = await trial.publisher.publishAfterTheFact({ name: EVENT, payload: {} });
  await eventually('processed', () => isProcessed(database, eventId));
  await expect(
    trial.publisher.publishAfterTheFact({ name: EVENT, payload: {}, eventId }),
  ).rejects.toMatchObject({ code: '23505' });
});

test('each call of publish is counted once, by what became of it', async () => {
  const { calls, metrics } = notedMetrics();
  const trial = await start({ metrics });
  const taken = await trial.publish();
  await eventually('processed', () => isProcessed(database, taken));
  calls.length = 0;
  const publish = (tx: DriverTransaction<PoolClient>, eventId?: string) =>
    trial.publisher.publish(tx, { name: EVENT, payload: {}, ...(eventId === undefined ? {} : { eventId }) });

  await trial.publisher
    .transaction((tx) => trial.publisher.publish(tx, { name: 'wrong', payload: {} }))
    .catch(() => undefined);
  await trial.publisher.transaction((tx) => publish(tx, taken)).catch(() => undefined);
  const plain = (tx: DriverTransaction<PoolClient>) =>
    ({ ...tx, run: tx.run.bind(tx), afterCommit: tx.afterCommit.bind(tx), hold: undefined }) as never;
  await trial.publisher.transaction((tx) => publish(plain(tx), taken)).catch(() => undefined);
  // Rolled back by its caller, and refused within a savepoint that is then rolled back.
  await trial.publisher
    .transaction(async (tx) => {
      await publish(tx);
      throw new Error('rolled back');
    })
    .catch(() => undefined);
  await trial.publisher.transaction(async (tx) => {
    await tx.run('savepoint before_it', []);
    await publish(tx, taken);
    await tx.run('rollback to savepoint before_it', []);
  });
  let left: DriverTransaction<PoolClient> | undefined;
  await trial.publisher.transaction(async (tx) => {
    left = tx;
  });
  await publish(left as DriverTransaction<PoolClient>).catch(() => undefined);
  const eventId = await trial.publisher.transaction((tx) => publish(plain(tx)));
  await eventually('processed', () => isProcessed(database, eventId));
  expect(calls.filter((call) => call.startsWith('published'))).toEqual([
    'published undeclared refused',
    `published ${EVENT} failed`,
    `published ${EVENT} failed`,
    `published ${EVENT} failed`,
    `published ${EVENT} refused`,
    `published ${EVENT} committed`,
  ]);
});

test('a replay beyond what may wait for room is answered at once that there is none', async () => {
  const trial = await start({ maxInFlight: 1 });
  const slow = gate();
  bill = () => slow.opened;
  await trial.publish();
  await eventually('the run', () => trial.deliveries.inFlight === 1);
  const end = new AbortController();
  const event = (n: number) => ({ eventId: `waits-${n}`, eventName: EVENT, payloadText: '{}' });
  const attempts = Array.from({ length: 1_000 }, (_, n) =>
    trial.deliveries.attemptWhenRoom(event(n), end.signal, () => undefined),
  );
  await expect(
    trial.deliveries.attemptWhenRoom(event(1_000), new AbortController().signal, () => undefined),
  ).resolves.toEqual({ kind: 'at_capacity' });
  end.abort();
  expect(new Set((await Promise.all(attempts)).map(({ kind }) => kind))).toEqual(new Set(['at_capacity']));
  slow.open();
});
