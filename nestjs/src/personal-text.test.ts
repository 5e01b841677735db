import { Injectable } from '@nestjs/common';
import { Registry } from 'prom-client';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';
import { CounterfoilHealth } from './health.js';
import { type BackedDelivery, OnBackedEvent } from './on-backed-event.js';
import { promClientMetrics } from './prom-client-metrics.js';
import { isProcessed, storePending } from './testing/stored-events.js';
import { EVENT, eventually, startTrial, TOKEN, type Trial } from './testing/trial-app.js';

/** Stands for personal data. It goes in wherever the module takes text, and must come out nowhere. */
const PLANTED = 'katherine.johnson@example.org';

let database: TestDatabase;
let trial: Trial;
let bill: (payload: unknown) => Promise<unknown> | unknown;
const registry = new Registry();

@Injectable()
class Billing {
  @OnBackedEvent(EVENT)
  async bill(payload: unknown, _delivery: BackedDelivery): Promise<void> {
    await bill(payload);
  }
}

beforeAll(async () => {
  database = await createTestDatabase();
  await database.query('create table people (email text primary key)');
  await database.query('insert into people values ($1)', [PLANTED]);
  trial = await startTrial(database.url, [Billing], {
    metrics: promClientMetrics(registry),
    accepts: {
      [EVENT]: (payload) => {
        const { throws, broken } = payload as { throws?: string; broken?: string };
        if (throws !== undefined) throw new TypeError(`no person: ${throws}`);
        return broken === undefined;
      },
    },
    rebuild: async (sessionId) => {
      if (sessionId === 'fails') throw new Error(`no session of ${PLANTED}`);
      if (sessionId === 'refused') return { outcome: 'refused', code: `because of ${PLANTED}` };
      if (sessionId === 'malformed') {
        return {
          outcome: 'rebuilt',
          event: { name: `${PLANTED}.v1`, payload: { sessionId, email: PLANTED } },
        };
      }
      return { outcome: 'rebuilt', event: { name: EVENT, payload: { sessionId, email: PLANTED } } };
    },
  });
});
afterAll(async () => {
  await trial?.stop();
  await database?.drop();
});

/** What the caller of something that must fail gets to see. */
const refusal = async (work: Promise<unknown>): Promise<string> => {
  const error = await work.then(
    () => undefined,
    (thrown: Error) => thrown,
  );
  if (error === undefined) throw new Error('it did not fail');
  return `${error.name} ${error.message} ${error.stack}`;
};

test('a planted personal text comes out of no log line, answer, error, metric, record or probe', async () => {
  const seen: string[] = [];
  const note = (something: unknown): void => void seen.push(JSON.stringify(something));

  // Publishing: a payload refused for its text, by its schema, by a schema that throws, and for what is no JSON.
  for (const payload of [
    { email: `${PLANTED}\u0000` },
    { [`${PLANTED}\u0000`]: 1 },
    { broken: PLANTED },
    { throws: PLANTED },
    { email: PLANTED, amount: 1n },
  ]) {
    seen.push(await refusal(trial.publish(payload)));
  }
  seen.push(await refusal(trial.publish({ email: PLANTED }, `Of ${PLANTED}`)));

  // Listeners: live and in a replay, failing with a message, and by the database's own error, whose detail has the row.
  const failures = [
    () => Promise.reject(new Error(`no mail to ${PLANTED}`)),
    () => Promise.reject(Object.assign(new Error('x'), { code: `of ${PLANTED}`, name: PLANTED })),
    () => trial.pool.query('insert into people values ($1)', [PLANTED]),
    () => Promise.reject(PLANTED),
  ];
  for (const failure of failures) {
    bill = failure;
    const eventId = await trial.publish({ email: PLANTED });
    await eventually('it failed', async () => {
      const rows = await database.query<{ error: string }>(
        `select error from event_deliveries where event_id = $1 and status = 'failed'`,
        [eventId],
      );
      return rows.length > 0;
    });
    note(await trial.replay([eventId]));
  }
  expect(seen.at(-2)).toContain('23505');

  // Replays of stored payloads that are refused, of unknown names, by ids and sessions that are refused.
  await storePending(database, 'broken', EVENT, { broken: PLANTED });
  await storePending(database, 'throws', EVENT, { throws: PLANTED });
  await storePending(database, 'unknown', `of.${PLANTED}`, { email: PLANTED });
  note(await trial.replay(['broken', 'throws', 'unknown']));
  note(await trial.post({ eventIds: [PLANTED, 7], [PLANTED]: PLANTED, deadlineMs: PLANTED }));
  note(await trial.post({ eventIds: ['a'] }, { authorization: `Bearer ${PLANTED}` }));
  note(
    await trial.post(
      { dryRun: PLANTED },
      { authorization: `Bearer ${TOKEN}`, 'idempotency-key': `a ${PLANTED}` },
      '/s-1',
    ),
  );
  for (const sessionId of ['fails', 'refused', 'malformed', 's-1'])
    note(await trial.replaySession(sessionId));
  bill = () => undefined;
  note(await trial.replaySession('s-1'));
  expect(await isProcessed(database, `rebuild:${EVENT}:s-1:1`)).toBe(true);

  const records = await database.query('select * from event_deliveries');
  expect(records.length).toBeGreaterThanOrEqual(failures.length);
  note(records);
  seen.push(await registry.metrics());
  await trial.pool.end();
  trial.pool.end = async () => undefined;
  note(await trial.app.get(CounterfoilHealth).ready());
  seen.push(...trial.log.lines);

  expect(seen.length).toBeGreaterThan(40);
  expect(seen.filter((text) => text.includes('katherine'))).toEqual([]);
});
