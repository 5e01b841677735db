import { mkdtempSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, inject, test } from 'vitest';
import { checksFile, sessionBilling } from '../../test/builders/checks.ts';
import { emptyTables, findingsOf, kindsOf, reconcile } from '../../test/builders/reconciliation.ts';
import {
  addBilledSession,
  addEvent,
  addLedgerRow,
  addSession,
  minutesAgo,
} from '../../test/builders/service.ts';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';

let database: TestDatabase;
const DAY = 60 * 24;

beforeAll(async () => {
  database = await createTestDatabase();
});
afterAll(async () => {
  await database.drop();
});
beforeEach(async () => {
  await emptyTables(database);
});

const run = (mode: string, environment: Record<string, string> = {}) =>
  reconcile(database, { CF_MODE: mode, ...environment });

const check = async () => {
  const [row] = await database.query<{
    verified_through: Date | null;
    rotation_cursor: Date | null;
    rotation_completed_at: Date | null;
  }>('SELECT verified_through, rotation_cursor, rotation_completed_at FROM counterfoil.checks');
  return row;
};

/** A lost session whose event was published by a version. */
async function addPublished(minutes: number, hash: string): Promise<void> {
  await database.query('ALTER TABLE event_backups ADD COLUMN IF NOT EXISTS published_hash text');
  const session = await addSession(database, { completedAt: minutesAgo(minutes) });
  const eventId = await addEvent(database, session.id, { createdAt: minutesAgo(minutes) });
  await database.query('UPDATE event_backups SET published_hash = $2 WHERE event_id = $1', [eventId, hash]);
}

describe('tail', () => {
  test.each(['tail', 'incremental'])(
    '%s on an empty state verifies nothing while older facts were never read; full does',
    async (mode) => {
      await addSession(database, { completedAt: minutesAgo(DAY * 30) });
      const recent = await addSession(database, { completedAt: minutesAgo(DAY - 60) });
      await run(mode);
      expect(await kindsOf(database)).toEqual([`missing ${recent.id}`]);
      expect((await check())?.verified_through).toBeNull();
      const next = await addSession(database, { completedAt: minutesAgo(11) });
      await run(mode);
      expect(await kindsOf(database)).toContain(`missing ${next.id}`);
      await run('full');
      expect(await findingsOf(database)).toHaveLength(3);
      expect((await check())?.verified_through).toBeInstanceOf(Date);
      expect((await run('tail')).counts.facts).toBe(0);
    },
  );

  test('on an empty state it verifies all where nothing is older than what it read, or than since', async () => {
    await addSession(database, { completedAt: minutesAgo(DAY - 60) });
    await run('tail');
    expect((await check())?.verified_through).toBeInstanceOf(Date);
    await emptyTables(database);
    await addSession(database, { completedAt: minutesAgo(DAY * 30) });
    const since = minutesAgo(DAY / 2);
    await run('tail', { CF_CHECKS_FILE: checksFile(sessionBilling({ since })) });
    expect((await check())?.verified_through).toBeInstanceOf(Date);
  });

  test('what is behind a changed definition has to be verified anew', async () => {
    await addBilledSession(database, { completedAt: minutesAgo(DAY * 30) });
    await run('full');
    await run('tail', { CF_CHECKS_FILE: checksFile(sessionBilling({ tolerance: 1 })) });
    expect((await check())?.verified_through).toBeNull();
  });

  test('reads only what has settled since the last run', async () => {
    await addBilledSession(database);
    expect((await run('tail')).counts).toMatchObject({ facts: 1, ledger_rows: 1 });
    expect((await run('tail')).counts).toMatchObject({ facts: 0, ledger_rows: 0 });
  });
});

describe('incremental', () => {
  test('reads the look-back again behind the watermark, and so finds a row that came late', async () => {
    await run('tail');
    const late = await addSession(database, { completedAt: minutesAgo(DAY - 60) });
    await addSession(database, { completedAt: minutesAgo(DAY + 60) });
    await run('tail');
    expect(await findingsOf(database)).toEqual([]);
    await run('incremental');
    expect(await kindsOf(database)).toEqual([`missing ${late.id}`]);
  });
});

describe('full', () => {
  test('begins at the first row of either table, records its windows and completes the rotation', async () => {
    await addSession(database, { completedAt: minutesAgo(DAY * 100) });
    await addLedgerRow(database, { createdAt: minutesAgo(DAY * 200) });
    await run('full');
    expect((await findingsOf(database)).map(({ kind }) => kind).sort()).toEqual(['missing', 'orphan']);
    expect(await check()).toMatchObject({ rotation_cursor: null, rotation_completed_at: expect.any(Date) });
    const [gaps] = await database.query<{ gaps: number; windows: number }>(
      `SELECT count(*) FILTER (WHERE before IS DISTINCT FROM from_at AND before IS NOT NULL)::integer AS gaps,
              count(*)::integer AS windows
         FROM (SELECT from_at, lag(to_at) OVER (PARTITION BY side ORDER BY from_at) AS before
                 FROM counterfoil.reconciliation_windows) AS w`,
    );
    expect(gaps?.gaps).toBe(0);
    expect(gaps?.windows).toBeGreaterThan(2);
  });

  test('goes on at its cursor, and a second rotation replaces the windows of the first', async () => {
    const before = await addSession(database, { completedAt: minutesAgo(DAY * 10) });
    const after = await addSession(database, { completedAt: minutesAgo(DAY * 2) });
    await run('tail');
    await database.query(`UPDATE counterfoil.checks SET rotation_cursor = now() - interval '5 days'`);
    await run('full');
    expect(await kindsOf(database)).toEqual([`missing ${after.id}`]);
    await run('full');
    await run('full');
    expect(await kindsOf(database)).toEqual([`missing ${before.id}`, `missing ${after.id}`].sort());
    const overlaps = await database.query(
      `SELECT 1 FROM counterfoil.reconciliation_windows a JOIN counterfoil.reconciliation_windows b
          ON a.side = b.side AND a.from_at < b.from_at AND a.to_at > b.from_at`,
    );
    expect(overlaps).toEqual([]);
  });

  test('on empty tables it has nothing to read and says that all is verified', async () => {
    expect(await run('full')).toMatchObject({ outcome: 'succeeded', counts: { facts: 0 } });
    expect((await check())?.verified_through).toBeInstanceOf(Date);
  });

  test('a slice leaves the rest to the next run, and is a success', async () => {
    await addSession(database, { completedAt: minutesAgo(DAY * 365 * 80) });
    const end = await run('full', { CF_FULL_SLICE_SECONDS: '1', CF_WINDOW_TARGET_MILLISECONDS: '1' });
    expect(end.outcome).toBe('succeeded');
    expect(end.message).toMatch(/covered \d+ of about \d+ windows/);
    expect(await check()).toMatchObject({
      rotation_cursor: expect.any(Date),
      rotation_completed_at: null,
      verified_through: null,
    });
    await run('full');
    expect((await check())?.verified_through).toBeInstanceOf(Date);
  });

  test.each([
    { CF_EXIT_ON_FINDINGS: 'true' },
    { CF_EXIT_ON_FINDINGS: 'true', CF_GATE_SINCE: minutesAgo(60) },
    { CF_GATE_SINCE: minutesAgo(60) },
  ])('a slice that leaves a rest has not looked at everything, for who asks: %j', async (asked) => {
    await addSession(database, { completedAt: minutesAgo(DAY * 365 * 80) });
    const end = await run('full', {
      CF_FULL_SLICE_SECONDS: '1',
      CF_WINDOW_TARGET_MILLISECONDS: '1',
      ...asked,
    });
    expect(end).toMatchObject({
      outcome: 'partial',
      exitCode: 'CF_EXIT_ON_FINDINGS' in asked ? 4 : 0,
    });
  });

  test('steps aside while tail holds its lease', async () => {
    await addSession(database);
    await database.query(
      `INSERT INTO counterfoil.job_leases VALUES
         ('billing-reconciliation:session-billing', 'tail', gen_random_uuid(), now(), now() + interval '1 second')`,
    );
    const began = performance.now();
    await run('full');
    expect(performance.now() - began).toBeGreaterThan(700);
    expect(await findingsOf(database)).toHaveLength(1);
  });
});

describe('verify', () => {
  test('reads the named range and nothing else', async () => {
    const inside = await addSession(database, { completedAt: minutesAgo(DAY * 5) });
    await addSession(database, { completedAt: minutesAgo(DAY * 3) });
    const end = await run('verify', {
      CF_VERIFY_FROM: minutesAgo(DAY * 6),
      CF_VERIFY_TO: minutesAgo(DAY * 4),
    });
    expect(end).toMatchObject({ outcome: 'succeeded', counts: { standing_suspected: 1 } });
    expect(await kindsOf(database)).toEqual([`missing ${inside.id}`]);
    expect((await check())?.verified_through).toBeNull();
  });

  test('a range that reaches beyond the horizon is not wholly looked at', async () => {
    const end = await run('verify', {
      CF_VERIFY_FROM: minutesAgo(60),
      CF_VERIFY_TO: minutesAgo(1),
      CF_EXIT_ON_FINDINGS: 'true',
    });
    expect(end).toMatchObject({ outcome: 'partial', exitCode: 4 });
  });

  test('counts what stands in its scope alone: range, hash, or both', async () => {
    await addPublished(DAY * 5, 'good');
    await addPublished(DAY * 5, 'bad');
    await addPublished(DAY * 9, 'bad');
    await run('full');
    const standing = async (environment: Record<string, string>) => {
      const end = await run('verify', { CF_EXIT_ON_FINDINGS: 'true', ...environment });
      return [end.exitCode, end.counts.standing_open];
    };
    const range = { CF_VERIFY_FROM: minutesAgo(DAY * 6), CF_VERIFY_TO: minutesAgo(DAY * 4) };
    expect(await standing(range)).toEqual([3, 2]);
    expect(await standing({ ...range, CF_VERIFY_HASH: 'bad' })).toEqual([3, 1]);
    expect(await standing({ CF_VERIFY_HASH: 'bad' })).toEqual([3, 2]);
    expect(await standing({ CF_VERIFY_HASH: 'none' })).toEqual([0, 0]);
    expect(await standing({ ...range, CF_VERIFY_HASH: 'bad', CF_GATE_SINCE: minutesAgo(DAY * 4.5) })).toEqual(
      [0, 0],
    );
    expect(await standing({ ...range, CF_STATE: 'none' })).toEqual([3, 2]);
    expect(await standing({ ...range, CF_STATE: 'none', CF_VERIFY_HASH: 'bad' })).toEqual([3, 1]);
    expect(await standing({ ...range, CF_STATE: 'none', CF_VERIFY_HASH: 'none' })).toEqual([0, 0]);
  });

  test('findings that do not exist are named, and were not looked at', async () => {
    const end = await run('verify', { CF_VERIFY_FINDINGS: '999999,999998', CF_EXIT_ON_FINDINGS: 'true' });
    expect(end).toMatchObject({ outcome: 'partial', exitCode: 4 });
    expect(end.message).toContain('there is no finding 999998, 999999');
  });

  test.each(['postgres', 'none'])(
    'a range behind which nothing lies was not looked at, state %s',
    async (state) => {
      const end = await run('verify', { CF_VERIFY_FROM: minutesAgo(-60), CF_STATE: state });
      expect(end.outcome).toBe('partial');
    },
  );

  test('named findings are judged anew, settled ones too', async () => {
    const session = await addSession(database, { completedAt: minutesAgo(DAY * 40) });
    await run('full');
    const bill = await addLedgerRow(database, { sessionId: session.id });
    await run('tail');
    await database.query('DELETE FROM mentor_payable_ledgers WHERE id = $1', [bill]);
    const [finding] = await findingsOf(database);
    expect(finding?.status).toBe('resolved');
    await run('verify', { CF_VERIFY_FINDINGS: String(finding?.id) });
    expect(await findingsOf(database)).toMatchObject([{ status: 'suspected' }]);
  });

  test.each([
    [{ CF_MODE: 'tail', CF_VERIFY_FROM: minutesAgo(60) }, 'go with CF_MODE=verify'],
    [{ CF_MODE: 'verify', CF_VERIFY_TO: minutesAgo(60) }, 'CF_VERIFY_TO needs CF_VERIFY_FROM'],
    [{ CF_MODE: 'verify' }, 'CF_MODE=verify needs CF_VERIFY_FROM'],
    [
      {
        CF_MODE: 'verify',
        CF_VERIFY_FROM: '2026-01-02T00:00:00Z',
        CF_VERIFY_TO: '2026-01-02T01:00:00+01:00',
      },
      'CF_VERIFY_TO must be later than CF_VERIFY_FROM',
    ],
    [{ CF_MODE: 'verify', CF_VERIFY_HASH: 'abc', CF_VERIFY_FINDINGS: '1' }, 'CF_VERIFY_FINDINGS goes alone'],
    [{ CF_STATE: 'none', CF_MODE: 'verify' }, 'needs CF_VERIFY_FROM'],
    [{ CF_STATE: 'none', CF_MODE: 'verify', CF_VERIFY_FINDINGS: '1' }, 'CF_VERIFY_FINDINGS needs state'],
    [{ CF_STATE: 'none', CF_REPAIR: 'true' }, 'CF_REPAIR needs state'],
    [{ CF_SERVICE_TIME_ZONE: 'Mars/Olympus' }, 'CF_SERVICE_TIME_ZONE'],
    [{ CF_VERIFY_FROM: '2026-11-23' }, 'CF_VERIFY_FROM: must be a time'],
  ])('settings that mean nothing together are refused: %j', async (environment, words) => {
    const end = await reconcile(database, environment as Record<string, string>);
    expect(end.exitCode).toBe(2);
    expect(end.log).toContain(words);
  });
});

describe('requests to verify', () => {
  const ask = async (scope: object, name: string | null = 'session-billing') => {
    const [row] = await database.query<{ id: string }>(
      `INSERT INTO counterfoil.requests (kind, scope, check_name, reason) VALUES ('verify', $1, $2, 'test') RETURNING id`,
      [JSON.stringify(scope), name],
    );
    return row?.id;
  };
  const requests = () =>
    database.query<{ status: string; result: Record<string, unknown> | null }>(
      'SELECT status, result FROM counterfoil.requests ORDER BY id',
    );

  test('a range is read by the next tail, and the result says what stands in it', async () => {
    await addSession(database, { completedAt: minutesAgo(DAY * 5) });
    await addSession(database, { completedAt: minutesAgo(DAY * 9) });
    await ask({ from: minutesAgo(DAY * 6), to: minutesAgo(DAY * 4) });
    const end = await run('tail');
    expect(end.counts).toMatchObject({ requests: 1, suspected: 1 });
    expect(await requests()).toMatchObject([{ status: 'done', result: { suspected: 1 } }]);
    const [audit] = await database.query<{ action: string }>(
      `SELECT action FROM counterfoil.audit WHERE action = 'verified' ORDER BY id DESC LIMIT 1`,
    );
    expect(audit?.action).toBe('verified');
  });

  test('of every check, of a hash, of findings: each is answered; another check’s is left', async () => {
    await addPublished(DAY * 5, 'bad');
    await addPublished(DAY * 5, 'good');
    await addPublished(DAY * 9, 'bad');
    await run('full');
    const [finding] = await findingsOf(database);
    const range = { from: minutesAgo(DAY * 6), to: minutesAgo(DAY * 4) };
    await ask({ ...range, published_hash: 'bad' }, null);
    await ask({ published_hash: 'bad' });
    await ask({ ...range, published_hash: 'none' });
    await ask({ findings: [Number(finding?.id)] });
    await ask({ findings: [1] }, 'another-check');
    await run('tail');
    expect(await requests()).toMatchObject([
      { status: 'done', result: { open: 1, suspected: 0 } },
      { status: 'done', result: { open: 2 } },
      { status: 'done', result: { open: 0 } },
      { status: 'done', result: { open: 1, findings: 1 } },
      { status: 'open' },
    ]);
  });

  test('of a finding that does not exist: it is refused, and the audit says why', async () => {
    const id = await ask({ findings: [999_999] });
    const nothing = minutesAgo(DAY);
    await ask({ from: nothing, to: nothing });
    await run('tail');
    expect(await requests()).toMatchObject([
      { status: 'refused', result: { reason: 'there is no finding 999999' } },
      { status: 'refused' },
    ]);
    expect(
      await database.query('SELECT action, reason FROM counterfoil.audit WHERE request_id = $1', [id]),
    ).toEqual([{ action: 'verify_refused', reason: 'there is no finding 999999' }]);
  });

  test('it is not done without its audit row, and the next run takes it up again', async () => {
    const id = await ask({ from: minutesAgo(DAY * 6), to: minutesAgo(DAY * 4) });
    await database.query(`
      CREATE FUNCTION lose_audit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'lost'; END $$;
      CREATE TRIGGER lost BEFORE INSERT ON counterfoil.audit FOR EACH ROW EXECUTE FUNCTION lose_audit()`);
    const end = await run('tail');
    await database.query('DROP FUNCTION lose_audit() CASCADE');
    expect(end.exitCode).toBe(1);
    expect(await requests()).toMatchObject([{ status: 'taken', result: null }]);
    await run('tail');
    expect(await requests()).toMatchObject([{ status: 'done' }]);
    expect(await database.query('SELECT action FROM counterfoil.audit WHERE request_id = $1', [id])).toEqual([
      { action: 'verified' },
    ]);
  });

  test('of every check it waits until all are held, and is then answered by each from its own since on', async () => {
    await addSession(database, { completedAt: minutesAgo(DAY * 5) });
    const checks = {
      CF_CHECKS_FILE: checksFile(
        sessionBilling(),
        sessionBilling({ name: 'recent', since: minutesAgo(DAY * 4.5) }),
      ),
    };
    await ask({ from: minutesAgo(DAY * 6), to: minutesAgo(DAY * 4) }, null);
    await database.query(
      `INSERT INTO counterfoil.job_leases VALUES
         ('billing-reconciliation:recent', 'other', gen_random_uuid(), now(), now() + interval '1 hour')`,
    );
    await run('tail', checks);
    expect(await requests()).toMatchObject([{ status: 'open' }]);
    await database.query('DELETE FROM counterfoil.job_leases');
    await run('tail', checks);
    expect(await requests()).toMatchObject([{ status: 'done', result: { suspected: 1 } }]);
  });

  test('one that reaches beyond the horizon stays open, one that a killed run took is taken up again', async () => {
    await ask({ from: minutesAgo(60), to: minutesAgo(-60) });
    await ask({ from: minutesAgo(60), to: minutesAgo(30) });
    await database.query(
      `UPDATE counterfoil.requests SET status = 'taken', run_id = gen_random_uuid() WHERE id = (SELECT max(id) FROM counterfoil.requests)`,
    );
    await run('tail');
    expect((await requests()).map(({ status }) => status)).toEqual(['open', 'done']);
  });

  test('a scope that means nothing is refused with the reason', async () => {
    await ask({ from: 'yesterday', to: 'today' });
    await ask({ findings: 'all' });
    await run('tail');
    expect(await requests()).toMatchObject([{ status: 'refused' }, { status: 'refused' }]);
  });
});

describe('as a gate', () => {
  const gate = (since: string, environment: Record<string, string> = {}) =>
    run('tail', { CF_EXIT_ON_FINDINGS: 'true', CF_GATE_SINCE: since, ...environment });

  test('what is only suspected counts, and what happened before does not', async () => {
    await addSession(database, { completedAt: minutesAgo(50) });
    expect(await gate(minutesAgo(60))).toMatchObject({ exitCode: 3, outcome: 'succeeded' });
    expect(await gate(minutesAgo(40))).toMatchObject({ exitCode: 0, outcome: 'succeeded' });
  });

  test.each([
    ['60m', '40m'],
    ['3000s', '2940s'],
    ['1h', '0h'],
    ['1d', '30m'],
  ])(
    'an age counts from now, by the database: what is younger than %s counts, what is older than %s does not',
    async (longer, shorter) => {
      await addSession(database, { completedAt: minutesAgo(49.5) });
      expect(await gate(longer)).toMatchObject({ exitCode: 3 });
      const end = await gate(shorter);
      // Nothing can be settled that happens only now.
      expect(end).toMatchObject({ exitCode: shorter === '0h' ? 4 : 0 });
    },
  );

  test.each(['2', 'h', '1.5h', '-2h', '2 h', '1h30m', '2w', '2026-11-23T06:00:00'])(
    'neither a time nor an age is refused: %s',
    async (since) => {
      const end = await gate(since);
      expect(end).toMatchObject({ exitCode: 2 });
      expect(end.log).toContain('CF_GATE_SINCE');
      expect(end.log).not.toContain(`"${since}"`);
    },
  );

  test('an acknowledged finding is left out', async () => {
    await addSession(database, { completedAt: minutesAgo(50) });
    await gate(minutesAgo(60));
    await database.query(
      `UPDATE counterfoil.discrepancies SET status = 'acknowledged', acknowledged_until = now() + interval '1 hour'`,
    );
    expect(await gate(minutesAgo(60))).toMatchObject({ exitCode: 0 });
  });

  test('what the horizon has not passed was not looked at', async () => {
    expect(await gate(minutesAgo(5))).toMatchObject({ exitCode: 4, outcome: 'partial' });
  });

  test('it reaches back to the gate, past the watermark', async () => {
    await run('tail');
    await addSession(database, { completedAt: minutesAgo(DAY * 3) });
    expect(await gate(minutesAgo(DAY * 4))).toMatchObject({ exitCode: 3 });
  });

  test('without being asked for, findings leave the exit code alone', async () => {
    await addSession(database);
    await run('full');
    expect(await run('tail')).toMatchObject({ exitCode: 0, counts: { standing_open: 1 } });
    expect(await run('tail', { CF_EXIT_ON_FINDINGS: 'true' })).toMatchObject({ exitCode: 3 });
  });
});

describe('an audit without state', () => {
  const readerUrl = async () => {
    const password = inject('rolePassword');
    const role = `reader_${database.name.slice(-6)}`;
    await database.query(
      `DO $$ BEGIN CREATE ROLE ${role} LOGIN PASSWORD '${password}'; EXCEPTION WHEN duplicate_object THEN NULL; END $$`,
    );
    await database.query(`GRANT SELECT ON sessions, mentor_payable_ledgers, event_backups TO ${role}`);
    const url = new URL(database.url);
    url.username = role;
    url.password = password;
    return url.href;
  };
  const audit = async (environment: Record<string, string> = {}) =>
    await reconcile(database, {
      CF_STATE: 'none',
      CF_MODE: 'full',
      DATABASE_URL: await readerUrl(),
      CF_CHECKS_FILE: checksFile(sessionBilling()),
      ...environment,
    });

  test('needs a role that can only read, looks twice in one run and records nothing', async () => {
    const lost = await addSession(database, { completedAt: minutesAgo(DAY * 3) });
    await addLedgerRow(database);
    await addBilledSession(database);
    const report = join(mkdtempSync(join(tmpdir(), 'counterfoil-report-')), 'report.json');
    const end = await audit({ CF_EXIT_ON_FINDINGS: 'true', CF_REPORT_FILE: report });
    expect(end).toMatchObject({ exitCode: 3, outcome: 'succeeded', counts: { standing_open: 2 } });
    expect(end.lines.filter(({ msg }) => msg === 'finding open')).toHaveLength(2);
    const written = JSON.parse(readFileSync(report, 'utf8')) as { findings: object[]; outcome: string };
    expect(written.outcome).toBe('succeeded');
    expect(written.findings).toContainEqual(
      expect.objectContaining({ kind: 'missing', key: [lost.id], status: 'open', expected_minor: '1000' }),
    );
    for (const table of ['discrepancies', 'checks', 'job_runs', 'job_leases', 'horizon_snapshots'])
      expect(await database.query(`SELECT 1 FROM counterfoil.${table}`)).toEqual([]);
  });

  test('finds nothing wrong where nothing is', async () => {
    await addBilledSession(database);
    expect(await audit({ CF_EXIT_ON_FINDINGS: 'true' })).toMatchObject({ exitCode: 0, outcome: 'succeeded' });
  });

  test('takes its range from the mode, the settings or the gate', async () => {
    await addSession(database, { completedAt: minutesAgo(DAY * 3) });
    const standing = async (environment: Record<string, string>) =>
      (await audit(environment)).counts.standing_open;
    expect(await standing({ CF_MODE: 'incremental' })).toBe(0);
    expect(await standing({ CF_MODE: 'tail', CF_GATE_SINCE: minutesAgo(DAY * 4) })).toBe(1);
    expect(await standing({ CF_MODE: 'tail', CF_GATE_SINCE: '4d' })).toBe(1);
    expect(await standing({ CF_MODE: 'tail', CF_GATE_SINCE: '2d' })).toBe(0);
    const range = { CF_MODE: 'verify', CF_VERIFY_FROM: minutesAgo(DAY * 4) };
    expect(await standing({ ...range, CF_VERIFY_TO: minutesAgo(DAY * 2) })).toBe(1);
    expect(await standing({ ...range, CF_VERIFY_TO: minutesAgo(DAY * 3.5) })).toBe(0);
    const beyond = await audit({ ...range, CF_VERIFY_TO: minutesAgo(-5) });
    expect(beyond.outcome).toBe('partial');
  });

  test('a report that cannot be written fails the run', async () => {
    const end = await audit({ CF_REPORT_FILE: '/nowhere/report.json' });
    expect(end).toMatchObject({ exitCode: 2 });
    expect(end.log).toContain('CF_REPORT_FILE');
  });
});

describe('several checks', () => {
  test('each is taken under its own lease; one that is held is skipped and the run is not whole', async () => {
    await addSession(database);
    const file = checksFile(sessionBilling(), sessionBilling({ name: 'again' }));
    await database.query(
      `INSERT INTO counterfoil.job_leases VALUES
         ('billing-reconciliation:again', 'other', gen_random_uuid(), now(), now() + interval '1 hour')`,
    );
    const end = await run('tail', { CF_CHECKS_FILE: file });
    expect(end).toMatchObject({ outcome: 'partial', exitCode: 0 });
    expect(end.message).toContain('check again: another run is at work');
    expect(await findingsOf(database)).toHaveLength(1);
  });

  test('what is missing for any of them is refused for all of them at once', async () => {
    const file = checksFile(
      sessionBilling({ name: 'one', facts: { table: 'nothing', key: ['id'], at: 'at' } }),
      sessionBilling({ name: 'two', ledger: { table: 'sessions', key: ['id'], at: 'created_at' } }),
    );
    const end = await run('tail', { CF_CHECKS_FILE: file });
    expect(end.exitCode).toBe(2);
    expect(end.message).toContain('check one, facts: there is no table "nothing"');
    expect(end.message).toContain('CREATE INDEX CONCURRENTLY ON "public"."sessions" ("created_at");');
  });
});
