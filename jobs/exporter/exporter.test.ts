import { readFileSync } from 'node:fs';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { startEmbeddedPostgres } from '../../scripts/embedded-postgres.ts';
import { checksFile, sessionBilling } from '../../test/builders/checks.ts';
import { addCheck, addFinding, addRun } from '../../test/builders/exporter.ts';
import { startJob } from '../../test/builders/process.ts';
import { emptyTables } from '../../test/builders/reconciliation.ts';
import { run } from '../../test/builders/run.ts';
import { nonZero, parseSeries, sampleOf } from '../../test/builders/scrape.ts';
import {
  addBilledSession,
  addEvent,
  addLedgerRow,
  addSession,
  minutesAgo,
} from '../../test/builders/service.ts';
import { openSession } from '../../test/builders/session.ts';
import { waitFor } from '../../test/builders/wait-for.ts';
import { prepareServer } from '../../test/builders/whole-server.ts';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';
import { type Fate, type PostgresProxy, startProxy } from '../../test/postgres/proxy.ts';
import { runJob } from '../runtime/run-job.ts';
import { exporterJob } from './job.ts';
import { metrics } from './metrics.ts';

let postgres: TestDatabase;
beforeAll(async () => {
  postgres = await createTestDatabase();
  await postgres.query(
    readFileSync(new URL('../../nestjs/sql/event_backups.extend.sql', import.meta.url), 'utf8'),
  );
});
afterAll(async () => {
  await postgres.drop();
});
beforeEach(async () => {
  await emptyTables(postgres);
  await postgres.query('TRUNCATE event_deliveries, counterfoil.freezes');
});

interface RunningExporter {
  readonly url: string;
  scrape(): Promise<string>;
  ask(path: string): Promise<{ readonly status: number; readonly text: string }>;
  log(): string;
  /** As SIGTERM does it; gives the exit code. */
  stop(): Promise<number>;
}

const exporters: RunningExporter[] = [];
afterEach(async () => {
  // One signal ends all that run in this process.
  await Promise.all(exporters.splice(0).map(async (one) => await one.stop()));
});

/** The exporter in this process, on a free port, as fast as its settings allow. */
async function start(environment: Readonly<Record<string, string>> = {}): Promise<RunningExporter> {
  let log = '';
  const ended = runJob(exporterJob, {
    environment: {
      DATABASE_URL: postgres.urlAs('counterfoil_exporter'),
      CF_DATABASE_RETRY_SECONDS: '0',
      CF_LISTEN_ADDRESS: '127.0.0.1',
      CF_LISTEN_PORT: '0',
      CF_STATE_INTERVAL_SECONDS: '1',
      CF_EVENTS_INTERVAL_SECONDS: '1',
      CF_HOT_CHECK_INTERVAL_SECONDS: '1',
      CF_CHECKS_FILE: checksFile(sessionBilling()),
      ...environment,
    },
    logDestination: {
      write(text: string) {
        log += text;
      },
    },
    exit: () => undefined,
  });
  const port = async () => /"port":(\d+)/.exec(log)?.[1];
  await waitFor('the exporter', async () => (await port()) !== undefined);
  const url = `http://127.0.0.1:${await port()}`;
  const ask = async (path: string) => {
    const response = await fetch(`${url}${path}`);
    return { status: response.status, text: await response.text() };
  };
  const exporter: RunningExporter = {
    url,
    ask,
    log: () => log,
    scrape: async () => (await ask('/metrics')).text,
    async stop() {
      process.emit('SIGTERM', 'SIGTERM');
      return await ended;
    },
  };
  exporters.push(exporter);
  await waitFor('the first attempts', async () => (await ask('/health/ready')).status === 200);
  return exporter;
}

const success = (text: string, collection: string) =>
  sampleOf(text, 'counterfoil_collection_success', { collection });

/** Rows by which every metric of the tables has a series. */
async function fill(): Promise<void> {
  await addCheck(postgres, { verifiedThrough: minutesAgo(5), heldBackBy: 'pid 1' });
  await addFinding(postgres, { expectedMinor: '100', currency: 'EUR' });
  await addFinding(postgres, { kind: 'orphan', status: 'acknowledged' });
  await addRun(postgres, { outcome: 'succeeded' });
  await addRun(postgres, { outcome: 'running', secondsAgo: 10 });
  await postgres.query(
    `INSERT INTO counterfoil.replay_events (event_id, event_name, event_created_at, status, parked_at, parked_reason, handed_at)
     VALUES ('p', 'e', now(), 'parked', now(), 'no_listener', NULL), ('h', 'e', now(), 'handed_to_outbox', NULL, NULL, now())`,
  );
  await postgres.query(`INSERT INTO counterfoil.requests (kind, scope, reason) VALUES ('replay', '{}', 'x')`);
  await postgres.query(
    `INSERT INTO counterfoil.freezes (reason, frozen_until) VALUES ('x', now() + interval '1 hour')`,
  );
  const { id } = await addBilledSession(postgres, { completedAt: minutesAgo(5) });
  await addEvent(postgres, id, { createdAt: minutesAgo(5) });
  await postgres.query(`UPDATE event_backups SET published_hash = 'v'`);
}

/** What a scrape of a filled database has to show of these collections. */
const declaredFrom = (collections: readonly string[]) =>
  Object.entries(metrics)
    .filter(([, { from }]) => collections.includes(from))
    .map(([name]) => name)
    .sort();

describe('metrics', () => {
  test('that are declared are set, every one, with their labels; and none is set that is not declared', async () => {
    await fill();
    const text = await (await start()).scrape();
    const series = parseSeries(text);
    expect([...new Set(series.map(({ name }) => name))].sort()).toEqual(
      declaredFrom(['state', 'events', 'hot_check', 'exporter']),
    );
    for (const { name, labels } of series) {
      const declared: readonly string[] = metrics[name as keyof typeof metrics].labels;
      expect([name, Object.keys(labels).sort()]).toEqual([name, [...declared, 'installation'].sort()]);
    }
  });

  test('follow the tables', async () => {
    await addCheck(postgres);
    const exporter = await start();
    const open = async () => nonZero(await exporter.scrape(), 'billing_discrepancy_count');
    expect(await open()).toEqual([]);
    await addFinding(postgres, { kind: 'duplicate' });
    await waitFor('the finding', async () => (await open()).length > 0);
    expect(await open()).toEqual(['session-billing duplicate none: 1']);
    await postgres.query(`UPDATE counterfoil.discrepancies SET status = 'resolved', resolved_at = now()`);
    await waitFor('its end', async () => (await open()).length === 0);
  });

  test('of two replicas are the same', async () => {
    await fill();
    const [one, other] = [await start(), await start()];
    const told = async (exporter: RunningExporter) =>
      parseSeries(await exporter.scrape()).filter(({ name }) => !name.startsWith('counterfoil_collection_'));
    expect(await told(other)).toEqual(await told(one));
  });
});

test('a personal text in the rows appears neither in metrics nor in answers nor in the log', async () => {
  const secret = 'Erika Mustermann';
  const hash = 'v';
  await addCheck(postgres, { heldBackBy: secret });
  await addFinding(postgres, { key: JSON.stringify([secret]), currency: secret, expectedMinor: '1', hash });
  const { id } = await addSession(postgres, { completedAt: minutesAgo(5), mentorId: secret });
  await addLedgerRow(postgres, {
    sessionId: id,
    createdAt: minutesAgo(5),
    currency: secret,
    mentorId: secret,
  });
  await addEvent(postgres, id, { createdAt: minutesAgo(5), payload: { sessionId: id, mentor: secret } });
  await addEvent(postgres, secret, { createdAt: minutesAgo(5), eventName: secret, eventId: secret });
  await postgres.query(
    `UPDATE event_backups SET published_hash = CASE event_id WHEN $1 THEN $1 ELSE $2 END`,
    [secret, hash],
  );
  await postgres.query(
    `INSERT INTO counterfoil.requests (kind, scope, reason, requested_by) VALUES ('replay', '{"event_ids": ["Erika Mustermann"]}', $1, $1)`,
    [secret],
  );
  await postgres.query(
    `INSERT INTO counterfoil.freezes (reason, frozen_by, frozen_until) VALUES ($1, $1, now() + interval '1 hour')`,
    [secret],
  );
  await postgres.query(
    `INSERT INTO counterfoil.replay_events (event_id, event_name, event_created_at, last_error) VALUES ($1, $1, now(), $1)`,
    [secret],
  );
  const exporter = await start({ CF_LOG_LEVEL: 'debug' });
  const text = await exporter.scrape();
  expect(nonZero(text, 'counterfoil_hot_facts')).toEqual(['session-billing v: 1']);
  expect(nonZero(text, 'counterfoil_hot_events')).toEqual(['other: 1', 'v: 1']);
  const gate = await exporter.ask(`/gate?hash=${hash}`);
  expect(gate.status).toBe(200);
  for (const told of [text, gate.text, exporter.log()]) expect(told).not.toContain('Erika');
});

describe('a database that is away', () => {
  let proxy: PostgresProxy;
  let fate: (chunk: string) => Fate;
  beforeEach(async () => {
    fate = () => 'pass';
    proxy = await startProxy(postgres.urlAs('counterfoil_exporter'), (chunk) => fate(chunk));
  });
  afterEach(async () => {
    fate = () => 'pass';
    await Promise.all(exporters.splice(0).map(async (one) => await one.stop()));
    await proxy.close();
  });

  test('leaves the last values until they are too old, then none; and when it is back so are they', async () => {
    await fill();
    const exporter = await start({ DATABASE_URL: proxy.url, CF_MAX_AGE_SECONDS: '5' });
    const pending = async () => sampleOf(await exporter.scrape(), 'counterfoil_pending_events');
    const own = declaredFrom(['exporter']);
    expect(await pending()).toBe(1);
    fate = () => 'cut';
    await waitFor('the failure', async () => success(await exporter.scrape(), 'events') === 0);
    // A scrape is answered from memory.
    expect(await pending()).toBe(1);
    expect((await exporter.ask('/gate?hash=v')).status).toBe(503);
    await waitFor('the end of the old values', async () => (await pending()) === undefined);
    const names = async () =>
      [...new Set(parseSeries(await exporter.scrape()).map(({ name }) => name))].sort();
    await waitFor('the end of all of them', async () => (await names()).every((name) => own.includes(name)));
    expect(await names()).toEqual(own);
    for (const collection of ['state', 'events', 'hot_check'])
      expect(success(await exporter.scrape(), collection)).toBe(0);
    expect((await exporter.ask('/health/live')).status).toBe(200);
    expect((await exporter.ask('/health/ready')).status).toBe(200);
    await postgres.query(`UPDATE event_backups SET status = 'processed'`);
    fate = () => 'pass';
    await waitFor('the new value', async () => (await pending()) === 0);
    await waitFor('all of them', async () => success(await exporter.scrape(), 'state') === 1);
    expect((await exporter.ask('/gate?hash=v')).status).toBe(200);
    const failures = exporter.log().match(/the collection failed/g) ?? [];
    // Once per collection and kind of failure, and not at every turn.
    expect(failures.length).toBeLessThanOrEqual(6);
  });

  test('in the way of a connection that goes silent fails the collection within its time, and ends by itself', async () => {
    await fill();
    const exporter = await start({
      DATABASE_URL: proxy.url,
      // The client gives such a connection up five seconds after the statement's own limit.
      CF_COLLECTION_TIMEOUT_SECONDS: '1',
      CF_STATEMENT_TIMEOUT_MILLISECONDS: '500',
    });
    let silenced = 0;
    fate = (chunk) => {
      if (!chunk.includes('-- exporter: countPending') || silenced > 0) return 'pass';
      silenced += 1;
      return 'silence';
    };
    await waitFor('the silence', async () => silenced === 1);
    await waitFor('the failure', async () => success(await exporter.scrape(), 'events') === 0);
    // The others go on beside it.
    expect(success(await exporter.scrape(), 'state')).toBe(1);
    expect((await exporter.ask('/health/live')).status).toBe(200);
    await waitFor('the next success', async () => success(await exporter.scrape(), 'events') === 1);
  });
});

test('a server that crashes and comes back is read again', async () => {
  const server = await startEmbeddedPostgres();
  try {
    await prepareServer(server.url);
    const exporter = await start({ DATABASE_URL: server.url });
    const timestamp = async () =>
      sampleOf(await exporter.scrape(), 'counterfoil_collection_timestamp_seconds', { collection: 'state' });
    await waitFor('a first success', async () => success(await exporter.scrape(), 'state') === 1);
    await server.restart();
    const before = (await timestamp()) ?? 0;
    await waitFor('another success', async () => ((await timestamp()) ?? 0) > before + 1);
    expect(success(await exporter.scrape(), 'state')).toBe(1);
    expect(await exporter.stop()).toBe(0);
    exporters.length = 0;
  } finally {
    await server.stop();
  }
});

test('a state schema that is not there yet is waited for, and names the failure', async () => {
  const exporter = await start({ CF_SCHEMA: 'not_there_yet' });
  const text = await exporter.scrape();
  expect(success(text, 'state')).toBe(0);
  expect(success(text, 'hot_check')).toBe(1);
  expect(exporter.log()).toContain('"failureId":"table_missing"');
  expect((await exporter.ask('/health/live')).status).toBe(200);
});

describe('what a person has to change ends it at once', () => {
  const refused = async (environment: Readonly<Record<string, string>>) =>
    await run(exporterJob, { DATABASE_URL: postgres.urlAs('counterfoil_exporter'), ...environment });

  test('a file of checks that cannot be read', async () => {
    expect((await refused({ CF_CHECKS_FILE: '/nowhere/checks.yaml' })).exitCode).toBe(2);
  });

  test('an interval that values would not outlive', async () => {
    const end = await refused({ CF_STATE_INTERVAL_SECONDS: '120', CF_MAX_AGE_SECONDS: '120' });
    expect([end.exitCode, end.message]).toEqual([
      2,
      'CF_STATE_INTERVAL_SECONDS: must be below CF_MAX_AGE_SECONDS',
    ]);
  });

  test('a port that is taken', async () => {
    const exporter = await start();
    const end = await refused({ CF_LISTEN_ADDRESS: '127.0.0.1', CF_LISTEN_PORT: new URL(exporter.url).port });
    expect([end.exitCode, end.message]).toEqual([2, expect.stringContaining('CF_LISTEN_PORT')]);
  });
});

test('SIGTERM in the middle of a collection ends it with exit 0, and leaves no connection', async () => {
  const holder = await openSession(postgres.url);
  await holder.query('BEGIN');
  await holder.query('LOCK TABLE counterfoil.discrepancies IN ACCESS EXCLUSIVE MODE');
  const child = startJob('jobs/exporter/main.ts', {
    DATABASE_URL: postgres.urlAs('counterfoil_exporter'),
    CF_LISTEN_ADDRESS: '127.0.0.1',
    CF_LISTEN_PORT: '0',
    CF_LOCK_TIMEOUT_SECONDS: '10',
    CF_STATEMENT_TIMEOUT_MILLISECONDS: '3000',
  });
  const ours = async (condition: string) =>
    Number(
      (
        await postgres.query<{ n: string }>(
          `SELECT count(*) AS n FROM pg_stat_activity
            WHERE application_name = 'counterfoil-exporter' AND datname = current_database() ${condition}`,
        )
      )[0]?.n,
    );
  await waitFor('a collection that waits', async () => (await ours(`AND wait_event_type = 'Lock'`)) > 0);
  child.process.kill('SIGTERM');
  const end = await child.ended;
  await holder.query('ROLLBACK');
  await holder.end();
  expect([end.code, end.signal]).toEqual([0, null]);
  expect(end.log).toContain('stopped as asked');
  expect(end.log).not.toContain('the collection failed');
  await waitFor('the end of its connections', async () => (await ours('')) === 0);
});
