import type { SqlRunner } from './driver.js';
import type { StoredEvent } from './statements.js';

// The statements of a replay by session. The payload field is an option, checked where options are resolved to be
// letters, digits and _: it stands in the text, since an index on an expression is found by its text alone. Each takes
// the rows of the session first, by that index: else a planner without statistics on the expression walks all that is
// pending, or all that was rebuilt.

/** The first pending events of a session, oldest first; needs an index on `(payload ->> '<sessionKey>')`. */
export async function selectPendingOfSession(
  sql: SqlRunner,
  sessionKey: string,
  sessionId: string,
  limit: number,
): Promise<StoredEvent[]> {
  const { rows } = await sql.run(
    `/* counterfoil select-pending-of-session */
with of_session as materialized (
  select event_id, event_name, payload, status, created_at, to_jsonb(b) ->> 'traceparent' as traceparent
  from event_backups b where payload ->> '${sessionKey}' = $1::text
)
select event_id as "eventId", event_name as "eventName", payload::text as "payloadText", status, traceparent
from of_session
where status = 'pending'
order by created_at, event_id
limit $2::integer`,
    [sessionId, limit],
  );
  return rows as unknown as StoredEvent[];
}

/** By event name, the highest number among a session's rebuilt events; same index. */
export async function selectRebuiltOfSession(
  sql: SqlRunner,
  sessionKey: string,
  sessionId: string,
): Promise<Map<string, number>> {
  const { rows } = await sql.run(
    `/* counterfoil select-rebuilt-of-session */
with of_session as materialized (
  select event_id, event_name, status from event_backups where payload ->> '${sessionKey}' = $1::text
)
select event_name as "eventName", max(substring(event_id from '[0-9]{1,9}$')::integer) as "number"
from of_session
where starts_with(event_id, 'rebuild:') and status = 'processed'
group by event_name`,
    [sessionId],
  );
  return new Map(
    (rows as { eventName: string; number: number }[]).map(({ eventName, number }) => [eventName, number]),
  );
}

/** Waits for others that are about to write this event, and says whether it is there; ends with the transaction. */
export async function lockRebuild(sql: SqlRunner, eventId: string): Promise<boolean> {
  // In two statements: the second must see what a transaction wrote that held the lock before.
  await sql.run(
    `/* counterfoil lock-rebuild */
select pg_advisory_xact_lock(hashtextextended($1::text, 0))`,
    [eventId],
  );
  const { rows } = await sql.run(
    `/* counterfoil find-rebuild */
select 1 from event_backups where event_id = $1::text`,
    [eventId],
  );
  return rows.length > 0;
}
