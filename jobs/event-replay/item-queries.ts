/**
 * Statements on the items of requests: one row per finding that a rebuild or a correction names. Claimed, recorded and
 * taken back as events are: each later write compares the token.
 */
import type { Database } from '../runtime/database.ts';
import type { RequestKind } from './request-queries.ts';

export type ItemStatus = 'due' | 'claimed' | 'done' | 'given_up';

/** The requests that have items. */
export type ItemRequestKind = Exclude<RequestKind, 'replay'>;

const APPROVED = `q.approved_at IS NOT NULL AND btrim(q.approved_by) <> ''
              AND lower(btrim(q.approved_by)) <> lower(btrim(q.requested_by))`;

/** What a person has approved of one finding: as it was seen when the correction was requested. */
export interface SeenFinding {
  readonly finding: string;
  readonly key: readonly string[];
  readonly kind: 'duplicate' | 'amount';
  readonly expectedMinor: string | null;
  readonly actualMinor: string | null;
  readonly currency: string | null;
  readonly ledgerRows: number;
}

export interface ItemRequest {
  readonly id: string;
  readonly kind: ItemRequestKind;
  readonly scope: unknown;
  readonly check_name: string | null;
}

/**
 * The next request, in the order of ids, that may be taken. An unapproved correction never is, nor one whose approver
 * is its requester, whatever a constraint let through.
 */
export const findItemRequest = async (database: Database, after: string): Promise<ItemRequest | undefined> =>
  await database.read(async (transaction) => {
    const [row] = await transaction.query<ItemRequest>(
      `-- event-replay: findItemRequest; index requests_open
       SELECT q.id, q.kind, q.scope, q.check_name FROM requests AS q
        WHERE q.status = 'open' AND q.id > $1::bigint AND (q.kind = 'rebuild' OR (q.kind = 'correction' AND ${APPROVED}))
        ORDER BY q.id LIMIT 1`,
      [after],
    );
    return row;
  });

/** Findings that a request names and that it cannot be about. */
export const findUnfitFindings = async (
  database: Database,
  request: ItemRequest,
  findings: readonly string[],
): Promise<string[]> =>
  await database.read(async (transaction) => {
    const rows = await transaction.query<{ id: string }>(
      `-- event-replay: findUnfitFindings; primary key
       SELECT DISTINCT w.id FROM unnest($1::bigint[]) AS w (id)
        WHERE NOT EXISTS (SELECT FROM discrepancies AS d
                           WHERE d.id = w.id AND d.row_id = '' AND ($3::text IS NULL OR d.check_name = $3::text)
                             AND d.kind = ANY (CASE $2::text WHEN 'rebuild' THEN ARRAY['missing']
                                                             ELSE ARRAY['duplicate', 'amount'] END))
        ORDER BY w.id`,
      [findings, request.kind, request.check_name],
    );
    return rows.map(({ id }) => id);
  });

/** Makes the items of a request and marks it as taken, both or neither. */
export const takeItemRequest = async (
  database: Database,
  requestId: string,
  runId: string,
  findings: readonly string[],
): Promise<number> =>
  await database.transaction(
    { repeatable: true },
    async (transaction) =>
      await transaction.execute(
        `-- event-replay: takeItemRequest
         WITH taken AS (
           UPDATE requests SET status = 'taken', run_id = $2::uuid
            WHERE id = $1::bigint AND kind IN ('rebuild', 'correction') AND status = 'open'
           RETURNING id
         )
         INSERT INTO request_items (request_id, finding_id)
         SELECT DISTINCT taken.id, w.id FROM taken CROSS JOIN unnest($3::bigint[]) AS w (id)
         ON CONFLICT DO NOTHING`,
        [requestId, runId, findings],
      ),
  );

/** An item that we hold. */
export interface ClaimedItem {
  readonly request_id: string;
  readonly finding_id: string;
  readonly check_name: string;
  /** The key's columns as a JSON array of texts. */
  readonly key: string;
  readonly finding_status: string;
  /** Its event, where that is parked as `fact_changed`: nothing but `unpark` may send it. */
  readonly fact_changed: readonly string[];
  readonly handler_attempts: number;
  readonly transport_attempts: number;
  readonly unfinished_calls: number;
  readonly last_attempt_age_ms: number | null;
  readonly claimed_at_ms: number;
}

export interface ItemClaim {
  readonly token: string;
  readonly claimedBy: string;
  readonly leaseMs: number;
  readonly limit: number;
}

/**
 * Takes due items, oldest first: of rebuilds any, of corrections those of one request, which go in one call. The
 * approval is looked at once more, right before the call.
 */
export const claimItems = async (
  database: Database,
  kind: ItemRequestKind,
  claim: ItemClaim,
): Promise<ClaimedItem[]> =>
  await database.transaction(
    { repeatable: true },
    async (transaction) =>
      await transaction.query<ClaimedItem>(
        `-- event-replay: claimItems; index request_items_due
         WITH first AS MATERIALIZED (
           SELECT i.request_id FROM request_items AS i JOIN requests AS q ON q.id = i.request_id
            WHERE i.status = 'due' AND i.next_attempt_at <= statement_timestamp()
              AND q.status = 'taken' AND q.kind = $5::text AND (q.kind = 'rebuild' OR (${APPROVED}))
            ORDER BY i.next_attempt_at, i.request_id, i.finding_id LIMIT 1
         ), picked AS (
           SELECT i.ctid AS place FROM request_items AS i
            WHERE i.status = 'due' AND i.next_attempt_at <= statement_timestamp()
              AND i.request_id = (SELECT request_id FROM first)
            ORDER BY i.next_attempt_at, i.request_id, i.finding_id
            LIMIT $4::integer
            FOR UPDATE OF i SKIP LOCKED
         ), taken AS (
           UPDATE request_items AS i
              SET status = 'claimed', claim_token = $1::uuid, claimed_by = $2::text,
                  lease_until = statement_timestamp() + $3::double precision * interval '1 millisecond'
            WHERE i.ctid = ANY (ARRAY(SELECT place FROM picked)) AND i.status = 'due'
           RETURNING i.*
         )
         SELECT t.request_id, t.finding_id, d.check_name, d.key, d.status AS finding_status,
                ARRAY(SELECT r.event_id FROM replay_events AS r
                       WHERE r.event_id = d.event_id AND r.status = 'parked' AND r.parked_reason = 'fact_changed') AS fact_changed,
                t.handler_attempts, t.transport_attempts, t.unfinished_calls,
                (extract(epoch FROM statement_timestamp() - t.last_attempt_at) * 1000)::double precision
                  AS last_attempt_age_ms,
                (extract(epoch FROM statement_timestamp()) * 1000)::double precision AS claimed_at_ms
           FROM taken AS t JOIN discrepancies AS d ON d.id = t.finding_id
          ORDER BY t.finding_id`,
        [claim.token, claim.claimedBy, claim.leaseMs, claim.limit, kind],
      ),
  );

/** Who stands for a correction, and what was seen. */
export interface Approval {
  readonly requested_by: string;
  readonly approved_by: string;
  readonly reason: string;
  readonly scope: unknown;
}

/** Nothing where it is not approved by another person at this moment. */
export const findApproval = async (database: Database, requestId: string): Promise<Approval | undefined> =>
  await database.read(async (transaction) => {
    const [row] = await transaction.query<Approval>(
      `-- event-replay: findApproval; primary key
       SELECT q.requested_by, q.approved_by, q.reason, q.scope FROM requests AS q
        WHERE q.id = $1::bigint AND q.kind = 'correction' AND q.status = 'taken' AND ${APPROVED}`,
      [requestId],
    );
    return row;
  });

/** What is written about an item after a decision. */
export interface ItemOutcome {
  readonly request_id: string;
  readonly finding_id: string;
  readonly status: Exclude<ItemStatus, 'claimed'>;
  readonly handler_attempts: number;
  readonly transport_attempts: number;
  readonly unfinished_calls: number;
  readonly next_attempt_at_ms: number | null;
  readonly outcome: string;
  readonly error: string | null;
}

/** Writes what was decided, where the claim is still ours; gives the number that was written. */
export const recordItems = async (
  database: Database,
  token: string,
  outcomes: readonly ItemOutcome[],
): Promise<number> =>
  await database.transaction(
    { repeatable: true },
    async (transaction) =>
      await transaction.execute(
        `-- event-replay: recordItems; primary key
         UPDATE request_items AS i
            SET status = o.status, claim_token = NULL, claimed_by = NULL, lease_until = NULL,
                handler_attempts = o.handler_attempts, transport_attempts = o.transport_attempts,
                unfinished_calls = o.unfinished_calls, last_attempt_at = clock_timestamp(),
                next_attempt_at = coalesce(to_timestamp(o.next_attempt_at_ms / 1000), i.next_attempt_at),
                outcome = o.outcome, error = o.error,
                finished_at = CASE WHEN o.status IN ('done', 'given_up') THEN clock_timestamp() END
           FROM json_to_recordset($2::json) AS o (
                  request_id bigint, finding_id bigint, status text, handler_attempts integer,
                  transport_attempts integer, unfinished_calls integer, next_attempt_at_ms double precision,
                  outcome text, error text)
          WHERE i.request_id = o.request_id AND i.finding_id = o.finding_id
            AND i.status = 'claimed' AND i.claim_token = $1::uuid`,
        [token, JSON.stringify(outcomes)],
      ),
  );

/**
 * Gives back what was claimed and not sent: due at once, with nothing burnt.
 * @param findings only these of the claim; null: whatever of it is not recorded
 */
export const releaseItems = async (
  database: Database,
  token: string,
  findings: readonly string[] | null,
): Promise<number> =>
  await database.transaction(
    { repeatable: true },
    async (transaction) =>
      await transaction.execute(
        `-- event-replay: releaseItems; index request_items_claimed
         UPDATE request_items SET status = 'due', claim_token = NULL, claimed_by = NULL, lease_until = NULL
          WHERE status = 'claimed' AND claim_token = $1::uuid
            AND ($2::bigint[] IS NULL OR finding_id = ANY ($2::bigint[]))`,
        [token, findings],
      ),
  );

/** Makes items due again whose holder died: the call was begun, and nobody knows its end. */
export const reclaimItems = async (database: Database): Promise<number> =>
  await database.transaction(
    { repeatable: true },
    async (transaction) =>
      await transaction.execute(
        `-- event-replay: reclaimItems; index request_items_claimed
         WITH expired AS (
           SELECT ctid AS place FROM request_items
            WHERE status = 'claimed' AND lease_until <= statement_timestamp()
            ORDER BY lease_until, request_id, finding_id LIMIT 1000
            FOR UPDATE SKIP LOCKED
         )
         UPDATE request_items AS i
            SET status = 'due', claim_token = NULL, claimed_by = NULL, lease_until = NULL,
                unfinished_calls = i.unfinished_calls + 1, last_attempt_at = statement_timestamp(),
                next_attempt_at = statement_timestamp(), outcome = 'no_clear_answer', error = NULL
          WHERE i.ctid = ANY (ARRAY(SELECT place FROM expired)) AND i.status = 'claimed'`,
      ),
  );

/** The service has no such route: what is left of the request is a person's. */
export const giveUpRequest = async (
  database: Database,
  requestId: string,
  outcome: string,
  error: string,
): Promise<number> =>
  await database.transaction(
    { repeatable: true },
    async (transaction) =>
      await transaction.execute(
        `-- event-replay: giveUpRequest; primary key
         UPDATE request_items
            SET status = 'given_up', finished_at = clock_timestamp(), claim_token = NULL, claimed_by = NULL,
                lease_until = NULL, outcome = $2::text, error = $3::text
          WHERE request_id = $1::bigint AND status IN ('due', 'claimed')`,
        [requestId, outcome, error],
      ),
  );

/**
 * Ends the requests none of whose items is open any more, with what became of each finding, and audits each. One of
 * which everything was given up for want of a route counts as refused.
 */
export const finishItemRequests = async (
  database: Database,
  installation: string,
  runId: string,
): Promise<{ readonly id: string; readonly status: string }[]> =>
  await database.transaction(
    { repeatable: true },
    async (transaction) =>
      await transaction.query<{ id: string; status: string }>(
        `-- event-replay: finishItemRequests; index requests_open, primary key of the items
         WITH ended AS (
           SELECT q.id, i.* FROM requests AS q
            CROSS JOIN LATERAL (
              SELECT count(*) FILTER (WHERE i.status IN ('due', 'claimed')) AS open,
                     count(*) FILTER (WHERE i.status = 'done') AS done,
                     count(*) FILTER (WHERE i.status = 'given_up') AS given_up,
                     bool_and(i.outcome = 'no_route') AS no_route,
                     jsonb_object_agg(i.finding_id::text, concat_ws(':', i.outcome, i.error)) AS findings
                FROM request_items AS i WHERE i.request_id = q.id) AS i
            WHERE q.kind IN ('rebuild', 'correction') AND q.status = 'taken' AND i.open = 0
         ), finished AS (
           UPDATE requests AS q
              SET status = CASE WHEN ended.no_route THEN 'refused' ELSE 'done' END, finished_at = clock_timestamp(),
                  result = jsonb_build_object('done', ended.done, 'given_up', ended.given_up,
                                              'findings', coalesce(ended.findings, '{}'))
                           || CASE WHEN ended.no_route THEN jsonb_build_object('problem', 'the service has no such route')
                                   ELSE '{}' END
             FROM ended WHERE q.id = ended.id AND q.status = 'taken'
           RETURNING q.id, q.kind, q.status, q.reason, q.check_name, q.requested_by, q.approved_by, q.result
         ), audited AS (
           INSERT INTO audit (installation, actor, action, reason, run_id, request_id, scope, counts)
           SELECT $1::text, session_user, kind || CASE status WHEN 'done' THEN ' request' ELSE ' request refused' END,
                  reason, $2::uuid, id,
                  jsonb_strip_nulls(jsonb_build_object('check', check_name, 'requested_by', requested_by,
                                                       'approved_by', approved_by, 'findings', result -> 'findings')),
                  result - 'findings' - 'problem'
             FROM finished
         )
         SELECT id, status FROM finished ORDER BY id`,
        [installation, runId],
      ),
  );
