/** Statements on our own tables beside the findings: how far checks are, what people asked for, the audit. */
import type { Check } from '../checks/parse.ts';
import type { Transaction } from '../runtime/database.ts';

export interface CheckState {
  readonly name: string;
  readonly installation: string;
  readonly definition_hash: string;
  readonly verified_through: string | null;
  readonly rotation_cursor: string | null;
}

/** Makes the row of a check where there is none, and gives it, locked against another declaration. */
export async function declareCheck(
  transaction: Transaction,
  check: Check,
  hash: string,
  installation: string,
): Promise<CheckState | undefined> {
  await transaction.execute(
    `-- billing-reconciliation: declareCheck
     INSERT INTO checks (name, installation, definition_hash, definition)
     VALUES ($1::text, $2::text, $3::text, $4::jsonb) ON CONFLICT (name) DO NOTHING`,
    [check.name, installation, hash, JSON.stringify(check)],
  );
  const [state] = await transaction.query<CheckState>(
    `-- billing-reconciliation: declareCheck (read)
     SELECT name, installation, definition_hash, verified_through, rotation_cursor
       FROM checks WHERE name = $1::text FOR UPDATE`,
    [check.name],
  );
  return state;
}

/** Accepts a changed definition. What was verified was verified by another one: that begins anew. */
export async function redeclareCheck(
  transaction: Transaction,
  check: Check,
  hash: string,
  installation: string,
): Promise<number> {
  return await transaction.execute(
    `-- billing-reconciliation: redeclareCheck
     UPDATE checks
        SET definition_hash = $3::text, definition = $4::jsonb, declared_at = clock_timestamp(),
            verified_through = NULL, rotation_cursor = NULL, rotation_started_at = NULL,
            rotation_completed_at = NULL
      WHERE name = $1::text AND installation = $2::text AND definition_hash <> $3::text`,
    [check.name, installation, hash, JSON.stringify(check)],
  );
}

/**
 * Moves the watermark, never back.
 * @param check as this run reads it: what was read by another definition verifies nothing of the one declared since
 */
export async function advanceVerified(
  transaction: Transaction,
  check: CheckState,
  to: string,
): Promise<void> {
  await transaction.execute(
    `-- billing-reconciliation: advanceVerified
     UPDATE checks SET verified_through = $2::timestamptz, verified_at = clock_timestamp()
      WHERE name = $1::text AND definition_hash = $3::text
        AND (verified_through IS NULL OR verified_through < $2::timestamptz)`,
    [check.name, to, check.definition_hash],
  );
}

export async function noteHeldBack(
  transaction: Transaction,
  check: string,
  reason: string | undefined,
): Promise<void> {
  await transaction.execute(
    `-- billing-reconciliation: noteHeldBack
     UPDATE checks SET held_back_by = $2::text, verified_at = clock_timestamp() WHERE name = $1::text`,
    [check, reason ?? null],
  );
}

/** Where the rotation goes on; the first step also notes when it began. */
export async function advanceRotation(
  transaction: Transaction,
  check: CheckState,
  cursor: string,
): Promise<void> {
  await transaction.execute(
    `-- billing-reconciliation: advanceRotation
     UPDATE checks
        SET rotation_started_at = CASE WHEN rotation_cursor IS NULL THEN clock_timestamp() ELSE rotation_started_at END,
            rotation_cursor = $2::timestamptz
      WHERE name = $1::text AND definition_hash = $3::text`,
    [check.name, cursor, check.definition_hash],
  );
}

/** False where another definition was declared since this run began: the rotation begins anew. */
export async function completeRotation(transaction: Transaction, check: CheckState): Promise<boolean> {
  const completed = await transaction.execute(
    `-- billing-reconciliation: completeRotation
     UPDATE checks SET rotation_cursor = NULL, rotation_completed_at = clock_timestamp()
      WHERE name = $1::text AND definition_hash = $2::text`,
    [check.name, check.definition_hash],
  );
  return completed === 1;
}

interface CoveredWindow {
  readonly from: string;
  readonly to: string;
  /** Rows of facts and of the ledger in it. */
  readonly facts: number;
  readonly ledger: number;
}

/** Records a window of the rotation in place of those of earlier rotations that it overlaps. */
export async function recordWindow(
  transaction: Transaction,
  check: string,
  runId: string,
  window: CoveredWindow,
): Promise<void> {
  await transaction.execute(
    `-- billing-reconciliation: recordWindow (replace); primary key
     DELETE FROM reconciliation_windows
      WHERE check_name = $1::text AND side IN ('facts', 'ledger')
        AND from_at < $3::timestamptz AND to_at > $2::timestamptz`,
    [check, window.from, window.to],
  );
  await transaction.execute(
    `-- billing-reconciliation: recordWindow
     INSERT INTO reconciliation_windows (check_name, side, from_at, to_at, run_id, rows)
     VALUES ($1::text, 'facts', $2::timestamptz, $3::timestamptz, $4::uuid, $5::bigint),
            ($1::text, 'ledger', $2::timestamptz, $3::timestamptz, $4::uuid, $6::bigint)`,
    [check, window.from, window.to, runId, window.facts, window.ledger],
  );
}

/** Whether another run holds a lease at this moment. */
export async function isLeased(transaction: Transaction, name: string): Promise<boolean> {
  const [row] = await transaction.query<{ leased: boolean }>(
    `-- billing-reconciliation: isLeased
     SELECT EXISTS (SELECT FROM job_leases WHERE name = $1::text AND expires_at > clock_timestamp()) AS leased`,
    [name],
  );
  return row?.leased === true;
}

export interface VerifyRequest {
  readonly id: string;
  readonly check_name: string | null;
  readonly scope: unknown;
}

/** Requests nobody has finished: open ones, and those that a killed run had taken. Call under the checks' leases. */
export async function listVerifyRequests(
  transaction: Transaction,
  checks: readonly string[],
): Promise<VerifyRequest[]> {
  return await transaction.query<VerifyRequest>(
    `-- billing-reconciliation: listVerifyRequests; index requests_open
     SELECT id, check_name, scope FROM requests
      WHERE kind = 'verify' AND status IN ('open', 'taken')
        AND (check_name IS NULL OR check_name = ANY ($1::text[]))
      ORDER BY id LIMIT 100`,
    [checks],
  );
}

export async function takeRequest(transaction: Transaction, id: string, runId: string): Promise<boolean> {
  const taken = await transaction.execute(
    `-- billing-reconciliation: takeRequest
     UPDATE requests SET status = 'taken', run_id = $2::uuid
      WHERE id = $1::bigint AND kind = 'verify' AND status IN ('open', 'taken')`,
    [id, runId],
  );
  return taken === 1;
}

export async function finishRequest(
  transaction: Transaction,
  id: string,
  runId: string,
  status: 'done' | 'refused',
  result: Readonly<Record<string, unknown>>,
): Promise<boolean> {
  const finished = await transaction.execute(
    `-- billing-reconciliation: finishRequest
     UPDATE requests SET status = $3::text, result = $4::jsonb, finished_at = clock_timestamp(), run_id = $2::uuid
      WHERE id = $1::bigint AND kind = 'verify'
        AND ((status = 'taken' AND run_id = $2::uuid)
             OR ($3::text = 'refused' AND status IN ('open', 'taken')))`,
    [id, runId, status, JSON.stringify(result)],
  );
  return finished === 1;
}

interface AuditEntry {
  readonly installation: string;
  readonly runId: string;
  readonly action: string;
  readonly reason?: string;
  readonly requestId?: string;
  readonly scope: Readonly<Record<string, unknown>>;
  readonly counts: Readonly<Record<string, number>>;
}

export async function writeAudit(transaction: Transaction, entry: AuditEntry): Promise<void> {
  await transaction.execute(
    `-- billing-reconciliation: writeAudit
     INSERT INTO audit (installation, actor, action, reason, run_id, request_id, scope, counts)
     VALUES ($1::text, 'billing-reconciliation', $2::text, $3::text, $4::uuid, $5::bigint, $6::jsonb, $7::jsonb)`,
    [
      entry.installation,
      entry.action,
      entry.reason ?? null,
      entry.runId,
      entry.requestId ?? null,
      JSON.stringify(entry.scope),
      JSON.stringify(entry.counts),
    ],
  );
}

/** Which of these events replay has parked. */
export async function listParked(
  transaction: Transaction,
  eventIds: readonly string[],
): Promise<Set<string>> {
  const rows = await transaction.query<{ event_id: string }>(
    `-- billing-reconciliation: listParked; primary key
     SELECT event_id FROM replay_events WHERE event_id = ANY ($1::text[]) AND status = 'parked'`,
    [eventIds],
  );
  return new Set(rows.map(({ event_id: id }) => id));
}
