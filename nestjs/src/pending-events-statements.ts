import type { SqlRunner } from './driver.js';
import type { PendingEvent } from './pending-events.js';

// The statements of the list of pending events; both walk the index event_backups_pending in its order. `created_at` is
// written by now(), in the time zone of the connection, which localtimestamp is in too.

const columns = `b.event_id as "eventId", b.event_name as "eventName",
  greatest(extract(epoch from localtimestamp - b.created_at), 0)::double precision as "ageSeconds",
  exists (
    select 1 from event_deliveries d
    where d.event_id = b.event_id and d.status = 'running' and d.lease_until >= clock_timestamp()
  ) as "running"`;

/** The oldest pending events. */
export async function selectPending(sql: SqlRunner, limit: number): Promise<PendingEvent[]> {
  const { rows } = await sql.run(
    `/* counterfoil select-pending */
select ${columns}
from event_backups b
where b.status = 'pending'
order by b.created_at, b.event_id
limit $1::integer`,
    [limit],
  );
  return rows as unknown as PendingEvent[];
}

/** The oldest of those behind this one, which may be processed by now. */
export async function selectPendingAfter(
  sql: SqlRunner,
  after: string,
  limit: number,
): Promise<PendingEvent[]> {
  const { rows } = await sql.run(
    `/* counterfoil select-pending-after */
select ${columns}
from event_backups b
where b.status = 'pending'
  and b.created_at >= (select max(a.created_at) from event_backups a where a.event_id = $1::text)
  and (b.created_at > (select max(a.created_at) from event_backups a where a.event_id = $1::text) or b.event_id > $1::text)
order by b.created_at, b.event_id
limit $2::integer`,
    [after, limit],
  );
  return rows as unknown as PendingEvent[];
}
