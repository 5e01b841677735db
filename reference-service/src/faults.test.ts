import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';
import { bills, events, isCompleted, isProcessed } from './testing/business-rows.js';
import { type Answer, eventually, type ServiceClient } from './testing/service-client.js';
import { type ServiceHere, startServiceHere } from './testing/service-here.js';
import { type ServiceProcess, startService } from './testing/service-process.js';

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
async function completeUnder(service: ServiceClient, fault: string, more: object = {}): Promise<string> {
  const id = await service.createSession();
  await service.arm(fault, more);
  await service.post(`/sessions/${id}/complete`).catch((): Answer | undefined => undefined);
  return id;
}

async function replay(service: ServiceClient, sessionId: string, times = 1): Promise<string[]> {
  const eventIds = (await events(database, sessionId)).map(({ id }) => id);
  const ask = () => service.admin('/admin/events/replay', { eventIds });
  const answers = await Promise.all(Array.from({ length: times }, ask));
  return answers.flatMap(({ body }) => body.results.map(({ outcome }: { outcome: string }) => outcome));
}

describe('a fault leaves the trace of the bad release it stands for', () => {
  let here: ServiceHere;
  beforeAll(async () => {
    here = await startServiceHere(database.url);
  });
  afterAll(async () => {
    await here?.stop();
  });
  afterEach(async () => {
    await here.disarm();
  });

  /** How often a counter of session-completed events stands, by its status. */
  const counted = async (counter: string, status: string): Promise<number> => {
    const labels = `event_type="services.session.completed.v1",status="${status}"`;
    const line = (await here.get('/metrics')).text
      .split('\n')
      .find((text) => text.startsWith(`${counter}{${labels}`));
    return Number(line?.split(' ').at(-1));
  };
  const linesOfModule = () => here.lines('"context":"Counterfoil"').length;

  test('lose: the event counts as published and stays pending without a word in the log; a replay bills it', async () => {
    const before = { lines: linesOfModule(), published: await counted('event_published_total', 'committed') };
    const id = await completeUnder(here, 'lose');
    expect(await isCompleted(database, id)).toBe(true);
    expect((await events(database, id)).map(({ status }) => status)).toEqual(['pending']);
    expect(await bills(database, id)).toEqual([]);
    expect(linesOfModule()).toBe(before.lines);
    expect(await counted('event_published_total', 'committed')).toBe(before.published + 1);
    expect(await replay(here, id)).toEqual(['processed']);
    expect(await bills(database, id)).toHaveLength(1);
  });

  test('lose_wrong: the row that stays pending says one minor unit too much', async () => {
    const id = await completeUnder(here, 'lose_wrong');
    expect(
      await database.query(
        `select status, payload ->> 'amountMinor' as amount from event_backups where payload ->> 'sessionId' = $1`,
        [id],
      ),
    ).toEqual([{ status: 'pending', amount: '12501' }]);
    expect(await bills(database, id)).toEqual([]);
  });

  test('no_metrics: the metrics are gone, and nothing else is', async () => {
    await here.arm('no_metrics');
    expect((await here.get('/metrics')).status).toBe(404);
    const id = await here.createSession();
    await here.post(`/sessions/${id}/complete`);
    await eventually('processed', () => isProcessed(database, id));
    await here.disarm();
    expect((await here.get('/metrics')).status).toBe(200);
  });

  test('skip_backup: the session is completed and there is no event, no line and no count at all', async () => {
    const before = { lines: linesOfModule(), published: await counted('event_published_total', 'committed') };
    const id = await completeUnder(here, 'skip_backup');
    expect(await isCompleted(database, id)).toBe(true);
    expect(await events(database, id)).toEqual([]);
    expect(linesOfModule()).toBe(before.lines);
    expect(await counted('event_published_total', 'committed')).toBe(before.published);
  });

  test('slow: the bill comes late', async () => {
    const before = performance.now();
    const id = await completeUnder(here, 'slow', { ms: 1_000 });
    expect(await bills(database, id)).toEqual([]);
    await eventually('processed', () => isProcessed(database, id));
    expect(performance.now() - before).toBeGreaterThan(1_000);
  });

  test('fail: the event stays pending, counted and logged as failed, and a replay bills it', async () => {
    const failed = await counted('event_processed_total', 'failed');
    const id = await completeUnder(here, 'fail');
    await eventually(
      'counted',
      async () => (await counted('event_processed_total', 'failed')) === failed + 1,
    );
    expect(await bills(database, id)).toEqual([]);
    await here.disarm();
    expect(await replay(here, id)).toEqual(['processed']);
  });

  test('bill_twice and bill_wrong: the service believes that it did right', async () => {
    const twice = await completeUnder(here, 'bill_twice');
    await eventually('processed', () => isProcessed(database, twice));
    expect((await bills(database, twice)).map(({ key }) => key)).toEqual([
      `session:${twice}:1`,
      `session:${twice}:2`,
    ]);
    await here.disarm();
    const wrong = await completeUnder(here, 'bill_wrong');
    await eventually('processed', () => isProcessed(database, wrong));
    expect((await bills(database, wrong)).map(({ amount }) => amount)).toEqual(['12501']);
  });

  test('faults of billing strike an evaluation, and those of publishing a contract, as they do a completion', async () => {
    const session = await completeUnder(here, 'lose');
    await here.disarm();
    await here.arm('bill_wrong');
    await here.post(`/sessions/${session}/evaluate`, { score: 3 });
    await eventually('billed', async () => (await bills(database, session)).length > 0);
    expect((await bills(database, session)).map(({ amount }) => amount)).toEqual(['12501']);
    await here.arm('lose');
    const terms = { mentorId: 'mentor-1', currency: 'EUR', unitPriceMinor: 1, totalUnits: 1 };
    const { body } = await here.post('/contracts', terms);
    expect(
      await database.query(
        `select status from event_backups where event_name = 'contract.signed.v1' and payload ->> 'contractId' = $1`,
        [body.id],
      ),
    ).toEqual([{ status: 'pending' }]);
  });

  test('a fault of the setting strikes from the start', async () => {
    const service = await start({ FAULTS: 'lose=1' });
    const id = await service.createSession();
    await service.post(`/sessions/${id}/complete`);
    expect(await isCompleted(database, id)).toBe(true);
    expect((await events(database, id)).map(({ status }) => status)).toEqual(['pending']);
    expect(await bills(database, id)).toEqual([]);
  });

  test('a rate of 0 never strikes, one of a half strikes some, and a fault ends with its time', async () => {
    for (const more of [{ rate: 0 }, { forSeconds: 0 }]) {
      const id = await completeUnder(here, 'lose', more);
      await eventually('processed', () => isProcessed(database, id));
    }
    const ids = [];
    for (let count = 0; count < 60; count += 1) ids.push(await here.createSession());
    await here.arm('skip_backup', { rate: 0.5 });
    for (const id of ids) await here.post(`/sessions/${id}/complete`);
    const published = await database.query(
      `select 1 from event_backups where payload ->> 'sessionId' = any($1::text[])`,
      [ids],
    );
    expect(published.length).toBeGreaterThan(0);
    expect(published.length).toBeLessThan(ids.length);
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
    const service = await start({ LISTENER_LEASE_SECONDS: '1' });
    const id = await completeUnder(service, 'crash_after_commit');
    expect(await service.exited).toEqual({ code: null, signal: 'SIGKILL' });
    expect(await isCompleted(database, id)).toBe(true);
    expect((await events(database, id)).map(({ status }) => status)).toEqual(['pending']);
    expect(await bills(database, id)).toEqual([]);

    const next = await start();
    // The listeners were claimed with the commit: until that lease has run out they count as at work.
    await eventually('processed', async () => (await replay(next, id, 3)).includes('processed'));
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
