import { afterAll, beforeAll, expect, test } from 'vitest';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';
import { bills, isProcessed } from './testing/business-rows.js';
import { eventually } from './testing/service-client.js';
import { startServiceHere } from './testing/service-here.js';

let database: TestDatabase;
beforeAll(async () => {
  database = await createTestDatabase();
});
afterAll(async () => {
  await database?.drop();
});

test('a request in work when shutdown begins is answered, its connection ended, and what it began is finished', async () => {
  const service = await startServiceHere(database.url);
  const id = await service.createSession();
  await database.query('begin');
  await database.query('select 1 from sessions where id = $1 for update', [id]);
  const answering = service.post(`/sessions/${id}/complete`);
  await eventually('a waiting completion', async () => {
    const waiting = await database.query(
      `select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`,
    );
    return waiting.length > 0;
  });
  const stopped = service.stop();
  await eventually('closed', () =>
    service.get('/health/live').then(
      () => false,
      () => true,
    ),
  );
  await database.query('rollback');
  const answer = await answering;
  expect([answer.status, answer.headers.get('connection')]).toEqual([200, 'close']);
  await stopped;
  expect(await isProcessed(database, id)).toBe(true);
  expect(await bills(database, id)).toHaveLength(1);
});

test('before that, connections are kept', async () => {
  const service = await startServiceHere(database.url);
  expect((await service.get('/health/live')).headers.get('connection')).toBe('keep-alive');
  await service.stop();
});
