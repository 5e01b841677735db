import type { TestDatabase } from '../../../test/postgres/database.ts';

/** A ledger row as a test compares it. */
export interface BillRow {
  id: string;
  amount: string;
  currency: string;
  key: string;
  reverses: string | null;
}

/** A session's ledger rows, oldest first. */
export async function bills(database: TestDatabase, sessionId: string): Promise<BillRow[]> {
  return await database.query<BillRow>(
    `select id, amount_minor as amount, currency, idempotency_key as key, reverses_id as reverses
     from mentor_payable_ledgers where session_id = $1 order by id`,
    [sessionId],
  );
}

/** How many sessions of these have how many ledger rows. */
export async function billsPerSession(
  database: TestDatabase,
  sessionIds: readonly string[],
): Promise<{ bills: number; sessions: number }[]> {
  return await database.query<{ bills: number; sessions: number }>(
    `select bills, count(*)::integer as sessions from (
       select count(l.id)::integer as bills from unnest($1::uuid[]) as s (id)
       left join mentor_payable_ledgers l on l.session_id = s.id group by s.id) as counted
     group by bills order by bills`,
    [sessionIds],
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

/** Whether no event of any kind is pending; for `eventually`. */
export async function isNothingPending(database: TestDatabase): Promise<boolean> {
  const rows = await database.query(`select 1 from event_backups where status = 'pending' limit 1`);
  return rows.length === 0;
}

/** Whether the session is completed. */
export async function isCompleted(database: TestDatabase, sessionId: string): Promise<boolean> {
  const rows = await database.query('select 1 from sessions where id = $1 and completed_at is not null', [
    sessionId,
  ]);
  return rows.length > 0;
}

/** Writes an event of the past as pending, as a crash would have left it; gives its id. */
export async function addPendingEvent(
  database: TestDatabase,
  name: string,
  payload: object,
): Promise<string> {
  const eventId = crypto.randomUUID();
  await database.query(
    `insert into event_backups (event_id, event_name, payload, status) values ($1, $2, $3, 'pending')`,
    [eventId, name, JSON.stringify(payload)],
  );
  return eventId;
}
