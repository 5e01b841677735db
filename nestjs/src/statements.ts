import type { SqlRunner, Statement } from './driver.js';

// Every statement the module sends, one function each. Rows are locked in the order (event_id, listener) everywhere,
// deliveries before the event: two processes at work on the same events wait for each other and never deadlock.

/** Columns that event_backups may have beside the plan's own; each is filled where it is there. */
export const OPTIONAL_COLUMNS = ['published_by', 'published_hash', 'service_version', 'traceparent'] as const;

/** A word of OPTIONAL_COLUMNS. */
export type OptionalColumn = (typeof OPTIONAL_COLUMNS)[number];

/** Which of the optional columns event_backups has; none too where the table cannot be seen. */
export async function selectOptionalColumns(sql: SqlRunner): Promise<OptionalColumn[]> {
  const { rows } = await sql.run(
    `/* counterfoil select-optional-columns */
select attname::text as name from pg_attribute
where attrelid = to_regclass('event_backups') and attname = any($1::name[]) and not attisdropped`,
    [OPTIONAL_COLUMNS],
  );
  const found = new Set(rows.map(({ name }) => name));
  return OPTIONAL_COLUMNS.filter((column) => found.has(column));
}

/** A row of event_backups to write. */
export interface NewEvent extends Partial<Record<OptionalColumn, string | null>> {
  eventId: string;
  eventName: string;
  payloadText: string;
}

/** The columns to fill as they stand in the text of an insert, and their values. */
function rowOf(
  event: NewEvent,
  columns: readonly OptionalColumn[],
): { names: string; places: string; values: (string | null)[] } {
  const values: (string | null)[] = [event.eventId, event.eventName, event.payloadText];
  let names = '';
  let places = '';
  for (const column of columns) {
    names += `, ${column}`;
    places += `, $${values.push(event[column] ?? null)}::text`;
  }
  return { names, places, values };
}

// The two inserts are put together from the words of OPTIONAL_COLUMNS alone, one text for each set of columns found.

/** Writes the event into the caller's transaction. */
export function insertEvent(event: NewEvent, columns: readonly OptionalColumn[]): Statement {
  const { names, places, values } = rowOf(event, columns);
  return {
    sql: `/* counterfoil insert-event */
insert into event_backups (event_id, event_name, payload, status${names})
values ($1::text, $2::text, $3::jsonb, 'pending'${places})`,
    params: values,
  };
}

/**
 * The same, with its listeners claimed under one lease: for a write that nothing but COMMIT can follow, so that the
 * rows and the lease are there exactly when the commit is acknowledged.
 */
export function insertClaimedEvent(
  event: NewEvent,
  columns: readonly OptionalColumn[],
  { listeners, leaseOwner }: Pick<Claim, 'listeners' | 'leaseOwner'>,
  leaseMs: number,
): Statement {
  const { names, places, values } = rowOf(event, columns);
  const params: unknown[] = values;
  const next = values.length + 1;
  return {
    sql: `/* counterfoil insert-claimed-event */
with published as (
  insert into event_backups (event_id, event_name, payload, status${names})
  values ($1::text, $2::text, $3::jsonb, 'pending'${places})
  returning event_id
)
insert into event_deliveries (event_id, listener, status, lease_owner, lease_until, attempts)
select p.event_id, l.listener, 'running', $${next}::text,
  clock_timestamp() + $${next + 1}::integer * interval '1 millisecond', 1
from published p cross join unnest($${next + 2}::text[]) as l (listener)
order by l.listener`,
    params: [...params, leaseOwner, leaseMs, listeners],
  };
}

/** A stored event. The payload stays text, so that each listener gets a copy of its own. */
export interface StoredEvent {
  eventId: string;
  eventName: string;
  payloadText: string;
  status: 'pending' | 'processed';
  /** The trace in which it was published, where the table has the column. */
  traceparent?: string | null | undefined;
}

/** The stored events among these ids. */
export async function selectEvents(sql: SqlRunner, eventIds: readonly string[]): Promise<StoredEvent[]> {
  const { rows } = await sql.run(
    `/* counterfoil select-events */
select b.event_id as "eventId", b.event_name as "eventName", b.payload::text as "payloadText", b.status,
  to_jsonb(b) ->> 'traceparent' as "traceparent"
from event_backups b where b.event_id = any($1::text[])`,
    [eventIds],
  );
  return rows as unknown as StoredEvent[];
}

/** All listeners of one event, to be claimed together under one token. */
export interface Claim {
  eventId: string;
  listeners: readonly string[];
  leaseOwner: string;
}

/** A listener that is ours to run. */
export interface ClaimedListener {
  listener: string;
  attempt: number;
}

/**
 * Claims what has not succeeded and is under no live lease. No committed pending event, no row: nothing to run. The
 * claim covers all listeners of an event at once, so that after it each has a row and "no row is open" means that
 * every listener has succeeded.
 */
export async function claimListeners(
  sql: SqlRunner,
  claims: readonly Claim[],
  leaseMs: number,
): Promise<ClaimedListener[][]> {
  const pairs = claims.flatMap(({ eventId, listeners, leaseOwner }) =>
    listeners.map((listener) => ({ eventId, listener, leaseOwner })),
  );
  const { rows } = await sql.run(
    `/* counterfoil claim-listeners */
insert into event_deliveries as d (event_id, listener, status, lease_owner, lease_until, attempts)
select c.event_id, c.listener, 'running', c.lease_owner, clock_timestamp() + $4::integer * interval '1 millisecond', 1
from unnest($1::text[], $2::text[], $3::text[]) as c (event_id, listener, lease_owner)
where exists (select 1 from event_backups b where b.event_id = c.event_id and b.status = 'pending')
order by c.event_id, c.listener
on conflict (event_id, listener) do update
set status = 'running', lease_owner = excluded.lease_owner,
  lease_until = clock_timestamp() + $4::integer * interval '1 millisecond', attempts = d.attempts + 1, error = null
where d.status = 'failed' or (d.status = 'running' and d.lease_until < clock_timestamp())
returning d.event_id, d.listener, d.attempts`,
    [pairs.map((p) => p.eventId), pairs.map((p) => p.listener), pairs.map((p) => p.leaseOwner), leaseMs],
  );
  const claimed = new Map<string, ClaimedListener[]>(claims.map(({ eventId }) => [eventId, []]));
  for (const row of rows as { event_id: string; listener: string; attempts: number }[]) {
    claimed.get(row.event_id)?.push({ listener: row.listener, attempt: row.attempts });
  }
  return claims.map(({ eventId }) => claimed.get(eventId) ?? []);
}

/** How one listener ended. `error` is a class or code, null where it succeeded. */
export interface Mark {
  eventId: string;
  listener: string;
  leaseOwner: string;
  status: 'succeeded' | 'failed';
  error: string | null;
}

/** What became of a mark: `lost` where the lease was no longer ours, `closed` where it completed the event. */
export type Marked = 'recorded' | 'closed' | 'lost';

/** Records outcomes under their leases, and closes every event of which no listener is left. */
export async function markListeners(sql: SqlRunner, marks: readonly Mark[]): Promise<Marked[]> {
  const { rows } = await sql.run(
    `/* counterfoil mark-listeners */
with outcome as (
  select * from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[])
    as o (event_id, listener, lease_owner, status, error)
), held as (
  select d.event_id, d.listener, o.status, o.error
  from event_deliveries d
  join outcome o on o.event_id = d.event_id and o.listener = d.listener and o.lease_owner = d.lease_owner
  where d.status = 'running'
  order by d.event_id, d.listener
  for no key update of d
), marked as (
  update event_deliveries d
  set status = h.status, error = h.error, lease_owner = null, lease_until = null
  from held h
  where d.event_id = h.event_id and d.listener = h.listener
  returning d.event_id, d.listener, d.status
), closed as (
  update event_backups b set status = 'processed', processed_at = now()
  where b.event_id in (select event_id from marked) and b.status = 'pending'
    and not exists (select 1 from marked m where m.event_id = b.event_id and m.status <> 'succeeded')
    and not exists (
      select 1 from event_deliveries d
      where d.event_id = b.event_id and d.status <> 'succeeded'
        and not exists (select 1 from marked m where m.event_id = d.event_id and m.listener = d.listener)
    )
  returning b.event_id
)
select m.event_id, m.listener, c.event_id is not null as closed
from marked m left join closed c on c.event_id = m.event_id`,
    [
      marks.map((m) => m.eventId),
      marks.map((m) => m.listener),
      marks.map((m) => m.leaseOwner),
      marks.map((m) => m.status),
      marks.map((m) => m.error),
    ],
  );
  const key = (eventId: string, listener: string): string => JSON.stringify([eventId, listener]);
  const marked = new Map<string, Marked>(
    (rows as { event_id: string; listener: string; closed: boolean }[]).map((row) => [
      key(row.event_id, row.listener),
      row.closed ? 'closed' : 'recorded',
    ]),
  );
  return marks.map(({ eventId, listener }) => marked.get(key(eventId, listener)) ?? 'lost');
}

/**
 * Closes one event of which no listener is left. Needed where two processes recorded the last two listeners at the
 * same moment: neither statement saw the other's row. Says whether it did.
 */
export async function closeEvent(sql: SqlRunner, eventId: string): Promise<boolean> {
  const { rows } = await sql.run(
    `/* counterfoil close-event */
update event_backups b set status = 'processed', processed_at = now()
where b.event_id = $1::text and b.status = 'pending'
  and exists (select 1 from event_deliveries d where d.event_id = b.event_id)
  and not exists (select 1 from event_deliveries d where d.event_id = b.event_id and d.status <> 'succeeded')
returning b.event_id`,
    [eventId],
  );
  return rows.length > 0;
}

/** A lease to keep. */
export interface HeldLease {
  eventId: string;
  leaseOwner: string;
}

/** Renews leases that are still ours, and gives the owners of those. */
export async function renewLeases(
  sql: SqlRunner,
  held: readonly HeldLease[],
  leaseMs: number,
): Promise<ReadonlySet<string>> {
  const { rows } = await sql.run(
    `/* counterfoil renew-leases */
with held as (
  select d.event_id, d.listener
  from event_deliveries d
  join unnest($1::text[], $2::text[]) as h (event_id, lease_owner)
    on h.event_id = d.event_id and h.lease_owner = d.lease_owner
  where d.status = 'running'
  order by d.event_id, d.listener
  for no key update of d
)
update event_deliveries d set lease_until = clock_timestamp() + $3::integer * interval '1 millisecond'
from held h where d.event_id = h.event_id and d.listener = h.listener
returning d.lease_owner`,
    [held.map((h) => h.eventId), held.map((h) => h.leaseOwner), leaseMs],
  );
  return new Set((rows as { lease_owner: string }[]).map(({ lease_owner }) => lease_owner));
}

/** Where an event stands. */
export interface EventState {
  status: 'pending' | 'processed';
  /** Listeners under a live lease. */
  running: string[];
  /** Listeners that failed, or whose lease ran out. */
  open: string[];
}

/** Where one event stands; undefined where there is no such row. */
export async function selectEventState(sql: SqlRunner, eventId: string): Promise<EventState | undefined> {
  const { rows } = await sql.run(
    `/* counterfoil select-event-state */
select b.status,
  array_remove(array_agg(d.listener) filter (where d.status = 'running' and d.lease_until >= clock_timestamp()), null)
    as running,
  array_remove(array_agg(d.listener) filter (
    where d.status = 'failed' or (d.status = 'running' and d.lease_until < clock_timestamp())), null) as open
from event_backups b left join event_deliveries d on d.event_id = b.event_id
where b.event_id = $1::text
group by b.status`,
    [eventId],
  );
  const row = rows[0] as
    | { status: 'pending' | 'processed'; running: string[] | null; open: string[] | null }
    | undefined;
  return row && { status: row.status, running: row.running ?? [], open: row.open ?? [] };
}
