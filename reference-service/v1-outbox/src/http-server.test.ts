import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { waitFor } from '../../../test/builders/wait-for.ts';
import type { TestDatabase } from '../../../test/postgres/database.ts';
import { startProxy } from '../../../test/postgres/proxy.ts';
import { billCounts, createOutboxDatabase, isWaiting, openTransaction } from './testing/outbox-database.js';
import { type OutboxHere, startOutboxHere } from './testing/outbox-here.js';
import { startOutbox } from './testing/outbox-process.js';

let database: TestDatabase;
let service: OutboxHere;
beforeAll(async () => {
  database = await createOutboxDatabase();
  // Polls as in production: once at start, then not within a test.
  service = await startOutboxHere(database.url, { OUTBOX_POLL_SECONDS: '600' });
});
afterAll(async () => {
  await service?.stop();
  await database?.drop();
});

const eventsOf = (sessionId: string, from = database) =>
  from.query('select event_type, payload, status from domain_events where aggregate_id = $1', [sessionId]);

test('completing a session writes its event in the same transaction, once for any number of calls', async () => {
  const id = await service.createSession();
  expect(await eventsOf(id)).toEqual([]);
  const answers = await Promise.all(
    Array.from({ length: 100 }, () => service.post(`/sessions/${id}/complete`)),
  );
  expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([200]));
  expect(new Set(answers.map(({ text }) => text)).size).toBe(1);
  expect(answers[0]?.body).toMatchObject({ id, amountMinor: 12_500, completedAt: expect.any(String) });
  expect(await eventsOf(id)).toEqual([
    {
      event_type: 'services.session.completed.v1',
      payload: {
        sessionId: id,
        contractId: 'contract-1',
        mentorId: 'mentor-1',
        amountMinor: 12_500,
        currency: 'EUR',
      },
      status: 'pending',
    },
  ]);
});

test('an id that is no RFC UUID but one of Postgres can be completed as well as created', async () => {
  const id = randomUUID().replace(/^(.{14})./, '$10');
  const session = { id, contractId: 'c', mentorId: 'm', amountMinor: 0, currency: 'EUR' };
  expect((await service.post('/sessions', session)).status).toBe(201);
  expect((await service.post(`/sessions/${id}/complete`)).status).toBe(200);
});

test('a completion whose event cannot be written is no completion, and is counted as failed', async () => {
  const id = await service.createSession();
  await database.query('alter table domain_events rename to moved');
  try {
    const answer = await service.post(`/sessions/${id}/complete`);
    expect(answer).toMatchObject({
      status: 500,
      body: { statusCode: 500, message: 'Internal Server Error' },
    });
  } finally {
    await database.query('alter table moved rename to domain_events');
  }
  expect(await database.query('select completed_at from sessions where id = $1', [id])).toEqual([
    { completed_at: null },
  ]);
  const { text } = await service.get('/metrics');
  expect(text).toContain('event_publish_error_total 1\n');
  expect((await service.post(`/sessions/${id}/complete`)).status).toBe(200);
});

test('what cannot be used is refused by field, and what was sent is neither answered nor logged', async () => {
  const planted = 'Ann-Planted-Person';
  const session = { contractId: 'c', mentorId: planted, amountMinor: 1, currency: planted };
  const cases: [string, unknown, number, unknown][] = [
    ['/sessions', session, 400, ['currency: three capital letters, such as EUR']],
    ['/sessions', { ...session, currency: 'EUR', [planted]: 1 }, 400, ['body: has an unknown field']],
    [
      '/sessions',
      { ...session, currency: 'EUR', contractId: 'a\u0000' },
      400,
      ['contractId: a character that cannot be stored'],
    ],
    ['/sessions', `{"${planted}`, 400, 'the request could not be read: send valid JSON'],
    [
      '/sessions',
      JSON.stringify({ ...session, contractId: planted.repeat(6_000) }),
      413,
      'Payload Too Large',
    ],
    [`/sessions/${planted}/complete`, {}, 400, ['id: a UUID is expected']],
    [`/${planted}`, {}, 404, 'Not Found'],
  ];
  for (const [path, body, status, message] of cases) {
    const answer = await service.post(path, body);
    expect(answer.body).toEqual({ statusCode: status, message });
    expect(answer.text).not.toContain(planted);
  }
  const unknown = randomUUID();
  expect((await service.post(`/sessions/${unknown}/complete`)).body).toEqual({
    statusCode: 404,
    message: `there is no session ${unknown}`,
  });
  const id = await service.createSession();
  expect((await service.post('/sessions', { ...session, currency: 'EUR', id })).status).toBe(409);
  expect(service.output()).not.toContain(planted);
});

test('every series of the plan is there from the start', async () => {
  const fresh = await startOutboxHere(database.url);
  try {
    const { status, text } = await fresh.get('/metrics?any=1');
    expect(status).toBe(200);
    const type = 'event_type="services.session.completed.v1"';
    for (const series of [
      `event_published_total{${type},status="committed"} 0`,
      `event_processed_total{${type},status="failed"} 0`,
      'event_publish_error_total 0',
      `event_duration_seconds_bucket{le="0.5",${type}} `,
    ])
      expect(text).toContain(series);
  } finally {
    await fresh.stop();
  }
});

test('requests are counted by route and never by path', async () => {
  const id = await service.createSession();
  await service.post(`/sessions/${id}/complete`);
  await service.get('/no/such/path');
  const { text } = await service.get('/metrics');
  for (const labels of [
    'method="POST",route="/sessions/:id/complete",status="200"',
    'method="GET",route="none",status="404"',
  ])
    expect(text).toContain(`http_request_duration_seconds_count{${labels}} `);
  expect(text).not.toContain(id);
  expect(text).not.toContain('such');
});

test('it is live without its database, and not ready', async () => {
  expect((await service.get('/health/ready')).status).toBe(200);
  const alone = await startOutboxHere('postgres://nobody@127.0.0.1:1/none');
  try {
    expect((await alone.get('/health/live')).status).toBe(200);
    expect(await alone.get('/health/ready')).toMatchObject({
      status: 503,
      body: { statusCode: 503, message: 'the database does not answer' },
    });
  } finally {
    await alone.stop();
  }
});

test('a connection lost in the middle of a completion costs that request and not the process', async () => {
  let cut = true;
  const proxy = await startProxy(database.url, (chunk) =>
    cut && chunk.includes('v1-outbox complete-session') ? 'cut' : 'pass',
  );
  const own = await startOutboxHere(proxy.url);
  try {
    const id = await own.createSession();
    expect((await own.post(`/sessions/${id}/complete`)).status).toBe(500);
    expect((await own.get('/health/live')).status).toBe(200);
    cut = false;
    expect((await own.post(`/sessions/${id}/complete`)).status).toBe(200);
  } finally {
    await own.stop();
    await proxy.close();
  }
});

/** In a database of its own: what other tests left in the outbox would be claimed first. */
function stopTest(title: string, body: (own: TestDatabase) => Promise<void>): void {
  test(title, async () => {
    const own = await createOutboxDatabase();
    try {
      await body(own);
    } finally {
      await own.drop();
    }
  });
}

stopTest(
  'SIGTERM: not ready but serving for the pause, then the batch in work ends, and exit code 0',
  async (own) => {
    const stopping = await startOutbox(own.url, { SHUTDOWN_PAUSE_SECONDS: '2', OUTBOX_POLL_SECONDS: '1' });
    const id = await stopping.createSession();
    const ledger = await openTransaction(own.url, 'lock table mentor_payable_ledgers in exclusive mode');
    await stopping.post(`/sessions/${id}/complete`);
    await waitFor('the bill to wait', () => isWaiting(own, 'v1-outbox bill-session'));
    stopping.signal('SIGTERM');
    await waitFor('not ready', async () => (await stopping.get('/health/ready')).status === 503);
    expect((await stopping.get('/health/live')).status).toBe(200);
    await waitFor('closed', () =>
      stopping.get('/health/live').then(
        () => false,
        () => true,
      ),
    );
    await ledger.end('rollback');
    expect(await stopping.exited).toEqual({ code: 0, signal: null });
    expect(stopping.output()).toContain('Every event in work is done');
    expect(await eventsOf(id, own)).toMatchObject([{ status: 'published' }]);
    expect(await billCounts(own, [id])).toEqual([1]);
  },
);

stopTest(
  'SIGTERM with work that does not end: exit code 0 at the deadline, and its row stays to be taken up',
  async (own) => {
    const stopping = await startOutbox(own.url, { DRAIN_SECONDS: '1' });
    const id = await stopping.createSession();
    const ledger = await openTransaction(own.url, 'lock table mentor_payable_ledgers in exclusive mode');
    await stopping.post(`/sessions/${id}/complete`);
    await waitFor('the bill to wait', () => isWaiting(own, 'v1-outbox bill-session'));
    stopping.signal('SIGTERM');
    expect(await stopping.exited).toEqual({ code: 0, signal: null });
    expect(stopping.output()).toContain('Stopping with events in work');
    expect(await eventsOf(id, own)).toMatchObject([{ status: 'processing' }]);
    await ledger.end('rollback');
  },
);

test('without usable settings it ends at once, names the variables and shows no value', async () => {
  const start = startOutbox('mysql://user:hunter2@db/none', {
    OUTBOX_POLL_SECONDS: 'often',
    LOG_LEVEL: 'shouting',
  });
  await expect(start).rejects.toThrow(/settings refused: DATABASE_URL, LOG_LEVEL, OUTBOX_POLL_SECONDS/);
  await expect(start).rejects.not.toThrow(/hunter2|often|shouting/);
});
