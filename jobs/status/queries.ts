import type { Transaction } from '../runtime/database.ts';

/** Open and acknowledged findings of one check, kind, cause and currency. */
export interface FindingGroup {
  readonly check_name: string;
  readonly kind: 'missing' | 'duplicate' | 'amount' | 'orphan';
  readonly cause: string | null;
  readonly status: 'suspected' | 'open' | 'acknowledged';
  readonly currency: string | null;
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
     SELECT check_name, kind, cause, status, currency, count(*)::integer AS findings,
            sum(at_risk)::numeric(40, 0)::text AS at_risk_minor,
            count(*) FILTER (WHERE at_risk IS NULL OR currency IS NULL)::integer AS unknown_amounts,
            min(coalesce(fact_at, first_seen_at)) AS oldest_at
       FROM discrepancies
      CROSS JOIN LATERAL (
        SELECT CASE kind WHEN 'missing' THEN expected_minor
                         WHEN 'orphan' THEN actual_minor
                         WHEN 'duplicate' THEN abs(actual_minor - expected_minor)
                         ELSE nullif(abs(actual_minor - expected_minor), 0) END AS at_risk) AS money
      WHERE status IN ('suspected', 'open', 'acknowledged')
      GROUP BY check_name, kind, cause, status, currency
      ORDER BY check_name, kind, cause, status, currency`,
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
  readonly status: 'due' | 'claimed' | 'parked';
  readonly parked_reason: string | null;
  readonly events: number;
  readonly oldest_at: string;
}

export const readReplayGroups = async (transaction: Transaction): Promise<ReplayGroup[]> =>
  await transaction.query(
    `-- status: readReplayGroups
     SELECT status, parked_reason, count(*)::integer AS events, min(event_created_at) AS oldest_at
       FROM replay_events
      WHERE status IN ('due', 'claimed', 'parked')
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
}

export const readOpenRequests = async (transaction: Transaction): Promise<OpenRequest[]> =>
  await transaction.query(
    `-- status: readOpenRequests
     SELECT kind, count(*)::integer AS requests,
            count(*) FILTER (WHERE kind = 'correction' AND approved_by IS NULL)::integer AS needs_approval
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
