/**
 * Every statement of event-replay. Ours run with the state schema as their path; the service's tables come
 * qualified and quoted from events-table.ts. Each change repeats the state and the owner that it expects, and
 * says how many rows it met. `statement_timestamp()` is the clock: an index can be searched by it, and in these
 * transactions of one statement it is no older than the statement.
 */
import type { Database } from '../runtime/database.ts';
import type { RunCounts } from '../runtime/run-record.ts';
import type { ParkReason } from './decide.ts';
import type { EventsTable, IdType } from './events-table.ts';

export interface FoundColumn {
  readonly name: string;
  readonly type: string;
  readonly readable: boolean;
}

export interface FoundTable {
  readonly schema: string;
  readonly name: string;
  readonly schemaUsable: boolean;
  readonly columns: readonly FoundColumn[];
}

/** A row that we hold, as it was when it was claimed. */
export interface ClaimedRow {
  readonly event_id: string;
  readonly event_name: string;
  readonly handler_attempts: number;
  readonly transport_attempts: number;
  readonly unfinished_calls: number;
  readonly last_outcome: string | null;
  /** Milliseconds from its last attempt to the claim; null before the first one. */
  readonly last_attempt_age_ms: number | null;
  /** The database's clock at the claim, in milliseconds since 1970. */
  readonly claimed_at_ms: number;
}

/** What is written about an event after a decision. */
export interface OutcomeRow {
  readonly event_id: string;
  readonly claim_token: string;
  readonly status: 'due' | 'done' | 'parked';
  readonly handler_attempts: number;
  readonly transport_attempts: number;
  readonly unfinished_calls: number;
  /** Milliseconds since 1970; null unless the event is due again. */
  readonly next_attempt_at_ms: number | null;
  readonly outcome: string;
  readonly error: string | null;
  readonly parked_reason: ParkReason | null;
  readonly listeners_digest: string | null;
  readonly service_version: string | null;
}

export interface HeldRow {
  readonly event_id: string;
  readonly claim_token: string;
}

/** Where a walk over the pending events stands: the key of the last row seen, in the columns' own text form. */
export interface Cursor {
  readonly createdAt: string;
  readonly eventId: string;
}

/** `last_outcome` of a call without a clear end: such an event is sent alone, so that it harms no other. */
export const NO_CLEAR_ANSWER = 'no_clear_answer';

/** In characters; an index entry holds 2,704 bytes. */
const LONGEST_AGGREGATE_KEY = 200;

const lowestId: Readonly<Record<IdType, string>> = {
  text: '',
  uuid: '00000000-0000-0000-0000-000000000000',
  bigint: '-9223372036854775808',
};

/** Before the oldest event there can be. */
export const firstCursor = (idType: IdType): Cursor => ({
  createdAt: '-infinity',
  eventId: lowestId[idType],
});

/** The parts of a statement that depend on what the service's table looks like. */
function partsOf(events: EventsTable) {
  const { idType, createdAtType, deliveries } = events;
  // A name of pg_timezone_names, as env.ts and events-table.ts have made sure.
  const zone = `'${events.timeZone}'`;
  const sameId = deliveries === undefined || deliveries.idType === idType;
  return {
    /** `created_at` as timestamptz. */
    createdAt: createdAtType === 'timestamp' ? `b.created_at AT TIME ZONE ${zone}` : 'b.created_at',
    /** A timestamptz in the type of the column, so that an index on it can be used. */
    inColumnType: (moment: string) =>
      createdAtType === 'timestamp' ? `(${moment}) AT TIME ZONE ${zone}` : `(${moment})`,
    /** The one payload field that this job reads, and only where an order was asked for; cut to fit an index. */
    aggregateKey: (parameter: string) =>
      events.aggregateKey === undefined
        ? `${parameter}::text`
        : `left(b.payload ->> ${parameter}::text, ${LONGEST_AGGREGATE_KEY})`,
    publishedHash: events.hasPublishedHash ? 'b.published_hash::text' : 'NULL::text',
    leased:
      deliveries === undefined
        ? 'false'
        : `EXISTS (SELECT FROM ${deliveries.name} AS d
                    WHERE ${sameId ? 'd.event_id = b.event_id' : 'd.event_id::text = b.event_id::text'}
                      AND d.lease_until > statement_timestamp())`,
  };
}

/** What the service's table says of an event; a probe of its key and no join, which may read the whole table. */
const backupStatusOf = (events: EventsTable, id: string): string => `coalesce(
                  (SELECT CASE WHEN b.status::text IN ('pending', 'processed') THEN b.status::text ELSE 'other' END
                     FROM ${events.name} AS b WHERE b.event_id = ${id}::${events.idType}), 'gone')`;

/** What becomes of an event here that is not pending there. */
const outcomeOfBackup = `CASE backup_status WHEN 'processed' THEN 'already_processed'
                                                WHEN 'gone' THEN 'gone'
                                                ELSE 'not_pending' END`;

export const findTable = async (
  database: Database,
  wanted: { readonly schema: string | undefined; readonly name: string },
): Promise<FoundTable | undefined> =>
  await database.read(
    async (transaction) => {
      const [table] = await transaction.query<{
        schema: string;
        name: string;
        schema_usable: boolean;
        columns: FoundColumn[];
      }>(
        `-- event-replay: findTable
         SELECT n.nspname::text AS schema, c.relname::text AS name,
                has_schema_privilege(n.oid, 'USAGE') AS schema_usable,
                (SELECT json_agg(json_build_object(
                          'name', a.attname,
                          'type', format_type(coalesce(nullif(t.typbasetype, 0), t.oid), NULL),
                          'readable', has_column_privilege(c.oid, a.attnum, 'SELECT')))
                   FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
                  WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns
           FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
          WHERE c.relname = $2::text AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
            AND CASE WHEN $1::text IS NULL THEN n.nspname = ANY (current_schemas(false)) ELSE n.nspname = $1::text END
          ORDER BY array_position(current_schemas(false), n.nspname)
          LIMIT 1`,
        [wanted.schema ?? null, wanted.name],
      );
      if (table === undefined) return undefined;
      const { schema, name, schema_usable: schemaUsable, columns } = table;
      return { schema, name, schemaUsable, columns: columns ?? [] };
    },
    // The name came from a setting: it means what it means to this role everywhere else.
    { userSearchPath: true },
  );

export const checkTimeZone = async (database: Database, name: string): Promise<boolean> =>
  await database.read(async (transaction) => {
    const rows = await transaction.query(
      `-- event-replay: checkTimeZone
       SELECT FROM pg_timezone_names WHERE lower(name) = lower($1::text)`,
      [name],
    );
    return rows.length > 0;
  });

export interface ReplaySource {
  readonly installation: string;
  readonly events_table: string;
}

/** To which events table this state schema belongs: to the first one that asked. A dry run only reads. */
export const declareSource = async (
  database: Database,
  source: ReplaySource,
  access: 'read' | 'write',
): Promise<ReplaySource> =>
  await database.transaction({ access, repeatable: true }, async (transaction) => {
    if (access === 'write') {
      await transaction.execute(
        `-- event-replay: declareSource
         INSERT INTO replay_source (installation, events_table) VALUES ($1::text, $2::text) ON CONFLICT DO NOTHING`,
        [source.installation, source.events_table],
      );
    }
    const [declared] = await transaction.query<ReplaySource>(
      `-- event-replay: findSource
       SELECT installation, events_table FROM replay_source`,
    );
    return declared ?? source;
  });

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
           LEFT JOIN LATERAL (SELECT r.status, r.finished_at FROM replay_events AS r
                               WHERE r.event_id = page.event_id::text LIMIT 1) AS r ON true
          WHERE r.status IS NULL
             OR (r.status = 'done'
                 AND r.finished_at < statement_timestamp() - $1::double precision * interval '1 millisecond')
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

/**
 * Makes claims due again whose lease ran out: their holder died, or could not renew them. A call that was begun
 * and never recorded counts as unfinished; what that means is decided at the next claim (decide.ts).
 */
export const reclaimExpiredClaims = async (
  database: Database,
  limit: number,
): Promise<{ readonly reclaimed: number; readonly unfinished: number }> =>
  await database.transaction({ repeatable: true }, async (transaction) => {
    const rows = await transaction.query<{ unfinished: boolean }>(
      `-- event-replay: reclaimExpiredClaims
       WITH expired AS (
         SELECT event_id, call_started_at IS NOT NULL AS unfinished FROM replay_events
          WHERE status = 'claimed' AND lease_until <= statement_timestamp()
          ORDER BY lease_until, event_id
          LIMIT $1::integer
          FOR UPDATE SKIP LOCKED -- whoever holds the row now renews or records it at this moment
       )
       UPDATE replay_events AS r
          SET status = 'due', claim_token = NULL, claimed_by = NULL, lease_until = NULL, call_started_at = NULL,
              unfinished_calls = r.unfinished_calls + expired.unfinished::integer,
              last_attempt_at = coalesce(r.call_started_at, r.last_attempt_at),
              last_outcome = CASE WHEN expired.unfinished THEN '${NO_CLEAR_ANSWER}' ELSE r.last_outcome END,
              next_attempt_at = CASE WHEN expired.unfinished THEN statement_timestamp() ELSE r.next_attempt_at END
         FROM expired
        WHERE r.event_id = expired.event_id AND r.status = 'claimed'
       RETURNING expired.unfinished`,
      [limit],
    );
    return { reclaimed: rows.length, unfinished: rows.filter((row) => row.unfinished).length };
  });

/** Milliseconds until the last claim that anybody holds runs out; nothing where nobody holds any. */
export const readLongestLease = async (database: Database): Promise<number | undefined> =>
  await database.read(async (transaction) => {
    const [row] = await transaction.query<{ left_ms: number | null }>(
      `-- event-replay: readLongestLease
       SELECT (extract(epoch FROM max(lease_until) - statement_timestamp()) * 1000)::double precision AS left_ms
         FROM replay_events WHERE status = 'claimed'`,
    );
    return row?.left_ms ?? undefined;
  });

export interface Claim {
  readonly token: string;
  readonly claimedBy: string;
  readonly leaseMs: number;
  readonly limit: number;
  /** Whether events may be among them that have to be sent alone. */
  readonly withSuspects: boolean;
}

const claimedColumns = `c.event_id, c.event_name, c.handler_attempts, c.transport_attempts, c.unfinished_calls,
              c.last_outcome,
              (extract(epoch FROM statement_timestamp() - c.last_attempt_at) * 1000)::double precision
                AS last_attempt_age_ms,
              (extract(epoch FROM statement_timestamp()) * 1000)::double precision AS claimed_at_ms`;

/**
 * Takes the rows of `picked`, which are locked and so stay in their place. By an array and not by a join, which
 * would be free to read the whole table; their order is lost by an UPDATE (P14), so they are sorted after it.
 */
const takePicked = `taken AS (
         UPDATE replay_events AS r
            SET status = 'claimed', claim_token = $1::uuid, claimed_by = $2::text, call_started_at = NULL,
                lease_until = statement_timestamp() + $3::double precision * interval '1 millisecond'
          WHERE r.ctid = ANY (ARRAY(SELECT place FROM picked)) AND r.status = 'due'
         RETURNING r.*
       )
       SELECT ${claimedColumns} FROM taken AS c
        ORDER BY c.next_attempt_at, c.event_created_at, c.event_id`;

/** Uses the partial index replay_events_due, whose rows are exactly those that may be claimed, in this order. */
export const claimDueEventsText = `-- event-replay: claimDueEvents
       WITH picked AS (
         SELECT ctid AS place FROM replay_events
          WHERE status = 'due' AND next_attempt_at <= statement_timestamp()
            AND ($5::boolean OR (unfinished_calls = 0 AND last_outcome IS DISTINCT FROM '${NO_CLEAR_ANSWER}'))
          ORDER BY next_attempt_at, event_created_at, event_id
          LIMIT $4::integer
          FOR UPDATE SKIP LOCKED -- a second replica passes over what this one is taking
       ), ${takePicked}`;

export const claimDueEvents = async (database: Database, claim: Claim): Promise<ClaimedRow[]> =>
  await database.transaction(
    { repeatable: true },
    async (transaction) =>
      await transaction.query<ClaimedRow>(claimDueEventsText, [
        claim.token,
        claim.claimedBy,
        claim.leaseMs,
        claim.limit,
        claim.withSuspects,
      ]),
  );

/**
 * As claimDueEvents, but of each aggregate only its oldest open event, and none while another is in work. Walks
 * the index replay_events_aggregate from the first event of one key to that of the next: its cost grows with the
 * open aggregates and not with the events that wait in them.
 */
export const claimOldestOfEachAggregateText = `-- event-replay: claimOldestOfEachAggregate
       WITH RECURSIVE oldest AS (
         (SELECT aggregate_key, event_id FROM replay_events
           WHERE aggregate_key IS NOT NULL AND status IN ('due', 'claimed')
           ORDER BY aggregate_key, event_created_at, event_id LIMIT 1)
         UNION ALL
         SELECT next.aggregate_key, next.event_id
           FROM oldest CROSS JOIN LATERAL (
                SELECT r.aggregate_key, r.event_id FROM replay_events AS r
                 WHERE r.aggregate_key > oldest.aggregate_key AND r.status IN ('due', 'claimed')
                 ORDER BY r.aggregate_key, r.event_created_at, r.event_id LIMIT 1) AS next
       ), keyless AS (
         SELECT event_id FROM replay_events
          WHERE status = 'due' AND aggregate_key IS NULL AND next_attempt_at <= statement_timestamp()
            AND ($5::boolean OR (unfinished_calls = 0 AND last_outcome IS DISTINCT FROM '${NO_CLEAR_ANSWER}'))
          ORDER BY next_attempt_at, event_created_at, event_id
          LIMIT $4::integer
       ), picked AS (
         SELECT e.ctid AS place FROM replay_events AS e
          WHERE e.event_id = ANY (ARRAY(SELECT event_id FROM oldest UNION ALL SELECT event_id FROM keyless))
            AND e.status = 'due' AND e.next_attempt_at <= statement_timestamp()
            AND ($5::boolean OR (e.unfinished_calls = 0 AND e.last_outcome IS DISTINCT FROM '${NO_CLEAR_ANSWER}'))
            AND (SELECT true FROM replay_events AS o
                  WHERE o.aggregate_key = e.aggregate_key AND o.status = 'claimed' LIMIT 1) IS NULL
          ORDER BY e.next_attempt_at, e.event_created_at, e.event_id
          LIMIT $4::integer
          FOR UPDATE OF e SKIP LOCKED -- a second replica passes over what this one is taking
       ), ${takePicked}`;

export const claimOldestOfEachAggregate = async (database: Database, claim: Claim): Promise<ClaimedRow[]> =>
  await database.transaction(
    { repeatable: true },
    async (transaction) =>
      await transaction.query<ClaimedRow>(claimOldestOfEachAggregateText, [
        claim.token,
        claim.claimedBy,
        claim.leaseMs,
        claim.limit,
        claim.withSuspects,
      ]),
  );

/** As claimDueEvents, but only events that were named. */
export const claimNamedEvents = async (
  database: Database,
  claim: Claim,
  eventIds: readonly string[],
): Promise<ClaimedRow[]> =>
  await database.transaction(
    { repeatable: true },
    async (transaction) =>
      await transaction.query<ClaimedRow>(
        `-- event-replay: claimNamedEvents
       WITH picked AS (
         SELECT ctid AS place FROM replay_events
          WHERE event_id = ANY ($6::text[]) AND status = 'due' AND next_attempt_at <= statement_timestamp()
            AND ($5::boolean OR (unfinished_calls = 0 AND last_outcome IS DISTINCT FROM '${NO_CLEAR_ANSWER}'))
          ORDER BY next_attempt_at, event_created_at, event_id
          LIMIT $4::integer
          FOR UPDATE SKIP LOCKED -- a second replica passes over what this one is taking
       ), ${takePicked}`,
        [claim.token, claim.claimedBy, claim.leaseMs, claim.limit, claim.withSuspects, eventIds],
      ),
  );

/** What the service's table says of an event right before its call. */
export type BackupStatus = 'pending' | 'processed' | 'gone' | 'other';

/**
 * Marks the calls as begun and looks once more whether their events are still pending. What is not pending any
 * more is done without a call. Rows whose claim was lost are not among the rows that come back.
 */
export const startCalls = async (
  database: Database,
  events: EventsTable,
  claimToken: string,
  eventIds: readonly string[],
): Promise<{ event_id: string; backup_status: BackupStatus }[]> =>
  await database.transaction(
    { repeatable: true },
    async (transaction) =>
      await transaction.query<{ event_id: string; backup_status: BackupStatus }>(
        `-- event-replay: startCalls
       WITH looked_up AS MATERIALIZED (
         SELECT w.event_id, ${backupStatusOf(events, 'w.event_id')} AS backup_status
           FROM unnest($2::text[]) AS w (event_id)
       )
       UPDATE replay_events AS r
          SET status = CASE backup_status WHEN 'pending' THEN 'claimed' ELSE 'done' END,
              call_started_at = CASE backup_status WHEN 'pending' THEN clock_timestamp() END,
              claim_token = CASE backup_status WHEN 'pending' THEN r.claim_token END,
              claimed_by = CASE backup_status WHEN 'pending' THEN r.claimed_by END,
              lease_until = CASE backup_status WHEN 'pending' THEN r.lease_until END,
              finished_at = CASE backup_status WHEN 'pending' THEN NULL ELSE clock_timestamp() END,
              last_outcome = CASE backup_status WHEN 'pending' THEN r.last_outcome ELSE ${outcomeOfBackup} END
         FROM looked_up
        WHERE r.event_id = ANY ($2::text[]) AND r.event_id = looked_up.event_id
          AND r.status = 'claimed' AND r.claim_token = $1::uuid
       RETURNING r.event_id, looked_up.backup_status`,
        [claimToken, eventIds],
      ),
  );

/** Writes what was decided, where the claim is still ours; gives the ids that were written. */
export const recordOutcomes = async (
  database: Database,
  outcomes: readonly OutcomeRow[],
): Promise<string[]> =>
  await database.transaction({ repeatable: true }, async (transaction) => {
    const rows = await transaction.query<{ event_id: string }>(
      `-- event-replay: recordOutcomes
       UPDATE replay_events AS r
          SET status = o.status, claim_token = NULL, claimed_by = NULL, lease_until = NULL, call_started_at = NULL,
              handler_attempts = o.handler_attempts, transport_attempts = o.transport_attempts,
              unfinished_calls = o.unfinished_calls,
              last_attempt_at = coalesce(r.call_started_at, r.last_attempt_at),
              last_outcome = o.outcome, last_error = o.error,
              next_attempt_at = coalesce(to_timestamp(o.next_attempt_at_ms / 1000), r.next_attempt_at),
              parked_at = CASE o.status WHEN 'parked' THEN clock_timestamp() END, parked_reason = o.parked_reason,
              finished_at = CASE o.status WHEN 'done' THEN clock_timestamp() END,
              listeners_digest = coalesce(o.listeners_digest, r.listeners_digest),
              refused_by_digests =
                CASE WHEN o.parked_reason IN ('no_listener', 'unknown_version')
                     THEN (o.listeners_digest || array_remove(r.refused_by_digests, o.listeners_digest))[1:20]
                     ELSE r.refused_by_digests END,
              service_version = coalesce(o.service_version, r.service_version)
         FROM json_to_recordset($1::json) AS o (
                event_id text, claim_token uuid, status text, handler_attempts integer,
                transport_attempts integer, unfinished_calls integer, next_attempt_at_ms double precision,
                outcome text, error text, parked_reason text, listeners_digest text, service_version text)
        WHERE r.event_id = o.event_id AND r.status = 'claimed' AND r.claim_token = o.claim_token
       RETURNING r.event_id`,
      [JSON.stringify(outcomes)],
    );
    return rows.map((row) => row.event_id);
  });

/**
 * Prolongs what is in work, and gives what is still ours. A row that somebody writes at this moment, mostly we
 * ourselves, is ours and not prolonged.
 */
export const renewClaims = async (
  database: Database,
  held: readonly HeldRow[],
  leaseMs: number,
): Promise<{ event_id: string; renewed: boolean }[]> =>
  await database.transaction(
    { repeatable: true },
    async (transaction) =>
      await transaction.query<{ event_id: string; renewed: boolean }>(
        `-- event-replay: renewClaims
       WITH ours AS MATERIALIZED (
         SELECT r.event_id, r.claim_token FROM replay_events AS r
           JOIN json_to_recordset($1::json) AS h (event_id text, claim_token uuid)
             ON h.event_id = r.event_id AND h.claim_token = r.claim_token
          WHERE r.status = 'claimed'
       ), free AS (
         SELECT r.event_id FROM replay_events AS r JOIN ours ON ours.event_id = r.event_id
          WHERE r.status = 'claimed' AND r.claim_token = ours.claim_token
          FOR UPDATE OF r SKIP LOCKED
       ), renewed AS (
         UPDATE replay_events AS r
            SET lease_until = statement_timestamp() + $2::double precision * interval '1 millisecond'
           FROM free WHERE r.event_id = free.event_id AND r.status = 'claimed'
         RETURNING r.event_id
       )
       SELECT ours.event_id, renewed.event_id IS NOT NULL AS renewed
         FROM ours LEFT JOIN renewed ON renewed.event_id = ours.event_id`,
        [JSON.stringify(held), leaseMs],
      ),
  );

/** Gives back what was claimed and not sent: due at once, with nothing burnt. */
export const releaseClaims = async (database: Database, held: readonly HeldRow[]): Promise<number> =>
  await database.transaction(
    { repeatable: true },
    async (transaction) =>
      await transaction.execute(
        `-- event-replay: releaseClaims
       UPDATE replay_events AS r
          SET status = 'due', claim_token = NULL, claimed_by = NULL, lease_until = NULL, call_started_at = NULL
         FROM json_to_recordset($1::json) AS h (event_id text, claim_token uuid)
        WHERE r.event_id = h.event_id AND r.status = 'claimed' AND r.claim_token = h.claim_token`,
        [JSON.stringify(held)],
      ),
  );

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

/** What became of events that somebody asked for, by word, with their numbers. */
export interface AskedFor {
  readonly takenIn: number;
  /** Parked, and taken up again. */
  readonly unparked: number;
  /** Parked, and left so. */
  readonly parked: number;
  /** Due or in work already. */
  readonly alreadyDue: number;
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
          WHERE $4::boolean OR r.status <> 'parked'
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

export interface OpenRequest {
  readonly id: string;
  readonly scope: unknown;
  readonly reason: string;
}

/** The next request, in the order of ids, whose events have not been taken in. */
export const findOpenRequest = async (database: Database, after: string): Promise<OpenRequest | undefined> =>
  await database.read(async (transaction) => {
    const [row] = await transaction.query<OpenRequest>(
      `-- event-replay: findOpenRequest
       SELECT id, scope, reason FROM requests
        WHERE kind = 'replay' AND status = 'open' AND id > $1::bigint ORDER BY id LIMIT 1`,
      [after],
    );
    return row;
  });

/** All its events are in: from here on any run can finish it. */
export const markRequestTaken = async (
  database: Database,
  requestId: string,
  runId: string,
  result: Readonly<Record<string, unknown>>,
): Promise<number> =>
  await database.transaction(
    { repeatable: true },
    async (transaction) =>
      await transaction.execute(
        `-- event-replay: markRequestTaken
       UPDATE requests SET status = 'taken', run_id = $2::uuid, result = $3::jsonb
        WHERE id = $1::bigint AND kind = 'replay' AND status = 'open'`,
        [requestId, runId, JSON.stringify(result)],
      ),
  );

/** A request that cannot be understood: said once, to whoever asked, instead of tried for ever. */
export const refuseRequest = async (
  database: Database,
  installation: string,
  requestId: string,
  runId: string,
  problem: string,
): Promise<number> =>
  await database.transaction(
    { repeatable: true },
    async (transaction) =>
      await transaction.execute(
        `-- event-replay: refuseRequest
       WITH refused AS (
         UPDATE requests SET status = 'refused', run_id = $3::uuid, finished_at = clock_timestamp(),
                             result = jsonb_build_object('problem', $4::text)
          WHERE id = $2::bigint AND kind = 'replay' AND status = 'open'
         RETURNING id, reason
       )
       INSERT INTO audit (installation, actor, action, reason, run_id, request_id)
       SELECT $1::text, session_user, 'replay request refused', reason, $3::uuid, id FROM refused`,
        [installation, requestId, runId, problem],
      ),
  );

/** The counts, which read all events of a request, are made for those alone that end. */
export const finishRequestsText = `-- event-replay: finishRequests
       WITH ended AS (
         UPDATE requests AS q
            SET status = 'done', finished_at = clock_timestamp(),
                result = coalesce(q.result, '{}') || jsonb_build_object(
                  'done', (SELECT count(*) FROM replay_events AS r WHERE r.request_id = q.id AND r.status = 'done'),
                  'parked', (SELECT count(*) FROM replay_events AS r WHERE r.request_id = q.id AND r.status = 'parked'))
          WHERE q.kind = 'replay' AND q.status = 'taken'
            -- One probe of the index replay_events_request_open for each: an anti-join would read all that is due.
            AND (SELECT true FROM replay_events AS r
                  WHERE r.request_id = q.id AND r.status IN ('due', 'claimed') LIMIT 1) IS NULL
         RETURNING q.id, q.scope, q.reason, q.result
       )
       INSERT INTO audit (installation, actor, action, reason, run_id, request_id, scope, counts)
       SELECT $1::text, session_user, 'replay request', reason, $2::uuid, id, scope, result FROM ended`;

/** Ends the requests none of whose events is open any more, with what became of them, and audits each. */
export const finishRequests = async (
  database: Database,
  installation: string,
  runId: string,
): Promise<number> =>
  await database.transaction(
    { repeatable: true },
    async (transaction) => await transaction.execute(finishRequestsText, [installation, runId]),
  );

export const auditRun = async (
  database: Database,
  run: {
    readonly installation: string;
    readonly runId: string;
    readonly reason: string | null;
    readonly scope: Readonly<Record<string, unknown>>;
    readonly counts: RunCounts;
  },
): Promise<number> =>
  await database.transaction(
    {},
    async (transaction) =>
      await transaction.execute(
        `-- event-replay: auditRun
       INSERT INTO audit (installation, actor, action, reason, run_id, scope, counts)
       VALUES ($1::text, session_user, 'replay', $2::text, $3::uuid, $4::jsonb, $5::jsonb)`,
        [run.installation, run.reason, run.runId, JSON.stringify(run.scope), JSON.stringify(run.counts)],
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
