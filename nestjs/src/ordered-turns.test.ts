import { Injectable } from '@nestjs/common';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';
import { OnBackedEvent } from './on-backed-event.js';
import { OrderedTurns } from './ordered-turns.js';
import { isProcessed, storePending } from './testing/stored-events.js';
import { EVENT, eventually, type Gate, gate, startTrial, type Trial } from './testing/trial-app.js';

interface Step {
  sessionId?: string;
  n: number;
}

/** Each run of the ordered listener, from its start to its end. */
let starts: number[] = [];
let gates: Map<number, Gate>;
let unordered: number[] = [];

@Injectable()
class Listeners {
  @OnBackedEvent(EVENT, { orderBy: 'sessionId' })
  async inOrder({ n }: Step): Promise<void> {
    starts.push(n);
    await gates.get(n)?.opened;
  }
  @OnBackedEvent(EVENT)
  atOnce({ n }: Step): void {
    unordered.push(n);
  }
}

let database: TestDatabase;
let trial: Trial;
beforeAll(async () => {
  database = await createTestDatabase();
});
afterAll(async () => {
  await database?.drop();
});
beforeEach(async () => {
  starts = [];
  unordered = [];
  gates = new Map();
  trial = await startTrial(database.url, [Listeners], { listenerLeaseMs: 1_200, listenerDeadlineMs: 2_000 });
});
afterEach(async () => {
  for (const { open } of gates.values()) open();
  await trial.stop();
});

const slow = (n: number): Gate => {
  const made = gate();
  gates.set(n, made);
  return made;
};

test('events of one aggregate are given to an ordered listener one at a time, in the order of their commits', async () => {
  const first = slow(0);
  const ids = [];
  for (let n = 0; n < 4; n += 1) ids.push(await trial.publish({ sessionId: 's', n }));
  await eventually('the other listener, in no order', () => unordered.length === 4);
  expect(starts).toEqual([0]);
  first.open();
  for (const id of ids) await eventually('processed', () => isProcessed(database, id));
  expect(starts).toEqual([0, 1, 2, 3]);
});

test('events of other aggregates, and those of none, do not wait', async () => {
  const first = slow(0);
  await trial.publish({ sessionId: 's', n: 0 });
  await eventually('the first', () => starts.length === 1);
  const ids = [
    await trial.publish({ sessionId: 't', n: 1 }),
    await trial.publish({ n: 2 }),
    await trial.publish({ n: 3 }),
  ];
  for (const id of ids) await eventually('processed', () => isProcessed(database, id));
  first.open();
});

test('a replay in the same process waits for its turn', async () => {
  const first = slow(0);
  await trial.publish({ sessionId: 's', n: 0 });
  await eventually('the first', () => starts.length === 1);
  await storePending(database, 'replayed-in-order', EVENT, { sessionId: 's', n: 1 });
  const answer = trial.replay(['replayed-in-order']);
  await eventually('its other listener', () => unordered.includes(1));
  expect(starts).toEqual([0]);
  first.open();
  expect((await answer).body.results).toMatchObject([{ outcome: 'processed' }]);
  expect(starts).toEqual([0, 1]);
});

test('a listener that hangs gives its turn up at its deadline, and what waited for it keeps its lease meanwhile', async () => {
  slow(0);
  await trial.publish({ sessionId: 's', n: 0 });
  const second = await trial.publish({ sessionId: 's', n: 1 });
  await eventually('the second after the deadline of the first', () => isProcessed(database, second));
  expect(starts).toEqual([0, 1]);
  const rows = await database.query(`select attempts from event_deliveries where event_id = $1`, [second]);
  expect(rows).toEqual([{ attempts: 1 }, { attempts: 1 }]);
});

test('turns that have ended leave nothing behind', async () => {
  const turns = new OrderedTurns();
  const listeners = [{ name: 'l', orderBy: 'key', invoke: async () => undefined }];
  for (let n = 0; n < 100; n += 1) {
    const turn = turns.takeAll(listeners, `{"key":${n % 3}}`)?.get('l');
    await turn?.come;
    turn?.end();
    turn?.end();
  }
  await eventually('an empty map', () => turns.size === 0);
  expect(turns.takeAll(listeners, '{}')).toBeUndefined();
  expect(turns.takeAll(listeners, 'null')).toBeUndefined();
});
