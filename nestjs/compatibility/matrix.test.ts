import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';
import { waitFor } from '../../test/builders/wait-for.ts';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';
import { TSC } from '../adoption/packed-module.ts';
import { deliveryRows, isProcessed, storePending } from '../src/testing/stored-events.js';
import { ENVIRONMENTS } from './environments.ts';
import { olderNode, type RunningService, startService } from './running-service.ts';

const TOKEN = 'the-token-of-the-matrix';
const EVENT = 'services.session.completed.v1';

const folderOf = (environment: string): string => inject('environments')[environment] ?? '';

const nodes = [{ path: process.execPath, version: process.version }, olderNode()].filter(
  (node) => node !== undefined,
);
const rows = ENVIRONMENTS.flatMap(({ name, services }) =>
  services.flatMap(({ driver, module }) =>
    // Only a CommonJS service asks something of the runtime that Node has not always had.
    nodes.slice(0, module === 'cjs' ? 2 : 1).map((node) => ({ environment: name, driver, module, node })),
  ),
);

describe.each(rows)('$environment with $driver as $module on Node $node.version', (row) => {
  let database: TestDatabase;
  let service: RunningService;
  beforeAll(async () => {
    database = await createTestDatabase();
    await database.query('create table completions (id text primary key)');
    await database.query('create table bills (id text primary key)');
    const main = join(row.module, `${row.driver}.js`);
    service = await startService(row.node.path, folderOf(row.environment), main, {
      DATABASE_URL: database.url,
      REPLAY_TOKEN: TOKEN,
    });
  });
  afterAll(async () => {
    service?.signal('SIGKILL');
    await service?.ended;
    await database?.drop();
  });

  const post = async (path: string, body: object, token?: string) =>
    await fetch(`${service.url}${path}`, {
      method: 'POST',
      headers: {
        'content-type': 'application/json',
        ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
      },
      body: JSON.stringify(body),
    });
  const complete = async (sessionId: string, body: object = {}): Promise<string> => {
    const response = await post(`/sessions/${sessionId}/complete`, body);
    expect(response.status).toBe(201);
    return ((await response.json()) as { eventId: string }).eventId;
  };
  const ids = async (table: 'completions' | 'bills'): Promise<string[]> =>
    (await database.query<{ id: string }>(`select id from ${table} order by id`)).map(({ id }) => id);

  test('delivers what was committed, and nothing of what was rolled back', async () => {
    expect((await post('/sessions/refused/complete', { refuse: true })).status).toBe(500);
    const eventId = await complete('kept');
    await waitFor('the event is processed', () => isProcessed(database, eventId));
    expect(await ids('completions')).toEqual(['kept']);
    expect(await ids('bills')).toEqual(['kept']);
    expect(await database.query('select event_id from event_backups')).toEqual([{ event_id: eventId }]);
  });

  test('replays a pending event by the endpoint, and not without the token', async () => {
    await storePending(database, 'lost', EVENT, { sessionId: 'lost' });
    const replay = { eventIds: ['lost'] };
    expect((await post('/admin/events/replay', replay)).status).toBe(401);
    expect((await post('/admin/events/replay', replay, 'another-token')).status).toBe(401);
    expect(await ids('bills')).not.toContain('lost');

    const response = await post('/admin/events/replay', replay, TOKEN);
    expect(response.status).toBe(200);
    expect(await response.json()).toMatchObject({
      serviceVersion: '1.0.0',
      results: [{ eventId: 'lost', outcome: 'processed' }],
    });
    expect(await ids('bills')).toContain('lost');
  });

  test('lets a running listener end at SIGTERM before the database is closed', async () => {
    const eventId = await complete('held', { hold: true });
    await waitFor('the listener runs', async () => service.output().includes('trial {"holding":"held"}'));
    service.signal('SIGTERM');
    await waitFor('the service drains', async () => service.output().includes('Waiting for events in work'));
    expect(service.output()).not.toContain('trial {"closed":true}');
    expect(await ids('bills')).not.toContain('held');

    service.letGo();
    const { code, signal } = await service.ended;
    // Nest ends the process by the signal itself once every hook has run.
    expect({ code, signal }).toEqual({ code: null, signal: 'SIGTERM' });
    expect(service.output()).toContain('Every event in work is done');
    expect(service.output()).toContain('trial {"closed":true}');
    expect(service.output()).not.toMatch(/UnhandledPromiseRejection|Warning:/);
    expect(await ids('bills')).toContain('held');
    expect(await isProcessed(database, eventId)).toBe(true);
    expect(await deliveryRows(database, eventId)).toEqual([
      { listener: 'bill', status: 'succeeded', attempts: 1, error: null },
    ]);
  });
});

describe('types', () => {
  const compile = async (environment: string, kind: string, ...options: string[]): Promise<string> => {
    const run = promisify(execFile);
    const args = [TSC, '-p', join(folderOf(environment), kind), '--noEmit', ...options];
    return await run(process.execPath, args).then(
      () => '',
      (error: { stdout: string }) => error.stdout,
    );
  };

  // Beside those that compiled the services: node10 for Nest 10, nodenext for the others.
  test.each([
    ['bundler', 'nest12', 'esm', ['--module', 'esnext', '--moduleResolution', 'bundler']],
    ['node16', 'nest12', 'esm', ['--module', 'node16', '--moduleResolution', 'node16']],
    ['bundler', 'nest11', 'esm', ['--module', 'esnext', '--moduleResolution', 'bundler']],
    ['node20', 'nest12', 'cjs', ['--module', 'node20', '--moduleResolution', 'node16']],
  ])('resolve by %s from %s as %s', async (_resolution, environment, kind, options) => {
    expect(await compile(environment, kind, ...options)).toBe('');
  });

  test('do not by node16 from CommonJS, where TypeScript knows no require of an ES module', async () => {
    const errors = await compile('nest12', 'cjs', '--module', 'node16', '--moduleResolution', 'node16');
    expect(errors).toContain('TS1479');
  });
});
