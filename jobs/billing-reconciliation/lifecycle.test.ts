import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { checksFile, sessionBilling } from '../../test/builders/checks.ts';
import { emptyTables, findingsOf, reconcile } from '../../test/builders/reconciliation.ts';
import {
  addBilledSession,
  addEvent,
  addLedgerRow,
  addSession,
  minutesAgo,
} from '../../test/builders/service.ts';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';

let database: TestDatabase;

beforeAll(async () => {
  database = await createTestDatabase();
});
afterAll(async () => {
  await database.drop();
});
beforeEach(async () => {
  await emptyTables(database);
});

const statuses = async () => (await findingsOf(database)).map(({ status }) => status);
/** `verify` needs one. */
const scopeOf = (mode: string) => (mode === 'verify' ? { CF_VERIFY_FROM: minutesAgo(120) } : {});
const tail = (environment: Record<string, string> = {}) =>
  reconcile(database, { CF_MODE: 'tail', ...environment });
const full = (environment: Record<string, string> = {}) =>
  reconcile(database, { CF_MODE: 'full', ...environment });

describe('the life of a finding', () => {
  test('it is suspected first, and one run never opens what it suspected itself', async () => {
    await addSession(database);
    const end = await full();
    expect(end.counts).toMatchObject({ suspected: 1, opened: 0, standing_suspected: 1 });
    expect(await statuses()).toEqual(['suspected']);
  });

  test('the log shows when its fact happened in the same form, with state and without', async () => {
    const completedAt = minutesAgo(60);
    await addSession(database, { completedAt });
    const logged = (lines: readonly Readonly<Record<string, unknown>>[]) =>
      lines.flatMap((line) => ('fact_at' in line ? [line.fact_at] : []));
    const written = completedAt.replace('Z', '000Z');
    expect(logged((await full()).lines)).toEqual([written]);
    expect(logged((await full({ CF_STATE: 'none' })).lines)).toEqual([written]);
  });

  test('it opens when a later run still sees it, in every mode', async () => {
    for (const mode of ['tail', 'incremental', 'full', 'verify']) {
      await emptyTables(database);
      await addSession(database, { completedAt: minutesAgo(60 * 24 * 40) });
      await full();
      const end = await reconcile(database, { CF_MODE: mode, ...scopeOf(mode) });
      expect([mode, await statuses(), end.counts.opened]).toEqual([mode, ['open'], 1]);
      expect(end.lines.filter(({ msg }) => msg === 'finding open')).toHaveLength(1);
    }
  });

  test('it resolves by itself when the bill is there, and is suspected and opened again when it goes', async () => {
    const session = await addSession(database);
    await full();
    await tail();
    const bill = await addLedgerRow(database, { sessionId: session.id });
    expect((await tail()).counts).toMatchObject({ resolved: 1, standing_open: 0 });
    expect(await statuses()).toEqual(['resolved']);
    await database.query('DELETE FROM mentor_payable_ledgers WHERE id = $1', [bill]);
    await tail();
    // Nothing looks at a settled key again but the sweep that passes it.
    expect(await statuses()).toEqual(['resolved']);
    await full();
    expect(await statuses()).toEqual(['suspected']);
    await tail();
    expect(await findingsOf(database)).toMatchObject([{ status: 'open', reopen_count: 1 }]);
  });

  test('a suspicion that was wrong resolves without ever having been open', async () => {
    const session = await addSession(database);
    await full();
    await addLedgerRow(database, { sessionId: session.id });
    await tail();
    const [finding] = await database.query<{ opened_at: Date | null; status_reason: string }>(
      'SELECT opened_at, status_reason FROM counterfoil.discrepancies',
    );
    expect(finding).toMatchObject({
      opened_at: null,
      status_reason: expect.stringContaining('no longer seen'),
    });
  });

  test('a missing bill that comes twice is resolved, and a duplicate is suspected', async () => {
    const session = await addSession(database);
    await full();
    await addLedgerRow(database, { sessionId: session.id });
    await addLedgerRow(database, { sessionId: session.id });
    await tail();
    expect((await findingsOf(database)).map(({ kind, status }) => [kind, status])).toEqual([
      ['missing', 'resolved'],
      ['duplicate', 'suspected'],
    ]);
  });

  test('an acknowledged finding stays so until its end, opens after it, and resolves before it', async () => {
    await addSession(database);
    const mended = await addSession(database);
    await full();
    await tail();
    await database.query(
      `UPDATE counterfoil.discrepancies SET status = 'acknowledged', acknowledged_by = 'ada',
              acknowledged_until = now() + interval '1 hour'`,
    );
    await tail();
    expect(await statuses()).toEqual(['acknowledged', 'acknowledged']);
    await addLedgerRow(database, { sessionId: mended.id });
    await tail();
    expect((await statuses()).sort()).toEqual(['acknowledged', 'resolved']);
    await database.query(
      `UPDATE counterfoil.discrepancies SET acknowledged_until = now() WHERE status = 'acknowledged'`,
    );
    await tail();
    expect((await statuses()).sort()).toEqual(['open', 'resolved']);
    expect((await findingsOf(database)).map(({ reopen_count: count }) => count)).toEqual([0, 0]);
  });

  test('a waived finding is left alone, whatever is seen', async () => {
    await addSession(database);
    await full();
    await database.query(`UPDATE counterfoil.discrepancies SET status = 'waived'`);
    const end = await full();
    expect(end.counts).toMatchObject({ opened: 0, updated: 0 });
    expect(await statuses()).toEqual(['waived']);
  });

  test('a run without change writes no finding, no audit row and no other version of a row', async () => {
    const session = await addSession(database);
    await addEvent(database, session.id);
    await addLedgerRow(database);
    await addBilledSession(database);
    await full();
    await tail();
    const state = () =>
      database.query(
        `SELECT (SELECT jsonb_agg(jsonb_build_array(xmin::text, xmax::text, ctid::text, id) ORDER BY id) FROM counterfoil.discrepancies) AS findings,
                (SELECT count(*) FROM counterfoil.audit) AS audits,
                (SELECT last_value FROM pg_sequences WHERE sequencename = 'discrepancies_id_seq') AS ids`,
      );
    const before = await state();
    for (const mode of ['tail', 'incremental', 'full', 'verify'])
      await reconcile(database, { CF_MODE: mode, ...scopeOf(mode) });
    expect(await state()).toEqual(before);
  });

  test('a run that changes something leaves one audit row with its counts', async () => {
    await addSession(database);
    await database.query('SELECT 1');
    const before = await database.query(`SELECT count(*)::integer AS rows FROM counterfoil.audit`);
    await full();
    const rows = await database.query<{ counts: object; action: string }>(
      `SELECT action, counts FROM counterfoil.audit ORDER BY id DESC LIMIT 1`,
    );
    expect(rows).toEqual([
      { action: 'reconciled', counts: { suspected: 1, opened: 0, resolved: 0, waived: 0 } },
    ]);
    const after = await database.query(`SELECT count(*)::integer - 1 AS rows FROM counterfoil.audit`);
    expect(after).toEqual(before);
  });

  test('a run that fails after it changed something leaves its audit row all the same', async () => {
    await addSession(database);
    await database.query(`
      CREATE FUNCTION break_watermark() RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN IF NEW.rotation_completed_at IS NOT NULL THEN RAISE EXCEPTION 'broken'; END IF; RETURN NEW; END $$;
      CREATE TRIGGER broken BEFORE UPDATE ON counterfoil.checks FOR EACH ROW EXECUTE FUNCTION break_watermark()`);
    const end = await full();
    await database.query('DROP FUNCTION break_watermark() CASCADE');
    expect(end.exitCode).toBe(1);
    const rows = await database.query(
      `SELECT a.counts FROM counterfoil.audit a JOIN counterfoil.job_runs r USING (run_id)`,
    );
    expect(rows).toEqual([{ counts: { suspected: 1, opened: 0, resolved: 0, waived: 0 } }]);
  });

  test('a changed definition is accepted, and its findings are judged by the new one', async () => {
    const session = await addSession(database, { amountMinor: '1000' });
    await addLedgerRow(database, { sessionId: session.id, amountMinor: '1001' });
    await full({ CF_CHECKS_FILE: checksFile(sessionBilling()) });
    expect(await statuses()).toEqual(['suspected']);
    const end = await tail({ CF_CHECKS_FILE: checksFile(sessionBilling({ tolerance: 5 })) });
    expect(await statuses()).toEqual(['resolved']);
    expect(end.log).toContain('the definition of a check has changed');
  });

  test('a finding whose key has another form under the new definition is resolved', async () => {
    await addSession(database);
    await full();
    const composite = sessionBilling({
      facts: { table: 'sessions', key: ['id', 'currency'], at: 'completed_at' },
      ledger: { table: 'mentor_payable_ledgers', key: ['session_id', 'currency'], at: 'created_at' },
      event: null,
    });
    await database.query(
      'CREATE INDEX IF NOT EXISTS by_both ON mentor_payable_ledgers (session_id, currency)',
    );
    await tail({ CF_CHECKS_FILE: checksFile(composite) });
    expect(
      (await findingsOf(database)).map(({ key, status }) => [(JSON.parse(key) as string[]).length, status]),
    ).toEqual([
      [1, 'resolved'],
      [2, 'suspected'],
    ]);
  });

  test('another installation with another definition of the same name is refused', async () => {
    await full({ CF_INSTALLATION: 'one' });
    const same = await tail({ CF_INSTALLATION: 'two' });
    expect(same.outcome).toBe('succeeded');
    const other = await tail({
      CF_INSTALLATION: 'two',
      CF_CHECKS_FILE: checksFile(sessionBilling()),
    });
    expect(other).toMatchObject({ exitCode: 2 });
    expect(other.message).toContain('installation one declares it otherwise');
  });
});
