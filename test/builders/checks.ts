/** Files of checks for tests. JSON is YAML, so a declaration is written as an object. */
import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** The check of the reference service's tables, with amounts; a test overrides what matters to it. */
export const sessionBilling = (override: Readonly<Record<string, unknown>> = {}) => ({
  name: 'session-billing',
  facts: {
    table: 'sessions',
    key: ['id'],
    at: 'completed_at',
    amount: 'amount_minor',
    currency: 'currency',
  },
  ledger: {
    table: 'mentor_payable_ledgers',
    key: ['session_id'],
    at: 'created_at',
    amount: 'amount_minor',
    currency: 'currency',
    reverses: { column: 'reverses_id' },
  },
  event: { name: 'services.session.completed.v1', key: ['sessionId'] },
  ...override,
});

/** Writes a file of checks and gives its path. */
export function checksFile(...checks: readonly unknown[]): string {
  const path = join(mkdtempSync(join(tmpdir(), 'counterfoil-checks-')), 'checks.yaml');
  writeFileSync(path, JSON.stringify({ checks }));
  return path;
}
