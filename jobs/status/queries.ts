import type { Transaction } from '../runtime/database.ts';

/**
 * Where the mending of a finding stands. `requested`: the jobs were asked, or will be, since they are at work on this
 * check. `given_up`: they were, in vain. `needs_approval`, `approved`: of a correction. `none`: nobody was asked.
 */
export type RepairState = 'none' | 'requested' | 'given_up' | 'needs_approval' | 'approved';

/** Unsettled findings of one check, kind, cause and currency, whose mending stands alike. */
export interface FindingGroup {
  readonly check_name: string;
  readonly kind: 'missing' | 'duplicate' | 'amount' | 'orphan';
  readonly cause: string | null;
  readonly status: 'suspected' | 'open' | 'acknowledged';
  readonly currency: string | null;
  readonly repair: RepairState;
  /** Why a repair was given up, such as `refused:bill_was_reversed`. */
  readonly repair_reason: string | null;
  readonly findings: number;
  /** Minor units, of those findings whose amount is known; null when it is known of none. */
  readonly at_risk_minor: string | null;
  /** Findings of which nobody can say how much is at risk; never counted as 0. */
  readonly unknown_amounts: number;
  readonly oldest_at: string | null;
}

/**
 * What is unsettled, with the money in it: what is owed for a missing bill, what is too much or too little else. A
 * wrong amount that differs by nothing is one of another currency, or of none: how much is at risk is unknown.
 */
export const readFindingGroups = async (transaction: Transaction): Promise<FindingGroup[]> =>
  await transaction.query(
    `-- status: readFindingGroups
     WITH request AS MATERIALIZED (
       SELECT q.id, q.kind, q.check_name, q.status, q.approved_by IS NOT NULL AS approved, q.scope -> 'findings' AS findings,
              q.status IN ('open', 'taken') OR q.finished_at > clock_timestamp() - interval '1 hour' AS at_work
         FROM requests AS q
        WHERE q.kind IN ('rebuild', 'correction')
          AND (q.status IN ('open', 'taken') OR q.finished_at > clock_timestamp() - interval '1 hour')
     ), corrected AS MATERIALIZED (
       SELECT f.id::bigint AS finding_id, bool_or(request.approved) AS approved
         FROM request CROSS JOIN LATERAL jsonb_array_elements_text(request.findings) AS f (id)
        WHERE request.kind = 'correction' AND request.status IN ('open', 'taken')
        GROUP BY f.id
     )
     SELECT check_name, kind, cause, status, currency, repair, repair_reason, count(*)::integer AS findings,
            sum(at_risk)::numeric(40, 0)::text AS at_risk_minor,
            count(*) FILTER (WHERE at_risk IS NULL OR currency IS NULL)::integer AS unknown_amounts,
            min(coalesce(fact_at, first_seen_at)) AS oldest_at
       FROM discrepancies
      CROSS JOIN LATERAL (
        SELECT CASE kind WHEN 'missing' THEN expected_minor
                         WHEN 'orphan' THEN actual_minor
                         WHEN 'duplicate' THEN abs(actual_minor - expected_minor)
                         ELSE nullif(abs(actual_minor - expected_minor), 0) END AS at_risk) AS money
       LEFT JOIN LATERAL (
         SELECT coalesce((array_agg(concat_ws(':', i.outcome, i.error) ORDER BY i.finished_at DESC)
                            FILTER (WHERE i.status = 'given_up'))[1],
                         CASE WHEN count(*) >= 3 THEN 'done_in_vain' END) AS reason
           FROM request_items AS i
          WHERE i.finding_id = discrepancies.id AND i.status IN ('done', 'given_up')
            AND i.finished_at >= coalesce(opened_at, first_seen_at)) AS given_up ON true
       LEFT JOIN corrected ON corrected.finding_id = discrepancies.id
      CROSS JOIN LATERAL (
        SELECT CASE WHEN corrected.approved THEN 'approved'
                    WHEN corrected.finding_id IS NOT NULL THEN 'needs_approval'
                    WHEN given_up.reason IS NOT NULL THEN 'given_up'
                    WHEN cause IN ('never_published', 'processed_without_ledger')
                     AND EXISTS (SELECT FROM request WHERE request.kind = 'rebuild'
                                    AND request.check_name = discrepancies.check_name) THEN 'requested'
                    ELSE 'none' END AS repair,
               CASE WHEN corrected.finding_id IS NULL THEN given_up.reason END AS repair_reason) AS repaired
      WHERE status IN ('suspected', 'open', 'acknowledged')
      GROUP BY check_name, kind, cause, status, currency, repair, repair_reason
      ORDER BY check_name, kind, cause, status, currency, repair, repair_reason`,
  );

export interface Trend {
  readonly opened: number;
  readonly resolved: number;
}

/** Findings opened and resolved within the last hour: growing or shrinking. */
export const readTrend = async (transaction: Transaction): Promise<Trend> => {
  const [row] = await transaction.query<Trend>(
    `-- status: readTrend
     SELECT count(*) FILTER (WHERE opened_at > clock_timestamp() - interval '1 hour')::integer AS opened,
            count(*) FILTER (WHERE resolved_at > clock_timestamp() - interval '1 hour')::integer AS resolved
       FROM discrepancies
      WHERE status_changed_at > clock_timestamp() - interval '1 hour'`,
  );
  return row ?? { opened: 0, resolved: 0 };
};

export interface CheckState {
  readonly name: string;
  readonly verified_through: string | null;
  readonly age_seconds: number | null;
  readonly held_back_by: string | null;
}

export const readChecks = async (transaction: Transaction): Promise<CheckState[]> =>
  await transaction.query(
    `-- status: readChecks
     SELECT name, verified_through, held_back_by,
            extract(epoch FROM clock_timestamp() - verified_through)::integer AS age_seconds
       FROM checks ORDER BY name`,
  );

export interface ReplayGroup {
  readonly status: 'due' | 'claimed' | 'parked' | 'handed_to_outbox';
  readonly parked_reason: string | null;
  readonly events: number;
  /** Of them, those that no finding names: nothing else tells of them. */
  readonly unnamed: number;
  /** Of what is due, what the service's database holds up without any attempt being burnt. */
  readonly held_up: number;
  readonly oldest_at: string;
  /** Of what was handed over, how long the oldest has waited for its bill. */
  readonly waited_seconds: number | null;
}

export const readReplayGroups = async (transaction: Transaction): Promise<ReplayGroup[]> =>
  await transaction.query(
    `-- status: readReplayGroups
     SELECT status, parked_reason, count(*)::integer AS events, min(event_created_at) AS oldest_at,
            count(*) FILTER (WHERE status = 'parked' AND NOT EXISTS (
              SELECT FROM discrepancies AS d
               WHERE d.event_id = replay_events.event_id
                 AND d.status IN ('suspected', 'open', 'acknowledged', 'waived')))::integer AS unnamed,
            count(*) FILTER (WHERE status = 'due' AND last_outcome = 'in_flight'
                               AND last_error ~ '^[0-9A-Z]{5}$')::integer AS held_up,
            extract(epoch FROM clock_timestamp() - min(handed_at) FILTER (WHERE status = 'handed_to_outbox'))::integer
              AS waited_seconds
       FROM replay_events
      WHERE status IN ('due', 'claimed', 'parked', 'handed_to_outbox')
      GROUP BY status, parked_reason
      ORDER BY status, parked_reason`,
  );

export interface LatestRun {
  readonly job: string;
  readonly mode: string;
  readonly outcome: string;
  readonly started_at: string;
  readonly age_seconds: number;
  readonly silent_seconds: number;
  readonly message: string | null;
  readonly version: string;
}

/** The newest run of each job and mode. */
export const readLatestRuns = async (transaction: Transaction, installation: string): Promise<LatestRun[]> =>
  await transaction.query(
    `-- status: readLatestRuns
     SELECT DISTINCT ON (job, mode) job, mode, outcome, started_at, message, version,
            extract(epoch FROM clock_timestamp() - coalesce(finished_at, started_at))::integer AS age_seconds,
            extract(epoch FROM clock_timestamp() - seen_at)::integer AS silent_seconds
       FROM job_runs
      WHERE installation = $1::text
      ORDER BY job, mode, started_at DESC`,
    [installation],
  );

export interface OpenRequest {
  readonly kind: string;
  readonly requests: number;
  readonly needs_approval: number;
  /** Those that wait for the approval of another person. */
  readonly waiting: readonly {
    readonly id: string;
    readonly requested_by: string;
    readonly reason: string;
    readonly findings: number;
  }[];
}

export const readOpenRequests = async (transaction: Transaction): Promise<OpenRequest[]> =>
  await transaction.query(
    `-- status: readOpenRequests
     SELECT kind, count(*)::integer AS requests,
            count(*) FILTER (WHERE kind = 'correction' AND approved_by IS NULL)::integer AS needs_approval,
            coalesce(jsonb_agg(jsonb_build_object(
                       'id', id::text, 'requested_by', requested_by, 'reason', reason,
                       'findings', jsonb_array_length(CASE jsonb_typeof(scope -> 'findings') WHEN 'array'
                                                           THEN scope -> 'findings' ELSE '[]' END)) ORDER BY id)
                       FILTER (WHERE kind = 'correction' AND approved_by IS NULL), '[]') AS waiting
       FROM requests WHERE status IN ('open', 'taken') GROUP BY kind ORDER BY kind`,
  );

export interface Freeze {
  readonly id: string;
  readonly frozen_by: string;
  readonly reason: string;
  readonly frozen_until: string;
}

export const readFreezes = async (transaction: Transaction): Promise<Freeze[]> =>
  await transaction.query(
    `-- status: readFreezes
     SELECT id, frozen_by, reason, frozen_until FROM freezes
      WHERE frozen_until > clock_timestamp() AND released_at IS NULL ORDER BY frozen_until`,
  );
