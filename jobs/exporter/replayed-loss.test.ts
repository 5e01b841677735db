import { readFileSync } from 'node:fs';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { sessionBilling } from '../../test/builders/checks.ts';
import { scrapeOf } from '../../test/builders/exporter.ts';
import { collectLog, openDatabase } from '../../test/builders/open-database.ts';
import { nonZero } from '../../test/builders/scrape.ts';
import { type Bench, openBench } from '../../test/event-replay/bench.ts';
import { parseChecks } from '../checks/parse.ts';
import type { Database } from '../runtime/database.ts';
import { Gate } from './gate.ts';
import { HotCheck } from './hot-check.ts';
import { ServiceTables } from './service-tables.ts';

let bench: Bench;
let database: Database;
beforeAll(async () => {
  bench = await openBench();
  const extend = readFileSync(new URL('../../nestjs/sql/event_backups.extend.sql', import.meta.url), 'utf8');
  await bench.database.query(extend);
  database = openDatabase(bench.database.urlAs('counterfoil_exporter'));
});
afterEach(async () => await bench.reset());
afterAll(async () => {
  await database.close();
  await bench.close();
});

const log = collectLog();
const tables = (eventsTable = 'event_backups') =>
  new ServiceTables(
    database,
    { eventsTable, deliveriesTable: 'event_deliveries', timeZone: 'UTC' },
    parseChecks({ checks: [sessionBilling()] }),
  );

async function lost(): Promise<string[]> {
  const options = { lossDelayMs: 60_000, statementTimeoutMs: 5_000 };
  const hot = new HotCheck(database, tables(), log.logger, options);
  const text = await scrapeOf('hot_check', await hot.read(AbortSignal.timeout(10_000)));
  return [...nonZero(text, 'counterfoil_hot_events'), ...nonZero(text, 'counterfoil_hot_lost_events')];
}

async function lostByGate(hash: string): Promise<unknown> {
  const thresholds = { billingShare: 0.01, lossShare: 0.005, minimumBad: 3, minimumJudged: 10, sample: 5 };
  const options = {
    installation: 'counterfoil',
    windowMs: 3_600_000,
    lossDelayMs: 60_000,
    statementTimeoutMs: 5_000,
    thresholds,
  };
  const gate = new Gate(database, tables(), options, () => undefined);
  const { events, verdict } = await gate.ask(hash, AbortSignal.timeout(10_000));
  return [verdict === 'fail' ? 'fails' : 'does not fail', events.published, events.lost];
}

/** Events of the canary: processed ones, and those that it lost. */
async function publish(good: number, bad: number): Promise<void> {
  const row = (n: number, status: string) => ({ id: `${status}-${n}`, status, ageSeconds: 120 + n });
  await bench.addEvents([
    ...Array.from({ length: good }, (_, n) => row(n, 'processed')),
    ...Array.from({ length: bad }, (_, n) => row(n, 'pending')),
  ]);
  await bench.database.query(`UPDATE event_backups SET published_hash = 'canary'`);
}

describe('what replay has sent', () => {
  test('stays lost by the version that published it, for the metrics and for the gate', async () => {
    await publish(16, 4);
    expect([await lost(), await lostByGate('canary')]).toEqual([
      ['canary: 20', 'canary: 4'],
      ['fails', 20, 4],
    ]);
    const run = await bench.run();
    expect(run.record.counts).toMatchObject({ processed: 4 });
    const pending = await bench.database.query(`SELECT FROM event_backups WHERE status = 'pending'`);
    expect(pending).toHaveLength(0);
    expect([await lost(), await lostByGate('canary')]).toEqual([
      ['canary: 20', 'canary: 4'],
      ['fails', 20, 4],
    ]);
  });

  test('is counted once, also where it is pending again', async () => {
    await publish(16, 4);
    await bench.run();
    await bench.database.query(`UPDATE event_backups SET status = 'pending' WHERE event_id = 'pending-0'`);
    expect([await lost(), await lostByGate('canary')]).toEqual([
      ['canary: 20', 'canary: 4'],
      ['fails', 20, 4],
    ]);
  });

  test('is not held against another version', async () => {
    await publish(16, 4);
    await bench.run();
    await bench.database.query(
      `UPDATE event_backups SET published_hash = 'stable' WHERE status = 'processed'`,
    );
    await bench.database.query(`UPDATE counterfoil.replay_events SET published_hash = 'stable'`);
    expect(await lostByGate('canary')).toEqual(['does not fail', 0, 0]);
  });
});

describe('what replay did not have to send is not lost', () => {
  test('an event whose slow listener came to its end by itself, before replay could send it', async () => {
    await publish(16, 4);
    // Taken in while pending, and processed before its turn came.
    await bench.database.query(
      `INSERT INTO counterfoil.replay_events (event_id, event_name, event_created_at, published_hash, next_attempt_at)
       SELECT event_id, event_name, created_at AT TIME ZONE 'UTC', published_hash, now() - interval '1 minute'
         FROM event_backups WHERE status = 'pending'`,
    );
    await bench.database.query(`UPDATE event_backups SET status = 'processed', processed_at = now()`);
    const run = await bench.run();
    expect(run.record.counts).toMatchObject({ already_processed: 4, processed: 0 });
    expect([await lost(), await lostByGate('canary')]).toEqual([['canary: 20'], ['does not fail', 20, 0]]);
  });

  test('an event from before the window that is sent today', async () => {
    await publish(20, 0);
    await bench.addEvents([{ id: 'old', ageSeconds: 7_200 }]);
    await bench.database.query(`UPDATE event_backups SET published_hash = 'canary' WHERE event_id = 'old'`);
    await bench.run();
    expect([await lost(), await lostByGate('canary')]).toEqual([['canary: 20'], ['does not fail', 20, 0]]);
  });
});
