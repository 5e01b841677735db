/** What helm test asks the service: whether its replay endpoint is there, knows the token, and nothing without it. */
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { wiringJob } from '../../jobs/wiring/job.ts';
import {
  type ServiceProcess,
  startService,
  TOKEN,
} from '../../reference-service/src/testing/service-process.ts';
import { run } from '../builders/run.ts';
import { addEvent, addSession } from '../builders/service.ts';
import { createTestDatabase, type TestDatabase } from '../postgres/database.ts';

let database: TestDatabase;
let service: ServiceProcess;
beforeAll(async () => {
  database = await createTestDatabase();
  service = await startService(database.url);
});
afterAll(async () => {
  await service?.stop();
  await database?.drop();
});

const tryEndpoint = async (changes: Readonly<Record<string, string>> = {}) =>
  await run(wiringJob, {
    DATABASE_URL: database.urlAs('counterfoil_jobs'),
    CF_SUBJECT: 'endpoint',
    CF_REPLAY_URL: `${service.url}/admin/events/replay`,
    CF_REPLAY_TOKEN: TOKEN,
    CF_WAIT_SECONDS: '0',
    ...changes,
  });

describe('the replay endpoint', () => {
  test('is right on the real service, and nothing that is pending is replayed', async () => {
    const session = await addSession(database);
    await addEvent(database, session.id);
    const end = await tryEndpoint();
    expect(end.exitCode, end.log).toBe(0);
    expect(await database.query(`SELECT FROM event_backups WHERE status = 'pending'`)).toHaveLength(1);
    expect(await database.query('SELECT FROM event_deliveries')).toEqual([]);
  });

  test('is refused where the token is another one, and the token is not repeated', async () => {
    const end = await tryEndpoint({ CF_REPLAY_TOKEN: 'another-token-of-somebody-else' });
    expect(end.exitCode).toBe(2);
    expect(end.message).toContain('refuses the token');
    expect(end.message).toContain('(401)');
    expect(end.log).not.toContain('another-token-of-somebody-else');
  });

  test('is refused where the path is another one', async () => {
    const end = await tryEndpoint({ CF_REPLAY_URL: `${service.url}/admin/event/replay` });
    expect(end.exitCode).toBe(2);
    expect(end.message).toContain('is not there');
  });

  test('is not there for a service without a token of its own', async () => {
    const without = await startService(database.url, { REPLAY_TOKEN: '', FAULTS: '' });
    try {
      const end = await tryEndpoint({ CF_REPLAY_URL: `${without.url}/admin/events/replay` });
      expect(end.exitCode).toBe(2);
      expect(end.message).toContain('was given no token of its own');
    } finally {
      await without.stop();
    }
  });
});

describe('what only looks like the endpoint', () => {
  let server: Server;
  let answer: (authorization: string | undefined, ids: readonly string[]) => [status: number, body: unknown];
  let url: string;
  beforeAll(async () => {
    server = createServer((request, response) => {
      let body = '';
      request.on('data', (chunk: Buffer) => {
        body += chunk.toString();
      });
      request.on('end', () => {
        const { eventIds } = JSON.parse(body) as { eventIds: string[] };
        const [status, content] = answer(request.headers.authorization, eventIds);
        response
          .writeHead(status, status === 302 ? { location: '/elsewhere' } : {})
          .end(JSON.stringify(content));
      });
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
  });
  afterAll(async () => {
    await new Promise((resolve) => server.close(resolve));
  });
  const results = (ids: readonly string[], outcome: string) => ({
    results: ids.map((eventId) => ({ eventId, outcome })),
  });

  test.each<[what: string, answer: typeof answer, exitCode: number, message: string]>([
    ['redirects', () => [302, {}], 2, 'redirects (302)'],
    ['is down', () => [503, {}], 1, 'answers with status 503'],
    ['is a login page', () => [200, {}], 2, 'no result for the event'],
    ['says processed to any id', (_, ids) => [200, results(ids, 'processed')], 2, 'does not look at the ids'],
    ['asks for no token', (_, ids) => [200, results(ids, 'not_found')], 2, 'answers without a token too'],
    [
      'is right',
      (token, ids) => (token === undefined ? [401, {}] : [200, results(ids, 'not_found')]),
      0,
      'wired as it must be',
    ],
  ])('and %s', async (_, answering, exitCode, message) => {
    answer = answering;
    const end = await tryEndpoint({ CF_REPLAY_URL: url });
    expect(end.exitCode, end.log).toBe(exitCode);
    expect(end.message).toContain(message);
  });
});
