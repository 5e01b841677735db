/** Runs backup-retention against a test database with its own role, and puts old events there. */
import { readFileSync } from 'node:fs';
import { backupRetentionJob } from '../../jobs/backup-retention/job.ts';
import { hashDefinition } from '../../jobs/checks/hash.ts';
import { readChecks } from '../../jobs/checks/parse.ts';
import type { TestDatabase } from '../postgres/database.ts';
import { type FinishedRun, run } from './run.ts';

export type Environment = Readonly<Record<string, string>>;

export const retentionEnvironment = (database: TestDatabase, override: Environment = {}): Environment => ({
  DATABASE_URL: database.urlAs('counterfoil_retention'),
  CF_RETENTION_DAYS: '30',
  CF_RETENTION_PAUSE_MILLISECONDS: '0',
  CF_LEASE_SECONDS: '3',
  ...override,
});

export const retain = async (database: TestDatabase, override: Environment = {}): Promise<FinishedRun> =>
  await run(backupRetentionJob, retentionEnvironment(database, override));

/** Records that the checks of a file have verified everything up to so many days ago. */
export async function verifyChecks(database: TestDatabase, file?: string, daysAgo = 0): Promise<void> {
  for (const check of readChecks(file)) {
    await database.query(
      `INSERT INTO counterfoil.checks (name, installation, definition_hash, definition, verified_through)
       VALUES ($1, 'test', $2, '{}', now() - $3::double precision * interval '1 day')
       ON CONFLICT (name) DO UPDATE SET definition_hash = excluded.definition_hash, verified_through = excluded.verified_through`,
      [check.name, hashDefinition(check), daysAgo],
    );
  }
}

export interface OldEvent {
  readonly id: string;
  readonly status: 'pending' | 'processed';
  /** Days ago. */
  readonly created: number;
  /** Days ago; null for a row that never got the time. */
  readonly processed: number | null;
  readonly sessionId: string;
}

/** An event with one delivery that succeeded; gives its id. */
export async function addOldEvent(
  database: TestDatabase,
  row: Partial<OldEvent> & { readonly id: string },
): Promise<string> {
  const event: OldEvent = { status: 'processed', created: 60, processed: null, sessionId: row.id, ...row };
  await database.query(
    `INSERT INTO event_backups (event_id, event_name, payload, status, created_at, processed_at)
     VALUES ($1, 'services.session.completed.v1', jsonb_build_object('sessionId', $2::text), $3,
             (now() - $4::double precision * interval '1 day') AT TIME ZONE 'UTC',
             (now() - $5::double precision * interval '1 day') AT TIME ZONE 'UTC')`,
    [event.id, event.sessionId, event.status, event.created, event.processed],
  );
  await database.query(
    `INSERT INTO event_deliveries (event_id, listener, status, attempts) VALUES ($1, 'bill', 'succeeded', 1)`,
    [event.id],
  );
  return event.id;
}

/** The ids of the events that are left, sorted. */
export const eventsLeft = async (database: TestDatabase): Promise<string[]> =>
  (
    await database.query<{ id: string }>('SELECT event_id::text AS id FROM event_backups ORDER BY event_id')
  ).map(({ id }) => id);

export const deliveriesLeft = async (database: TestDatabase): Promise<string[]> =>
  (
    await database.query<{ id: string }>(
      'SELECT event_id::text AS id FROM event_deliveries ORDER BY event_id',
    )
  ).map(({ id }) => id);

/** Puts another form of the service's tables in place of the full one, with the documented grants. */
export async function useTables(database: TestDatabase, ...files: readonly string[]): Promise<void> {
  await database.query('DROP TABLE IF EXISTS event_deliveries, event_backups CASCADE');
  for (const file of [...files, 'jobs/schema/roles.sql', 'jobs/schema/retention-role.sql'])
    await database.query(readFileSync(new URL(`../../${file}`, import.meta.url), 'utf8'));
}

export async function emptyEvents(database: TestDatabase): Promise<void> {
  await database.query('TRUNCATE event_backups, event_deliveries CASCADE');
  await database.query(
    `TRUNCATE counterfoil.discrepancies, counterfoil.reconciliation_windows, counterfoil.checks, counterfoil.waivers,
              counterfoil.replay_events, counterfoil.requests, counterfoil.request_items, counterfoil.job_leases,
              counterfoil.job_runs, counterfoil.freezes`,
  );
}
