import { mkdtempSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { checksFile, sessionBilling } from '../../test/builders/checks.ts';
import { reconcile } from '../../test/builders/reconciliation.ts';
import { addEvent, addLedgerRow, addSession } from '../../test/builders/service.ts';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';

const CANARY = 'canary-Ada-Lovelace';
let database: TestDatabase;

beforeAll(async () => {
  database = await createTestDatabase();
});
afterAll(async () => {
  await database.drop();
});

test('no word of a payload, a name or a mentor leaves the service’s tables', async () => {
  const report = join(mkdtempSync(join(tmpdir(), 'counterfoil-report-')), 'report.json');
  const pending = await addSession(database, { mentorId: CANARY });
  await addEvent(database, pending.id, {
    payload: { sessionId: pending.id, mentor: CANARY, nested: { CANARY } },
  });
  const wrong = await addSession(database, { mentorId: CANARY });
  await addLedgerRow(database, { sessionId: wrong.id, amountMinor: '7', mentorId: CANARY });
  await addLedgerRow(database, { mentorId: CANARY });
  await database.query('UPDATE sessions SET contract_id = $1', [CANARY]);
  const filtered = sessionBilling({
    facts: {
      table: 'sessions',
      key: ['id'],
      at: 'completed_at',
      amount: 'amount_minor',
      currency: 'currency',
      where: [{ column: 'mentor_id', op: 'eq', value: CANARY }],
    },
  });
  const logs: string[] = [];
  for (const environment of [
    { CF_MODE: 'full' },
    { CF_MODE: 'tail', CF_REPAIR: 'true' },
    { CF_MODE: 'tail', CF_STATE: 'none' },
    // A value that its column cannot hold: Postgres would quote it.
    {
      CF_MODE: 'tail',
      CF_CHECKS_FILE: checksFile(
        sessionBilling({
          name: 'broken',
          ledger: {
            table: 'mentor_payable_ledgers',
            key: ['session_id'],
            at: 'created_at',
            where: [{ column: 'id', op: 'eq', value: CANARY }],
          },
        }),
      ),
    },
  ]) {
    const end = await reconcile(database, {
      CF_CHECKS_FILE: checksFile(filtered),
      CF_REPORT_FILE: report,
      CF_LOG_LEVEL: 'debug',
      ...environment,
    });
    logs.push(end.log);
  }
  expect(logs[0]).toContain('finding suspected');
  expect(logs[3]).toContain('does not have the form');
  expect(logs.join('')).not.toContain(CANARY);
  expect(readFileSync(report, 'utf8')).not.toContain(CANARY);
  for (const table of ['job_runs', 'audit', 'discrepancies', 'requests', 'reconciliation_windows']) {
    const rows = await database.query(`SELECT * FROM counterfoil.${table}`);
    expect(rows.length).toBeGreaterThan(0);
    expect(JSON.stringify(rows)).not.toContain(CANARY);
  }
});
