/** What the tests of event-replay share: a database with events, an endpoint, and a run in this process. */

import { type ChildProcess, spawn } from 'node:child_process';
import { Client } from 'pg';
import { eventReplayJob } from '../../jobs/event-replay/job.ts';
import { runJob } from '../../jobs/runtime/run-job.ts';
import { createTestDatabase, type TestDatabase } from '../postgres/database.ts';
import { startTestEndpoint, TEST_TOKEN, type TestEndpoint } from './endpoint.ts';

export interface Run {
  readonly exitCode: number;
  /** Parsed log lines. */
  readonly lines: readonly Record<string, unknown>[];
  readonly log: string;
  /** The row of `job_runs` that this run wrote. */
  readonly record: {
    outcome: string;
    counts: Record<string, number>;
    failure_id: string | null;
    message: string;
  };
}

export interface Bench {
  readonly database: TestDatabase;
  readonly endpoint: TestEndpoint;
  environment(changes?: Readonly<Record<string, string>>): Record<string, string>;
  run(changes?: Readonly<Record<string, string>>): Promise<Run>;
  /** Adds pending events, `ageSeconds` old; ids are `e1`, `e2`, … unless given. */
  addEvents(events: Partial<TestEvent>[] | number): Promise<string[]>;
  status(eventId: string): Promise<Record<string, unknown> | undefined>;
  statuses(): Promise<Record<string, number>>;
  reset(): Promise<void>;
  close(): Promise<void>;
}

export interface TestEvent {
  readonly id: string;
  readonly name: string;
  readonly payload: unknown;
  readonly status: string;
  readonly ageSeconds: number;
}

export async function openBench(): Promise<Bench> {
  const database = await createTestDatabase();
  let marking: Promise<unknown> = Promise.resolve();
  const endpoint = await startTestEndpoint(async (eventIds) => {
    // One client: marks wait for each other.
    marking = marking.then(() =>
      database.query(
        `UPDATE event_backups SET status = 'processed', processed_at = now() WHERE event_id = ANY ($1::text[])`,
        [eventIds],
      ),
    );
    await marking;
  });
  const bench: Bench = {
    database,
    endpoint,
    environment: (changes = {}) => ({
      DATABASE_URL: database.urlAs('counterfoil_jobs'),
      CF_REPLAY_URL: endpoint.url,
      CF_REPLAY_TOKEN: TEST_TOKEN,
      CF_DATABASE_RETRY_SECONDS: '2',
      CF_LEASE_SECONDS: '5',
      CF_CALL_SECONDS: '5',
      CF_POLL_SECONDS: '1',
      CF_TRANSPORT_BACKOFF_SECONDS: '1',
      CF_TRANSPORT_BACKOFF_MAX_SECONDS: '1',
      ...changes,
    }),
    async run(changes = {}) {
      const { exitCode, log } = await runInProcess(bench.environment(changes));
      const lines = log
        .split('\n')
        .filter((line) => line !== '')
        .map((line) => JSON.parse(line) as Record<string, unknown>);
      const runId = lines.find((line) => line.runId !== undefined)?.runId;
      const [record] = await database.query<Run['record']>(
        'SELECT outcome, counts, failure_id, message FROM counterfoil.job_runs WHERE run_id = $1',
        [runId],
      );
      if (record === undefined) throw new Error('the run left no record');
      return { exitCode, lines, log, record };
    },
    async addEvents(given) {
      const events = (typeof given === 'number' ? Array.from({ length: given }, () => ({})) : given).map(
        (event: Partial<TestEvent>, index) => ({
          id: `e${String(index + 1).padStart(4, '0')}`,
          name: 'services.session.completed.v1',
          payload: { sessionId: `s${index + 1}` },
          status: 'pending',
          ageSeconds: 86_400 - index,
          ...event,
        }),
      );
      await database.query(
        `INSERT INTO event_backups (event_id, event_name, payload, status, created_at)
         SELECT id, name, payload, status, (now() AT TIME ZONE 'UTC') - "ageSeconds" * interval '1 second'
           FROM jsonb_to_recordset($1::jsonb) AS e (id text, name text, payload jsonb, status text,
                                                    "ageSeconds" double precision)`,
        [JSON.stringify(events)],
      );
      return events.map(({ id }) => id);
    },
    async status(eventId) {
      const [row] = await database.query('SELECT * FROM counterfoil.replay_events WHERE event_id = $1', [
        eventId,
      ]);
      return row;
    },
    async statuses() {
      const rows = await database.query<{ status: string; events: string }>(
        'SELECT status, count(*) AS events FROM counterfoil.replay_events GROUP BY status ORDER BY status',
      );
      return Object.fromEntries(rows.map(({ status, events }) => [status, Number(events)]));
    },
    async reset() {
      await database.query('TRUNCATE counterfoil.replay_events, counterfoil.requests, counterfoil.job_runs');
      await database.query('TRUNCATE counterfoil.job_leases, counterfoil.replay_source');
      await database.query(
        `TRUNCATE counterfoil.request_items, counterfoil.discrepancies, counterfoil.checks,
                  counterfoil.reconciliation_windows, counterfoil.waivers`,
      );
      await database.query('TRUNCATE sessions, mentor_payable_ledgers CASCADE');
      await database.query('TRUNCATE event_backups CASCADE');
      endpoint.calls.length = 0;
      endpoint.begun.clear();
      endpoint.finished.clear();
      endpoint.listenersDigest = 'digest-1';
      endpoint.handle = () => undefined;
      endpoint.misbehave = () => false;
      endpoint.rebuilds.length = 0;
      endpoint.corrections.length = 0;
      endpoint.rebuild = () => ({ rebuild: 'not_needed' });
      endpoint.correct = () => ({ outcome: 'corrected' });
    },
    async close() {
      await endpoint.close();
      await database.drop();
    },
  };
  return bench;
}

/** A session of its own that holds something up until it is let go. */
export async function holdUp(url: string, statement: string): Promise<() => Promise<void>> {
  const client = new Client({ connectionString: url });
  await client.connect();
  await client.query('BEGIN');
  await client.query(statement);
  return async () => {
    await client.query('ROLLBACK');
    await client.end();
  };
}

/** Takes every connection that a login can get; gives the function that frees them and the server's last word. */
export async function takeAllConnections(url: string): Promise<{ free(): Promise<void>; code: unknown }> {
  const clients: Client[] = [];
  for (;;) {
    const client = new Client({ connectionString: url });
    client.on('error', () => undefined);
    try {
      await client.connect();
    } catch (error) {
      const free = async () => void (await Promise.all(clients.map((taken) => taken.end())));
      return { free, code: (error as { code?: unknown }).code };
    }
    clients.push(client);
  }
}

/** The job in a process of its own, as a pod runs it. */
export interface Child {
  readonly process: ChildProcess;
  readonly exited: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
  log(): string;
}

const main = new URL('../../jobs/event-replay/main.ts', import.meta.url);

export function startChild(environment: Record<string, string>): Child {
  const child = spawn(process.execPath, [main.pathname], {
    env: { PATH: process.env.PATH, ...environment },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let log = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (piece: Buffer) => {
      log += piece.toString();
    });
  }
  const exited = new Promise<{ code: number | null; signal: NodeJS.Signals | null }>((resolve) => {
    child.once('exit', (code, signal) => resolve({ code, signal }));
  });
  return { process: child, exited, log: () => log };
}

/** Starts the job in this process; `stop` is what SIGTERM does to it and to nothing else here. */
export function startInProcess(environment: Record<string, string>): {
  readonly ended: Promise<{ exitCode: number; log: string }>;
  /** What it has logged so far. */
  log(): string;
  stop(): void;
} {
  const before = new Set(process.listeners('SIGTERM'));
  let written = '';
  const ended = runInProcess(environment, (line) => {
    written += line;
  });
  const own = process.listeners('SIGTERM').filter((listener) => !before.has(listener));
  return {
    ended,
    log: () => written,
    stop() {
      for (const listener of own) listener('SIGTERM');
    },
  };
}

/** Looks again until it is so. For what happens inside Postgres, where nothing tells us. */
export async function eventually(isSo: () => Promise<boolean>, withinMs = 20_000): Promise<void> {
  const deadline = Date.now() + withinMs;
  while (!(await isSo())) {
    if (Date.now() > deadline) throw new Error(`not so within ${withinMs} ms`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Runs the job as its main.ts does, and keeps what it logs. */
export async function runInProcess(
  environment: Record<string, string>,
  onLine: (line: string) => void = () => undefined,
): Promise<{ exitCode: number; log: string }> {
  let log = '';
  const exitCode = await runJob(eventReplayJob, {
    environment,
    logDestination: {
      write: (line: string) => {
        log += line;
        onLine(line);
      },
    },
    exit: () => undefined,
  });
  return { exitCode, log };
}
