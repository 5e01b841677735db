import { randomUUID } from 'node:crypto';
import { Injectable, Module } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { Pool } from 'pg';
import { Registry } from 'prom-client';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';
import { CounterfoilModule } from './counterfoil.module.js';
import { type BackedDelivery, OnBackedEvent } from './on-backed-event.js';
import type { RebuildAnswer } from './options.js';
import { pgDriver } from './pg-driver.js';
import { promClientMetrics } from './prom-client-metrics.js';
import { deliveryRows, eventRow, isProcessed, storePending } from './testing/stored-events.js';
import { EVENT, eventually, gate, startTrial, TOKEN, type Trial } from './testing/trial-app.js';

/** Stands for personal data: it must appear in no log line, no answer and no metric. */
const CANARY = 'grace.hopper@example.org';

let bill: (payload: unknown, eventId: string) => Promise<void> | void;
let rebuild: (sessionId: string) => Promise<RebuildAnswer> | RebuildAnswer;

@Injectable()
class Billing {
  @OnBackedEvent(EVENT)
  async bill(payload: unknown, { eventId }: BackedDelivery): Promise<void> {
    await bill(payload, eventId);
  }
}

const options = {
  rebuild: async (sessionId: string) => await rebuild(sessionId),
  accepts: { [EVENT]: (payload: unknown) => !('broken' in (payload as object)) },
};
/** What a service gives for a session whose event was never published. */
const anew = (sessionId: string, name = EVENT): RebuildAnswer => ({
  outcome: 'rebuilt',
  event: { name, payload: { sessionId, email: CANARY } },
});

let database: TestDatabase;
let trial: Trial;
const registry = new Registry();
const answers: string[] = [];
beforeAll(async () => {
  database = await createTestDatabase();
  trial = await startTrial(database.url, [Billing], { ...options, metrics: promClientMetrics(registry) });
});
afterAll(async () => {
  await trial?.stop();
  await database?.drop();
});
let sessionId: string;
beforeEach(() => {
  sessionId = randomUUID();
  bill = () => undefined;
  rebuild = () => ({ outcome: 'not_found' });
});

const ask = async (more: object = {}) => {
  const { status, body } = await trial.replaySession(sessionId, more);
  answers.push(JSON.stringify(body));
  expect(status).toBe(200);
  expect(body.sessionId).toBe(sessionId);
  return body;
};
const pending = async (payload: object = { sessionId, email: CANARY }, name = EVENT): Promise<string> => {
  const eventId = randomUUID();
  await storePending(database, eventId, name, payload);
  return eventId;
};
const rebuiltId = (number: number): string => `rebuild:${EVENT}:${sessionId}:${number}`;
const rows = async (): Promise<string[]> => {
  const found = await database.query<{ event_id: string }>(
    `select event_id from event_backups where payload ->> 'sessionId' = $1 order by event_id`,
    [sessionId],
  );
  return found.map(({ event_id }) => event_id);
};
const counted = async (outcome: string): Promise<number> => {
  const metric = (await registry.getMetricsAsJSON()).find(
    ({ name }) => name === 'counterfoil_rebuilds_total',
  );
  const values = (metric?.values ?? []) as { labels: { outcome: string }; value: number }[];
  return values.find(({ labels }) => labels.outcome === outcome)?.value ?? Number.NaN;
};

describe('with events of the session pending', () => {
  test('replays them, oldest first, and asks for no rebuild', async () => {
    const [first, second] = [await pending(), await pending()];
    rebuild = () => anew(sessionId);
    const body = await ask();
    expect(body).toMatchObject({
      serviceVersion: '1.2.3',
      listenersDigest: expect.stringMatching(/^[0-9a-f]{64}$/),
      rebuild: 'not_asked',
      results: [
        { eventId: first, outcome: 'processed' },
        { eventId: second, outcome: 'processed' },
      ],
    });
    expect(body).not.toHaveProperty('more');
    expect(body).not.toHaveProperty('code');
    expect(await rows()).toHaveLength(2);
  });

  test('leaves those of another session alone, and processed ones of this', async () => {
    const other = await pending({ sessionId: `${sessionId}0` });
    const done = await pending();
    await trial.replay([done]);
    const open = await pending();
    expect((await ask()).results).toEqual([{ eventId: open, outcome: 'processed' }]);
    expect(await isProcessed(database, other)).toBe(false);
    expect(await deliveryRows(database, done)).toMatchObject([{ attempts: 1 }]);
  });

  test('leaves alone those that the request excepts, and where no other is pending has the event rebuilt', async () => {
    rebuild = () => anew(sessionId);
    const wrong = await pending({ sessionId, amountMinor: 1 });
    const right = await pending();
    expect(await ask({ except: [wrong] })).toMatchObject({
      rebuild: 'not_asked',
      results: [{ eventId: right, outcome: 'processed' }],
    });
    expect(await ask({ except: [wrong] })).toMatchObject({
      rebuild: 'rebuilt',
      results: [{ eventId: rebuiltId(1), outcome: 'processed' }],
    });
    expect(await isProcessed(database, wrong)).toBe(false);
    expect((await ask()).results).toEqual([{ eventId: wrong, outcome: 'processed' }]);
  });

  test('refuses what is not a list of ids, and replays nothing then', async () => {
    const eventId = await pending();
    for (const except of [eventId, [1], [''], Array.from({ length: 101 }, () => eventId)])
      expect((await trial.replaySession(sessionId, { except })).status).toBe(400);
    expect(await isProcessed(database, eventId)).toBe(false);
  });

  test('takes a hundred at once and says that there are more', async () => {
    for (let index = 0; index < 101; index += 1) await pending({ sessionId, index });
    const first = await ask();
    expect(first.results).toHaveLength(100);
    expect(first.more).toBe(true);
    const second = await ask();
    expect(second.results).toHaveLength(1);
    expect(second).not.toHaveProperty('more');
  });

  test('one under a live lease of another pod is in flight, and no rebuild is asked for', async () => {
    const eventId = await pending();
    await database.query(
      `insert into event_deliveries (event_id, listener, status, lease_owner, lease_until, attempts)
       values ($1, 'bill', 'running', 'another pod', clock_timestamp() + interval '1 minute', 1)`,
      [eventId],
    );
    rebuild = () => anew(sessionId);
    expect(await ask()).toMatchObject({
      rebuild: 'not_asked',
      results: [{ eventId, outcome: 'in_flight', retryable: true }],
    });
  });

  test('one without a listener is said to have none, and no rebuild is asked for', async () => {
    const eventId = await pending({ sessionId }, 'contract.signed.v1');
    expect(await ask()).toMatchObject({
      rebuild: 'not_asked',
      results: [{ eventId, outcome: 'no_listener' }],
    });
  });

  test('a dry run says what it would meet and runs nothing', async () => {
    const eventId = await pending();
    expect(await ask({ dryRun: true })).toMatchObject({
      rebuild: 'not_asked',
      results: [{ eventId, outcome: 'outcome_unknown', retryable: true, error: 'dry_run' }],
    });
    expect(await deliveryRows(database, eventId)).toEqual([]);
  });

  test('what still runs at the deadline is unknown, and the answer comes within it', async () => {
    const eventId = await pending();
    const slow = gate();
    bill = () => slow.opened;
    const startedAt = performance.now();
    expect((await ask({ deadlineMs: 1_000 })).results).toEqual([
      { eventId, outcome: 'outcome_unknown', retryable: true, error: 'deadline' },
    ]);
    expect(performance.now() - startedAt).toBeLessThan(1_000);
    slow.open();
    await eventually('processed', () => isProcessed(database, eventId));
  });
});

describe('with nothing pending', () => {
  test('has the event rebuilt under an id of its own, delivers it and says how it ended', async () => {
    rebuild = anew;
    const seen: unknown[] = [];
    bill = (payload, eventId) => void seen.push({ payload, eventId });
    const before = await counted('rebuilt');
    expect(await ask()).toMatchObject({
      rebuild: 'rebuilt',
      results: [{ eventId: rebuiltId(1), outcome: 'processed' }],
    });
    expect(seen).toEqual([{ payload: { sessionId, email: CANARY }, eventId: rebuiltId(1) }]);
    expect(await eventRow(database, rebuiltId(1))).toEqual({ status: 'processed', processed: true });
    expect((await counted('rebuilt')) - before).toBe(1);
  });

  test('a rebuilt event whose listener failed is pending, and the next call replays it and builds no other', async () => {
    rebuild = anew;
    bill = () => {
      throw new RangeError(CANARY);
    };
    expect((await ask()).results).toEqual([
      { eventId: rebuiltId(1), outcome: 'failed', retryable: true, error: 'RangeError' },
    ]);
    bill = () => undefined;
    expect(await ask()).toMatchObject({
      rebuild: 'not_asked',
      results: [{ eventId: rebuiltId(1), outcome: 'processed' }],
    });
    expect(await rows()).toEqual([rebuiltId(1)]);
  });

  test('a bill lost after its rebuilt event was processed is rebuilt under the next number', async () => {
    rebuild = anew;
    await ask();
    expect((await ask()).results).toEqual([{ eventId: rebuiltId(2), outcome: 'processed' }]);
    // Retention may have purged the first one; its number is not given again.
    await database.query('delete from event_backups where event_id = $1', [rebuiltId(1)]);
    expect((await ask()).results).toEqual([{ eventId: rebuiltId(3), outcome: 'processed' }]);
  });

  test.each([
    ['not_found', { outcome: 'not_found' }, {}],
    ['not_needed', { outcome: 'not_needed' }, {}],
    ['refused', { outcome: 'refused', code: 'bill_was_reversed' }, { code: 'bill_was_reversed' }],
    ['refused', { outcome: 'refused', code: `for ${CANARY}` }, { code: 'unnamed' }],
  ] as const)('%s is passed on and writes nothing', async (outcome, answer, more) => {
    rebuild = () => answer;
    const before = await counted(outcome);
    expect(await ask()).toMatchObject({ rebuild: outcome, results: [], ...more });
    expect((await counted(outcome)) - before).toBe(1);
    expect(await rows()).toEqual([]);
  });

  test('a dry run asks the service, names the id, and writes and counts nothing', async () => {
    rebuild = anew;
    const before = await counted('rebuilt');
    expect(await ask({ dryRun: true })).toMatchObject({
      rebuild: 'rebuilt',
      results: [{ eventId: rebuiltId(1), outcome: 'outcome_unknown', retryable: true, error: 'dry_run' }],
    });
    expect(await rows()).toEqual([]);
    expect(await counted('rebuilt')).toBe(before);
  });

  test('a service without a rebuild function says so', async () => {
    const plain = await startTrial(database.url, [Billing]);
    try {
      expect((await plain.replaySession(sessionId)).body).toMatchObject({
        results: [],
        rebuild: 'not_supported',
      });
    } finally {
      await plain.stop();
    }
  });
});

describe('a rebuild that goes wrong', () => {
  test.each([
    [
      'by a fault of its own is refused',
      () => Promise.reject(new TypeError(`no ${CANARY}`)),
      'rebuild_failed',
    ],
    ['by giving another session is refused', () => anew('another'), 'rebuild_malformed'],
    [
      'by giving a payload its schema refuses is refused',
      (id: string) => ({ outcome: 'rebuilt', event: { name: EVENT, payload: { sessionId: id, broken: 1 } } }),
      'rebuild_malformed',
    ],
    [
      'by giving text Postgres does not take is refused',
      (id: string) => ({
        outcome: 'rebuilt',
        event: { name: EVENT, payload: { sessionId: id, a: '\u0000' } },
      }),
      'rebuild_malformed',
    ],
    ['by giving no event is refused', () => ({ outcome: 'rebuilt' }), 'rebuild_malformed'],
    ['by an unknown word is refused', () => ({ outcome: 'perhaps' }), 'rebuild_malformed'],
    [
      'by giving an event nobody listens to is refused',
      (id: string) => anew(id, 'contract.signed.v1'),
      'no_listener',
    ],
  ])('%s, and nothing is written', async (_title, wrong, code) => {
    rebuild = wrong as typeof rebuild;
    const before = await counted('failed');
    expect(await ask()).toMatchObject({ rebuild: 'refused', code, results: [] });
    expect(await rows()).toEqual([]);
    expect((await counted('failed')) - before).toBe(1);
  });

  test('an event id that no replay by id would take is refused', async () => {
    rebuild = anew;
    sessionId = 's'.repeat(200);
    expect(await ask()).toMatchObject({ rebuild: 'refused', code: 'rebuild_malformed', results: [] });
  });

  test.each([
    [
      'by a database that is away',
      () => Promise.reject(Object.assign(new Error(CANARY), { code: 'ECONNREFUSED' })),
    ],
    ['by a statement timeout', () => Promise.reject(Object.assign(new Error(CANARY), { code: '57014' }))],
    ['by not ending', () => new Promise<never>(() => undefined)],
  ])('%s is answered 503: nothing was started', async (_title, wrong) => {
    rebuild = wrong;
    const { status, outcome } = await trial.replaySession(sessionId, { deadlineMs: 300 });
    expect({ status, outcome }).toEqual({ status: 503, outcome: 'not-started' });
    expect(await rows()).toEqual([]);
  });

  test('by a database that does not take the row is answered 503', async () => {
    const pool = new Pool({ connectionString: database.url });
    const inner = pgDriver(pool);
    const closed = await startTrial(database.url, [Billing], {
      ...options,
      driver: {
        run: (sql, params) => inner.run(sql, params),
        transaction: () => Promise.reject(Object.assign(new Error(CANARY), { code: '25006' })),
      },
    });
    rebuild = anew;
    try {
      const { status, outcome, body } = await closed.replaySession(sessionId);
      answers.push(JSON.stringify(body));
      expect({ status, outcome }).toEqual({ status: 503, outcome: 'not-started' });
      expect(await rows()).toEqual([]);
    } finally {
      await closed.stop();
      await pool.end();
    }
  });
});

test('twenty calls at once to two pods share one rebuilt event, and its listener runs once', async () => {
  const other = await startTrial(database.url, [Billing], options);
  let runs = 0;
  let asked = 0;
  const everybody = gate();
  rebuild = async (id) => {
    asked += 1;
    // Each has looked for pending events before the first writes its own.
    if (asked === 8) everybody.open();
    await everybody.opened;
    // Whoever comes when the bill stands hears so, as from a real service.
    return runs === 0 ? anew(id) : { outcome: 'not_needed' };
  };
  bill = async () => {
    runs += 1;
    await new Promise((resolve) => setImmediate(resolve));
  };
  try {
    const replies = await Promise.all(
      Array.from({ length: 20 }, (_, index) => (index % 2 === 0 ? trial : other).replaySession(sessionId)),
    );
    const inTime = replies.filter(({ body }) => body.rebuild !== 'not_needed');
    expect(inTime.length).toBeGreaterThanOrEqual(8);
    for (const { status, body } of inTime) {
      expect(status).toBe(200);
      expect(body.results).toHaveLength(1);
      expect(body.results[0]?.eventId).toBe(rebuiltId(1));
      expect(['processed', 'in_flight', 'already_processed']).toContain(body.results[0]?.outcome);
    }
    await eventually('processed', () => isProcessed(database, rebuiltId(1)));
    expect(await rows()).toEqual([rebuiltId(1)]);
    expect(runs).toBe(1);
  } finally {
    await other.stop();
  }
});

test('ten calls at once to two pods run each listener of what is pending once', async () => {
  const other = await startTrial(database.url, [Billing], options);
  const eventIds: string[] = [];
  for (let index = 0; index < 20; index += 1) eventIds.push(await pending({ sessionId, index }));
  const runs = new Map<string, number>();
  bill = async (_payload, eventId) => {
    runs.set(eventId, (runs.get(eventId) ?? 0) + 1);
    await new Promise((resolve) => setImmediate(resolve));
  };
  rebuild = () => ({ outcome: 'not_needed' });
  try {
    const replies = await Promise.all(
      Array.from({ length: 10 }, (_, index) => (index % 2 === 0 ? trial : other).replaySession(sessionId)),
    );
    for (const { status, body } of replies) {
      expect(status).toBe(200);
      expect(['not_asked', 'not_needed']).toContain(body.rebuild);
    }
    for (const eventId of eventIds) await eventually('processed', () => isProcessed(database, eventId));
    expect(eventIds.map((eventId) => runs.get(eventId))).toEqual(eventIds.map(() => 1));
  } finally {
    await other.stop();
  }
});

test('a call that read before another had rebuilt and billed runs nothing again', async () => {
  const first = gate();
  let asked = 0;
  let runs = 0;
  rebuild = async (id) => {
    asked += 1;
    if (asked === 1) await first.opened;
    return anew(id);
  };
  bill = () => {
    runs += 1;
  };
  const late = trial.replaySession(sessionId);
  await eventually('asked', () => asked === 1);
  expect((await ask()).results).toEqual([{ eventId: rebuiltId(1), outcome: 'processed' }]);
  first.open();
  expect((await late).body.results).toEqual([{ eventId: rebuiltId(1), outcome: 'already_processed' }]);
  expect(runs).toBe(1);
  expect(await rows()).toEqual([rebuiltId(1)]);
});

describe('what is refused', () => {
  test.each([
    ['no token', {}],
    ['a wrong token', { authorization: 'Bearer wrong' }],
  ])('%s is answered 401 and runs nothing', async (_title, headers: Record<string, string>) => {
    const eventId = await pending();
    expect((await trial.post({}, headers, `/${sessionId}`)).status).toBe(401);
    expect(await deliveryRows(database, eventId)).toEqual([]);
  });

  test('without a configured token there is no such route', async () => {
    const closed = await startTrial(database.url, [Billing], { replayToken: undefined });
    try {
      expect((await closed.post({}, undefined, `/${sessionId}`)).status).toBe(404);
    } finally {
      await closed.stop();
    }
  });

  test('nor where the options come from a factory', async () => {
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
      const url = `${await app.getUrl()}/admin/events/replay/${sessionId}`;
      expect((await fetch(url, { method: 'POST' })).status).toBe(404);
    } finally {
      await app.close();
      await pool.end();
    }
  });

  test.each([
    ['a list', []],
    ['no object', '"text"'],
    ['ids', { eventIds: ['a'] }],
    ['a deadline out of bounds', { deadlineMs: 60_001 }],
    ['a dry run that is neither', { dryRun: 'yes' }],
  ])('a body that is %s is answered 400, and no value is repeated', async (_title, body) => {
    const { status, body: answer } = await trial.post(body, undefined, `/${sessionId}`);
    expect(status).toBe(400);
    expect(JSON.stringify(answer)).not.toContain('60001');
  });

  test.each([
    ['too long', 's'.repeat(201)],
    ['with a NUL', 'a\u0000'],
  ])('a session id %s is answered 400', async (_title, id) => {
    expect((await trial.replaySession(id)).status).toBe(400);
  });

  test('no body at all is taken as all defaults', async () => {
    const url = `${await trial.app.getUrl()}/admin/events/replay/${sessionId}`;
    const response = await fetch(url, { method: 'POST', headers: { authorization: `Bearer ${TOKEN}` } });
    expect(response.status).toBe(200);
  });

  test('a service that stops answers 503: nothing was started', async () => {
    const stopping = await startTrial(database.url, [Billing], options);
    try {
      await stopping.deliveries.drain();
      const { status, outcome } = await stopping.replaySession(sessionId);
      expect({ status, outcome }).toEqual({ status: 503, outcome: 'not-started' });
    } finally {
      await stopping.stop();
    }
  });
});

test('a service whose sessions have another name is asked by that field', async () => {
  const orders = await startTrial(database.url, [Billing], { ...options, sessionKey: 'orderId' });
  const eventId = await pending({ orderId: sessionId });
  rebuild = (id) => ({ outcome: 'rebuilt', event: { name: EVENT, payload: { orderId: id } } });
  try {
    expect((await orders.replaySession(sessionId)).body.results).toEqual([{ eventId, outcome: 'processed' }]);
    expect((await orders.replaySession(sessionId)).body.results).toEqual([
      { eventId: rebuiltId(1), outcome: 'processed' },
    ]);
  } finally {
    await orders.stop();
  }
});

test.each([
  ['with statistics', 'analyze event_backups'],
  ['without statistics', 'select 1'],
])(
  'the statements of a session use its index %s, however much is pending or was rebuilt',
  async (_title, statistics) => {
    await database.query(`delete from event_backups where event_id like '%:of-many:%'`);
    await database.query(
      `insert into event_backups (event_id, event_name, payload, status)
     select case when n % 2 = 0 then 'rebuild' else 'live' end || ':of-many:' || n, 'contract.signed.v1',
       jsonb_build_object('sessionId', 'session-' || n % 5000), case when n % 3 = 0 then 'pending' else 'processed' end
     from generate_series(1, 20000) n`,
    );
    await database.query(statistics);
    const pool = new Pool({ connectionString: database.url });
    const inner = pgDriver(pool);
    const plans = new Map<string, string>();
    const explained = await startTrial(database.url, [Billing], {
      ...options,
      driver: {
        transaction: (work) => inner.transaction(work),
        async run(sql, params) {
          const [, name] = /^\/\* counterfoil (select-\w+-of-session) \*\//.exec(sql) ?? [];
          if (name !== undefined) {
            const plan = await database.query<{ 'QUERY PLAN': string }>(`explain ${sql}`, params);
            plans.set(name, plan.map((line) => line['QUERY PLAN']).join('\n'));
          }
          return await inner.run(sql, params);
        },
      },
    });
    try {
      await explained.replaySession('session-77');
      expect([...plans.keys()].sort()).toEqual(['select-pending-of-session', 'select-rebuilt-of-session']);
      for (const plan of plans.values()) {
        expect(plan).toContain('event_backups_session_id');
        expect(plan).not.toMatch(/Seq Scan|event_backups_(pending|pkey)/);
      }
    } finally {
      await explained.stop();
      await pool.end();
    }
  },
);

test('each answer is one audit line, with the caller’s key, and a rebuilt event is another', async () => {
  rebuild = anew;
  const from = trial.log.lines.length;
  await trial.post(
    {},
    { authorization: `Bearer ${TOKEN}`, 'idempotency-key': 'request-17' },
    `/${sessionId}`,
  );
  const lines = trial.log.lines.slice(from).filter((line) => line.includes(sessionId));
  const answered = lines.filter((line) => line.includes('Replay of a session answered'));
  expect(answered).toHaveLength(1);
  expect(answered[0]).toContain('"idempotencyKey":"request-17"');
  expect(answered[0]).toContain('"counts":{"processed":1}');
  expect(answered[0]).toContain('"rebuild":"rebuilt"');
  expect(lines.filter((line) => line.includes('Event rebuilt'))).toHaveLength(1);
});

test('what stands in payloads and errors reaches no log line, no answer and no metric', async () => {
  expect(trial.log.lines.length).toBeGreaterThan(20);
  expect(answers.length).toBeGreaterThan(20);
  const texts = [...trial.log.lines, ...answers, await registry.metrics()];
  expect(texts.filter((text) => text.includes(CANARY))).toEqual([]);
});
