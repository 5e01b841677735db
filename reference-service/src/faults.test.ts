import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';
import { bills, events, isCompleted, isProcessed } from './testing/business-rows.js';
import { type Answer, eventually, type ServiceProcess, startService } from './testing/service-process.js';

let database: TestDatabase;
const services: ServiceProcess[] = [];
beforeAll(async () => {
  database = await createTestDatabase();
});
afterAll(async () => {
  await database?.drop();
});
afterEach(async () => {
  await Promise.all(services.splice(0).map((service) => service.stop()));
});

async function start(env: Readonly<Record<string, string>> = {}): Promise<ServiceProcess> {
  const service = await startService(database.url, env);
  services.push(service);
  return service;
}

/** Completes a new session under a fault; the answer may be cut off by it. */
async function completeUnder(service: ServiceProcess, fault: string, more: object = {}): Promise<string> {
  const id = await service.createSession();
  await service.arm(fault, more);
  await service.post(`/sessions/${id}/complete`).catch((): Answer | undefined => undefined);
  return id;
}

async function replay(service: ServiceProcess, sessionId: string, times = 1): Promise<string[]> {
  const eventIds = (await events(database, sessionId)).map(({ id }) => id);
  const ask = () => service.admin('/admin/events/replay', { eventIds });
  const answers = await Promise.all(Array.from({ length: times }, ask));
  return answers.flatMap(({ body }) => body.results.map(({ outcome }: { outcome: string }) => outcome));
}

/** The service's lines about what it did, without those of its start. */
const linesAbout = (service: ServiceProcess): string =>
  service
    .output()
    .split('\n')
    .filter((line) => line.includes('"context":"Counterfoil"'))
    .join('\n');

describe('a fault leaves the trace of the bad release it stands for', () => {
  test('lose: the event stays pending without a word in the log, and a replay bills it', async () => {
    const service = await start();
    const id = await completeUnder(service, 'lose');
    expect(await isCompleted(database, id)).toBe(true);
    expect((await events(database, id)).map(({ status }) => status)).toEqual(['pending']);
    expect(await bills(database, id)).toEqual([]);
    expect(linesAbout(service)).toBe('');
    expect(await replay(service, id)).toEqual(['processed']);
    expect(await bills(database, id)).toHaveLength(1);
  });

  test('skip_backup: the session is completed and there is no event at all', async () => {
    const service = await start();
    const id = await completeUnder(service, 'skip_backup');
    expect(await isCompleted(database, id)).toBe(true);
    expect(await events(database, id)).toEqual([]);
    expect(linesAbout(service)).toBe('');
  });

  test('slow: the bill comes late', async () => {
    const service = await start();
    const before = performance.now();
    const id = await completeUnder(service, 'slow', { ms: 3_000 });
    expect(await bills(database, id)).toEqual([]);
    await eventually('processed', () => isProcessed(database, id));
    expect(performance.now() - before).toBeGreaterThan(3_000);
  });

  test('bill_twice and bill_wrong: the service believes that it did right', async () => {
    const service = await start();
    const twice = await completeUnder(service, 'bill_twice');
    await eventually('processed', () => isProcessed(database, twice));
    expect((await bills(database, twice)).map(({ key }) => key)).toEqual([
      `session:${twice}:1`,
      `session:${twice}:2`,
    ]);
    const wrong = await completeUnder(service, 'bill_wrong');
    await eventually('processed', () => isProcessed(database, wrong));
    expect((await bills(database, wrong)).map(({ amount }) => amount)).toEqual(['12501', '12501']);
  });

  test('a rate of 0 never strikes, and a fault ends with its time', async () => {
    const service = await start();
    for (const more of [{ rate: 0 }, { forSeconds: 0 }]) {
      const id = await completeUnder(service, 'lose', more);
      await eventually('processed', () => isProcessed(database, id));
    }
  });
});

describe('a process killed', () => {
  test('before the commit leaves neither a completed session nor an event', async () => {
    const service = await start();
    const id = await completeUnder(service, 'crash_before_commit');
    expect(await service.exited).toEqual({ code: null, signal: 'SIGKILL' });
    await eventually('the end of its transaction', async () => {
      const open = await database.query(
        `select 1 from pg_stat_activity where datname = current_database() and xact_start is not null
         and pid <> pg_backend_pid()`,
      );
      return open.length === 0;
    });
    expect(await isCompleted(database, id)).toBe(false);
    expect(await events(database, id)).toEqual([]);
  });

  test('between commit and listener leaves a pending event that a replay bills once', async () => {
    const service = await start();
    const id = await completeUnder(service, 'crash_after_commit');
    expect(await service.exited).toEqual({ code: null, signal: 'SIGKILL' });
    expect(await isCompleted(database, id)).toBe(true);
    expect((await events(database, id)).map(({ status }) => status)).toEqual(['pending']);
    expect(await bills(database, id)).toEqual([]);

    const next = await start();
    expect(await replay(next, id, 3)).toContain('processed');
    expect(await bills(database, id)).toHaveLength(1);
    expect(await replay(next, id)).toEqual(['already_processed']);
    expect(await bills(database, id)).toHaveLength(1);
  });

  test.each(['crash_after_handler', 'crash_before_mark'])(
    'after the bill (%s) is replayed once its lease has run out, and the bill stays one',
    async (fault) => {
      const service = await start({ LISTENER_LEASE_SECONDS: '1' });
      const id = await completeUnder(service, fault);
      expect(await service.exited).toEqual({ code: null, signal: 'SIGKILL' });
      expect(await bills(database, id)).toHaveLength(1);
      expect((await events(database, id)).map(({ status }) => status)).toEqual(['pending']);

      const next = await start({ LISTENER_LEASE_SECONDS: '1' });
      await eventually('processed', async () => (await replay(next, id))[0] === 'processed');
      expect(await bills(database, id)).toHaveLength(1);
      expect(next.output()).toContain('billed already');
    },
  );

  test('by somebody else in the middle of a listener is replayed and billed once', async () => {
    const service = await start({ LISTENER_LEASE_SECONDS: '3' });
    const id = await completeUnder(service, 'slow', { ms: 60_000 });
    await eventually('a running listener', async () => {
      const rows = await database.query(
        `select 1 from event_deliveries d join event_backups b using (event_id)
         where b.payload ->> 'sessionId' = $1 and d.status = 'running'`,
        [id],
      );
      return rows.length > 0;
    });
    // Started before, so that the lease is still alive when it is asked.
    const next = await start();
    service.signal('SIGKILL');
    await service.exited;
    expect(await replay(next, id)).toEqual(['in_flight']);
    await eventually('processed', async () => (await replay(next, id))[0] === 'processed');
    expect(await bills(database, id)).toHaveLength(1);
  });
});
