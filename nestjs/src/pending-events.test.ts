import { randomUUID } from 'node:crypto';
import { Injectable } from '@nestjs/common';
import { Pool } from 'pg';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';
import { OnBackedEvent } from './on-backed-event.js';
import { PendingEvents } from './pending-events.js';
import { pgDriver } from './pg-driver.js';
import { isProcessed, storePending } from './testing/stored-events.js';
import { EVENT, eventually, gate, startTrial, TOKEN, type Trial } from './testing/trial-app.js';

/** Stands for personal data: it must appear in no answer and no log line. */
const CANARY = 'emmy.noether@example.org';

let bill: () => Promise<void> | void;

@Injectable()
class Billing {
  @OnBackedEvent(EVENT)
  async bill(): Promise<void> {
    await bill();
  }
}

let database: TestDatabase;
let trial: Trial;
beforeAll(async () => {
  database = await createTestDatabase();
  trial = await startTrial(database.url, [Billing]);
});
afterAll(async () => {
  await trial?.stop();
  await database?.drop();
});
beforeEach(async () => {
  bill = () => undefined;
  await database.query('truncate event_backups cascade');
});

async function get(
  query = '',
  headers: Record<string, string> = { authorization: `Bearer ${TOKEN}` },
  of = trial,
) {
  const response = await fetch(`${await of.app.getUrl()}/admin/events/pending${query}`, { headers });
  const text = await response.text();
  return { status: response.status, text, body: JSON.parse(text) };
}
/** Pending events of these ages in seconds, named by their place. */
async function pending(...ages: number[]): Promise<string[]> {
  const ids = ages.map((_, place) => `e-${place}`);
  for (const [place, age] of ages.entries()) {
    await storePending(database, ids[place] as string, EVENT, { email: CANARY });
    await database.query(
      `update event_backups set created_at = date_trunc('second', localtimestamp) - $2::integer * interval '1 second'
       where event_id = $1`,
      [ids[place], age],
    );
  }
  return ids;
}

describe('the list of pending events', () => {
  test('holds what is pending, oldest first, with its age and whether it runs, and nothing of its payload', async () => {
    await pending(60, 7_200);
    await database.query(
      `insert into event_deliveries (event_id, listener, status, lease_owner, lease_until, attempts)
       values ('e-0', 'bill', 'running', 'another pod', clock_timestamp() + interval '1 minute', 1),
              ('e-1', 'bill', 'running', 'a pod that is gone', clock_timestamp() - interval '1 minute', 1)`,
    );
    const { status, body, text } = await get();
    expect(status).toBe(200);
    expect(body).toEqual({
      events: [
        { eventId: 'e-1', eventName: EVENT, ageSeconds: expect.any(Number), running: false },
        { eventId: 'e-0', eventName: EVENT, ageSeconds: expect.any(Number), running: true },
      ],
    });
    expect(body.events[0].ageSeconds).toBeGreaterThanOrEqual(7_200);
    expect(body.events[0].ageSeconds).toBeLessThan(7_260);
    expect(text).not.toContain(CANARY);
  });

  test('loses an event when it is processed, and not one whose listener has failed', async () => {
    const slow = gate();
    bill = () => slow.opened;
    const done = await trial.publish();
    await eventually('its run', async () => (await get()).body.events[0]?.running === true);
    bill = () => {
      throw new Error(CANARY);
    };
    const failed = await trial.publish();
    slow.open();
    await eventually('the end of both', async () => trial.deliveries.inFlight === 0);
    expect(await isProcessed(database, done)).toBe(true);
    expect((await get()).body.events).toMatchObject([{ eventId: failed, running: false }]);
  });

  test('comes in pages, whose events may be of the same second, or be processed meanwhile', async () => {
    const ids = await pending(30, 20, 20, 20, 10);
    const first = (await get('?limit=2')).body;
    expect(first).toMatchObject({ events: [{ eventId: ids[0] }, { eventId: ids[1] }], more: true });
    await database.query(`update event_backups set status = 'processed' where event_id = $1`, [ids[1]]);
    const second = (await get(`?limit=2&after=${ids[1]}`)).body;
    expect(second).toMatchObject({ events: [{ eventId: ids[2] }, { eventId: ids[3] }], more: true });
    const last = (await get(`?limit=2&after=${ids[3]}`)).body;
    expect(last).toMatchObject({ events: [{ eventId: ids[4] }] });
    expect(last.more).toBeUndefined();
  });

  test('of which the place is gone says so, and is not taken for an end', async () => {
    await pending(10);
    const { status, body } = await get(`?after=${randomUUID()}`);
    expect(status).toBe(400);
    expect(body.message).toEqual(['the event named by after is not there any more: begin anew']);
  });

  test('can be asked for by the service itself', async () => {
    const [id] = await pending(10);
    const page = await trial.app.get(PendingEvents).list();
    expect(page.events.map(({ eventId }) => eventId)).toEqual([id]);
  });
});

describe('is refused', () => {
  test.each([
    ['a limit of none', '?limit=0'],
    ['a limit past the most', '?limit=1001'],
    ['a limit that is no number', `?limit=${CANARY}`],
    ['two limits', '?limit=1&limit=2'],
    ['an empty place', '?after='],
    ['a place longer than an id', `?after=${'x'.repeat(201)}`],
  ])('%s: 400', async (_title, query) => {
    const { status, text } = await get(query);
    expect(status).toBe(400);
    expect(text).not.toContain(CANARY);
  });

  test.each([
    ['without the token', {}],
    ['with a wrong one', { authorization: 'Bearer wrong' }],
  ])('%s: 401', async (_title, headers: Record<string, string>) => {
    await pending(10);
    const { status, text } = await get('', headers);
    expect(status).toBe(401);
    expect(text).not.toContain('e-0');
  });

  test('by a service without a token: there is no such route', async () => {
    const closed = await startTrial(database.url, [Billing], { replayToken: undefined });
    try {
      expect((await get('', {}, closed)).status).toBe(404);
    } finally {
      await closed.stop();
    }
  });

  test('by a service whose database is away: 503', async () => {
    const pool = new Pool({ connectionString: database.url });
    const inner = pgDriver(pool);
    // A real error of a real client: the server cuts the connection of the one who asks.
    const run = () => inner.run('select pg_terminate_backend(pg_backend_pid())', []);
    const away = await startTrial(database.url, [Billing], {
      driver: { transaction: (work) => inner.transaction(work), run },
    });
    try {
      expect(await get('', undefined, away)).toMatchObject({
        status: 503,
        body: { message: 'the database did not answer' },
      });
      expect(
        away.log.lines.some((line) => line.includes('could not be read') && line.includes('57P01')),
      ).toBe(true);
    } finally {
      await away.stop();
      await pool.end();
    }
  });
});
