/** Runs billing-reconciliation against a test database with the jobs' own role, and reads what it recorded. */
import { inject } from 'vitest';
import { billingReconciliationJob } from '../../jobs/billing-reconciliation/job.ts';
import type { TestDatabase } from '../postgres/database.ts';
import { type FinishedRun, run } from './run.ts';

export type Environment = Readonly<Record<string, string>>;

/**
 * The URL of a role with the rights of counterfoil_jobs and pg_read_all_stats. Test files share a server, and a
 * role that cannot see whose transactions are open has to wait for those of every database.
 */
async function seeingRole(database: TestDatabase): Promise<string> {
  const password = inject('rolePassword');
  await database.query(`
    DO $$ BEGIN
      CREATE ROLE counterfoil_jobs_seeing LOGIN PASSWORD '${password}' IN ROLE counterfoil_jobs, pg_read_all_stats;
    EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
    END $$`);
  const url = new URL(database.url);
  url.username = 'counterfoil_jobs_seeing';
  url.password = password;
  return url.href;
}

export const reconciliationEnvironment = async (
  database: TestDatabase,
  override: Environment = {},
): Promise<Environment> => ({
  DATABASE_URL: override.DATABASE_URL ?? (await seeingRole(database)),
  CF_BLIND_GRACE_SECONDS: '1',
  CF_LEASE_SECONDS: '3',
  ...override,
});

export const reconcile = async (database: TestDatabase, override: Environment = {}): Promise<FinishedRun> =>
  await run(billingReconciliationJob, await reconciliationEnvironment(database, override));

interface RecordedFinding {
  readonly id: string;
  readonly kind: string;
  readonly key: string;
  readonly row_id: string;
  readonly status: string;
  readonly cause: string | null;
  readonly event_id: string | null;
  readonly published_hash: string | null;
  readonly fact_at: string | null;
  readonly ledger_rows: number;
  readonly expected_minor: string | null;
  readonly actual_minor: string | null;
  readonly currency: string | null;
  readonly provisional: boolean;
  readonly reopen_count: number;
}

export const findingsOf = async (database: TestDatabase): Promise<RecordedFinding[]> =>
  await database.query<RecordedFinding>(
    `SELECT id, kind, key, row_id, status, cause, event_id, published_hash, fact_at, ledger_rows,
            expected_minor, actual_minor, currency, provisional, reopen_count
       FROM counterfoil.discrepancies ORDER BY id`,
  );

/** The kind and the first part of the key of each finding, sorted. */
export const kindsOf = async (database: TestDatabase): Promise<string[]> =>
  (await findingsOf(database)).map(({ kind, key }) => `${kind} ${(JSON.parse(key) as string[])[0]}`).sort();

/** Empties the service's tables and what runs have recorded; the audit keeps what it has. */
export async function emptyTables(database: TestDatabase): Promise<void> {
  await database.query('TRUNCATE sessions, mentor_payable_ledgers, event_backups CASCADE');
  await database.query(
    `TRUNCATE counterfoil.discrepancies, counterfoil.reconciliation_windows, counterfoil.checks,
              counterfoil.waivers, counterfoil.replay_events, counterfoil.horizon_snapshots,
              counterfoil.requests, counterfoil.request_items, counterfoil.job_leases, counterfoil.job_runs`,
  );
}
