/** Statements of the three steps that move an event along, claim, start and record, and of what is held meanwhile. */
import type { Database } from '../runtime/database.ts';
import type { ParkReason } from './decide.ts';
import type { EventsTable } from './events-table.ts';
import { backupStatusOf, NO_CLEAR_ANSWER, outcomeOfBackup } from './statement-parts.ts';

export type EventStatus = 'due' | 'claimed' | 'done' | 'parked' | 'handed_to_outbox';

/** A row that we hold, as it was when it was claimed. */
export interface ClaimedRow {
  readonly event_id: string;
  readonly event_name: string;
  readonly handler_attempts: number;
  readonly transport_attempts: number;
  readonly unfinished_calls: number;
  readonly last_outcome: string | null;
  /** Published by an aborted version. */
  readonly aborted: boolean;
  /** A person has said that it is sent whatever its fact is. */
  readonly match_waived: boolean;
  /** Milliseconds from its last attempt to the claim; null before the first one. */
  readonly last_attempt_age_ms: number | null;
  /** The database's clock at the claim, in milliseconds since 1970. */
  readonly claimed_at_ms: number;
}

/** What is written about an event after a decision. */
export interface OutcomeRow {
  readonly event_id: string;
  readonly claim_token: string;
  readonly status: Exclude<EventStatus, 'claimed'>;
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
              c.match_waived, c.published_hash IS NOT NULL AND c.published_hash IN (
                SELECT q.scope ->> 'published_hash' FROM requests AS q
                 WHERE q.kind = 'replay' AND q.scope ? 'published_hash' AND q.status <> 'refused') AS aborted,
              (extract(epoch FROM statement_timestamp() - c.last_attempt_at) * 1000)::double precision
                AS last_attempt_age_ms,
              (extract(epoch FROM statement_timestamp()) * 1000)::double precision AS claimed_at_ms`;

/**
 * Takes the rows of `picked`, which are locked and so stay in their place. By an array and not by a join, which
 * would be free to read the whole table, and with a status that no partial index answers, which would be free to read all that
 * is due; their order is lost by an UPDATE (P14), so they are sorted after it.
 */
const takePicked = `taken AS (
         UPDATE replay_events AS r
            SET status = 'claimed', claim_token = $1::uuid, claimed_by = $2::text, call_started_at = NULL,
                lease_until = statement_timestamp() + $3::double precision * interval '1 millisecond'
          WHERE r.ctid = ANY (ARRAY(SELECT place FROM picked)) AND coalesce(r.status, '') = 'due'
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
    { repeatable: true, byIndex: true },
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
              -- Kept by what only the outbox has ended: the events table still says pending.
              handed_at = CASE o.status WHEN 'handed_to_outbox' THEN clock_timestamp() WHEN 'done' THEN NULL
                                        ELSE r.handed_at END,
              listeners_digest = coalesce(o.listeners_digest, r.listeners_digest),
              refused_by_digests =
                CASE WHEN o.parked_reason IN ('no_listener', 'unknown_version') AND o.listeners_digest IS NOT NULL
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
