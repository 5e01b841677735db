import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { startEmbeddedPostgres } from '../../scripts/embedded-postgres.ts';
import { checksFile, sessionBilling } from '../../test/builders/checks.ts';
import { type RunningJob, startJob } from '../../test/builders/process.ts';
import {
  emptyTables,
  findingsOf,
  kindsOf,
  reconcile,
  reconciliationEnvironment,
} from '../../test/builders/reconciliation.ts';
import { run } from '../../test/builders/run.ts';
import { addSession, minutesAgo } from '../../test/builders/service.ts';
import { type OtherSession, openSession } from '../../test/builders/session.ts';
import { waitFor } from '../../test/builders/wait-for.ts';
import { prepareServer, runScript } from '../../test/builders/whole-server.ts';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';
import { billingReconciliationJob } from './job.ts';

let database: TestDatabase;

beforeAll(async () => {
  database = await createTestDatabase();
  await database.query(gatedSessions);
});
afterAll(async () => {
  await database.drop();
});
beforeEach(async () => {
  await emptyTables(database);
});

/** What a test that failed would leave behind: a shut gate and a run that waits at it hold up every later test. */
const held: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const release of held.splice(0)) await release();
});

/** Sessions of ten to thirty days ago are read only past a gate, which a test holds shut by an advisory lock. */
const GATE = 42;
const gatedSessions = `
  CREATE FUNCTION pass_gate(at timestamptz) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
  BEGIN
    IF at BETWEEN now() - interval '30 days' AND now() - interval '10 days' THEN PERFORM pg_advisory_xact_lock_shared(${GATE}); END IF;
    RETURN true;
  END $$;
  CREATE VIEW gated_sessions AS SELECT id, completed_at FROM sessions WHERE pass_gate(completed_at);
  GRANT SELECT ON gated_sessions TO counterfoil_jobs`;
const gated = checksFile(
  sessionBilling({ facts: { table: 'gated_sessions', key: ['id'], at: 'completed_at' } }),
);

/** Shuts the gate of a database; a rollback opens it. */
async function shutGate(url: string): Promise<OtherSession> {
  const holder = await openSession(url);
  await holder.query('BEGIN');
  await holder.query(`SELECT pg_advisory_xact_lock(${GATE})`);
  return holder;
}

/** Starts a full run over a bare and a lost session and holds it in the middle of a window. */
async function holdInWindow(): Promise<{ readonly job: RunningJob; readonly holder: OtherSession }> {
  const holder = await shutGate(database.url);
  held.push(() => holder.end());
  const job = startJob('jobs/billing-reconciliation/main.ts', {
    ...(await reconciliationEnvironment(database)),
    CF_MODE: 'full',
    CF_CHECKS_FILE: gated,
    CF_LOCK_TIMEOUT_SECONDS: '30',
  });
  held.push(async () => {
    job.process.kill('SIGKILL');
    await job.ended;
  });
  await waitFor('a window is recorded and the next one waits', async () => {
    const rows = await database.query(
      `SELECT 1 FROM pg_stat_activity WHERE application_name = 'counterfoil-billing-reconciliation'
          AND datname = current_database() AND wait_event_type = 'Lock'
          AND EXISTS (SELECT FROM counterfoil.reconciliation_windows)`,
    );
    return rows.length > 0;
  });
  return { job, holder };
}

describe('a run that does not come to its end', () => {
  test('killed in the middle of a window, it has lost nothing: the next run goes on and finds all', async () => {
    const early = await addSession(database, { completedAt: minutesAgo(60 * 24 * 60) });
    const late = await addSession(database, { completedAt: minutesAgo(60 * 24 * 20) });
    const { job, holder } = await holdInWindow();
    job.process.kill('SIGKILL');
    expect(await job.ended).toMatchObject({ signal: 'SIGKILL' });
    await holder.query('ROLLBACK');
    await holder.end();
    const [before] = await database.query<{ cursor: Date | null }>(
      'SELECT rotation_cursor AS cursor FROM counterfoil.checks',
    );
    expect(before?.cursor).toBeInstanceOf(Date);
    // The lease of the killed run is waited for, and not overrun.
    expect(await reconcile(database, { CF_MODE: 'full', CF_CHECKS_FILE: gated })).toMatchObject({
      outcome: 'succeeded',
    });
    expect(await kindsOf(database)).toEqual([`missing ${early.id}`, `missing ${late.id}`].sort());
    const [gap] = await database.query<{ gaps: number }>(
      `SELECT count(*)::integer AS gaps
         FROM (SELECT from_at, lag(to_at) OVER (PARTITION BY side ORDER BY from_at) AS before
                 FROM counterfoil.reconciliation_windows) AS w WHERE before <> from_at`,
    );
    expect(gap?.gaps).toBe(0);
  });

  test('told to stop, it ends with exit 0 as partial, says how far it came and gives its lease back', async () => {
    await addSession(database, { completedAt: minutesAgo(60 * 24 * 60) });
    await addSession(database, { completedAt: minutesAgo(60 * 24 * 20) });
    const { job, holder } = await holdInWindow();
    job.process.kill('SIGTERM');
    await holder.query('ROLLBACK');
    await holder.end();
    const { code, log } = await job.ended;
    expect(code).toBe(0);
    expect(log).toMatch(/covered \d+ of about \d+ windows/);
    expect(await database.query('SELECT outcome FROM counterfoil.job_runs')).toEqual([
      { outcome: 'partial' },
    ]);
    expect(await database.query('SELECT 1 FROM counterfoil.job_leases')).toEqual([]);
  });

  test('told to stop before it began, it takes nothing', async () => {
    const job = run(billingReconciliationJob, await reconciliationEnvironment(database, { CF_MODE: 'tail' }));
    process.emit('SIGTERM', 'SIGTERM');
    expect(await job).toMatchObject({ exitCode: 0, outcome: 'partial' });
  });

  test('told to stop, an audit without state says how far it came', async () => {
    await addSession(database);
    const environment = await reconciliationEnvironment(database, { CF_MODE: 'tail', CF_STATE: 'none' });
    const holder = await openSession(database.url);
    held.push(() => holder.end());
    await holder.query('BEGIN');
    await holder.query('LOCK TABLE sessions');
    const job = run(billingReconciliationJob, { ...environment, CF_LOCK_TIMEOUT_SECONDS: '30' });
    await waitFor('the audit waits at the table', async () => {
      const waiting = await database.query(
        `SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`,
      );
      return waiting.length > 0;
    });
    process.emit('SIGTERM', 'SIGTERM');
    await holder.query('ROLLBACK');
    const end = await job;
    expect(end).toMatchObject({ exitCode: 0, outcome: 'partial' });
    expect(end.message).toMatch(/covered \d+ of about \d+ windows/);
  });
});

describe('two runs at once', () => {
  test('a rotation whose definition was changed meanwhile verifies nothing of the new one', async () => {
    await addSession(database, { completedAt: minutesAgo(60 * 24 * 60) });
    await addSession(database, { completedAt: minutesAgo(60 * 24 * 20) });
    const { job, holder } = await holdInWindow();
    const changed = checksFile(
      sessionBilling({ facts: { table: 'gated_sessions', key: ['id'], at: 'completed_at' }, tolerance: 1 }),
    );
    await reconcile(database, { CF_MODE: 'tail', CF_CHECKS_FILE: changed });
    await holder.query('ROLLBACK');
    await holder.end();
    expect(await job.ended).toMatchObject({ code: 0, log: expect.stringContaining('begins anew') });
    expect(await database.query('SELECT verified_through, rotation_cursor FROM counterfoil.checks')).toEqual([
      { verified_through: null, rotation_cursor: null },
    ]);
  });

  test('the second waits for the first, and no finding is seen twice by one look', async () => {
    await addSession(database);
    const ends = await Promise.all([
      reconcile(database, { CF_MODE: 'tail' }),
      reconcile(database, { CF_MODE: 'tail' }),
    ]);
    expect(ends.map(({ outcome }) => outcome)).toEqual(['succeeded', 'succeeded']);
    expect(await findingsOf(database)).toHaveLength(1);
  });

  test('a lease that stays held ends the run as skipped, which a schedule takes for fine and a gate does not', async () => {
    await database.query(
      `INSERT INTO counterfoil.job_leases VALUES
         ('billing-reconciliation:session-billing', 'other', gen_random_uuid(), now(), now() + interval '1 hour')`,
    );
    const [schedule, gate] = await Promise.all([
      reconcile(database, { CF_MODE: 'tail' }),
      reconcile(database, { CF_MODE: 'tail', CF_EXIT_ON_FINDINGS: 'true' }),
    ]);
    expect(schedule).toMatchObject({ outcome: 'skipped', exitCode: 0 });
    expect(gate).toMatchObject({ outcome: 'skipped', exitCode: 4 });
  });

  test('a run whose lease was taken over writes nothing more', async () => {
    await addSession(database, { completedAt: minutesAgo(60 * 24 * 60) });
    await addSession(database, { completedAt: minutesAgo(60 * 24 * 20) });
    const { job, holder } = await holdInWindow();
    await database.query(
      `UPDATE counterfoil.job_leases SET token = gen_random_uuid(), expires_at = now() + interval '1 hour'`,
    );
    await waitFor('the run has noticed', async () => {
      const [lease] = await database.query<{ age: number }>(
        `SELECT extract(epoch FROM clock_timestamp() - acquired_at)::float8 AS age FROM counterfoil.job_leases`,
      );
      return (lease?.age ?? 0) > 3.5;
    });
    const before = await database.query('SELECT count(*) FROM counterfoil.reconciliation_windows');
    await holder.query('ROLLBACK');
    await holder.end();
    const { code, log } = await job.ended;
    expect(code).toBe(1);
    expect(log).toContain('lease_lost');
    expect(await database.query('SELECT count(*) FROM counterfoil.reconciliation_windows')).toEqual(before);
  });
});

describe('statements', () => {
  test('one that runs into its time limit has its window halved, and all is found', async () => {
    await database.query(
      `INSERT INTO sessions (id, contract_id, mentor_id, amount_minor, currency, completed_at)
       SELECT gen_random_uuid(), 'c', 'm', 1, 'EUR', now() - interval '1 hour' - n * interval '50 milliseconds'
         FROM generate_series(1, 60000) AS n`,
    );
    await database.query(
      `INSERT INTO mentor_payable_ledgers (session_id, mentor_id, amount_minor, currency, idempotency_key, created_at)
       SELECT id, 'm', 1, 'EUR', id::text, completed_at FROM sessions`,
    );
    await database.query('ANALYZE sessions, mentor_payable_ledgers');
    const lost = await addSession(database);
    const end = await reconcile(database, {
      CF_MODE: 'full',
      CF_WINDOW_TIMEOUT_MILLISECONDS: '60',
      CF_SLACK_SECONDS: '8',
    });
    expect(end.outcome).toBe('succeeded');
    expect(end.lines.filter(({ msg }) => String(msg).includes('halved')).length).toBeGreaterThan(0);
    expect(end.counts.facts).toBe(60_001);
    expect(await kindsOf(database)).toEqual([`missing ${lost.id}`]);
  });

  test('a server that crashes in the middle of a run is waited for', async () => {
    const server = await startEmbeddedPostgres();
    try {
      await prepareServer(server.url);
      await runScript(server.url, gatedSessions);
      await runScript(
        server.url,
        `INSERT INTO sessions (id, contract_id, mentor_id, amount_minor, currency, completed_at)
         SELECT gen_random_uuid(), 'c', 'm', 1, 'EUR', now() - n * interval '1 day' FROM generate_series(1, 60) AS n`,
      );
      const holder = await shutGate(server.url);
      const job = run(billingReconciliationJob, {
        DATABASE_URL: server.url,
        CF_MODE: 'full',
        CF_CHECKS_FILE: gated,
        CF_DATABASE_RETRY_SECONDS: '30',
      });
      await waitFor('a window is recorded', async () => {
        return (await runScript(server.url, 'SELECT 1 FROM counterfoil.reconciliation_windows LIMIT 1')) > 0;
      });
      // The crash also ends the session that held the gate shut.
      await server.restart();
      await holder.end().catch(() => undefined);
      expect(await job).toMatchObject({ exitCode: 0, outcome: 'succeeded' });
      expect(await runScript(server.url, 'SELECT 1 FROM counterfoil.discrepancies')).toBe(60);
    } finally {
      await server.stop();
    }
  });
});
