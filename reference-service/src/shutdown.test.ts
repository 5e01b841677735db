import { afterAll, beforeAll, expect, test } from 'vitest';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';
import { bills, events, isProcessed } from './testing/business-rows.js';
import { eventually, type ServiceProcess, startService } from './testing/service-process.js';

let database: TestDatabase;
beforeAll(async () => {
  database = await createTestDatabase();
});
afterAll(async () => {
  await database?.drop();
});

async function completeSlowly(service: ServiceProcess, ms: number): Promise<string> {
  await service.arm('slow', { ms });
  const id = await service.createSession();
  await service.post(`/sessions/${id}/complete`);
  await eventually('a running listener', async () => {
    const rows = await database.query(
      `select 1 from event_deliveries d join event_backups b using (event_id)
       where b.payload ->> 'sessionId' = $1 and d.status = 'running'`,
      [id],
    );
    return rows.length > 0;
  });
  return id;
}

test('SIGTERM waits for the listeners in work, bills them, and ends with exit code 0', async () => {
  const service = await startService(database.url);
  const ids = [await completeSlowly(service, 3_000), await completeSlowly(service, 1_000)];
  service.signal('SIGTERM');
  expect(await service.exited).toEqual({ code: 0, signal: null });
  for (const id of ids) {
    expect(await isProcessed(database, id)).toBe(true);
    expect(await bills(database, id)).toHaveLength(1);
  }
  expect(service.output()).toContain('Every event in work is done');
  const open = await database.query(
    `select 1 from pg_stat_activity where datname = current_database() and application_name like 'reference-service%'`,
  );
  expect(open).toEqual([]);
});

test('SIGTERM ends at its deadline, with the ids that are left in the log and exit code 0', async () => {
  const service = await startService(database.url, { DRAIN_SECONDS: '1' });
  const id = await completeSlowly(service, 60_000);
  service.signal('SIGTERM');
  expect(await service.exited).toEqual({ code: 0, signal: null });
  const [event] = await events(database, id);
  const line = service
    .output()
    .split('\n')
    .find((text) => text.includes('Stopping with events in work'));
  expect(line).toContain(event?.id);
  expect(event?.status).toBe('pending');
});

test('after SIGTERM it is not ready but serves on for the pause, then drains and ends with exit code 0', async () => {
  const service = await startService(database.url, { SHUTDOWN_PAUSE_SECONDS: '3' });
  const slow = await completeSlowly(service, 5_000);
  const startedAt = performance.now();
  service.signal('SIGTERM');
  const refused = await eventually('not ready', async () => {
    const answer = await service.get('/health/ready');
    return answer.status === 503 && answer;
  });
  expect(refused.body).toEqual({ statusCode: 503, message: 'stopping' });
  const alive = await service.get('/health/live');
  expect([alive.status, alive.headers.get('connection')]).toEqual([200, 'close']);
  // Balancers that have not heard of it yet still send requests.
  const late = await service.createSession();
  expect((await service.post(`/sessions/${late}/complete`)).status).toBe(200);
  await eventually('closed', () =>
    service.get('/health/live').then(
      () => false,
      () => true,
    ),
  );
  expect(performance.now() - startedAt).toBeGreaterThan(2_900);
  expect(await service.exited).toEqual({ code: 0, signal: null });
  for (const id of [slow, late]) expect(await bills(database, id)).toHaveLength(1);
});

test('SIGTERM with nothing in work ends at once with exit code 0', async () => {
  const service = await startService(database.url);
  service.signal('SIGTERM');
  expect(await service.exited).toEqual({ code: 0, signal: null });
});

test('connections that the server ends are replaced, and nothing in the process ends with them', async () => {
  const service = await startService(database.url);
  try {
    const id = await service.createSession();
    await database.query(
      `select pg_terminate_backend(pid) from pg_stat_activity
       where datname = current_database() and application_name like 'reference-service%'`,
    );
    await eventually(
      'an answer',
      async () => (await service.post(`/sessions/${id}/complete`)).status === 200,
    );
    await eventually('processed', () => isProcessed(database, id));
  } finally {
    await service.stop();
  }
});

test('a service without usable settings ends at once, names the variables and shows no value', async () => {
  const start = startService('mysql://user:hunter2@db/none', { PORT: 'eighty' });
  await expect(start).rejects.toThrow(/settings refused: DATABASE_URL, PORT/);
  await expect(start).rejects.not.toThrow(/hunter2|eighty/);
});
