import { randomUUID } from 'node:crypto';
import { Injectable } from '@nestjs/common';
import fc from 'fast-check';
import { Pool } from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';
import { startProxy } from '../../test/postgres/proxy.ts';
import { OnBackedEvent } from './on-backed-event.js';
import { pgDriver } from './pg-driver.js';
import { expireLeases } from './testing/stored-events.js';
import { EVENT, eventually, startTrial, type Trial } from './testing/trial-app.js';

/** What is to become of one event. */
interface Planned {
  /** Its transaction is rolled back by the caller. */
  rolledBack: boolean;
  /** Another statement follows it in its transaction, so that it is claimed after the commit. */
  followed: boolean;
  /** How often each listener fails before it succeeds. */
  failures: { bill: number; notify: number };
}

interface Payload {
  id: string;
  failures: { bill: number; notify: number };
}

/** Every start of a listener: who, of which event, in which life of the service. */
let runs: { listener: 'bill' | 'notify'; id: string; life: number }[] = [];
let life = 0;

function run(listener: 'bill' | 'notify', { id, failures }: Payload): void {
  runs.push({ listener, id, life });
  const count = runs.filter((one) => one.listener === listener && one.id === id).length;
  if (count <= failures[listener]) throw new Error('fails on purpose');
}

@Injectable()
class Listeners {
  @OnBackedEvent(EVENT)
  bill(payload: Payload): void {
    run('bill', payload);
  }
  @OnBackedEvent(EVENT)
  async notify(payload: Payload): Promise<void> {
    await null;
    run('notify', payload);
  }
}

let database: TestDatabase;
let survivor: Trial;
beforeAll(async () => {
  database = await createTestDatabase();
  survivor = await startTrial(database.url, [Listeners]);
});
afterAll(async () => {
  await survivor?.stop();
  await database?.drop();
});

const plannedEvent = fc.record<Planned>({
  rolledBack: fc.boolean(),
  followed: fc.boolean(),
  failures: fc.record({ bill: fc.nat(1), notify: fc.nat(1) }),
});

/**
 * A service whose every message to the database from the `crashAt`th on is lost: that one before or after it has
 * reached the server, the answer in either case. What the process still does then has no effect, as if it had died.
 */
async function liveUntil(crashAt: number, delivered: boolean, events: readonly (Planned & { id: string })[]) {
  let messages = 0;
  const proxy = await startProxy(database.url, (chunk) => {
    // What a client says to log in is no part of the service's work.
    if (messages === 0 && !/\/\*|begin|select 1/.test(chunk)) return 'pass';
    messages += 1;
    if (messages < crashAt) return 'pass';
    return messages === crashAt && delivered ? 'deliver-and-cut' : 'cut';
  });
  const pool = new Pool({ connectionString: proxy.url, max: 3, connectionTimeoutMillis: 500 });
  const trial = await startTrial(database.url, [Listeners], {
    driver: pgDriver(pool),
    drainDeadlineMs: 0,
    listenerLeaseMs: 60_000,
  });
  const answers = await Promise.allSettled(
    events.map(({ id, rolledBack, followed, failures }) =>
      trial.publisher.transaction(async (tx) => {
        const payload: Payload = { id, failures };
        await trial.publisher.publish(tx, { name: EVENT, payload, eventId: id });
        if (followed) await tx.run('select 1', []);
        if (rolledBack) throw new Error('rolled back');
      }),
    ),
  );
  await eventually('the end of its work', () => trial.deliveries.inFlight === 0 || messages >= crashAt);
  await trial.deliveries.drain();
  await proxy.close();
  return { trial, pool, answers };
}

test('wherever a service crashes, what it has committed is delivered by another, and nothing else', async () => {
  let crashed = 0;
  await fc.assert(
    fc.asyncProperty(
      fc.array(plannedEvent, { minLength: 1, maxLength: 3 }),
      fc.integer({ min: 1, max: 14 }),
      fc.boolean(),
      async (plan, crashAt, delivered) => {
        runs = [];
        life = 1;
        const events = plan.map((one) => ({ ...one, id: randomUUID() }));
        const ids = events.map(({ id }) => id);
        const { trial, pool, answers } = await liveUntil(crashAt, delivered, events);
        try {
          const stored = await database.query<{ event_id: string; status: string }>(
            'select event_id, status from event_backups where event_id = any($1)',
            [ids],
          );
          const committed = new Set(stored.map(({ event_id }) => event_id));
          // What was said to be committed is, and what was rolled back is not.
          for (const [index, { id, rolledBack }] of events.entries()) {
            if (answers[index]?.status === 'fulfilled') expect(committed).toContain(id);
            if (rolledBack) expect(committed).not.toContain(id);
          }
          for (const { id } of runs) expect(committed).toContain(id);
          const recorded = await database.query<{ event_id: string; listener: string }>(
            `select event_id, listener from event_deliveries where event_id = any($1) and status = 'succeeded'`,
            [ids],
          );
          if (stored.some(({ status }) => status === 'pending')) crashed += 1;

          // The other process has nothing but the rows.
          life = 2;
          for (const id of ids) await expireLeases(database, id);
          await eventually('everything processed', async () => {
            const { body } = await survivor.replay(ids);
            return body.results.every(({ eventId, outcome }) =>
              committed.has(eventId) ? outcome.endsWith('processed') : outcome === 'not_found',
            );
          });
          const again = runs.filter((one) => one.life === 2);
          for (const { event_id, listener } of recorded) {
            expect(again).not.toContainEqual({ id: event_id, listener, life: 2 });
          }
          for (const { id, failures } of events.filter((one) => committed.has(one.id))) {
            for (const listener of ['bill', 'notify'] as const) {
              const all = runs.filter((one) => one.id === id && one.listener === listener);
              expect(all.length).toBeGreaterThan(failures[listener]);
              // Once more than it fails, and once more again where the first success was not recorded.
              expect(all.length).toBeLessThanOrEqual(failures[listener] + 2);
            }
          }
        } finally {
          await trial.stop();
          await pool.end();
        }
      },
    ),
    { numRuns: 40 },
  );
  // Otherwise every one was over before the crash, and nothing was shown.
  expect(crashed).toBeGreaterThan(5);
});
