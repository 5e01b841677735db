import { randomBytes } from 'node:crypto';
import { Injectable, Module } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { Pool } from 'pg';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';
import { CounterfoilModule } from './counterfoil.module.js';
import { type BackedDelivery, OnBackedEvent } from './on-backed-event.js';
import { pgDriver } from './pg-driver.js';
import { deliveryRows, eventRow, expireLeases, isProcessed, storePending } from './testing/stored-events.js';
import { EVENT, eventually, gate, startTrial, TOKEN, type Trial } from './testing/trial-app.js';

/** Stands for personal data: it must appear in no log line and no answer. */
const CANARY = 'ada.lovelace@example.org';

let bill: (payload: unknown, eventId: string) => Promise<void> | void;

@Injectable()
class Billing {
  @OnBackedEvent(EVENT)
  async bill(payload: unknown, { eventId }: BackedDelivery): Promise<void> {
    await bill(payload, eventId);
  }
}

let database: TestDatabase;
let trial: Trial;
const answers: string[] = [];
beforeAll(async () => {
  database = await createTestDatabase();
  trial = await startTrial(database.url, [Billing], {
    accepts: {
      [EVENT]: (payload) => {
        if (typeof payload !== 'object' || payload === null) throw new TypeError(`${CANARY} is no object`);
        return !('broken' in payload);
      },
    },
  });
});
afterAll(async () => {
  await trial?.stop();
  await database?.drop();
});
beforeEach(() => {
  bill = () => undefined;
});

const replayOne = async (eventId: string, more: object = {}) => {
  const { status, body } = await trial.replay([eventId], more);
  answers.push(JSON.stringify(body));
  expect(status).toBe(200);
  expect(body.results).toHaveLength(1);
  return body.results[0];
};

let stored = 0;
const pending = async (payload: unknown = { email: CANARY }, name = EVENT): Promise<string> => {
  stored += 1;
  const eventId = `stored-${stored}`;
  await storePending(database, eventId, name, payload);
  return eventId;
};

describe('who may ask', () => {
  test.each([
    ['no token', {}],
    ['a wrong token', { authorization: 'Bearer wrong' }],
    ['the token under another scheme', { authorization: `Basic ${TOKEN}` }],
    ['the token with more behind it', { authorization: `Bearer ${TOKEN}x` }],
  ])('%s is answered 401', async (_title, headers: Record<string, string>) => {
    const eventId = await pending();
    const { status, body } = await trial.post({ eventIds: [eventId] }, headers);
    expect(status).toBe(401);
    expect(JSON.stringify(body)).not.toContain(eventId);
    expect(await deliveryRows(database, eventId)).toEqual([]);
  });

  test('without a configured token the endpoint does not exist', async () => {
    const closed = await startTrial(database.url, [Billing], { replayToken: undefined });
    try {
      expect((await closed.post({ eventIds: ['a'] })).status).toBe(404);
    } finally {
      await closed.stop();
    }
  });

  test('nor does it where the options come from a factory', async () => {
    const pool = new Pool({ connectionString: database.url });
    @Module({
      imports: [
        CounterfoilModule.forRootAsync({
          useFactory: () => ({ driver: pgDriver(pool), serviceVersion: '1' }),
        }),
      ],
    })
    class Closed {}
    const app = await NestFactory.create(Closed, { logger: false });
    await app.listen(0, '127.0.0.1');
    try {
      const ask = async (path: string) => {
        const response = await fetch(`${await app.getUrl()}${path}`, { method: 'POST' });
        return { status: response.status, text: (await response.text()).replaceAll(path, '<path>') };
      };
      expect(await ask('/admin/events/replay')).toEqual(await ask('/admin/events/no-such'));
    } finally {
      await app.close();
      await pool.end();
    }
  });
});

describe('what is malformed', () => {
  test.each([
    ['no body', '', 400],
    ['no JSON', `{"${CANARY}`, 400],
    ['a list', [], 400],
    ['no ids', { eventIds: [] }, 400],
    ['an id that is no text', { eventIds: [7] }, 400],
    ['an empty id', { eventIds: [''] }, 400],
    ['an id with a NUL', { eventIds: ['a\u0000'] }, 400],
    ['ids that are no list', { eventIds: CANARY }, 400],
    ['a deadline of no length', { eventIds: ['a'], deadlineMs: 0 }, 400],
    ['a deadline past every proxy', { eventIds: ['a'], deadlineMs: 3_600_000 }, 400],
    ['a deadline that is no number', { eventIds: ['a'], deadlineMs: '1000' }, 400],
    ['a dry run that is neither true nor false', { eventIds: ['a'], dryRun: 'yes' }, 400],
    ['an unknown field', { eventIds: ['a'], force: true }, 400],
    ['101 ids', { eventIds: Array.from({ length: 101 }, (_, index) => `id-${index}`) }, 413],
  ])('%s is refused', async (_title, body, status) => {
    expect((await trial.post(body)).status).toBe(status);
  });

  test('an Idempotency-Key of more than one line is refused, a plain one is not', async () => {
    const ask = (key: string) =>
      trial.post({ eventIds: ['a'] }, { authorization: `Bearer ${TOKEN}`, 'idempotency-key': key });
    expect((await ask('two words')).status).toBe(400);
    expect((await ask('run-1/batch-1')).status).toBe(200);
  });

  test.each([
    ['10,000 short ids, which a body parser lets through', (index: number) => `${index}`],
    [
      '10,000 UUIDs, which the service’s body parser refuses before us',
      (index: number) => `00000000-0000-4000-8000-${String(index).padStart(12, '0')}`,
    ],
  ])('%s are answered 413, and none of them is run', async (_title, id) => {
    const eventIds = Array.from({ length: 10_000 }, (_, index) => id(index));
    await Promise.all(
      eventIds.slice(0, 3).map((eventId) => storePending(database, eventId, EVENT, { email: CANARY })),
    );
    const { status, outcome, body } = await trial.replay(eventIds);
    answers.push(JSON.stringify(body));
    expect({ status, outcome }).toEqual({ status: 413, outcome: null });
    expect(JSON.stringify(body).length).toBeLessThan(500);
    for (const eventId of eventIds.slice(0, 3)) expect(await deliveryRows(database, eventId)).toEqual([]);
  });

  test('a wrong token is answered 401 whatever the body, and before it is judged', async () => {
    const headers = { authorization: 'Bearer wrong' };
    for (const body of [{}, [], { eventIds: Array.from({ length: 10_000 }, (_, index) => `${index}`) }]) {
      expect((await trial.post(body, headers)).status).toBe(401);
    }
  });

  test('100 ids are taken', async () => {
    const eventIds = Array.from({ length: 100 }, (_, index) => `absent-${index}`);
    const { status, body } = await trial.replay(eventIds);
    expect(status).toBe(200);
    expect(body.results).toEqual(eventIds.map((eventId) => ({ eventId, outcome: 'not_found' })));
  });
});

describe('the outcome is', () => {
  test('processed, then already_processed, and the answer names version and listeners', async () => {
    const eventId = await pending();
    expect(await replayOne(eventId)).toEqual({ eventId, outcome: 'processed' });
    expect(await eventRow(database, eventId)).toEqual({ status: 'processed', processed: true });
    expect(await replayOne(eventId)).toEqual({ eventId, outcome: 'already_processed' });
    const { body } = await trial.replay(['x']);
    expect(body).toMatchObject({
      serviceVersion: '1.2.3',
      listenersDigest: expect.stringMatching(/^[0-9a-f]{64}$/),
    });
  });

  test('not_found for an id that is nowhere', async () => {
    expect(await replayOne('nowhere')).toEqual({ eventId: 'nowhere', outcome: 'not_found' });
  });

  test('no_listener for an event nobody takes, unknown_version where another version is taken', async () => {
    const nobody = await pending({}, 'contract.signed.v1');
    const newer = await pending({}, 'services.session.completed.v2');
    const odd = await pending({}, 'not a name');
    const { body } = await trial.replay([nobody, newer, odd]);
    expect(body.results.map(({ outcome }) => outcome)).toEqual([
      'no_listener',
      'unknown_version',
      'no_listener',
    ]);
    expect(await deliveryRows(database, newer)).toEqual([]);
  });

  test('invalid_payload for a payload without the form of its event, also where the check itself throws', async () => {
    const broken = await pending({ broken: CANARY });
    const text = await pending(CANARY);
    const { body } = await trial.replay([broken, text]);
    expect(body.results.map(({ outcome }) => outcome)).toEqual(['invalid_payload', 'invalid_payload']);
  });

  test('failed with the class of the error, retryable unless the error says otherwise', async () => {
    const eventId = await pending();
    bill = () => {
      throw new RangeError(`no bill for ${CANARY}`);
    };
    expect(await replayOne(eventId)).toEqual({
      eventId,
      outcome: 'failed',
      retryable: true,
      error: 'RangeError',
    });
    bill = () => {
      throw Object.assign(new Error(`never for ${CANARY}`), { retryable: false });
    };
    expect(await replayOne(eventId)).toEqual({
      eventId,
      outcome: 'failed',
      retryable: false,
      error: 'Error',
    });
    expect(await deliveryRows(database, eventId)).toEqual([
      { listener: 'bill', status: 'failed', attempts: 2, error: 'Error' },
    ]);
  });

  test('in_flight for a listener under a live lease elsewhere, processed once the lease has run out', async () => {
    const eventId = await pending();
    await database.query(
      `insert into event_deliveries (event_id, listener, status, lease_owner, lease_until, attempts)
       values ($1, 'bill', 'running', 'another pod', clock_timestamp() + interval '1 minute', 1)`,
      [eventId],
    );
    expect(await replayOne(eventId)).toEqual({ eventId, outcome: 'in_flight', retryable: true });
    await expireLeases(database, eventId);
    expect(await replayOne(eventId)).toEqual({ eventId, outcome: 'processed' });
    expect(await deliveryRows(database, eventId)).toMatchObject([{ attempts: 2 }]);
  });

  test('no_listener where only a listener of another version is left, and the event stays pending', async () => {
    const eventId = await pending();
    await database.query(
      `insert into event_deliveries (event_id, listener, status, attempts, error)
       values ($1, 'listenerOfAnotherVersion', 'failed', 1, 'Error')`,
      [eventId],
    );
    const left = { eventId, outcome: 'no_listener', error: 'listener_not_registered' };
    expect(await replayOne(eventId)).toEqual(left);
    expect(await replayOne(eventId)).toEqual(left);
    expect(await deliveryRows(database, eventId)).toMatchObject([
      { listener: 'bill', status: 'succeeded', attempts: 1 },
      { listener: 'listenerOfAnotherVersion', status: 'failed' },
    ]);
    expect(await isProcessed(database, eventId)).toBe(false);
  });

  test('outcome_unknown at the deadline, in_flight while it runs on, already_processed afterwards', async () => {
    const eventId = await pending();
    const slow = gate();
    bill = () => slow.opened;
    const startedAt = performance.now();
    expect(await replayOne(eventId, { deadlineMs: 2_000 })).toEqual({
      eventId,
      outcome: 'outcome_unknown',
      retryable: true,
      error: 'deadline',
    });
    expect(performance.now() - startedAt).toBeLessThan(2_000);
    expect(await replayOne(eventId)).toEqual({ eventId, outcome: 'in_flight', retryable: true });
    slow.open();
    await eventually('processed', () => isProcessed(database, eventId));
    expect(await replayOne(eventId)).toEqual({ eventId, outcome: 'already_processed' });
  });
});

describe('what could not be started or finished is not said to be', () => {
  /** An application whose database user may do less, or nothing, with the deliveries. */
  const withLess = async (privileges: string) => {
    const role = `less_${randomBytes(6).toString('hex')}`;
    await database.query(`create role ${role} login password 'less'`);
    await database.query(`grant select, update on event_backups to ${role}`);
    if (privileges !== '') await database.query(`grant ${privileges} on event_deliveries to ${role}`);
    const url = new URL(database.url);
    url.username = role;
    url.password = 'less';
    const less = await startTrial(url.href, [Billing]);
    return {
      less,
      async stop() {
        await less.stop();
        await database.query(`drop owned by ${role}`);
        await database.query(`drop role ${role}`);
      },
    };
  };

  test.each([
    ['the claim is not allowed', 'select, update'],
    ['the table cannot be reached at all', ''],
  ])('in_flight with the code where %s: nothing was started', async (_title, privileges) => {
    const eventId = await pending();
    let runs = 0;
    bill = () => {
      runs += 1;
    };
    const { less, stop } = await withLess(privileges);
    try {
      expect((await less.replay([eventId])).body.results).toEqual([
        { eventId, outcome: 'in_flight', retryable: true, error: '42501' },
      ]);
      expect(runs).toBe(0);
      expect(await deliveryRows(database, eventId)).toEqual([]);
    } finally {
      await stop();
    }
  });

  test('the code of a database that fails when asked where an event stands', async () => {
    const pool = new Pool({ connectionString: database.url });
    const inner = pgDriver(pool);
    const blind = await startTrial(database.url, [Billing], {
      driver: {
        transaction: (work) => inner.transaction(work),
        async run(text, params) {
          if (text.includes('select-event-state')) {
            throw Object.assign(new Error(CANARY), { code: '57P01' });
          }
          return await inner.run(text, params);
        },
      },
    });
    try {
      const would = await pending();
      expect((await blind.replay([would], { dryRun: true })).body.results).toEqual([
        { eventId: would, outcome: 'outcome_unknown', retryable: true, error: '57P01' },
      ]);
      const elsewhere = await pending();
      await database.query(
        `insert into event_deliveries (event_id, listener, status, lease_owner, lease_until, attempts)
         values ($1, 'bill', 'running', 'another pod', clock_timestamp() + interval '1 minute', 1)`,
        [elsewhere],
      );
      expect((await blind.replay([elsewhere])).body.results).toEqual([
        { eventId: elsewhere, outcome: 'in_flight', retryable: true, error: '57P01' },
      ]);
      const shared = await pending();
      await database.query(
        `insert into event_deliveries (event_id, listener, status, attempts, error)
         values ($1, 'listenerOfAnotherVersion', 'failed', 1, 'Error')`,
        [shared],
      );
      // Ours has run by then, and of the event nothing more is known.
      expect((await blind.replay([shared])).body.results).toEqual([
        { eventId: shared, outcome: 'outcome_unknown', retryable: true, error: '57P01' },
      ]);
    } finally {
      await blind.stop();
      await pool.end();
    }
  });

  test('outcome_unknown where the lease was taken over while the listener ran', async () => {
    const eventId = await pending();
    bill = async () => {
      await database.query(
        `update event_deliveries set lease_owner = 'another pod' where event_id = $1 and status = 'running'`,
        [eventId],
      );
    };
    expect(await replayOne(eventId)).toEqual({
      eventId,
      outcome: 'outcome_unknown',
      retryable: true,
      error: 'outcome_not_recorded',
    });
    expect(await isProcessed(database, eventId)).toBe(false);
  });

  const succeeded = async (): Promise<string> => {
    const eventId = await pending();
    await database.query(
      `insert into event_deliveries (event_id, listener, status, attempts) values ($1, 'bill', 'succeeded', 1)`,
      [eventId],
    );
    return eventId;
  };

  test('outcome_unknown where every listener has succeeded and the event does not let itself be closed', async () => {
    const eventId = await succeeded();
    await database.query(
      `create function keep_row() returns trigger language plpgsql as 'begin return null; end'`,
    );
    await database.query(
      'create trigger keep_row before update on event_backups for each row execute function keep_row()',
    );
    try {
      const unknown = { eventId, outcome: 'outcome_unknown', retryable: true, error: 'event_not_closed' };
      expect(await replayOne(eventId)).toEqual(unknown);
    } finally {
      await database.query('drop function keep_row cascade');
    }
    expect(await isProcessed(database, eventId)).toBe(false);
    expect(await replayOne(eventId)).toEqual({ eventId, outcome: 'already_processed' });
    expect(await isProcessed(database, eventId)).toBe(true);
  });

  test.each([
    [
      'closed it',
      `update event_backups set status = 'processed', processed_at = now() where event_id = $1`,
      'already_processed',
    ],
    ['reopened a listener', `update event_deliveries set status = 'failed' where event_id = $1`, 'in_flight'],
    ['removed the event', 'delete from event_backups where event_id = $1', 'not_found'],
  ])('what stands there then, where somebody %s meanwhile', async (_title, change, outcome) => {
    const eventId = await succeeded();
    const pool = new Pool({ connectionString: database.url });
    const inner = pgDriver(pool);
    const raced = await startTrial(database.url, [Billing], {
      driver: {
        transaction: (work) => inner.transaction(work),
        async run(text, params) {
          if (text.includes('close-event')) await database.query(change, [eventId]);
          return await inner.run(text, params);
        },
      },
    });
    try {
      expect((await raced.replay([eventId])).body.results).toMatchObject([{ eventId, outcome }]);
    } finally {
      await raced.stop();
      await pool.end();
    }
  });
});

describe('the header counterfoil-outcome: not-started', () => {
  test('marks a 503 of a database that does not answer', async () => {
    const pool = new Pool({ connectionString: database.url });
    const inner = pgDriver(pool);
    let select = 'select pg_terminate_backend(pg_backend_pid())';
    const away = await startTrial(database.url, [Billing], {
      driver: { transaction: (work) => inner.transaction(work), run: () => inner.run(select, []) },
    });
    try {
      expect(await away.replay(['a'])).toMatchObject({ status: 503, outcome: 'not-started' });
      select = 'select pg_sleep(1)';
      const late = await away.replay(['a'], { deadlineMs: 200 });
      expect(late).toMatchObject({ status: 503, outcome: 'not-started' });
    } finally {
      await away.stop();
      await pool.end();
    }
  });

  test('is not on an answer, nor on a refusal that asking again does not mend', async () => {
    expect(await trial.replay(['nowhere'])).toMatchObject({ status: 200, outcome: null });
    expect(await trial.post({})).toMatchObject({ status: 400, outcome: null });
    expect(await trial.post({ eventIds: ['a'] }, {})).toMatchObject({ status: 401, outcome: null });
  });
});

test('a dry run says what it would meet and changes nothing', async () => {
  const [would, done, running] = [await pending(), await pending(), await pending()];
  await trial.replay([done]);
  await database.query(
    `insert into event_deliveries (event_id, listener, status, lease_owner, lease_until, attempts)
     values ($1, 'bill', 'running', 'another pod', clock_timestamp() + interval '1 minute', 1)`,
    [running],
  );
  const { body } = await trial.replay([would, done, running, 'nowhere'], { dryRun: true });
  expect(body.results).toEqual([
    { eventId: would, outcome: 'outcome_unknown', retryable: true, error: 'dry_run' },
    { eventId: done, outcome: 'already_processed' },
    { eventId: running, outcome: 'in_flight', retryable: true },
    { eventId: 'nowhere', outcome: 'not_found' },
  ]);
  expect(await deliveryRows(database, would)).toEqual([]);
});

test('ids in flight on another pod are left to it, and unknown ones beside them are not found', async () => {
  const slow = gate();
  const runs: string[] = [];
  bill = async (_payload, eventId) => {
    runs.push(eventId);
    await slow.opened;
  };
  const other = await startTrial(database.url, [Billing]);
  try {
    const live = await other.publish({ email: CANARY });
    await eventually('started there', () => runs.includes(live));
    const done = await pending();
    bill = (_payload, eventId) => void runs.push(eventId);
    const { body } = await trial.replay([live, 'unknown-1', done, 'unknown-2']);
    expect(body.results).toEqual([
      { eventId: live, outcome: 'in_flight', retryable: true },
      { eventId: 'unknown-1', outcome: 'not_found' },
      { eventId: done, outcome: 'processed' },
      { eventId: 'unknown-2', outcome: 'not_found' },
    ]);
    expect(await isProcessed(database, live)).toBe(false);
    slow.open();
    await eventually('processed there', () => isProcessed(database, live));
    expect(await replayOne(live)).toEqual({ eventId: live, outcome: 'already_processed' });
    expect(runs).toEqual([live, done]);
  } finally {
    slow.open();
    await other.stop();
  }
});

test('an id named twice is answered once', async () => {
  const eventId = await pending();
  const { body } = await trial.replay([eventId, eventId]);
  expect(body.results).toEqual([{ eventId, outcome: 'processed' }]);
});

test('the same batch sent twice at once, to two processes, runs each listener once', async () => {
  const eventIds: string[] = [];
  for (let index = 0; index < 60; index += 1) eventIds.push(await pending({ index }));
  const runs = new Map<string, number>();
  bill = async (_payload, eventId) => {
    runs.set(eventId, (runs.get(eventId) ?? 0) + 1);
    await new Promise((resolve) => setImmediate(resolve));
  };
  const other = await startTrial(database.url, [Billing]);
  try {
    const replies = await Promise.all([
      trial.replay(eventIds),
      trial.replay([...eventIds].reverse()),
      other.replay(eventIds),
      other.replay([...eventIds].reverse()),
    ]);
    for (const { body } of replies) {
      expect(body.results).toHaveLength(eventIds.length);
      for (const { outcome } of body.results)
        expect(['processed', 'in_flight', 'already_processed']).toContain(outcome);
    }
    for (const eventId of eventIds) await eventually('processed', () => isProcessed(database, eventId));
    expect(eventIds.map((eventId) => runs.get(eventId))).toEqual(eventIds.map(() => 1));
  } finally {
    await other.stop();
  }
});

test('what stands in payloads and in errors of listeners reaches no log line and no answer', () => {
  expect(trial.log.lines.length).toBeGreaterThan(10);
  expect(answers.length).toBeGreaterThan(10);
  expect([...trial.log.lines, ...answers].filter((line) => line.includes(CANARY))).toEqual([]);
});
