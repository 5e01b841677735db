import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { run } from '../../test/builders/run.ts';
import {
  addBilledSession,
  addEvent,
  addLedgerRow,
  addSession,
  minutesAgo,
} from '../../test/builders/service.ts';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';
import { billingReconciliationJob } from './job.ts';

let database: TestDatabase;

beforeAll(async () => {
  database = await createTestDatabase();
});
afterAll(async () => {
  await database.drop();
});
beforeEach(async () => {
  await database.query(`TRUNCATE sessions, mentor_payable_ledgers, event_backups CASCADE`);
  await database.query(
    `TRUNCATE counterfoil.discrepancies, counterfoil.reconciliation_windows, counterfoil.checks,
              counterfoil.waivers, counterfoil.replay_events, counterfoil.horizon_snapshots`,
  );
});

const reconcile = (environment: Record<string, string> = {}) =>
  run(billingReconciliationJob, {
    DATABASE_URL: database.urlAs('counterfoil_jobs'),
    CF_BLIND_GRACE_SECONDS: '1',
    ...environment,
  });

const findings = () =>
  database.query<{ kind: string; key: string; status: string; cause: string | null }>(
    `SELECT kind, key, status, cause FROM counterfoil.discrepancies ORDER BY id`,
  );

describe('what is found', () => {
  test('a completed session without a bill is missing, and one with its bill is not', async () => {
    const lost = await addSession(database);
    await addBilledSession(database);
    const end = await reconcile({ CF_MODE: 'full' });
    expect(end).toMatchObject({ exitCode: 0, outcome: 'succeeded' });
    expect(await findings()).toEqual([
      { kind: 'missing', key: JSON.stringify([lost.id]), status: 'suspected', cause: 'unknown' },
    ]);
  });

  test('a session with two bills is a duplicate, whether they lie near each other or weeks apart', async () => {
    const near = await addBilledSession(database);
    await addLedgerRow(database, { sessionId: near.id });
    const far = await addBilledSession(database, { completedAt: minutesAgo(60 * 24 * 30) });
    await addLedgerRow(database, { sessionId: far.id });
    await reconcile({ CF_MODE: 'full' });
    expect((await findings()).map(({ kind, key }) => [kind, key]).sort()).toEqual(
      [near.id, far.id].map((id) => ['duplicate', JSON.stringify([id])]).sort(),
    );
  });

  test('a bill without a session, or of one that is not completed, is an orphan', async () => {
    const open = await addSession(database, { completedAt: null });
    await addLedgerRow(database, { sessionId: open.id });
    await addLedgerRow(database);
    await addBilledSession(database);
    await reconcile({ CF_MODE: 'full' });
    expect((await findings()).map(({ kind }) => kind)).toEqual(['orphan', 'orphan']);
  });

  test('a finding opens at the look of a later run, and resolves by itself when the bill arrives', async () => {
    const lost = await addSession(database);
    await addEvent(database, lost.id);
    await reconcile({ CF_MODE: 'full' });
    expect(await findings()).toMatchObject([{ status: 'suspected', cause: 'event_pending' }]);
    const second = await reconcile({ CF_MODE: 'tail' });
    expect(second.counts).toMatchObject({ opened: 1, standing_open: 1 });
    expect(await findings()).toMatchObject([{ status: 'open' }]);
    await addLedgerRow(database, { sessionId: lost.id });
    await reconcile({ CF_MODE: 'tail' });
    expect(await findings()).toMatchObject([{ status: 'resolved' }]);
  });
});
