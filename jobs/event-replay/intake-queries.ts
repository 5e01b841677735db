/** Statements that find work: what is pending and overdue, named, parked, or foreseen by a dry run. */
import type { Database } from '../runtime/database.ts';
import type { EventsTable } from './events-table.ts';
import { backupStatusOf, type Cursor, outcomeOfBackup, partsOf } from './statement-parts.ts';

export interface IntakePage {
  /** Pending events that were looked at; fewer than the page size at the end of the walk. */
  readonly scanned: number;
  readonly takenIn: number;
  /** Events that replay had seen done and that are pending again. */
  readonly reopened: number;
  /** The key of the last one; nothing where there was none. */
  readonly last: Cursor | undefined;
}

/**
 * One page of the walk over what is pending and overdue; without an order of the planner's own, which would read
 * all of replay_events for each page once 100,000 parked events, pending for ever, make up most of them.
 */
export const takeInOverdueEventsText = (events: EventsTable): string => {
  const { createdAt, inColumnType, aggregateKey, publishedHash, leased } = partsOf(events);
  return `-- event-replay: takeInOverdueEvents
       WITH page AS MATERIALIZED (
         SELECT b.event_id, b.created_at
           FROM ${events.name} AS b
          WHERE b.status = 'pending'
            AND b.created_at < ${inColumnType(`statement_timestamp() - $1::double precision * interval '1 millisecond'`)}
            -- Where clocks are set back an hour happens twice, and a fresh row looks as old as one of the first pass:
            -- such a row counts from the second.
            AND ${createdAt} < statement_timestamp() - $1::double precision * interval '1 millisecond'
            AND b.created_at >= $2::${events.createdAtType}
            AND (b.created_at, b.event_id) > ($2::${events.createdAtType}, $3::${events.idType})
          ORDER BY b.created_at, b.event_id
          LIMIT $4::integer
       ), unknown AS MATERIALIZED (
         SELECT page.event_id
           FROM page
           LEFT JOIN LATERAL (SELECT r.status, r.finished_at, r.handed_at FROM replay_events AS r
                               WHERE r.event_id = page.event_id::text LIMIT 1) AS r ON true
          WHERE r.status IS NULL
             OR (r.status = 'done'
                 AND r.finished_at < statement_timestamp() - $1::double precision * interval '1 millisecond'
                 -- The outbox billed it and marks no event: only the endpoint can.
                 AND ($6::boolean OR r.handed_at IS NULL))
       ), taken AS (
         INSERT INTO replay_events AS r
                (event_id, event_name, event_created_at, aggregate_key, published_hash, next_attempt_at)
         SELECT unknown.event_id::text, b.event_name, b.created_at, b.aggregate_key, b.published_hash,
                least(b.created_at, statement_timestamp())
           FROM unknown
          CROSS JOIN LATERAL (SELECT b.event_name::text AS event_name, ${createdAt} AS created_at,
                                     ${aggregateKey('$5')} AS aggregate_key, ${publishedHash} AS published_hash
                                FROM ${events.name} AS b
                               WHERE b.event_id = unknown.event_id AND b.status = 'pending' AND NOT ${leased}
                               LIMIT 1) AS b
          ORDER BY unknown.event_id
         -- Done, and pending again for longer than the grace. It counts as an attempt, so it ends somewhere.
         ON CONFLICT (event_id) DO UPDATE
            SET status = 'due', finished_at = NULL, next_attempt_at = statement_timestamp(),
                handler_attempts = r.handler_attempts + 1, last_outcome = 'pending_again'
          WHERE r.status = 'done'
         RETURNING r.last_outcome
       )
       SELECT (SELECT count(*)::integer FROM page) AS scanned,
              (SELECT count(*)::integer FROM taken WHERE last_outcome IS NULL) AS taken_in,
              (SELECT count(*)::integer FROM taken WHERE last_outcome IS NOT NULL) AS reopened,
              last.created_at::text AS last_created_at, last.event_id::text AS last_event_id
         FROM (SELECT 1) AS one
         LEFT JOIN (SELECT created_at, event_id FROM page ORDER BY created_at DESC, event_id DESC LIMIT 1) AS last
           ON true`;
};

export const takeInOverdueEvents = async (
  database: Database,
  events: EventsTable,
  page: {
    readonly after: Cursor;
    readonly size: number;
    readonly graceMs: number;
    /** Whether events that the outbox has billed, and that nobody has marked, go to the endpoint. */
    readonly reopensHanded: boolean;
  },
): Promise<IntakePage> =>
  await database.transaction({ repeatable: true }, async (transaction) => {
    const [row] = await transaction.query<{
      scanned: number;
      taken_in: number;
      reopened: number;
      last_created_at: string | null;
      last_event_id: string | null;
    }>(takeInOverdueEventsText(events), [
      page.graceMs,
      page.after.createdAt,
      page.after.eventId,
      page.size,
      events.aggregateKey ?? null,
      page.reopensHanded,
    ]);
    return {
      scanned: row?.scanned ?? 0,
      takenIn: row?.taken_in ?? 0,
      reopened: row?.reopened ?? 0,
      last:
        row?.last_created_at == null || row.last_event_id === null
          ? undefined
          : { createdAt: row.last_created_at, eventId: row.last_event_id },
    };
  });

/** Where a walk over the parked rows begins. */
export const firstParked: ParkedCursor = { parkedAt: '-infinity', eventId: '' };

export interface ParkedCursor {
  readonly parkedAt: string;
  readonly eventId: string;
}

/**
 * One page of the walk over what is parked: what has been processed elsewhere, or is gone, is done. Needs the
 * index replay_events_parked.
 */
export const endParkedEvents = async (
  database: Database,
  events: EventsTable,
  after: ParkedCursor,
  size: number,
): Promise<{ readonly ended: number; readonly last: ParkedCursor | undefined }> =>
  await database.transaction({ repeatable: true }, async (transaction) => {
    const [row] = await transaction.query<{ ended: number; parked_at: string | null; event_id: string }>(
      `-- event-replay: endParkedEvents
       WITH page AS MATERIALIZED (
         SELECT event_id, parked_at FROM replay_events
          WHERE status = 'parked' AND (parked_at, event_id) > ($1::timestamptz, $2::text)
          ORDER BY parked_at, event_id
          LIMIT $3::integer
       ), looked_up AS MATERIALIZED (
         SELECT page.event_id, ${backupStatusOf(events, 'page.event_id')} AS backup_status FROM page
       ), ended AS (
         UPDATE replay_events AS r
            SET status = 'done', finished_at = clock_timestamp(), parked_at = NULL, parked_reason = NULL,
                last_outcome = ${outcomeOfBackup}
           FROM looked_up
          WHERE r.event_id = ANY (ARRAY(SELECT event_id FROM looked_up WHERE backup_status <> 'pending'))
            AND r.event_id = looked_up.event_id AND r.status = 'parked'
         RETURNING 1
       )
       SELECT (SELECT count(*)::integer FROM ended) AS ended, parked_at, event_id
         FROM (SELECT 1) AS one
         LEFT JOIN (SELECT parked_at, event_id FROM page ORDER BY parked_at DESC, event_id DESC LIMIT 1) AS last
           ON (SELECT count(*) FROM page) = $3::integer`,
      [after.parkedAt, after.eventId, size],
    );
    return {
      ended: row?.ended ?? 0,
      last: row?.parked_at == null ? undefined : { parkedAt: row.parked_at, eventId: row.event_id },
    };
  });

/** What became of events that somebody asked for, by word, with their numbers. */
export interface AskedFor {
  readonly takenIn: number;
  /** Parked, and taken up again. */
  readonly unparked: number;
  /** Parked, and left so. */
  readonly parked: number;
  /** Due or in work already. */
  readonly alreadyDue: number;
  /** Given to the outbox, and waiting for the bill. */
  readonly handed: number;
  /** Not pending: nothing to replay. */
  readonly notPending: number;
  /** A handler is at work under a live lease. */
  readonly leased: number;
  /** Ids that the events table does not hold. */
  readonly unknown: readonly string[];
}

/** Takes in the named events whatever their age; parked ones are taken up where `unparks` says so. */
export const takeInNamedEvents = async (
  database: Database,
  events: EventsTable,
  asked: {
    readonly eventIds: readonly string[];
    readonly requestId: string | null;
    readonly unparks: boolean;
  },
): Promise<AskedFor> => {
  const { createdAt, aggregateKey, publishedHash, leased } = partsOf(events);
  return await database.transaction({ repeatable: true }, async (transaction) => {
    const rows = await transaction.query<{ event_id: string; found: keyof AskedFor }>(
      `-- event-replay: takeInNamedEvents
       WITH asked AS MATERIALIZED (
         SELECT w.event_id AS asked_id, b.event_name, b.created_at, b.aggregate_key, b.published_hash,
                CASE WHEN b.status IS NULL THEN 'unknown'
                     WHEN b.status <> 'pending' THEN 'notPending'
                     WHEN b.leased THEN 'leased'
                     WHEN r.status IN ('due', 'claimed') THEN 'alreadyDue'
                     WHEN r.status = 'handed_to_outbox' THEN 'handed'
                     WHEN r.status = 'parked' AND NOT $4::boolean THEN 'parked'
                     WHEN r.status = 'parked' THEN 'unparked'
                     ELSE 'takenIn' END AS found,
                CASE WHEN b.status IS NULL THEN 'gone' ELSE b.status END AS backup_status
           FROM unnest($1::text[]) AS w (event_id)
           -- One probe of a primary key for each: a join would be free to read the whole table.
           LEFT JOIN LATERAL (SELECT b.status::text AS status, b.event_name::text AS event_name,
                                     ${createdAt} AS created_at, ${aggregateKey('$3')} AS aggregate_key,
                                     ${publishedHash} AS published_hash, ${leased} AS leased
                                FROM ${events.name} AS b
                               WHERE b.event_id = w.event_id::${events.idType} LIMIT 1) AS b ON true
           LEFT JOIN LATERAL (SELECT r.status FROM replay_events AS r
                               WHERE r.event_id = w.event_id LIMIT 1) AS r ON true
       ), taken AS (
         INSERT INTO replay_events AS r (event_id, event_name, event_created_at, aggregate_key, published_hash,
                                         next_attempt_at, request_id)
         SELECT a.asked_id, a.event_name, a.created_at, a.aggregate_key, a.published_hash,
                least(a.created_at, statement_timestamp()), $2::bigint
           FROM asked AS a WHERE a.found IN ('takenIn', 'unparked', 'alreadyDue')
          ORDER BY a.asked_id
         -- What was done or parked gets all its attempts again; what is due or in work keeps what it has burnt.
         ON CONFLICT (event_id) DO UPDATE
            SET status = CASE r.status WHEN 'claimed' THEN 'claimed' ELSE 'due' END,
                next_attempt_at = least(r.event_created_at, statement_timestamp()),
                handler_attempts = CASE WHEN r.status IN ('parked', 'done') THEN 0 ELSE r.handler_attempts END,
                transport_attempts = CASE WHEN r.status IN ('parked', 'done') THEN 0 ELSE r.transport_attempts END,
                unfinished_calls = CASE WHEN r.status IN ('parked', 'done') THEN 0 ELSE r.unfinished_calls END,
                refused_by_digests = CASE WHEN r.status IN ('parked', 'done') THEN '{}' ELSE r.refused_by_digests END,
                parked_at = NULL, parked_reason = NULL, finished_at = NULL,
                request_id = coalesce(excluded.request_id, r.request_id)
          WHERE ($4::boolean OR r.status <> 'parked') AND r.status <> 'handed_to_outbox'
       ), ended AS (
         -- Parked here and not pending there: nobody else would clear it before the walk over the parked ones.
         UPDATE replay_events AS r
            SET status = 'done', finished_at = clock_timestamp(), parked_at = NULL, parked_reason = NULL,
                last_outcome = ${outcomeOfBackup}
           FROM asked
          WHERE r.event_id = ANY (ARRAY(SELECT asked_id FROM asked WHERE backup_status <> 'pending'))
            AND r.event_id = asked.asked_id
            AND r.status = 'parked'
       )
       SELECT asked_id AS event_id, found FROM asked`,
      [asked.eventIds, asked.requestId, events.aggregateKey ?? null, asked.unparks],
    );
    const numberOf = (found: keyof AskedFor) => rows.filter((row) => row.found === found).length;
    return {
      takenIn: numberOf('takenIn'),
      unparked: numberOf('unparked'),
      parked: numberOf('parked'),
      alreadyDue: numberOf('alreadyDue'),
      handed: numberOf('handed'),
      notPending: numberOf('notPending'),
      leased: numberOf('leased'),
      unknown: rows.filter((row) => row.found === 'unknown').map((row) => row.event_id),
    };
  });
};

export interface RangePage {
  readonly eventIds: readonly string[];
  /** The key of the last one; nothing where there was none. */
  readonly last: Cursor | undefined;
}

/** One page of the pending events of a time range, whatever their age. */
export const readRange = async (
  database: Database,
  events: EventsTable,
  range: {
    readonly from: string;
    readonly to: string;
    readonly publishedHash: string | null;
    readonly after: Cursor;
    readonly size: number;
  },
): Promise<RangePage> => {
  const { inColumnType, publishedHash } = partsOf(events);
  return await database.read(async (transaction) => {
    const rows = await transaction.query<{ event_id: string; created_at: string }>(
      `-- event-replay: readRange
       SELECT b.event_id::text AS event_id, b.created_at::text AS created_at
         FROM ${events.name} AS b
        WHERE b.status = 'pending'
          AND b.created_at >= ${inColumnType('$1::timestamptz')}
          AND b.created_at < ${inColumnType('$2::timestamptz')}
          AND ($3::text IS NULL OR ${publishedHash} = $3::text)
          AND b.created_at >= $4::${events.createdAtType}
          AND (b.created_at, b.event_id) > ($4::${events.createdAtType}, $5::${events.idType})
        ORDER BY b.created_at, b.event_id
        LIMIT $6::integer`,
      [range.from, range.to, range.publishedHash, range.after.createdAt, range.after.eventId, range.size],
    );
    const last = rows.at(-1);
    return {
      eventIds: rows.map((row) => row.event_id),
      last: last && { createdAt: last.created_at, eventId: last.event_id },
    };
  });
};

/** Uses the partial index replay_events_for_listeners, whose rows are exactly those that wait for other listeners. */
export const unparkForListenersText = `-- event-replay: unparkForListeners
       WITH parked AS (
         SELECT event_id FROM replay_events
          WHERE status = 'parked' AND parked_reason IN ('no_listener', 'unknown_version')
            AND NOT ($1::text = ANY (refused_by_digests))
          ORDER BY parked_at, event_id
          LIMIT $2::integer
          FOR UPDATE SKIP LOCKED
       )
       UPDATE replay_events AS r
          SET status = 'due', parked_at = NULL, parked_reason = NULL, handler_attempts = 0, unfinished_calls = 0,
              next_attempt_at = statement_timestamp()
        WHERE r.event_id = ANY (ARRAY(SELECT event_id FROM parked)) AND r.status = 'parked'`;

/**
 * Takes up again what other listeners had no use for and these have not refused yet, behind what is new. In
 * portions, as the table may be full of them.
 */
export const unparkForListeners = async (
  database: Database,
  listenersDigest: string,
  limit: number,
): Promise<number> =>
  await database.transaction(
    { repeatable: true },
    async (transaction) => await transaction.execute(unparkForListenersText, [listenersDigest, limit]),
  );

/**
 * Takes up one event that waits for other listeners: with nothing else to send, its call is how a new digest is
 * noticed at all. The one that was parked longest ago, so that they take turns.
 */
export const unparkProbe = async (database: Database): Promise<number> =>
  await database.transaction(
    { repeatable: true },
    async (transaction) =>
      await transaction.execute(
        `-- event-replay: unparkProbe
       WITH parked AS (
         SELECT event_id FROM replay_events
          WHERE status = 'parked' AND parked_reason IN ('no_listener', 'unknown_version')
          ORDER BY parked_at, event_id
          LIMIT 1
          FOR UPDATE SKIP LOCKED
       )
       UPDATE replay_events AS r
          SET status = 'due', parked_at = NULL, parked_reason = NULL, next_attempt_at = statement_timestamp()
         FROM parked WHERE r.event_id = parked.event_id AND r.status = 'parked'`,
      ),
  );

/** An event that a run would send now, for a dry run. */
export interface ForeseenEvent {
  readonly event_id: string;
  readonly event_name: string;
  readonly age_seconds: number;
  /** Whether replay has it already; else it would be taken in first. */
  readonly known: boolean;
}

/** What a run would send, oldest first: the pending events that are due here, or that would be taken in. */
export const foreseeEvents = async (
  database: Database,
  events: EventsTable,
  asked: {
    readonly graceMs: number;
    readonly eventIds: readonly string[] | undefined;
    readonly limit: number;
  },
): Promise<ForeseenEvent[]> => {
  const { createdAt, leased } = partsOf(events);
  return await database.read(
    async (transaction) =>
      await transaction.query<ForeseenEvent>(
        `-- event-replay: foreseeEvents
         SELECT b.event_id::text AS event_id, b.event_name::text AS event_name, r.event_id IS NOT NULL AS known,
                extract(epoch FROM statement_timestamp() - ${createdAt})::double precision AS age_seconds
           FROM ${events.name} AS b LEFT JOIN replay_events AS r ON r.event_id = b.event_id::text
          WHERE b.status = 'pending'
            AND CASE WHEN $2::text[] IS NOT NULL THEN b.event_id::text = ANY ($2::text[])
                     WHEN r.event_id IS NULL
                       THEN ${createdAt} < statement_timestamp() - $1::double precision * interval '1 millisecond'
                     WHEN r.status = 'due' THEN r.next_attempt_at <= statement_timestamp()
                     WHEN r.status = 'claimed' THEN r.lease_until <= statement_timestamp()
                     WHEN r.status = 'done'
                       THEN r.finished_at < statement_timestamp() - $1::double precision * interval '1 millisecond'
                     ELSE false END
            AND (r.event_id IS NOT NULL OR NOT ${leased})
          ORDER BY b.created_at, b.event_id
          LIMIT $3::integer`,
        [asked.graceMs, asked.eventIds ?? null, asked.limit],
      ),
    { statementTimeoutMs: 30_000 },
  );
};

/** Removes the oldest of what has been done for longer than `keepMs`. Needs the index replay_events_done. */
export const purgeDoneEvents = async (
  database: Database,
  events: EventsTable,
  keepMs: number,
  limit: number,
): Promise<number> =>
  await database.transaction(
    { repeatable: true },
    async (transaction) =>
      await transaction.execute(
        `-- event-replay: purgeDoneEvents
       WITH old AS MATERIALIZED (
         SELECT event_id FROM replay_events
          WHERE status = 'done' AND finished_at < statement_timestamp() - $1::double precision * interval '1 millisecond'
            AND handed_at IS NULL -- else the outbox has ended it, and the next run would take it in anew
          ORDER BY finished_at LIMIT $2::integer
          FOR UPDATE SKIP LOCKED
       ), looked_up AS MATERIALIZED (
         SELECT old.event_id, ${backupStatusOf(events, 'old.event_id')} AS backup_status FROM old
       )
       DELETE FROM replay_events AS r
        -- Pending there again, it is not at its end; without its row here it would lose count of its attempts.
        WHERE r.event_id = ANY (ARRAY(SELECT event_id FROM looked_up WHERE backup_status <> 'pending'))
          AND r.status = 'done'`,
        [keepMs, limit],
      ),
  );
