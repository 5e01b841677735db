/** Statements of the repair: what may be asked for, what was asked for last, and what became of it. */
import type { Transaction } from '../runtime/database.ts';

/** What this job asks for by itself; a correction is a person's to ask for. */
export type RepairKind = 'replay' | 'rebuild';

/** A finding that was rebuilt so often, and still has no bill, is a person's. */
const MOST_REBUILDS = 3;

/**
 * Events behind open findings that no unfinished request names, oldest finding first. One that waits for its bill in
 * the predecessor's outbox is left alone.
 */
export async function listReplayable(
  transaction: Transaction,
  check: string,
  limit: number,
): Promise<string[]> {
  const rows = await transaction.query<{ event_id: string }>(
    `-- billing-reconciliation: listReplayable; index discrepancies_unsettled
     SELECT d.event_id
       FROM discrepancies d
      WHERE d.check_name = $1::text AND d.status = 'open' AND d.cause = 'event_pending'
        AND d.event_id IS NOT NULL
        AND NOT EXISTS (SELECT FROM requests r
                         WHERE r.kind = 'replay' AND r.status IN ('open', 'taken')
                           AND r.scope -> 'event_ids' ? d.event_id)
        AND NOT EXISTS (SELECT FROM replay_events e
                         WHERE e.event_id = d.event_id AND e.status = 'handed_to_outbox')
      ORDER BY d.id LIMIT $2::integer`,
    [check, limit],
  );
  return [...new Set(rows.map(({ event_id: id }) => id))];
}

/**
 * Open findings whose event the service can make again, that no unfinished request names, oldest first. What was
 * given up since the finding opened, or rebuilt again and again in vain, is not asked for any more.
 */
export async function listRebuildable(
  transaction: Transaction,
  check: string,
  limit: number,
): Promise<string[]> {
  const rows = await transaction.query<{ id: string }>(
    `-- billing-reconciliation: listRebuildable; indices discrepancies_unsettled, request_items_finding
     SELECT d.id
       FROM discrepancies AS d
      CROSS JOIN LATERAL (
        SELECT count(*) FILTER (WHERE i.status = 'given_up') AS given_up, count(*) FILTER (WHERE i.status = 'done') AS done
          FROM request_items AS i JOIN requests AS q ON q.id = i.request_id
         WHERE i.finding_id = d.id AND q.kind = 'rebuild'
           AND i.finished_at >= coalesce(d.opened_at, d.first_seen_at)) AS tried
      WHERE d.check_name = $1::text AND d.status = 'open' AND d.row_id = ''
        AND d.cause IN ('never_published', 'processed_without_ledger')
        AND tried.given_up = 0 AND tried.done < $3::integer
        AND NOT EXISTS (SELECT FROM requests AS r
                         WHERE r.kind = 'rebuild' AND r.status IN ('open', 'taken')
                           AND r.scope -> 'findings' @> to_jsonb(d.id))
      ORDER BY d.id LIMIT $2::integer`,
    [check, limit, MOST_REBUILDS],
  );
  return rows.map(({ id }) => id);
}

/** What became of the last request of a kind that this job made for a check. */
export interface LastRepair {
  readonly id: string;
  /** Whether it has ended, and the findings were looked at again since. */
  readonly judged: boolean;
  /** Whether it went through, and what is open now was open then: one incident, and no new one. */
  readonly proven: boolean;
  /** Wrong or second bills that were first seen since, the first ten of those that stand. */
  readonly harm: readonly string[];
  /** Whether the audit knows of the harm. */
  readonly told: boolean;
}

/** @param lookedAt when this run began to look again at the findings */
export async function findLastRepair(
  transaction: Transaction,
  check: string,
  kind: RepairKind,
  lookedAt: string,
): Promise<LastRepair | undefined> {
  const [last] = await transaction.query<LastRepair>(
    `-- billing-reconciliation: findLastRepair; primary key of requests, index discrepancies_unsettled
     SELECT r.id, r.status IN ('done', 'refused') AND r.finished_at < $2::timestamptz AS judged,
            r.status = 'done' AND (r.kind = 'replay' OR (r.result ->> 'done')::bigint > 0) AND EXISTS (
              SELECT FROM discrepancies AS d
               WHERE d.check_name = $1::text AND d.status = 'open'
                 AND d.cause = ANY (CASE r.kind WHEN 'replay' THEN ARRAY['event_pending']
                                                ELSE ARRAY['never_published', 'processed_without_ledger'] END)
                 AND d.opened_at <= r.requested_at) AS proven,
            ARRAY(SELECT d.id::text FROM discrepancies AS d
                   WHERE d.check_name = $1::text AND d.kind IN ('duplicate', 'amount')
                     AND d.status IN ('suspected', 'open') AND d.first_seen_at > r.requested_at
                   ORDER BY d.id LIMIT 10) AS harm,
            EXISTS (SELECT FROM audit AS a
                     WHERE a.request_id = r.id AND a.action = 'repair_stopped') AS told
       FROM requests AS r
      WHERE r.kind = $3::text AND r.check_name = $1::text AND r.requested_by = session_user
      ORDER BY r.id DESC LIMIT 1`,
    [check, lookedAt, kind],
  );
  return last;
}

/** Asks event-replay to send these events, or to let the service rebuild those of these findings. */
export async function requestRepair(
  transaction: Transaction,
  check: string,
  kind: RepairKind,
  ids: readonly string[],
  reason: string,
): Promise<string | undefined> {
  const [row] = await transaction.query<{ id: string }>(
    `-- billing-reconciliation: requestRepair
     INSERT INTO requests (kind, scope, check_name, reason)
     VALUES ($2::text,
             CASE $2::text WHEN 'replay' THEN jsonb_build_object('event_ids', $3::text[])
                           ELSE jsonb_build_object('findings', $3::text[]::bigint[]) END,
             $1::text, 'check ' || $1::text || ': ' || $4::text)
     RETURNING id`,
    [check, kind, ids, reason],
  );
  return row?.id;
}
