import type { TestDatabase } from '../../../test/postgres/database.js';

/** What is stored of an event, for a test to compare with. */
export interface StoredRow {
  status: string;
  processed: boolean;
}

/** One listener's record. */
export interface DeliveryRow {
  listener: string;
  status: string;
  attempts: number;
  error: string | null;
}

/** The event's row, or undefined. */
export async function eventRow(database: TestDatabase, eventId: string): Promise<StoredRow | undefined> {
  const [row] = await database.query<StoredRow>(
    'select status, processed_at is not null as processed from event_backups where event_id = $1',
    [eventId],
  );
  return row;
}

/** Whether the event is processed; for `eventually`. */
export async function isProcessed(database: TestDatabase, eventId: string): Promise<boolean> {
  return (await eventRow(database, eventId))?.status === 'processed';
}

/** The records of the event's listeners, by name. */
export async function deliveryRows(database: TestDatabase, eventId: string): Promise<DeliveryRow[]> {
  return await database.query<DeliveryRow>(
    'select listener, status, attempts, error from event_deliveries where event_id = $1 order by listener',
    [eventId],
  );
}

/** Stores a pending event that no process knows of, as after a crash. */
export async function storePending(
  database: TestDatabase,
  eventId: string,
  eventName: string,
  payload: unknown = {},
): Promise<void> {
  await database.query(
    `insert into event_backups (event_id, event_name, payload, status) values ($1, $2, $3, 'pending')`,
    [eventId, eventName, JSON.stringify(payload)],
  );
}

/** Lets the leases of an event run out, as time would. */
export async function expireLeases(database: TestDatabase, eventId: string): Promise<void> {
  await database.query(
    `update event_deliveries set lease_until = clock_timestamp() - interval '1 second'
     where event_id = $1 and status = 'running'`,
    [eventId],
  );
}
