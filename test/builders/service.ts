/** Rows of the reference service's tables for tests: fresh objects, where a test states only what matters to it. */
import { randomUUID } from 'node:crypto';
import type { TestDatabase } from '../postgres/database.ts';

interface SessionRow {
  readonly id: string;
  /** As Postgres reads it; null for a session that is not completed. */
  readonly completedAt: string | null;
  readonly amountMinor: string;
  readonly currency: string;
  readonly mentorId: string;
}

export interface LedgerRow {
  readonly sessionId: string;
  readonly createdAt: string;
  readonly amountMinor: string;
  readonly currency: string;
  readonly mentorId: string;
  readonly reversesId: string | null;
}

export interface EventRow {
  readonly eventId: string;
  readonly eventName: string;
  readonly payload: Readonly<Record<string, unknown>>;
  readonly status: 'pending' | 'processed';
  readonly createdAt: string;
}

/** A time relative to now, as ISO text in UTC. */
export const minutesAgo = (minutes: number): string => new Date(Date.now() - minutes * 60_000).toISOString();

export async function addSession(database: TestDatabase, row: Partial<SessionRow> = {}): Promise<SessionRow> {
  const session: SessionRow = {
    id: randomUUID(),
    completedAt: minutesAgo(60),
    amountMinor: '1000',
    currency: 'EUR',
    mentorId: 'mentor-1',
    ...row,
  };
  await database.query(
    `INSERT INTO sessions (id, contract_id, mentor_id, amount_minor, currency, completed_at)
     VALUES ($1, 'contract-1', $2, $3, $4, $5)`,
    [session.id, session.mentorId, session.amountMinor, session.currency, session.completedAt],
  );
  return session;
}

/** A ledger row; gives its id. */
export async function addLedgerRow(database: TestDatabase, row: Partial<LedgerRow> = {}): Promise<string> {
  const ledger: LedgerRow = {
    sessionId: randomUUID(),
    createdAt: minutesAgo(60),
    amountMinor: '1000',
    currency: 'EUR',
    mentorId: 'mentor-1',
    reversesId: null,
    ...row,
  };
  const [inserted] = await database.query<{ id: string }>(
    `INSERT INTO mentor_payable_ledgers
       (session_id, mentor_id, amount_minor, currency, idempotency_key, reverses_id, created_at)
     VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING id`,
    [
      ledger.sessionId,
      ledger.mentorId,
      ledger.amountMinor,
      ledger.currency,
      randomUUID(),
      ledger.reversesId,
      ledger.createdAt,
    ],
  );
  return inserted?.id ?? '';
}

/** A completed session with its one right bill. */
export async function addBilledSession(
  database: TestDatabase,
  row: Partial<SessionRow> = {},
): Promise<SessionRow> {
  const session = await addSession(database, row);
  await addLedgerRow(database, {
    sessionId: session.id,
    createdAt: session.completedAt ?? minutesAgo(60),
    amountMinor: session.amountMinor,
    currency: session.currency,
  });
  return session;
}

/** A backed-up event of a completed session; gives its id. */
export async function addEvent(
  database: TestDatabase,
  sessionId: string,
  row: Partial<EventRow> = {},
): Promise<string> {
  const event: EventRow = {
    eventId: randomUUID(),
    eventName: 'services.session.completed.v1',
    payload: { sessionId },
    status: 'pending',
    createdAt: minutesAgo(60),
    ...row,
  };
  await database.query(
    `INSERT INTO event_backups (event_id, event_name, payload, status, created_at, processed_at)
     VALUES ($1, $2, $3, $4, ($5::timestamptz AT TIME ZONE 'UTC'),
             CASE WHEN $4 = 'processed' THEN ($5::timestamptz AT TIME ZONE 'UTC') END)`,
    [event.eventId, event.eventName, JSON.stringify(event.payload), event.status, event.createdAt],
  );
  return event.eventId;
}
