import { setTimeout as delay } from 'node:timers/promises';
import { Injectable } from '@nestjs/common';
import { Client } from 'pg';
import { expect, inject, test } from 'vitest';
import { createTestDatabase } from '../../test/postgres/database.ts';
import { OnBackedEvent } from './on-backed-event.js';
import { deliveryRows, isProcessed } from './testing/stored-events.js';
import { EVENT, eventually, gate, startTrial } from './testing/trial-app.js';

const finish = gate();
let runs = 0;

@Injectable()
class Billing {
  @OnBackedEvent(EVENT)
  async bill(): Promise<void> {
    runs += 1;
    await finish.opened;
  }
}

test('a database away for 20 s does not run a finished listener twice, whoever replays it then', async () => {
  const database = await createTestDatabase();
  const server = new Client({ connectionString: inject('serverUrl') });
  await server.connect();
  // As during a restart: every connection is cut and no new one is let in.
  const letIn = (yes: boolean) =>
    server.query(`alter database ${database.name} with allow_connections ${yes}`);
  const defaultLease = { listenerLeaseMs: undefined };
  const trial = await startTrial(database.url, [Billing], defaultLease);
  const other = await startTrial(database.url, [Billing], defaultLease);
  try {
    const eventId = await trial.publish();
    await eventually('the run', () => runs === 1);
    await letIn(false);
    await server.query('select pg_terminate_backend(pid) from pg_stat_activity where datname = $1', [
      database.name,
    ]);
    finish.open();
    await delay(20_000);
    await letIn(true);
    const watch = new Client({ connectionString: database.url });
    await watch.connect();
    const seen = {
      ...database,
      query: async <Row>(text: string, params: readonly unknown[] = []) =>
        (await watch.query(text, [...params])).rows as Row[],
    };
    try {
      await eventually('processed', async () => {
        await other.replay([eventId]);
        return isProcessed(seen, eventId);
      });
      expect(runs).toBe(1);
      expect(await deliveryRows(seen, eventId)).toMatchObject([{ status: 'succeeded', attempts: 1 }]);
    } finally {
      await watch.end();
    }
  } finally {
    await letIn(true);
    await trial.stop();
    await other.stop();
    await server.end();
    await database.drop();
  }
});
