/** Statements on our own tables; each reads by an index, or a table that stays small. Times are seconds since 1970. */
import type { Transaction } from '../runtime/database.ts';

/** Rows of one kind are counted up to one less. */
const MOST_COUNTED = 100_001;
/** Runs of one job and mode that are looked at: a week of one every minute. */
const MOST_RUNS = 10_000;
/** Jobs and modes; there are ten, and a table that somebody has filled with anything must not make a thousand series. */
const MOST_JOBS = 50;
const MOST_CHECKS = 200;

export interface CheckRow {
  readonly name: string;
  readonly declared: number;
  readonly verified_through: number | null;
  readonly held_back: boolean;
}

export const readChecks = async (transaction: Transaction, installation: string): Promise<CheckRow[]> =>
  await transaction.query(
    `-- exporter: readChecks
     SELECT name, extract(epoch FROM declared_at)::double precision AS declared,
            extract(epoch FROM verified_through)::double precision AS verified_through,
            held_back_by IS NOT NULL AS held_back
       FROM checks WHERE installation = $1::text ORDER BY name LIMIT ${MOST_CHECKS}`,
    [installation],
  );

/** Unsettled findings that are alike. An acknowledgement that has ended counts for none, whether or not a run came by. */
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
  readonly oldest: number | null;
  /** When the first of these acknowledgements ends. */
  readonly acknowledged_until: number | null;
}

/** The money in a finding as on the first screen (jobs/status): what is owed, too much or too little. */
export const readFindings = async (transaction: Transaction): Promise<FindingGroup[]> =>
  await transaction.query(
    `-- exporter: readFindings; index discrepancies_unsettled
     SELECT d.check_name, d.kind, d.cause, now_is.status, d.currency, count(*)::integer AS findings,
            sum(money.at_risk)::numeric(40, 0)::text AS at_risk_minor,
            count(*) FILTER (WHERE money.at_risk IS NULL OR d.currency IS NULL)::integer AS unknown_amounts,
            extract(epoch FROM min(coalesce(d.fact_at, d.first_seen_at)))::double precision AS oldest,
            extract(epoch FROM min(d.acknowledged_until) FILTER (WHERE now_is.status = 'acknowledged'))::double precision
              AS acknowledged_until
       FROM discrepancies AS d
      CROSS JOIN LATERAL (
        SELECT CASE WHEN d.status = 'acknowledged' AND d.acknowledged_until <= statement_timestamp() THEN 'open'
                    ELSE d.status END AS status) AS now_is
      CROSS JOIN LATERAL (
        SELECT CASE d.kind WHEN 'missing' THEN d.expected_minor
                           WHEN 'orphan' THEN d.actual_minor
                           WHEN 'duplicate' THEN abs(d.actual_minor - d.expected_minor)
                           ELSE nullif(abs(d.actual_minor - d.expected_minor), 0) END AS at_risk) AS money
      WHERE d.status IN ('suspected', 'open', 'acknowledged')
      GROUP BY d.check_name, d.kind, d.cause, now_is.status, d.currency`,
  );

export interface FindingTotals {
  readonly check_name: string;
  readonly kind: FindingGroup['kind'];
  /** Opened, and each time opened again. */
  readonly opened: number;
  readonly resolved: number;
}

/** Over all findings that were ever opened: nobody deletes them, so these only grow. */
export const readTotals = async (transaction: Transaction): Promise<FindingTotals[]> =>
  await transaction.query(
    `-- exporter: readTotals
     SELECT check_name, kind,
            coalesce(sum(1 + reopen_count) FILTER (WHERE opened_at IS NOT NULL), 0)::double precision AS opened,
            -- One that is suspected once more was resolved, and one that was opened again was so each time.
            coalesce(sum(reopen_count + CASE WHEN status IN ('resolved', 'suspected') THEN 1 ELSE 0 END)
                       FILTER (WHERE opened_at IS NOT NULL), 0)::double precision AS resolved
       FROM discrepancies GROUP BY check_name, kind`,
  );

export interface FindingsForAPerson {
  readonly check_name: string;
  readonly findings: number;
}

/**
 * Open findings that wait for a decision or an approval, as jobs/status decides it: no job mends a wrong or second bill
 * that nobody has approved the correction of, an orphan, a parked event, or what no rebuild was asked for or was in vain.
 */
export const readForAPerson = async (transaction: Transaction): Promise<FindingsForAPerson[]> =>
  await transaction.query(
    `-- exporter: readForAPerson; index discrepancies_unsettled, request_items_finding
     WITH request AS MATERIALIZED (
       SELECT q.kind, q.check_name, q.status IN ('open', 'taken') AS open, q.approved_by IS NOT NULL AS approved,
              q.scope -> 'findings' AS findings
         FROM requests AS q
        WHERE q.kind IN ('rebuild', 'correction')
          AND (q.status IN ('open', 'taken') OR q.finished_at > statement_timestamp() - interval '1 hour')
     ), approved AS MATERIALIZED (
       SELECT DISTINCT f.id::bigint AS finding_id
         FROM request
        CROSS JOIN LATERAL jsonb_array_elements_text(
          CASE jsonb_typeof(request.findings) WHEN 'array' THEN request.findings ELSE '[]' END) AS f (id)
        WHERE request.kind = 'correction' AND request.open AND request.approved
     )
     SELECT d.check_name, count(*)::integer AS findings
       FROM discrepancies AS d
      WHERE d.status IN ('suspected', 'open', 'acknowledged')
        AND (d.status = 'open' OR d.acknowledged_until <= statement_timestamp())
        AND CASE
              WHEN d.kind = 'orphan' THEN true
              WHEN d.kind IN ('duplicate', 'amount') THEN NOT EXISTS (SELECT FROM approved WHERE approved.finding_id = d.id)
              WHEN d.cause = 'event_pending' THEN false
              WHEN d.cause IN ('never_published', 'processed_without_ledger')
                THEN NOT EXISTS (SELECT FROM request
                                  WHERE request.kind = 'rebuild' AND request.check_name = d.check_name)
                  OR EXISTS (SELECT FROM request_items AS i
                              WHERE i.finding_id = d.id AND i.status IN ('done', 'given_up')
                                AND i.finished_at >= coalesce(d.opened_at, d.first_seen_at)
                             HAVING bool_or(i.status = 'given_up') OR count(*) >= 3)
              ELSE true END
      GROUP BY d.check_name`,
  );

/** The runs of one job and mode. */
export interface JobRow {
  readonly job: string;
  readonly mode: string;
  /** When the newest run began, whether or not it has ended. */
  readonly last_start: number;
  /** Of the newest run that has ended; null before one has. */
  readonly outcome: string | null;
  readonly duration: number | null;
  readonly last_success: number | null;
  readonly since_success: number;
  /** The last sign of life of the newest run that has not ended, unless a later one has done more than stand by. */
  readonly seen: number | null;
  /** The outcome of the newest run that has ended and did not stand by. */
  readonly verdict: string | null;
}

/** Walks the index from each job and mode to the next: the table holds a row of every run there was. */
export const readJobs = async (transaction: Transaction, installation: string): Promise<JobRow[]> =>
  await transaction.query(
    `-- exporter: readJobs; index job_runs_latest
     WITH RECURSIVE pair AS (
       (SELECT job, mode FROM job_runs ORDER BY job, mode LIMIT 1)
       UNION ALL
       SELECT next.job, next.mode
         FROM pair
        CROSS JOIN LATERAL (SELECT r.job, r.mode FROM job_runs AS r
                             WHERE (r.job, r.mode) > (pair.job, pair.mode)
                             ORDER BY r.job, r.mode LIMIT 1) AS next
     ), few AS MATERIALIZED (
       SELECT job, mode FROM pair LIMIT ${MOST_JOBS}
     )
     SELECT few.job, few.mode, extract(epoch FROM newest.started_at)::double precision AS last_start,
            ended.outcome, extract(epoch FROM ended.finished_at - ended.started_at)::double precision AS duration,
            extract(epoch FROM success.finished_at)::double precision AS last_success,
            coalesce(since.runs, 0)::integer AS since_success,
            extract(epoch FROM at_work.seen_at)::double precision AS seen, done.outcome AS verdict
       FROM few
      CROSS JOIN LATERAL (SELECT r.started_at FROM job_runs AS r
                           WHERE r.job = few.job AND r.mode = few.mode AND r.installation = $1::text
                           ORDER BY r.started_at DESC LIMIT 1) AS newest
       LEFT JOIN LATERAL (SELECT r.outcome, r.started_at, r.finished_at FROM job_runs AS r
                           WHERE r.job = few.job AND r.mode = few.mode AND r.installation = $1::text
                             AND r.outcome <> 'running'
                           ORDER BY r.started_at DESC LIMIT 1) AS ended ON true
       LEFT JOIN LATERAL (SELECT r.outcome, r.started_at FROM job_runs AS r
                           WHERE r.job = few.job AND r.mode = few.mode AND r.installation = $1::text
                             AND r.outcome NOT IN ('running', 'skipped')
                           ORDER BY r.started_at DESC LIMIT 1) AS done ON true
       LEFT JOIN LATERAL (SELECT r.started_at, r.finished_at
                            FROM (SELECT r.outcome, r.started_at, r.finished_at FROM job_runs AS r
                                   WHERE r.job = few.job AND r.mode = few.mode AND r.installation = $1::text
                                   ORDER BY r.started_at DESC LIMIT ${MOST_RUNS}) AS r
                           WHERE r.outcome = 'succeeded' LIMIT 1) AS success ON true
       LEFT JOIN LATERAL (SELECT count(*) AS runs
                            FROM (SELECT r.outcome, r.started_at FROM job_runs AS r
                                   WHERE r.job = few.job AND r.mode = few.mode AND r.installation = $1::text
                                     AND r.started_at > coalesce(success.started_at, '-infinity')
                                   ORDER BY r.started_at DESC LIMIT ${MOST_RUNS}) AS r
                           WHERE r.outcome NOT IN ('running', 'skipped')) AS since ON true
       LEFT JOIN LATERAL (SELECT r.seen_at FROM job_runs AS r
                           WHERE r.job = few.job AND r.mode = few.mode AND r.installation = $1::text
                             AND r.outcome = 'running' AND r.started_at > coalesce(done.started_at, '-infinity')
                           ORDER BY r.started_at DESC LIMIT 1) AS at_work ON true
      ORDER BY few.job, few.mode`,
    [installation],
  );

export interface ReplayState {
  readonly due: number;
  readonly claimed: number;
  readonly handed_to_outbox: number;
  readonly oldest_parked: number | null;
  readonly oldest_handed: number | null;
}

/** Replay's own table, unless it belongs to another installation. Each count walks one partial index. */
export const readReplay = async (transaction: Transaction, installation: string): Promise<ReplayState> => {
  const [row] = await transaction.query<ReplayState>(
    `-- exporter: readReplay; index replay_events_due, replay_events_claimed, replay_events_handed, replay_events_parked
     SELECT counted.*
       FROM (SELECT
         (SELECT count(*)::integer FROM (SELECT FROM replay_events WHERE status = 'due' LIMIT ${MOST_COUNTED}) AS r) AS due,
         (SELECT count(*)::integer FROM (SELECT FROM replay_events WHERE status = 'claimed' LIMIT ${MOST_COUNTED}) AS r)
           AS claimed,
         (SELECT count(*)::integer FROM (SELECT FROM replay_events WHERE status = 'handed_to_outbox' LIMIT ${MOST_COUNTED}) AS r)
           AS handed_to_outbox,
         (SELECT extract(epoch FROM parked_at)::double precision FROM replay_events
           WHERE status = 'parked' ORDER BY parked_at LIMIT 1) AS oldest_parked,
         (SELECT extract(epoch FROM handed_at)::double precision FROM replay_events
           WHERE status = 'handed_to_outbox' ORDER BY handed_at LIMIT 1) AS oldest_handed) AS counted
      WHERE NOT EXISTS (SELECT FROM replay_source AS s WHERE s.installation <> $1::text)`,
    [installation],
  );
  return row ?? { due: 0, claimed: 0, handed_to_outbox: 0, oldest_parked: null, oldest_handed: null };
};

export interface ParkedGroup {
  readonly reason: string;
  readonly events: number;
}

export const readParked = async (transaction: Transaction, installation: string): Promise<ParkedGroup[]> =>
  await transaction.query(
    `-- exporter: readParked; index replay_events_parked
     SELECT r.parked_reason AS reason, count(*)::integer AS events
       FROM (SELECT parked_reason FROM replay_events WHERE status = 'parked' LIMIT ${MOST_COUNTED}) AS r
      WHERE NOT EXISTS (SELECT FROM replay_source AS s WHERE s.installation <> $1::text)
      GROUP BY r.parked_reason`,
    [installation],
  );

export interface ReplayedSince {
  readonly events: number;
  /** The moment of this count by the database's clock, as text. */
  readonly now: string;
}

/** Events that replay has brought to their end after a moment, its row kept. */
export const countReplayed = async (
  transaction: Transaction,
  since: string | undefined,
): Promise<ReplayedSince> => {
  const [row] = await transaction.query<ReplayedSince>(
    `-- exporter: countReplayed; index replay_events_done
     SELECT statement_timestamp() AS now,
            (SELECT count(*)::integer FROM replay_events
              WHERE status = 'done' AND finished_at > coalesce($1::timestamptz, statement_timestamp())) AS events`,
    [since ?? null],
  );
  return row ?? { events: 0, now: '' };
};

export interface RequestGroup {
  readonly kind: string;
  readonly needs_approval: boolean;
  readonly requests: number;
  readonly oldest: number;
}

/** Requests that are not done, of our checks and of none. */
export const readRequests = async (transaction: Transaction, installation: string): Promise<RequestGroup[]> =>
  await transaction.query(
    `-- exporter: readRequests; index requests_open
     SELECT q.kind, q.kind = 'correction' AND q.approved_by IS NULL AS needs_approval, count(*)::integer AS requests,
            extract(epoch FROM min(q.requested_at))::double precision AS oldest
       FROM requests AS q LEFT JOIN checks AS c ON c.name = q.check_name
      WHERE q.status IN ('open', 'taken') AND coalesce(c.installation, $1::text) = $1::text
      GROUP BY 1, 2`,
    [installation],
  );

/** Until when a freeze lives; nothing where none does. */
export const readFrozenUntil = async (transaction: Transaction): Promise<number | undefined> => {
  const [row] = await transaction.query<{ until: number | null }>(
    `-- exporter: readFrozenUntil
     SELECT extract(epoch FROM max(frozen_until))::double precision AS until
       FROM freezes WHERE frozen_until > statement_timestamp() AND released_at IS NULL`,
  );
  return row?.until ?? undefined;
};
