/** Runs that are killed, told to stop, started twice, or that meet the service at work. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { type RunningJob, startJob } from '../../test/builders/process.ts';
import {
  addOldEvent,
  emptyEvents,
  eventsLeft,
  retain,
  retentionEnvironment,
  verifyChecks,
} from '../../test/builders/retention.ts';
import { type OtherSession, openSession } from '../../test/builders/session.ts';
import { waitFor } from '../../test/builders/wait-for.ts';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';

let database: TestDatabase;
const jobs: RunningJob[] = [];
const sessions: OtherSession[] = [];
beforeAll(async () => {
  database = await createTestDatabase();
});
afterAll(async () => {
  await database.drop();
});
beforeEach(async () => {
  await emptyEvents(database);
  await verifyChecks(database);
});
afterEach(async () => {
  for (const job of jobs.splice(0)) {
    job.process.kill('SIGKILL');
    await job.ended;
  }
  for (const session of sessions.splice(0)) await session.end();
});

const addMany = async (count: number) => {
  await database.query(
    `INSERT INTO event_backups (event_id, event_name, payload, status, created_at, processed_at)
     SELECT 'e-' || n, 'e', '{}', 'processed', now() - interval '60 days', now() - interval '60 days'
       FROM generate_series(1, $1::integer) AS n`,
    [count],
  );
  await database.query(
    `INSERT INTO event_deliveries (event_id, listener, status, attempts)
     SELECT event_id, 'bill', 'succeeded', 1 FROM event_backups`,
  );
};
const left = async (): Promise<number> => {
  const [row] = await database.query<{ n: number }>('SELECT count(*)::integer AS n FROM event_backups');
  return row?.n ?? -1;
};
/** A run in portions of ten with a pause after each, so that it can be met in the middle. */
const startSlowly = (): RunningJob => {
  const job = startJob(
    'jobs/backup-retention/main.ts',
    retentionEnvironment(database, {
      CF_RETENTION_BATCH_SIZE: '10',
      CF_RETENTION_PAUSE_MILLISECONDS: '200',
    }),
  );
  jobs.push(job);
  return job;
};
const underWay = async (total: number) =>
  await waitFor('some are gone and some are not', async () => {
    const n = await left();
    return n > 0 && n < total;
  });

describe('a run that does not come to its end', () => {
  test('killed in the middle, it leaves no half of a portion, and the next run takes the rest', async () => {
    await addMany(500);
    const job = startSlowly();
    await underWay(500);
    job.process.kill('SIGKILL');
    await job.ended;
    const rest = await left();
    expect(rest % 10).toBe(0);
    const [deliveries] = await database.query<{ n: number }>(
      'SELECT count(*)::integer AS n FROM event_deliveries',
    );
    expect(deliveries?.n).toBe(rest);
    // The lease of the killed run is waited for.
    const end = await retain(database);
    expect(end, end.log).toMatchObject({ outcome: 'succeeded', counts: { purged: rest } });
    expect(await left()).toBe(0);
  });

  test('told to stop, it ends between two portions as partial with exit 0, and its lease is free', async () => {
    await addMany(500);
    const job = startSlowly();
    await underWay(500);
    job.process.kill('SIGTERM');
    const { code, log } = await job.ended;
    expect(code, log).toBe(0);
    expect(log).toContain('left for the next run: stopped as asked');
    expect(await database.query('SELECT FROM counterfoil.job_leases')).toEqual([]);
    const [recorded] = await database.query<{ outcome: string; purged: string }>(
      `SELECT outcome, counts ->> 'purged' AS purged FROM counterfoil.job_runs`,
    );
    expect(recorded).toEqual({ outcome: 'partial', purged: String(500 - (await left())) });
  });

  test('a freeze that comes while it is at work ends it as partial', async () => {
    await addMany(1_000);
    const job = startSlowly();
    await underWay(1_000);
    await database.query(
      `INSERT INTO counterfoil.freezes (reason, frozen_until) VALUES ('test', now() + interval '1 hour')`,
    );
    const { code, log } = await job.ended;
    expect([code, log]).toEqual([0, expect.stringContaining('left for the next run: frozen')]);
    expect(await left()).toBeGreaterThan(0);
  });

  test('out of time, it leaves the rest for the next run', async () => {
    await addMany(500);
    const end = await retain(database, {
      CF_RETENTION_BATCH_SIZE: '10',
      CF_RETENTION_PAUSE_MILLISECONDS: '200',
      CF_RETENTION_BUDGET_SECONDS: '1',
    });
    expect(end).toMatchObject({ exitCode: 0, outcome: 'partial' });
    expect(end.message).toContain('the time budget is used up');
    expect(await left()).toBeGreaterThan(0);
    expect(await left()).toBeLessThan(500);
  });

  test('a second run beside it deletes nothing: it waits for the lease and is skipped', async () => {
    await addMany(1_000);
    startSlowly();
    await underWay(1_000);
    const second = await retain(database);
    expect(second).toMatchObject({ exitCode: 0, outcome: 'skipped', counts: {} });
    expect(second.message).toContain('another run holds the lease');
  });
});

describe('beside the service', () => {
  test('an event that is processed only while the run is at work stays: its time counts from then', async () => {
    await addMany(300);
    await addOldEvent(database, { id: 'late', status: 'pending', created: 40 });
    const job = startSlowly();
    await underWay(301);
    await database.query(
      `UPDATE event_backups SET status = 'processed', processed_at = now() AT TIME ZONE 'UTC' WHERE event_id = 'late'`,
    );
    expect(await job.ended).toMatchObject({ code: 0 });
    expect(await eventsLeft(database)).toEqual(['late']);
  });

  test('a row that somebody holds is left for the next run, and its neighbours go', async () => {
    await addMany(20);
    const holder = await openSession(database.url);
    sessions.push(holder);
    await holder.query('BEGIN');
    await holder.query(`SELECT FROM event_backups WHERE event_id = 'e-7' FOR UPDATE`);
    const end = await retain(database, { CF_RETENTION_STATEMENT_MILLISECONDS: '200' });
    expect(end.exitCode, end.log).toBe(0);
    expect(end).toMatchObject({ outcome: 'partial', counts: { purged: 19, locked: 1 } });
    expect(end.message).toContain('rows were locked by somebody');
    await holder.query('ROLLBACK');
    expect(await eventsLeft(database)).toEqual(['e-7']);
    expect(await retain(database)).toMatchObject({ outcome: 'succeeded', counts: { purged: 1 } });
  });

  test('a row that is opened again while the run waits for it stays', async () => {
    await addMany(1);
    const holder = await openSession(database.url);
    sessions.push(holder);
    await holder.query('BEGIN');
    await holder.query(`UPDATE event_backups SET status = 'pending', processed_at = NULL`);
    const running = retain(database, { CF_RETENTION_BATCH_SIZE: '1' });
    await waitFor('the run waits for the row', async () => {
      const rows = await database.query(
        `SELECT FROM pg_stat_activity WHERE application_name = 'counterfoil-backup-retention'
            AND datname = current_database() AND wait_event_type = 'Lock'`,
      );
      return rows.length > 0;
    });
    await holder.query('COMMIT');
    await running;
    expect(await eventsLeft(database)).toEqual(['e-1']);
  });
});

test('a hundred thousand events go in portions, and no statement takes longer than it may', async () => {
  await addMany(100_000);
  await database.query('ANALYZE event_backups');
  await database.query('ANALYZE event_deliveries');
  // The server itself ends a statement that takes longer; a run that met that and could not go on would fail.
  const end = await retain(database, { CF_RETENTION_STATEMENT_MILLISECONDS: '500' });
  expect(end.exitCode, end.log).toBe(0);
  expect(end).toMatchObject({ outcome: 'succeeded', counts: { purged: 100_000, held: 0, locked: 0 } });
  expect(end.counts.portions).toBeGreaterThanOrEqual(100);
  expect(await left()).toBe(0);
});
