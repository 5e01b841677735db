/**
 * The life of a finding: suspected at the first look, open when the look of a later run still sees it, resolved
 * by itself when its key is judged again and all is well. Every change repeats the status it expects, so a
 * person's decision or another run's is never overwritten; what does not change is not written at all.
 */
import { type Kind, type WindowRow } from '../checks/verdict-sql.ts';
import type { Transaction } from '../runtime/database.ts';
import type { Cause } from './classify.ts';
import { type Instant, parseInstant } from './instant.ts';

export type FindingStatus = 'suspected' | 'open' | 'acknowledged' | 'resolved' | 'waived';

/** What a look saw of one key. */
export interface Discrepancy {
  readonly kind: Kind;
  /** The key's columns as a JSON array of texts. */
  readonly key: string;
  /** The row's primary key where the key has a null, else empty. */
  readonly rowId: string;
  readonly factAt: string;
  readonly ledgerRows: number;
  readonly expectedMinor: string | null;
  readonly actualMinor: string | null;
  readonly currency: string | null;
  readonly cause: Cause | null;
  readonly eventId: string | null;
  readonly publishedHash: string | null;
  /** Seen beyond the horizon: may still settle by itself. */
  readonly provisional: boolean;
}

/** A finding as it stands after a run touched it. */
export interface FindingChange {
  readonly id: string;
  readonly kind: Kind;
  readonly key: string;
  readonly row_id: string;
  /** Null for one that was not known before. */
  readonly was: FindingStatus | null;
  readonly status: FindingStatus;
  readonly cause: Cause | null;
  readonly event_id: string | null;
  readonly published_hash: string | null;
  readonly fact_at: string | null;
  readonly expected_minor: string | null;
  readonly actual_minor: string | null;
  readonly currency: string | null;
  readonly provisional: boolean;
}

/** @param settled what lies from here on may still settle by itself; undefined: nothing is settled */
export function asDiscrepancy(row: WindowRow, settled: Instant | undefined): Discrepancy | undefined {
  if (row.kind === null) return undefined;
  return {
    kind: row.kind,
    key: JSON.stringify(row.key),
    rowId: row.row_id === null ? '' : encodeRowId(row.row_id),
    factAt: row.fact_at,
    ledgerRows: Math.max(0, Number(row.ledger_rows)),
    expectedMinor: row.expected_minor,
    actualMinor: row.actual_minor,
    currency: row.currency,
    cause: null,
    eventId: null,
    publishedHash: null,
    provisional: settled === undefined || parseInstant(row.fact_at) >= settled,
  };
}

/** A primary key of one column as it is, of several as a JSON array. */
const encodeRowId = (id: readonly string[]): string => (id.length === 1 ? (id[0] ?? '') : JSON.stringify(id));

export const decodeRowId = (rowId: string, columns: number): readonly string[] =>
  columns === 1 ? [rowId] : (JSON.parse(rowId) as string[]);

/** One per fingerprint: two rows of one key are one discrepancy. */
export function distinct(discrepancies: readonly Discrepancy[]): readonly Discrepancy[] {
  return [...new Map(discrepancies.map((one) => [`${one.kind} ${one.rowId} ${one.key}`, one])).values()];
}

/**
 * Records what a look saw, and gives every finding that this changed.
 * @param startedAt when this run began, by the database clock: only what an earlier look suspected is opened
 */
export async function recordSeen(
  transaction: Transaction,
  check: string,
  runId: string,
  startedAt: string,
  seen: readonly Discrepancy[],
): Promise<FindingChange[]> {
  if (seen.length === 0) return [];
  const rows = distinct(seen).map((one) => ({
    kind: one.kind,
    key: one.key,
    row_id: one.rowId,
    fact_at: one.factAt,
    ledger_rows: one.ledgerRows,
    expected_minor: one.expectedMinor,
    actual_minor: one.actualMinor,
    currency: one.currency,
    cause: one.cause,
    event_id: one.eventId,
    published_hash: one.publishedHash,
    provisional: one.provisional,
  }));
  return await transaction.query<FindingChange>(
    `-- billing-reconciliation: recordSeen; index discrepancies_fingerprint
     WITH seen AS MATERIALIZED (
       SELECT * FROM jsonb_to_recordset($4::jsonb) AS seen (
         kind text, key text, row_id text, fact_at timestamptz, ledger_rows integer, expected_minor numeric,
         actual_minor numeric, currency text, cause text, event_id text, published_hash text, provisional boolean)
     ), waivable AS MATERIALIZED (
       -- Looked at once: without any waiver alive, no row is asked about one.
       SELECT seen.*,
              CASE WHEN EXISTS (SELECT FROM waivers AS w
                                 WHERE w.check_name = $1::text AND w.ended_at IS NULL
                                   AND (w.waived_until IS NULL OR w.waived_until > statement_timestamp()))
                   THEN waiver_of($1::text, kind, cause, key, published_hash, currency, fact_at) END AS waiver
         FROM seen
     ), judged AS MATERIALIZED (
       SELECT seen.*, d.id, d.status AS was,
              CASE d.status
                WHEN 'suspected' THEN CASE WHEN d.status_changed_at < $3::timestamptz THEN 'open' ELSE d.status END
                WHEN 'acknowledged' THEN CASE WHEN d.acknowledged_until <= clock_timestamp() THEN 'open' ELSE d.status END
                WHEN 'resolved' THEN 'suspected'
                ELSE d.status
              END AS stands
         FROM waivable AS seen JOIN discrepancies d
           ON d.check_name = $1::text AND d.kind = seen.kind AND d.key = seen.key AND d.row_id = seen.row_id
     ), known AS MATERIALIZED (
       SELECT judged.*,
              CASE WHEN stands IN ('suspected', 'open') AND waiver IS NOT NULL THEN 'waived' ELSE stands END AS becomes
         FROM judged
     ), changed AS (
       UPDATE discrepancies d
          SET status = known.becomes,
              status_changed_at = CASE WHEN known.becomes <> known.was THEN clock_timestamp() ELSE d.status_changed_at END,
              status_reason = CASE
                WHEN known.becomes = known.was THEN d.status_reason
                WHEN known.becomes = 'waived' THEN 'falls under waiver ' || known.waiver
                WHEN known.was = 'suspected' THEN 'seen again by a later run'
                WHEN known.was = 'acknowledged' THEN 'the acknowledgement has ended'
                ELSE 'seen again after it was resolved' END,
              opened_at = CASE WHEN known.becomes = 'open' AND (known.was = 'suspected' OR d.opened_at IS NULL)
                               THEN clock_timestamp() ELSE d.opened_at END,
              waiver_id = CASE WHEN known.becomes = 'waived' THEN known.waiver ELSE d.waiver_id END,
              reopen_count = d.reopen_count
                + CASE WHEN known.becomes = 'open' AND known.was = 'suspected' AND d.opened_at IS NOT NULL THEN 1 ELSE 0 END,
              resolved_at = CASE WHEN known.becomes <> 'resolved' AND known.was = 'resolved' THEN NULL ELSE d.resolved_at END,
              acknowledged_by = CASE WHEN known.becomes <> known.was THEN NULL ELSE d.acknowledged_by END,
              acknowledged_until = CASE WHEN known.becomes <> known.was THEN NULL ELSE d.acknowledged_until END,
              cause = known.cause, event_id = known.event_id, published_hash = known.published_hash,
              fact_at = known.fact_at, ledger_rows = known.ledger_rows, expected_minor = known.expected_minor,
              actual_minor = known.actual_minor, currency = known.currency, provisional = known.provisional
         FROM known
        WHERE d.id = known.id
          -- Somebody may have decided since: then this look says nothing.
          AND d.status = known.was AND d.status <> 'waived'
          AND (known.becomes <> known.was
               OR (d.cause, d.event_id, d.published_hash, d.fact_at, d.ledger_rows, d.expected_minor,
                   d.actual_minor, d.currency, d.provisional)
                  IS DISTINCT FROM
                  (known.cause, known.event_id, known.published_hash, known.fact_at, known.ledger_rows,
                   known.expected_minor, known.actual_minor, known.currency, known.provisional))
       RETURNING d.*, known.was
     ), added AS (
       INSERT INTO discrepancies (check_name, kind, key, row_id, status, cause, event_id, published_hash, fact_at,
                                  ledger_rows, expected_minor, actual_minor, currency, provisional, first_run_id,
                                  waiver_id, status_reason)
       SELECT $1::text, kind, key, row_id, CASE WHEN waiver IS NULL THEN 'suspected' ELSE 'waived' END, cause, event_id,
              published_hash, fact_at, ledger_rows, expected_minor, actual_minor, currency, provisional, $2::uuid,
              waiver, 'falls under waiver ' || waiver
         FROM waivable AS seen
        WHERE NOT EXISTS (SELECT FROM known
                           WHERE known.kind = seen.kind AND known.key = seen.key AND known.row_id = seen.row_id)
       ON CONFLICT ON CONSTRAINT discrepancies_fingerprint DO NOTHING
       RETURNING *
     )
     SELECT id, kind, key, row_id, was, status, cause, event_id, published_hash, fact_at,
            trim_scale(expected_minor) AS expected_minor, trim_scale(actual_minor) AS actual_minor, currency, provisional
       FROM changed
     UNION ALL
     SELECT id, kind, key, row_id, NULL, status, cause, event_id, published_hash, fact_at,
            trim_scale(expected_minor), trim_scale(actual_minor), currency, provisional
       FROM added
      ORDER BY id`,
    [check, runId, startedAt, JSON.stringify(rows)],
  );
}

/** Brings findings back whose waiver has ended: as open where they were so before, else as suspected. */
export async function bringBackWaived(transaction: Transaction, check: string): Promise<FindingChange[]> {
  return await transaction.query<FindingChange>(
    `-- billing-reconciliation: bringBackWaived; index discrepancies_waived
     WITH over AS (
       SELECT d.id FROM discrepancies AS d JOIN waivers AS w ON w.id = d.waiver_id
        WHERE d.check_name = $1::text AND d.status = 'waived'
          AND (w.ended_at IS NOT NULL OR w.waived_until <= statement_timestamp())
     )
     UPDATE discrepancies AS d
        SET status = CASE WHEN d.opened_at IS NULL THEN 'suspected' ELSE 'open' END, waiver_id = NULL,
            status_changed_at = clock_timestamp(), status_reason = 'the waiver has ended'
       FROM over
      WHERE d.id = over.id AND d.status = 'waived'
     RETURNING d.id, d.kind, d.key, d.row_id, 'waived' AS was, d.status, d.cause, d.event_id, d.published_hash, d.fact_at,
               trim_scale(d.expected_minor) AS expected_minor, trim_scale(d.actual_minor) AS actual_minor,
               d.currency, d.provisional`,
    [check],
  );
}

export interface UnsettledFinding {
  readonly id: string;
  readonly kind: Kind;
  readonly key: string;
  readonly row_id: string;
  /** Of a key that was judged all right, only this status becomes `resolved`. */
  readonly status: FindingStatus;
}

/** The next findings of a check that a look can change, in the order of their ids. */
export async function listUnsettled(
  transaction: Transaction,
  check: string,
  afterId: string,
  limit: number,
): Promise<UnsettledFinding[]> {
  return await transaction.query<UnsettledFinding>(
    `-- billing-reconciliation: listUnsettled; index discrepancies_unsettled
     SELECT id, kind, key, row_id, status
       FROM discrepancies
      WHERE check_name = $1::text AND id > $2::bigint AND status IN ('suspected', 'open', 'acknowledged')
      ORDER BY id LIMIT $3::integer`,
    [check, afterId, limit],
  );
}

/** Findings by id, whatever their status. */
export async function listByIds(
  transaction: Transaction,
  check: string,
  ids: readonly string[],
): Promise<UnsettledFinding[]> {
  return await transaction.query<UnsettledFinding>(
    `-- billing-reconciliation: listByIds; primary key
     SELECT id, kind, key, row_id, status FROM discrepancies
      WHERE check_name = $1::text AND id = ANY ($2::bigint[]) ORDER BY id`,
    [check, ids],
  );
}

/** Those of these ids that no finding of these checks has. */
export async function listAbsent(
  transaction: Transaction,
  checks: readonly string[],
  ids: readonly string[],
): Promise<string[]> {
  const rows = await transaction.query<{ id: string }>(
    `-- billing-reconciliation: listAbsent; primary key
     SELECT DISTINCT id FROM unnest($2::bigint[]) AS wanted (id)
      WHERE NOT EXISTS (SELECT FROM discrepancies AS d
                         WHERE d.id = wanted.id AND d.check_name = ANY ($1::text[]))
      ORDER BY id`,
    [checks, ids],
  );
  return rows.map(({ id }) => id);
}

/** Resolves findings that a look no longer saw; those whose status has changed since are left alone. */
export async function resolveGone(
  transaction: Transaction,
  ids: readonly string[],
  reason: string,
): Promise<FindingChange[]> {
  if (ids.length === 0) return [];
  return await transaction.query<FindingChange>(
    `-- billing-reconciliation: resolveGone; primary key
     WITH gone AS (
       SELECT id, status AS was FROM discrepancies
        WHERE id = ANY ($1::bigint[]) AND status IN ('suspected', 'open', 'acknowledged')
     )
     UPDATE discrepancies d
        SET status = 'resolved', status_changed_at = clock_timestamp(), resolved_at = clock_timestamp(),
            status_reason = $2::text, acknowledged_by = NULL, acknowledged_until = NULL
       FROM gone
      WHERE d.id = gone.id AND d.status = gone.was
     RETURNING d.id, d.kind, d.key, d.row_id, gone.was, d.status, d.cause, d.event_id, d.published_hash, d.fact_at,
               trim_scale(d.expected_minor) AS expected_minor, trim_scale(d.actual_minor) AS actual_minor,
               d.currency, d.provisional`,
    [ids, reason],
  );
}

export interface Standing {
  readonly suspected: number;
  readonly open: number;
  readonly acknowledged: number;
}

/** Which findings are asked about; what is left out leaves nothing out. */
export interface StandingScope {
  /** When the fact happened, or the ledger row without fact was made: from here on, before there. */
  readonly from?: string | undefined;
  readonly to?: string | undefined;
  readonly hash?: string | undefined;
  readonly ids?: readonly string[] | undefined;
}

/** How many findings of a check stand now. */
export async function countStanding(
  transaction: Transaction,
  check: string,
  scope: StandingScope,
): Promise<Standing> {
  const [row] = await transaction.query<{ suspected: number; open: number; acknowledged: number }>(
    `-- billing-reconciliation: countStanding; index discrepancies_unsettled
     SELECT count(*) FILTER (WHERE status = 'suspected')::integer AS suspected,
            count(*) FILTER (WHERE status = 'open')::integer AS open,
            count(*) FILTER (WHERE status = 'acknowledged')::integer AS acknowledged
       FROM discrepancies
      WHERE check_name = $1::text AND status IN ('suspected', 'open', 'acknowledged')
        AND ($2::timestamptz IS NULL OR fact_at >= $2::timestamptz)
        AND ($3::timestamptz IS NULL OR fact_at < $3::timestamptz)
        AND ($4::text IS NULL OR published_hash = $4::text)
        AND ($5::bigint[] IS NULL OR id = ANY ($5::bigint[]))`,
    [check, scope.from ?? null, scope.to ?? null, scope.hash ?? null, scope.ids ?? null],
  );
  return row ?? { suspected: 0, open: 0, acknowledged: 0 };
}
