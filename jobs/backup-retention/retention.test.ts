import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { checksFile, sessionBilling } from '../../test/builders/checks.ts';
import {
  addOldEvent,
  deliveriesLeft,
  emptyEvents,
  eventsLeft,
  retain,
  verifyChecks,
} from '../../test/builders/retention.ts';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';

let database: TestDatabase;
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

const events = async (...rows: readonly (Parameters<typeof addOldEvent>[1] | string)[]) => {
  for (const row of rows) await addOldEvent(database, typeof row === 'string' ? { id: row } : row);
};
const finding = async (row: {
  readonly key: string;
  readonly eventId?: string;
  readonly kind?: string;
  readonly status?: string;
}): Promise<string> => {
  const { key, eventId = null, kind = 'missing', status = 'open' } = row;
  const [made] = await database.query<{ id: string }>(
    `INSERT INTO counterfoil.discrepancies (check_name, kind, key, status, cause, event_id, ledger_rows, first_run_id,
                                            acknowledged_until)
     VALUES ('session-billing', $1, $2, $3, CASE WHEN $1 = 'missing' THEN 'processed_without_ledger' END, $4, 0, $5,
             CASE WHEN $3 = 'acknowledged' THEN now() + interval '1 day' END)
     RETURNING id`,
    [kind, JSON.stringify([key]), status, eventId, randomUUID()],
  );
  return made?.id ?? '';
};
const replayEvent = async (id: string, status: string, finishedDaysAgo?: number) => {
  await database.query(
    `INSERT INTO counterfoil.replay_events (event_id, event_name, event_created_at, status, claim_token, lease_until,
                                            parked_at, parked_reason, finished_at, handed_at)
     VALUES ($1, 'e', now(), $2, CASE WHEN $2 = 'claimed' THEN gen_random_uuid() END,
             CASE WHEN $2 = 'claimed' THEN now() END, CASE WHEN $2 = 'parked' THEN now() END,
             CASE WHEN $2 = 'parked' THEN 'not_retryable' END,
             CASE WHEN $2 = 'done' THEN now() - $3::double precision * interval '1 day' END,
             CASE WHEN $2 = 'handed_to_outbox' THEN now() END)`,
    [id, status, finishedDaysAgo ?? null],
  );
};
const request = async (kind: string, scope: object, status = 'open') => {
  await database.query(
    `INSERT INTO counterfoil.requests (kind, scope, reason, status) VALUES ($1, $2, 'test', $3)`,
    [kind, JSON.stringify(scope), status],
  );
};
const daysAgo = (days: number) => new Date(Date.now() - days * 86_400_000).toISOString();

describe('by age', () => {
  test('what was processed a day longer ago than is kept goes, and a day less stays; deliveries go along', async () => {
    await events(
      { id: 'old', created: 60, processed: 31 },
      { id: 'young', created: 60, processed: 29 },
      { id: 'never-timed-old', created: 31, processed: null },
      { id: 'never-timed-young', created: 29, processed: null },
    );
    const end = await retain(database);
    expect(end.exitCode, end.log).toBe(0);
    expect(end).toMatchObject({ outcome: 'succeeded', counts: { purged: 2, held: 0 } });
    expect(await eventsLeft(database)).toEqual(['never-timed-young', 'young']);
    expect(await deliveriesLeft(database)).toEqual(['never-timed-young', 'young']);
    const [recorded] = await database.query(
      `SELECT mode, outcome, counts ->> 'purged' AS purged FROM counterfoil.job_runs`,
    );
    expect(recorded).toEqual({ mode: 'purge', outcome: 'succeeded', purged: '2' });
  });

  test('what is pending stays, however old it is', async () => {
    await events({ id: 'open', status: 'pending', created: 1_000 }, 'done');
    expect(await retain(database)).toMatchObject({ counts: { purged: 1 } });
    expect(await eventsLeft(database)).toEqual(['open']);
  });

  test('a dry run says what would go, and deletes nothing', async () => {
    await events('one', 'two');
    await finding({ key: 'two', eventId: 'two' });
    const end = await retain(database, { CF_DRY_RUN: 'true' });
    expect(end).toMatchObject({ exitCode: 0, outcome: 'succeeded', counts: { purged: 1, held: 1 } });
    expect(end.message).toBe('dry run: nothing was deleted');
    expect(await eventsLeft(database)).toEqual(['one', 'two']);
    const [recorded] = await database.query('SELECT mode FROM counterfoil.job_runs');
    expect(recorded).toEqual({ mode: 'dry_run' });
  });

  test('times without a zone are read in the zone of the service', async () => {
    // Written by a clock that is eleven hours ahead of UTC: half an hour too young, and half an hour old enough.
    for (const [id, hours] of [
      ['young', -0.5],
      ['old', 0.5],
    ] as const) {
      await database.query(
        `INSERT INTO event_backups (event_id, event_name, payload, status, created_at)
         VALUES ($1, 'e', '{}', 'processed',
                 (now() - interval '30 days' - $2::double precision * interval '1 hour') AT TIME ZONE 'Pacific/Noumea')`,
        [id, hours],
      );
    }
    expect(await retain(database, { CF_SERVICE_TIME_ZONE: 'Pacific/Noumea' })).toMatchObject({ exitCode: 0 });
    expect(await eventsLeft(database)).toEqual(['young']);
  });
});

describe('stays because it is still needed', () => {
  test.each(['due', 'claimed', 'parked', 'handed_to_outbox'])(
    'an event that replay holds as %s',
    async (status) => {
      await events('held', 'free');
      await replayEvent('held', status);
      expect(await retain(database)).toMatchObject({ outcome: 'succeeded', counts: { purged: 1, held: 1 } });
      expect(await eventsLeft(database)).toEqual(['held']);
    },
  );

  test('an event that replay has ended lately, until that is as old as the events that go', async () => {
    await events('lately', 'long-ago');
    await replayEvent('lately', 'done', 29);
    await replayEvent('long-ago', 'done', 31);
    await retain(database);
    expect(await eventsLeft(database)).toEqual(['lately']);
  });

  test.each(['suspected', 'open', 'acknowledged', 'waived'])(
    'the event of a finding that is %s',
    async (status) => {
      await events({ id: 'held', sessionId: 's-1' }, { id: 'free', sessionId: 's-2' });
      await finding({ key: 's-9', eventId: 'held', status });
      await retain(database);
      expect(await eventsLeft(database)).toEqual(['held']);
    },
  );

  test('the event of a fact with a finding that names no event, such as a second bill; not that of its neighbour', async () => {
    await events({ id: 'held', sessionId: 's-"1"' }, { id: 'free', sessionId: 's-2' });
    await finding({ key: 's-"1"', kind: 'duplicate' });
    await retain(database);
    expect(await eventsLeft(database)).toEqual(['held']);
  });

  test('not that of a finding that is resolved', async () => {
    await events({ id: 'free', sessionId: 's-1' });
    await finding({ key: 's-1', eventId: 'free', status: 'resolved' });
    expect(await retain(database)).toMatchObject({ counts: { purged: 1, held: 0 } });
    expect(await eventsLeft(database)).toEqual([]);
  });

  test.each(['open', 'taken'])(
    'what a request that is %s names: by id, by finding, by time',
    async (status) => {
      await events(
        'by-id',
        { id: 'by-finding', sessionId: 's-1' },
        { id: 'in-range', created: 100 },
        { id: 'before-range', created: 111 },
        { id: 'after-range', created: 89 },
        'free',
      );
      await request('replay', { event_ids: ['by-id', 'unknown'] }, status);
      const id = await finding({ key: 's-1', status: 'resolved' });
      await request('rebuild', { findings: [Number(id)] }, status);
      await request('verify', { from: daysAgo(110), to: daysAgo(90), published_hash: 'x' }, status);
      await retain(database);
      expect(await eventsLeft(database)).toEqual(['by-finding', 'by-id', 'in-range']);
    },
  );

  test.each(['done', 'refused'])('not what a request names that is %s', async (status) => {
    await events('one');
    await request('replay', { event_ids: ['one'] }, status);
    await retain(database);
    expect(await eventsLeft(database)).toEqual([]);
  });

  test('everything, while a request is open whose scope nobody here understands', async () => {
    await events('one');
    await request('verify', { published_hash: 'abc' });
    const end = await retain(database);
    expect(end).toMatchObject({ exitCode: 0, outcome: 'partial', counts: { purged: 0 } });
    expect(end.message).toContain('a request is open whose scope names neither events, findings nor a time');
    expect(await eventsLeft(database)).toEqual(['one']);
  });
});

describe('what no check has verified', () => {
  test('stays, all of it, while a check has verified nothing, and the run says what to do', async () => {
    await events('one');
    await database.query('UPDATE counterfoil.checks SET verified_through = NULL');
    const end = await retain(database);
    expect(end).toMatchObject({ exitCode: 0, outcome: 'partial', counts: { purged: 0 } });
    expect(end.message).toContain('session-billing: run billing-reconciliation with CF_MODE=full');
    await database.query('DELETE FROM counterfoil.checks');
    expect(await retain(database)).toMatchObject({ outcome: 'partial' });
    expect(await eventsLeft(database)).toEqual(['one']);
  });

  test('stays where the check was verified under another definition', async () => {
    await events('one');
    await database.query(`UPDATE counterfoil.checks SET definition_hash = 'another'`);
    expect(await retain(database)).toMatchObject({ outcome: 'partial' });
    expect(await eventsLeft(database)).toEqual(['one']);
  });

  test('age counts from the time that is verified: what is a day too young by it stays', async () => {
    await events({ id: 'old', created: 36 }, { id: 'young', created: 34 });
    await verifyChecks(database, undefined, 5);
    expect(await retain(database)).toMatchObject({ outcome: 'succeeded', counts: { purged: 1 } });
    expect(await eventsLeft(database)).toEqual(['young']);
  });

  test('does not concern a check that has no event', async () => {
    await events('one');
    const file = checksFile(sessionBilling({ name: 'no-event', event: null }));
    expect(await retain(database, { CF_CHECKS_FILE: file })).toMatchObject({ outcome: 'succeeded' });
    expect(await eventsLeft(database)).toEqual([]);
  });

  test('a check that looks back further than events are kept is refused', async () => {
    const file = checksFile(sessionBilling({ lookback: '31d' }));
    const end = await retain(database, { CF_CHECKS_FILE: file });
    expect(end.exitCode).toBe(2);
    expect(end.message).toContain('CF_RETENTION_DAYS: is too few: check session-billing needs 32');
    await verifyChecks(database, file);
    expect(await retain(database, { CF_CHECKS_FILE: file, CF_RETENTION_DAYS: '32' })).toMatchObject({
      exitCode: 0,
    });
  });
});

describe('is refused', () => {
  test.each([
    ['', 'CF_RETENTION_DAYS: must not be empty'],
    ['6', 'CF_RETENTION_DAYS: must be at least 7'],
    ['0', 'CF_RETENTION_DAYS: must be at least 7'],
    ['3651', 'CF_RETENTION_DAYS: must be at most 3650'],
    ['30d', 'CF_RETENTION_DAYS: must be a whole number of days'],
    ['-30', 'CF_RETENTION_DAYS: must be a whole number of days'],
  ])('with %j days', async (days, problem) => {
    await events('one');
    const end = await retain(database, { CF_RETENTION_DAYS: days });
    expect(end.exitCode).toBe(2);
    expect(end.message).toContain(problem);
    expect(await eventsLeft(database)).toEqual(['one']);
  });

  test('without days, and nothing goes', async () => {
    const { backupRetentionJob } = await import('./job.ts');
    const { run } = await import('../../test/builders/run.ts');
    const end = await run(backupRetentionJob, { DATABASE_URL: database.urlAs('counterfoil_retention') });
    expect(end.exitCode).toBe(2);
    expect(end.message).toContain('CF_RETENTION_DAYS: is required');
  });

  test('as a role that may not delete, with the statement that mends it', async () => {
    const end = await retain(database, { DATABASE_URL: database.urlAs('counterfoil_jobs') });
    expect(end.exitCode).toBe(2);
    expect(end.message).toContain('GRANT SELECT, DELETE ON "public"."event_backups" TO counterfoil_jobs');
  });

  test('with a table or a zone that is not there', async () => {
    expect(await retain(database, { CF_EVENTS_TABLE: 'nowhere' })).toMatchObject({ exitCode: 2 });
    expect(await retain(database, { CF_SERVICE_TIME_ZONE: 'Nowhere/Town' })).toMatchObject({
      exitCode: 2,
      message: 'CF_SERVICE_TIME_ZONE: the database knows no such time zone',
    });
  });

  test('by a freeze: the run is skipped', async () => {
    await events('one');
    await database.query(
      `INSERT INTO counterfoil.freezes (reason, frozen_until) VALUES ('test', now() + interval '1 hour')`,
    );
    expect(await retain(database)).toMatchObject({ exitCode: 0, outcome: 'skipped' });
    expect(await eventsLeft(database)).toEqual(['one']);
  });
});

describe('records of runs', () => {
  const addRun = async (row: {
    readonly daysAgo: number;
    readonly outcome?: string;
    readonly mode?: string;
    readonly seenDaysAgo?: number;
  }): Promise<string> => {
    const { outcome = 'succeeded', mode = 'tail' } = row;
    const [made] = await database.query<{ id: string }>(
      `INSERT INTO counterfoil.job_runs (run_id, job, mode, installation, outcome, pod, version, started_at, seen_at,
                                         finished_at)
       VALUES (gen_random_uuid(), 'billing-reconciliation', $1, 'test', $2, 'p', '1',
               now() - $3::double precision * interval '1 day', now() - $4::double precision * interval '1 day',
               CASE WHEN $2 <> 'running' THEN now() END)
       RETURNING run_id AS id`,
      [mode, outcome, row.daysAgo, row.seenDaysAgo ?? row.daysAgo],
    );
    return made?.id ?? '';
  };
  const runsLeft = async () =>
    new Set(
      (
        await database.query<{ id: string }>(
          `SELECT run_id AS id FROM counterfoil.job_runs WHERE job = 'billing-reconciliation'`,
        )
      ).map(({ id }) => id),
    );

  test('older than they are kept go; the last success and all since then stay, and a run that is at work', async () => {
    await addRun({ daysAgo: 200 });
    await addRun({ daysAgo: 150, outcome: 'running' });
    const alive = await addRun({ daysAgo: 140, outcome: 'running', seenDaysAgo: 0 });
    const young = await addRun({ daysAgo: 89 });
    const newest = await addRun({ daysAgo: 1 });
    await addRun({ daysAgo: 210, mode: 'full' });
    const lastFull = await addRun({ daysAgo: 190, mode: 'full' });
    const failedSince = await addRun({ daysAgo: 180, mode: 'full', outcome: 'failed' });
    const neverGood = await addRun({ daysAgo: 300, mode: 'verify', outcome: 'failed' });
    expect(await retain(database)).toMatchObject({ outcome: 'succeeded', counts: { runs_purged: 3 } });
    expect(await runsLeft()).toEqual(new Set([alive, young, newest, lastFull, failedSince, neverGood]));
  });

  test('stay for ever with 0 days, and in a dry run', async () => {
    const old = await addRun({ daysAgo: 200 });
    const newest = await addRun({ daysAgo: 1 });
    await retain(database, { CF_RETENTION_RUNS_DAYS: '0' });
    await retain(database, { CF_DRY_RUN: 'true' });
    expect(await runsLeft()).toEqual(new Set([old, newest]));
    expect(await retain(database, { CF_RETENTION_RUNS_DAYS: '6' })).toMatchObject({ exitCode: 2 });
  });
});
