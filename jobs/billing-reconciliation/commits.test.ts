import { randomUUID } from 'node:crypto';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { checksFile, sessionBilling } from '../../test/builders/checks.ts';
import { emptyTables, findingsOf, reconcile } from '../../test/builders/reconciliation.ts';
import { addBilledSession, addSession, minutesAgo } from '../../test/builders/service.ts';
import { type OtherSession, openSession } from '../../test/builders/session.ts';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';

let database: TestDatabase;
let other: OtherSession;
/** A check whose grace is so short that only transactions hold the horizon back. */
let checks: string;

beforeAll(async () => {
  database = await createTestDatabase();
  checks = checksFile(sessionBilling({ grace: '1s' }));
});
afterAll(async () => {
  await database.drop();
});
beforeEach(async () => {
  await emptyTables(database);
  other = await openSession(database.url, 'slow importer');
});
afterEach(async () => {
  // A prepared transaction that a failed test left behind would hold up every other file.
  const left = await database.query<{ gid: string }>(
    'SELECT gid FROM pg_prepared_xacts WHERE database = current_database()',
  );
  for (const { gid } of left) await database.query(`ROLLBACK PREPARED '${gid}'`);
  await other.end();
});

/** Runs as a role that sees only its own transactions, with exactly the documented rights. */
const blindly = (mode: string, environment: Record<string, string> = {}) =>
  reconcile(database, {
    DATABASE_URL: database.urlAs('counterfoil_jobs'),
    CF_MODE: mode,
    CF_CHECKS_FILE: checks,
    ...environment,
  });
/** Runs as a role with pg_read_all_stats. */
const seeing = (mode: string, environment: Record<string, string> = {}) =>
  reconcile(database, { CF_MODE: mode, CF_CHECKS_FILE: checks, ...environment });

const insertSession = (id: string) =>
  other.query(
    `INSERT INTO sessions (id, contract_id, mentor_id, amount_minor, currency, completed_at)
     VALUES ($1, 'c', 'm', 1000, 'EUR', now())`,
    [id],
  );
const insertBill = (id: string) =>
  other.query(
    `INSERT INTO mentor_payable_ledgers (session_id, mentor_id, amount_minor, currency, idempotency_key)
     VALUES ($1::uuid, 'm', 1000, 'EUR', $1::text)`,
    [id],
  );

const check = async () => {
  const [row] = await database.query<{ verified: Date | null; held_back_by: string | null }>(
    'SELECT verified_through AS verified, held_back_by FROM counterfoil.checks',
  );
  return row;
};
const clock = async (text: string): Promise<Date> => {
  const [row] = await other.query<{ at: Date }>(`SELECT ${text} AS at`);
  return row?.at ?? new Date(Number.NaN);
};
/** Waits by the database clock until a time lies more than the grace behind. */
const untilPast = async (time: Date) => {
  await database.query(
    `SELECT pg_sleep(greatest(0, extract(epoch FROM $1::timestamptz + interval '1.2 seconds' - clock_timestamp())))`,
    [time],
  );
};

describe.each([
  ['sees when transactions began', seeing],
  ['sees only its own transactions', blindly],
])('a late commit, for a role that %s', (_, run) => {
  test('is never missed: the watermark waits behind an open transaction', async () => {
    await run('tail');
    await other.query('BEGIN');
    const began = await clock('now()');
    const id = randomUUID();
    await insertSession(id);
    await untilPast(began);
    await run('tail');
    const waiting = await check();
    expect(waiting?.verified === null || (waiting?.verified ?? began) <= began).toBe(true);
    expect(await findingsOf(database)).toEqual([]);
    await other.query('COMMIT');
    await run('tail');
    // A role that sees little needs one more run: only then is a time it remembers settled for long enough.
    await untilPast(await clock('clock_timestamp()'));
    await run('tail');
    expect((await findingsOf(database)).map(({ key }) => key)).toEqual([JSON.stringify([id])]);
  });

  test('gives no false alarm: a session and its bill that commit together are never seen apart', async () => {
    await run('tail');
    await other.query('BEGIN');
    const began = await clock('now()');
    const id = randomUUID();
    await insertSession(id);
    await insertBill(id);
    await untilPast(began);
    const during = await run('tail');
    await other.query('COMMIT');
    await run('tail');
    expect(during.counts.suspected).toBe(0);
    expect(await findingsOf(database)).toEqual([]);
  });

  test('a bill that is still in an open transaction does not make its session missing', async () => {
    await run('tail');
    await other.query('BEGIN');
    const began = await clock('now()');
    const session = await addSession(database, { completedAt: new Date(began.getTime() + 1).toISOString() });
    await insertBill(session.id);
    await untilPast(began);
    await run('tail');
    await other.query('COMMIT');
    await run('tail');
    expect(await findingsOf(database)).toEqual([]);
  });

  test('a prepared transaction holds the watermark until it is finished', async () => {
    await run('tail');
    const id = randomUUID();
    await other.query('BEGIN');
    const began = await clock('now()');
    await insertSession(id);
    await other.query(`PREPARE TRANSACTION 'held-${String(run === seeing)}'`);
    await untilPast(await clock('clock_timestamp()'));
    await run('tail');
    const waiting = await check();
    expect(waiting?.verified === null || (waiting?.verified ?? began) <= began).toBe(true);
    if (run === seeing) expect(waiting?.held_back_by).toContain('pg_prepared_xacts');
    await other.query(`COMMIT PREPARED 'held-${String(run === seeing)}'`);
    await run('tail');
    await untilPast(await clock('clock_timestamp()'));
    await run('tail');
    expect((await findingsOf(database)).map(({ key }) => key)).toEqual([JSON.stringify([id])]);
  });
});

describe('a transaction that stays open', () => {
  test('is named with pid and application, in the log and for whoever looks at the check', async () => {
    await other.query('BEGIN');
    await untilPast(await clock('now()'));
    const end = await seeing('tail');
    const held = end.lines.find(({ msg }) => msg === 'the horizon is held back');
    const [me] = await other.query<{ pid: number }>('SELECT pg_backend_pid() AS pid');
    expect(held?.heldBackBy).toMatch(new RegExp(`^pid ${me?.pid}, application slow importer`));
    expect((await check())?.held_back_by).toBe(held?.heldBackBy);
    await other.query('COMMIT');
    await seeing('tail');
    expect((await check())?.held_back_by).toBeNull();
  });

  test('past the maximum lag the check goes on, and what it finds is provisional until it has settled', async () => {
    await other.query('BEGIN');
    const began = await clock('now()');
    const lost = await addSession(database, { completedAt: new Date(began.getTime() + 10).toISOString() });
    await untilPast(new Date(began.getTime() + 1000));
    await seeing('tail', { CF_MAX_LAG_SECONDS: '1' });
    expect(await findingsOf(database)).toMatchObject([{ key: JSON.stringify([lost.id]), provisional: true }]);
    expect(((await check())?.verified ?? began) <= began).toBe(true);
    await other.query('COMMIT');
    await seeing('tail');
    expect(await findingsOf(database)).toMatchObject([{ status: 'open', provisional: false }]);
  });

  test('a rotation goes on from what had settled, and reads again what had not', async () => {
    await addSession(database, { completedAt: minutesAgo(60) });
    await other.query('BEGIN');
    const began = await clock('now()');
    await untilPast(new Date(began.getTime() + 1000));
    // It fails once all windows are recorded, before it is complete.
    await database.query(`
      CREATE FUNCTION break_end() RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN IF NEW.rotation_completed_at IS NOT NULL THEN RAISE EXCEPTION 'broken'; END IF; RETURN NEW; END $$;
      CREATE TRIGGER broken BEFORE UPDATE ON counterfoil.checks FOR EACH ROW EXECUTE FUNCTION break_end()`);
    const end = await seeing('full', { CF_MAX_LAG_SECONDS: '1' });
    await database.query('DROP FUNCTION break_end() CASCADE');
    expect(end.exitCode).toBe(1);
    const [row] = await database.query<{ cursor: Date | null; read: Date }>(
      `SELECT rotation_cursor AS cursor, (SELECT max(to_at) FROM counterfoil.reconciliation_windows) AS read
         FROM counterfoil.checks`,
    );
    expect((row?.read ?? began) > began).toBe(true);
    expect((row?.cursor ?? began) <= began).toBe(true);
    await other.query('COMMIT');
  });

  test('of another database holds nothing back', async () => {
    const elsewhere = new URL(database.url);
    elsewhere.pathname = '/postgres';
    const stranger = await openSession(elsewhere.href);
    await stranger.query('BEGIN');
    await untilPast(await clock('clock_timestamp()'));
    const end = await seeing('tail');
    await stranger.end();
    expect(end.log).not.toContain('held back');
  });
});

describe('a role that cannot see when transactions began', () => {
  test('is told once in a run that waiting longer has a remedy', async () => {
    const end = await blindly('tail');
    expect(end.lines.filter(({ msg }) => String(msg).includes('GRANT pg_read_all_stats'))).toHaveLength(1);
    expect((await seeing('tail')).log).not.toContain('GRANT pg_read_all_stats');
  });

  test('looks at nothing while no time that it remembers is settled, and calls that no success', async () => {
    await other.query('BEGIN');
    await insertSession(randomUUID());
    const session = await addSession(database);
    const end = await blindly('tail', { CF_EXIT_ON_FINDINGS: 'true' });
    expect(end).toMatchObject({ exitCode: 4, outcome: 'partial' });
    expect(end.counts).toMatchObject({ windows: 0, suspected: 0 });
    expect(end.log).toContain('nothing is known to be settled yet');
    // No scope of verify was looked at either.
    expect((await blindly('verify', { CF_VERIFY_HASH: 'abc' })).outcome).toBe('partial');
    await other.query('COMMIT');
    await blindly('tail');
    expect((await findingsOf(database)).map(({ key }) => key)).toContain(JSON.stringify([session.id]));
  });
});

describe('the documented rights', () => {
  test('suffice, and the jobs cannot write what they check', async () => {
    await addBilledSession(database);
    await addSession(database, { completedAt: minutesAgo(90) });
    for (const mode of ['full', 'tail', 'incremental', 'verify'])
      expect(await blindly(mode, mode === 'verify' ? { CF_VERIFY_FROM: minutesAgo(120) } : {})).toMatchObject(
        { exitCode: 0, outcome: 'succeeded' },
      );
    const jobs = await openSession(database.urlAs('counterfoil_jobs'));
    for (const statement of [
      'UPDATE sessions SET completed_at = NULL',
      'DELETE FROM mentor_payable_ledgers',
      `INSERT INTO event_backups VALUES ('e', 'n', '{}', 'pending')`,
      'DELETE FROM counterfoil.audit',
    ])
      await expect(jobs.query(statement)).rejects.toMatchObject({ code: '42501' });
    await jobs.end();
  });
});
