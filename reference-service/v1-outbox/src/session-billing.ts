import type { Pool } from 'pg';
import type { Logger } from 'pino';
import { sessionCompleted } from './session-completed.js';

/** An event that no later try can bill: its row becomes `failed` and waits for a person. */
export class UnusableEventError extends Error {
  override readonly name = 'UnusableEventError';
}

/**
 * Writes the session's one ledger row, under the same key as the successor does; a repeat changes nothing. The key is
 * named in the statement: on a ledger that has no such unique key, Postgres refuses it, and nothing is billed twice.
 */
export async function createPerSessionBilling(pool: Pool, log: Logger, payload: unknown): Promise<void> {
  const parsed = sessionCompleted.safeParse(payload);
  if (!parsed.success) throw new UnusableEventError('the payload is not that of a completed session');
  const { sessionId, mentorId, amountMinor, currency } = parsed.data;
  const { rowCount } = await pool.query(
    `/* v1-outbox bill-session */
insert into mentor_payable_ledgers (session_id, mentor_id, amount_minor, currency, idempotency_key)
values ($1::uuid, $2::text, $3::bigint, $4::text, 'session:' || $1::uuid || ':1')
on conflict (idempotency_key) do nothing`,
    [sessionId, mentorId, amountMinor, currency],
  );
  if (rowCount === 0) log.info({ sessionId }, 'Session is billed already');
}
