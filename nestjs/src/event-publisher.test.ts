import { Injectable } from '@nestjs/common';
import { sql } from 'drizzle-orm';
import { drizzle } from 'drizzle-orm/node-postgres';
import type { PoolClient } from 'pg';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';
import type { DriverTransaction } from './driver.js';
import { drizzleDriver } from './drizzle-driver.js';
import { type BackedDelivery, OnBackedEvent } from './on-backed-event.js';
import { deliveryRows, eventRow, isProcessed } from './testing/stored-events.js';
import { EVENT, eventually, startTrial, type Trial } from './testing/trial-app.js';

const received: { payload: unknown; delivery: BackedDelivery }[] = [];

@Injectable()
class Billing {
  @OnBackedEvent(EVENT)
  async createBill(payload: unknown, delivery: BackedDelivery): Promise<void> {
    received.push({ payload, delivery });
  }
}

let database: TestDatabase;
let trial: Trial;
beforeAll(async () => {
  database = await createTestDatabase();
  trial = await startTrial(database.url, [Billing], {
    publishedBy: 'pod-1',
    publishedHash: 'abc123',
    accepts: { 'orders.order.paid.v1': (payload) => (payload as { paid?: unknown }).paid === true },
  });
});
afterAll(async () => {
  await trial?.stop();
  await database?.drop();
});
beforeEach(() => {
  received.length = 0;
});

/** Publishes a second event and waits for it: what had been started before it has had its turn by then. */
async function settle(): Promise<void> {
  const eventId = await trial.publish({ settle: true });
  await eventually('the settling event', () => isProcessed(database, eventId));
}

test('an event is processed after the commit, and the row says when', async () => {
  const eventId = await trial.publish({ sessionId: 's1', at: new Date(0) });
  await eventually('processed', () => isProcessed(database, eventId));
  expect(await eventRow(database, eventId)).toEqual({ status: 'processed', processed: true });
  expect(await deliveryRows(database, eventId)).toEqual([
    { listener: 'createBill', status: 'succeeded', attempts: 1, error: null },
  ]);
  expect(received).toEqual([
    {
      payload: { sessionId: 's1', at: '1970-01-01T00:00:00.000Z' },
      delivery: { eventId, eventName: EVENT, attempt: 1 },
    },
  ]);
  for (const line of ['Event published', 'Event processed']) {
    expect(trial.log.lines.filter((entry) => entry.includes(line) && entry.includes(eventId))).toHaveLength(
      1,
    );
  }
});

describe('nothing is emitted', () => {
  test('by a transaction that rolls back', async () => {
    let eventId = '';
    const work = trial.publisher.transaction(async (tx) => {
      eventId = await trial.publisher.publish(tx, { name: EVENT, payload: { rolledBack: true } });
      throw new Error('the caller changed its mind');
    });
    await expect(work).rejects.toThrow('the caller changed its mind');
    await settle();
    expect(await eventRow(database, eventId)).toBeUndefined();
    expect(received.map(({ payload }) => payload)).toEqual([{ settle: true }]);
  });

  test('for a savepoint that was rolled back inside a transaction that commits', async () => {
    let eventId = '';
    await trial.publisher.transaction(async (tx) => {
      await tx.handle.query('savepoint before_event');
      eventId = await trial.publisher.publish(tx, { name: EVENT, payload: { savepoint: true } });
      await tx.handle.query('rollback to savepoint before_event');
    });
    await settle();
    expect(await eventRow(database, eventId)).toBeUndefined();
    expect(received.map(({ payload }) => payload)).toEqual([{ settle: true }]);
  });

  test('where COMMIT was answered with ROLLBACK, and the caller is told', async () => {
    let eventId = '';
    const work = trial.publisher.transaction(async (tx) => {
      eventId = await trial.publisher.publish(tx, { name: EVENT, payload: { ignoredError: true } });
      await tx.handle.query('select 1 / 0').catch(() => undefined);
    });
    await expect(work).rejects.toMatchObject({ name: 'CommitRefusedError' });
    await settle();
    expect(await eventRow(database, eventId)).toBeUndefined();
    expect(received).toHaveLength(1);
  });

  test('where the connection is lost before the commit is acknowledged', async () => {
    const work = trial.publisher.transaction(async (tx) => {
      await trial.publisher.publish(tx, { name: EVENT, payload: { lost: true } });
      const { rows } = await tx.run('select pg_backend_pid() as pid', []);
      await database.query('select pg_terminate_backend($1)', [rows[0]?.pid]);
    });
    await expect(work).rejects.toThrow();
    await settle();
    expect(received).toHaveLength(1);
  });
});

describe('publish refuses', () => {
  const refusedAndUsable = async (
    work: (tx: DriverTransaction<PoolClient>) => Promise<unknown>,
    error: object,
  ) => {
    const rows = await trial.publisher.transaction(async (tx) => {
      await expect(work(tx)).rejects.toMatchObject(error);
      return (await tx.run('select 1 as alive', [])).rows;
    });
    expect(rows).toEqual([{ alive: 1 }]);
  };

  test.each([
    ['a NUL in a text', { lines: [{ note: 'ok' }, { note: 'a\u0000b' }] }, '$.lines[1].note'],
    ['a lone surrogate', { 'odd key': '\ud800' }, '$["odd key"]'],
    ['a NUL in a key', { outer: { 'a\u0000': 1 } }, '$.outer{key 0}'],
  ])('%s and names the path, and the transaction stays usable', async (_title, payload, path) => {
    await refusedAndUsable((tx) => trial.publisher.publish(tx, { name: EVENT, payload }), {
      name: 'PayloadRefusedError',
      path,
    });
  });

  test('what is not JSON', async () => {
    for (const payload of [undefined, { amount: 1n }]) {
      await refusedAndUsable((tx) => trial.publisher.publish(tx, { name: EVENT, payload }), {
        name: 'PayloadRefusedError',
        path: '$',
      });
    }
  });

  test('a payload that its schema refuses, and takes the one it accepts', async () => {
    const name = 'orders.order.paid.v1';
    await refusedAndUsable((tx) => trial.publisher.publish(tx, { name, payload: { paid: false } }), {
      name: 'PayloadRefusedError',
    });
    await expect(trial.publish({ paid: true }, name)).resolves.toEqual(expect.any(String));
  });

  test('a name without version and an id that Postgres does not take', async () => {
    await refusedAndUsable((tx) => trial.publisher.publish(tx, { name: 'session.completed', payload: {} }), {
      name: 'PublishRefusedError',
    });
    await refusedAndUsable(
      (tx) => trial.publisher.publish(tx, { name: EVENT, payload: {}, eventId: 'a\u0000' }),
      {
        name: 'PublishRefusedError',
      },
    );
  });

  test('a transaction that is over, and what is no transaction', async () => {
    let left: DriverTransaction<PoolClient> | undefined;
    await trial.publisher.transaction(async (tx) => {
      left = tx;
    });
    const over = left as DriverTransaction<PoolClient>;
    await expect(trial.publisher.publish(over, { name: EVENT, payload: {} })).rejects.toMatchObject({
      name: 'TransactionOverError',
    });
    expect(() => over.afterCommit(() => undefined)).toThrow(
      expect.objectContaining({ name: 'TransactionOverError' }),
    );
    const pool = trial.pool as unknown as DriverTransaction<PoolClient>;
    await expect(trial.publisher.publish(pool, { name: EVENT, payload: {} })).rejects.toMatchObject({
      name: 'PublishRefusedError',
    });
  });
});

test('a callback that fails after the commit undoes nothing and holds up no event', async () => {
  const eventId = await trial.publisher.transaction(async (tx) => {
    tx.afterCommit(() => {
      throw new Error('too late to matter');
    });
    return await trial.publisher.publish(tx, { name: EVENT, payload: {} });
  });
  await eventually('processed', () => isProcessed(database, eventId));
});

test('an id that exists already is refused by the table, and its first event stays as it is', async () => {
  const eventId = 'event-published-twice';
  const publish = (payload: unknown) =>
    trial.publisher.transaction((tx) => trial.publisher.publish(tx, { name: EVENT, payload, eventId }));
  await publish({ first: true });
  await expect(publish({ first: false })).rejects.toMatchObject({ code: '23505' });
  await eventually('processed', () => isProcessed(database, eventId));
  await settle();
  expect(received.filter(({ delivery }) => delivery.eventId === eventId)).toHaveLength(1);
});

test('the pod and its version are recorded once the table has the columns for them', async () => {
  const before = await trial.publish();
  await database.query(
    'alter table event_backups add column published_by text, add column published_hash text',
  );
  const other = await startTrial(database.url, [Billing], { publishedBy: 'pod-2', publishedHash: 'def456' });
  try {
    const after = await other.publish();
    const rows = await database.query(
      'select event_id, published_by, published_hash from event_backups where event_id = any($1) order by published_by',
      [[before, after]],
    );
    expect(rows).toEqual([
      { event_id: after, published_by: 'pod-2', published_hash: 'def456' },
      { event_id: before, published_by: null, published_hash: null },
    ]);
    await database.query('alter table event_backups drop column published_by, drop column published_hash');
    await expect(other.publish()).rejects.toMatchObject({ code: '42703' });
    await expect(other.publish()).resolves.toEqual(expect.any(String));
  } finally {
    await other.stop();
  }
});

describe('with drizzle', () => {
  test('the service writes its own rows and the event in one transaction', async () => {
    const db = drizzle(trial.pool);
    const other = await startTrial(database.url, [Billing], { driver: drizzleDriver(db) });
    const publisher = other.app.get(trial.publisher.constructor) as typeof other.publisher;
    const insert = (tx: { execute(query: unknown): Promise<unknown> }, id: string) =>
      tx.execute(sql`insert into sessions (id, contract_id, mentor_id, amount_minor, currency)
        values (${id}::uuid, 'c', 'm', 1, 'EUR')`);
    try {
      const [kept, undone] = [crypto.randomUUID(), crypto.randomUUID()];
      const ids: string[] = [];
      await publisher.transaction(async (tx) => {
        const handle = tx.handle as unknown as Parameters<Parameters<typeof db.transaction>[0]>[0];
        await insert(handle, kept);
        ids.push(await publisher.publish(tx, { name: EVENT, payload: { kept } }));
        await handle
          .transaction(async (savepoint) => {
            await insert(savepoint, undone);
            ids.push(await publisher.publish(tx, { name: EVENT, payload: { undone } }));
            savepoint.rollback();
          })
          .catch(() => undefined);
      });
      const [first = '', second = ''] = ids;
      await eventually('processed', () => isProcessed(database, first));
      expect(await eventRow(database, second)).toBeUndefined();
      const rows = await database.query('select id from sessions where id = any($1::uuid[])', [
        [kept, undone],
      ]);
      expect(rows).toEqual([{ id: kept }]);
    } finally {
      await other.stop();
    }
  });
});
