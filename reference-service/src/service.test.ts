import { REPLAY_OUTCOMES } from '@counterfoil/nestjs';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';
import { bills, events, isProcessed } from './testing/business-rows.js';
import { eventually, TOKEN } from './testing/service-client.js';
import { type ServiceHere, startServiceHere } from './testing/service-here.js';

/** Stands for personal data: it must appear in no log line and no error. */
const CANARY = 'ada.lovelace@example.org';

let database: TestDatabase;
let service: ServiceHere;
beforeAll(async () => {
  database = await createTestDatabase();
  service = await startServiceHere(database.url);
});
afterAll(async () => {
  await service?.stop();
  await database?.drop();
});

test('a completed session is billed once, with its amount and currency', async () => {
  const id = await service.createSession({ amountMinor: 3_000_000_000, currency: 'JPY' });
  const { status, body } = await service.post(`/sessions/${id}/complete`);
  expect(status).toBe(200);
  expect(body).toMatchObject({ id, amountMinor: 3_000_000_000, completedAt: expect.any(String) });
  await eventually('processed', () => isProcessed(database, id));
  expect(await bills(database, id)).toEqual([
    {
      id: expect.any(String),
      amount: '3000000000',
      currency: 'JPY',
      key: `session:${id}:1`,
      reverses: null,
    },
  ]);
});

test('a session completed again is returned as it is, without a second event', async () => {
  const id = await service.createSession();
  const first = await service.post(`/sessions/${id}/complete`);
  const second = await service.post(`/sessions/${id}/complete`);
  expect([second.status, second.text]).toEqual([first.status, first.text]);
  expect(await events(database, id)).toHaveLength(1);
});

test('an event given to billing a second time finds the same ledger row, and the log says so', async () => {
  const id = await service.createSession();
  await service.post(`/sessions/${id}/complete`);
  await eventually('processed', () => isProcessed(database, id));
  const [bill] = await bills(database, id);
  const again = `again-${id}`;
  await database.query(
    `insert into event_backups (event_id, event_name, payload, status)
     select $1, event_name, payload, 'pending' from event_backups where payload ->> 'sessionId' = $2`,
    [again, id],
  );
  const { body } = await service.admin('/admin/events/replay', { eventIds: [again] });
  expect(body.results).toEqual([{ eventId: again, outcome: 'processed' }]);
  expect(await bills(database, id)).toEqual([bill]);
  const lineAboutIt = () =>
    service
      .output()
      .split('\n')
      .find((text) => text.includes('billed already') && text.includes(id));
  // The answer may arrive before the line that was written first.
  await eventually('logged', async () => lineAboutIt() !== undefined);
  expect(JSON.parse(lineAboutIt() ?? '{}')).toMatchObject({ sessionId: id, ledgerId: Number(bill?.id) });
});

test('an event whose session id is written in capitals finds the bill of that session, and writes no second one', async () => {
  const id = await service.completeSession();
  await eventually('processed', () => isProcessed(database, id));
  const [bill] = await bills(database, id);
  const again = `capitals-${id}`;
  await database.query(
    `insert into event_backups (event_id, event_name, payload, status)
     select $1, event_name, payload || jsonb_build_object('sessionId', upper(payload ->> 'sessionId')), 'pending'
     from event_backups where payload ->> 'sessionId' = $2`,
    [again, id],
  );
  const { body } = await service.admin('/admin/events/replay', { eventIds: [again] });
  expect(body.results).toEqual([{ eventId: again, outcome: 'processed' }]);
  expect(await bills(database, id)).toEqual([bill]);
});

describe('a request that cannot be served is refused with what is wrong', () => {
  const session = { contractId: 'c', mentorId: 'm', amountMinor: 1, currency: 'EUR' };

  test.each([
    ['a missing field', { ...session, mentorId: undefined }, 'mentorId'],
    ['a negative amount', { ...session, amountMinor: -1 }, 'amountMinor'],
    ['a fraction of a minor unit', { ...session, amountMinor: 1.5 }, 'amountMinor'],
    ['an amount as text', { ...session, amountMinor: '1' }, 'amountMinor'],
    ['an amount no number holds exactly', { ...session, amountMinor: 2 ** 53 }, 'amountMinor'],
    ['a currency that is none', { ...session, currency: 'eur' }, 'currency'],
    ['an id that is no UUID', { ...session, id: CANARY }, 'id'],
    ['a NUL in a name', { ...session, mentorId: `${CANARY}\u0000` }, 'mentorId'],
    ['a lone surrogate in a name', { ...session, contractId: `${CANARY}\ud800` }, 'contractId'],
    ['an unknown field', { ...session, [CANARY]: CANARY }, 'unknown field'],
    ['a list', [CANARY], 'body'],
    ['no JSON', `{"mentorId": "${CANARY}`, 'valid JSON'],
  ])('%s: 400', async (_title, body, problem) => {
    const answer = await service.post('/sessions', body);
    expect(answer.status).toBe(400);
    expect(answer.text).toContain(problem);
    expect(answer.text).not.toContain(CANARY);
  });

  test('a body too large to be one: 413', async () => {
    const answer = await service.post('/sessions', { ...session, contractId: 'x'.repeat(200_000) });
    expect(answer.status).toBe(413);
  });

  test('an id that exists: 409; a session that does not: 404; an id that is none: 400', async () => {
    const id = await service.createSession();
    expect((await service.post('/sessions', { ...session, id })).status).toBe(409);
    expect((await service.post(`/sessions/${crypto.randomUUID()}/complete`)).status).toBe(404);
    expect((await service.post('/sessions/not-a-uuid/complete')).status).toBe(400);
  });
});

test('a row that Postgres refuses ends in an answer without it, and in a log line without it', async () => {
  // The error of the database quotes the whole row, and that of the query builder every parameter.
  await database.query('alter table sessions add constraint no_tests check (contract_id <> $$refused$$)');
  const answer = await service.post('/sessions', {
    contractId: 'refused',
    mentorId: CANARY,
    amountMinor: 1,
    currency: 'EUR',
  });
  await database.query('alter table sessions drop constraint no_tests');
  expect(answer.status).toBe(500);
  expect(answer.body).toEqual({ statusCode: 500, message: 'Internal Server Error' });
  const line = await eventually('the line', () =>
    service
      .output()
      .split('\n')
      .find((text) => text.includes('Request failed')),
  );
  expect(JSON.parse(line)).toMatchObject({ status: 500, err: { code: '23514', at: expect.any(Array) } });
  expect(service.output()).not.toContain(CANARY);
});

test('personal data in an event reaches no log line and no error, whether billing succeeds or fails', async () => {
  const id = await service.createSession({ mentorId: CANARY, contractId: CANARY });
  await service.arm('fail');
  await service.post(`/sessions/${id}/complete`);
  await eventually('the failure', () => service.output().includes('Listener failed'));
  const [event] = await events(database, id);
  const failed = await service.admin('/admin/events/replay', { eventIds: [event?.id] });
  expect(failed.body.results).toEqual([
    { eventId: event?.id, outcome: 'failed', retryable: true, error: 'Error' },
  ]);
  expect(failed.text).not.toContain(CANARY);
  await fetch(`${service.url}/admin/faults`, {
    method: 'DELETE',
    headers: { authorization: `Bearer ${TOKEN}` },
  });
  await service.admin('/admin/events/replay', { eventIds: [event?.id] });
  expect(await bills(database, id)).toHaveLength(1);
  expect(service.output()).not.toContain(CANARY);
});

test('a replay without the token, with a wrong one or with 101 ids is refused', async () => {
  const path = '/admin/events/replay';
  expect((await service.post(path, { eventIds: ['a'] })).status).toBe(401);
  expect((await service.post(path, { eventIds: ['a'] }, { authorization: 'Bearer wrong' })).status).toBe(401);
  const eventIds = Array.from({ length: 101 }, () => crypto.randomUUID());
  expect((await service.admin(path, { eventIds })).status).toBe(413);
});

test('the health endpoints answer, and the API describes itself with every outcome of a replay', async () => {
  expect((await service.get('/health/live')).status).toBe(200);
  expect((await service.get('/health/ready')).status).toBe(200);
  expect((await service.get('/docs')).text).toContain('swagger');
  const { body } = await service.get('/docs/openapi.json');
  expect(Object.keys(body.paths).sort()).toEqual([
    '/admin/billing/corrections',
    '/admin/events/pending',
    '/admin/events/replay',
    '/admin/events/replay/{sessionId}',
    '/admin/faults',
    '/contracts',
    '/contracts/{id}/activate',
    '/contracts/{id}/consumptions',
    '/health/live',
    '/health/ready',
    '/metrics',
    '/sessions',
    '/sessions/{id}/complete',
    '/sessions/{id}/evaluate',
  ]);
  const answer = body.paths['/admin/events/replay'].post.responses['200'].content['application/json'].schema;
  expect(answer.properties.results.items.properties.outcome.enum).toEqual(Object.keys(REPLAY_OUTCOMES));
  const refused = body.paths['/admin/events/replay'].post.responses['503'];
  expect(refused.headers['counterfoil-outcome'].schema.enum).toEqual(['not-started']);
});

test('without a token and without FAULTS there is no admin endpoint, nor a word of it in the API', async () => {
  const plain = await startServiceHere(database.url, { REPLAY_TOKEN: '', FAULTS: '' });
  try {
    expect((await plain.admin('/admin/events/replay', { eventIds: ['a'] })).status).toBe(404);
    expect((await plain.admin('/admin/faults', { fault: 'lose', rate: 1, forSeconds: 1 })).status).toBe(404);
    const { body } = await plain.get('/docs/openapi.json');
    expect(Object.keys(body.paths).filter((path) => path.startsWith('/admin'))).toEqual([]);
  } finally {
    await plain.stop();
  }
});

test('faults cannot be armed or disarmed without the token, nor by a name that is none', async () => {
  const fault = { fault: 'lose', rate: 1, forSeconds: 1 };
  expect((await service.post('/admin/faults', fault)).status).toBe(401);
  expect((await fetch(`${service.url}/admin/faults`, { method: 'DELETE' })).status).toBe(401);
  expect((await service.admin('/admin/faults', { ...fault, fault: 'explode' })).status).toBe(400);
  expect((await service.admin('/admin/faults', { ...fault, rate: 2 })).status).toBe(400);
});

test('the pod and its template are recorded with an event where the table has the columns', async () => {
  await database.query(
    'alter table event_backups add column published_by text, add column published_hash text',
  );
  const pod = await startServiceHere(database.url, { POD_NAME: 'pod-7', POD_TEMPLATE_HASH: '5d4f8b' });
  try {
    const id = await pod.createSession();
    await pod.post(`/sessions/${id}/complete`);
    expect(
      await database.query(
        `select published_by, published_hash from event_backups where payload ->> 'sessionId' = $1`,
        [id],
      ),
    ).toEqual([{ published_by: 'pod-7', published_hash: '5d4f8b' }]);
  } finally {
    await pod.stop();
  }
});

test('a service whose database is away is alive, not ready, and does not end', async () => {
  const away = await startServiceHere('postgres://nobody@127.0.0.1:1/none');
  try {
    expect((await away.get('/health/live')).status).toBe(200);
    expect((await away.get('/health/ready')).status).toBe(503);
    expect((await away.post(`/sessions/${crypto.randomUUID()}/complete`)).status).toBe(500);
    const refused = await away.admin('/admin/events/replay', { eventIds: ['a'] });
    expect(refused).toMatchObject({ status: 503, outcome: 'not-started' });
  } finally {
    await away.stop();
  }
});
