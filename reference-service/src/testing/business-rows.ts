import type { TestDatabase } from '../../../test/postgres/database.ts';

/** A ledger row as a test compares it. */
export interface LedgerRow {
  id: string;
  amount: string;
  currency: string;
  key: string;
}

/** A session's bills, oldest first. */
export async function bills(database: TestDatabase, sessionId: string): Promise<LedgerRow[]> {
  return await database.query<LedgerRow>(
    `select id, amount_minor as amount, currency, idempotency_key as key
     from mentor_payable_ledgers where session_id = $1 order by id`,
    [sessionId],
  );
}

/** A session's events, oldest first. */
export async function events(
  database: TestDatabase,
  sessionId: string,
): Promise<{ id: string; status: string }[]> {
  return await database.query<{ id: string; status: string }>(
    `select event_id as id, status from event_backups where payload ->> 'sessionId' = $1 order by created_at`,
    [sessionId],
  );
}

/** Whether every event of the session is processed, and there is one; for `eventually`. */
export async function isProcessed(database: TestDatabase, sessionId: string): Promise<boolean> {
  const rows = await events(database, sessionId);
  return rows.length > 0 && rows.every(({ status }) => status === 'processed');
}

/** Whether the session is completed. */
export async function isCompleted(database: TestDatabase, sessionId: string): Promise<boolean> {
  const rows = await database.query('select 1 from sessions where id = $1 and completed_at is not null', [
    sessionId,
  ]);
  return rows.length > 0;
}
