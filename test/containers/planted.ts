/** Rows of the service as years of business leave them, planted by Postgres itself: ids that end in their number. */
import type { Shop } from './shop.ts';

export const sessionId = (number: number): string =>
  `00000000-0000-4000-8000-${String(number).padStart(12, '0')}`;

const id = `('00000000-0000-4000-8000-' || lpad(number::text, 12, '0'))::uuid`;

/** Sessions that nobody has completed yet. */
export async function plantSessions(shop: Shop, count: number): Promise<void> {
  await shop.sql(`
    INSERT INTO sessions (id, contract_id, mentor_id, amount_minor, currency)
    SELECT ${id}, 'contract-1', 'mentor-1', 12500, 'EUR' FROM generate_series(1, ${count}) AS number`);
}

/**
 * Sessions completed in the last `days`, one after the other.
 * @param missing every how many-th has no bill; 0 for none
 */
export async function plantBilled(shop: Shop, count: number, missing: number, days: number): Promise<void> {
  await shop.sql(`
    INSERT INTO sessions (id, contract_id, mentor_id, amount_minor, currency, completed_at)
    SELECT ${id}, 'contract-1', 'mentor-1', 12500, 'EUR',
           now() - interval '5 minutes' - number * (interval '${days} days' / ${count})
      FROM generate_series(1, ${count}) AS number;
    INSERT INTO mentor_payable_ledgers (session_id, mentor_id, amount_minor, currency, idempotency_key, created_at)
    SELECT id, mentor_id, amount_minor, currency, 'session:' || id || ':1', completed_at + interval '1 second'
      FROM sessions WHERE completed_at IS NOT NULL AND ${missing === 0 ? 'true' : `right(id::text, 9)::integer % ${missing} <> 0`};
    ANALYZE sessions; ANALYZE mentor_payable_ledgers`);
}

/** Completed sessions whose event was written and never handled. */
export async function plantPending(shop: Shop, count: number): Promise<void> {
  await shop.sql(`
    INSERT INTO sessions (id, contract_id, mentor_id, amount_minor, currency, completed_at)
    SELECT ${id}, 'contract-1', 'mentor-1', 12500, 'EUR', now() - interval '5 minutes'
      FROM generate_series(1, ${count}) AS number;
    INSERT INTO event_backups (event_id, event_name, payload, status, created_at)
    SELECT 'event-' || right(id::text, 9)::integer, 'services.session.completed.v1',
           jsonb_build_object('sessionId', id, 'contractId', contract_id, 'mentorId', mentor_id,
                              'amountMinor', amount_minor, 'currency', currency),
           'pending', completed_at
      FROM sessions WHERE id IN (SELECT ${id} FROM generate_series(1, ${count}) AS number)`);
}

/** Events that were processed so many days ago, of sessions that nobody asks for any more. */
export async function plantProcessed(shop: Shop, count: number, daysAgo: number): Promise<void> {
  await shop.sql(`
    INSERT INTO event_backups (event_id, event_name, payload, status, created_at, processed_at)
    SELECT 'old-' || number, 'services.session.completed.v1', jsonb_build_object('sessionId', gen_random_uuid()), 'processed',
           now() - interval '${daysAgo} days', now() - interval '${daysAgo} days'
      FROM generate_series(1, ${count}) AS number;
    ANALYZE event_backups`);
}

/** Empties the service's tables and what runs have recorded; the audit keeps what it has. */
export async function emptyTables(shop: Shop): Promise<void> {
  await shop.sql(`
    TRUNCATE sessions, mentor_payable_ledgers, event_backups CASCADE;
    TRUNCATE counterfoil.discrepancies, counterfoil.reconciliation_windows, counterfoil.checks, counterfoil.waivers,
             counterfoil.replay_events, counterfoil.horizon_snapshots, counterfoil.requests,
             counterfoil.request_items, counterfoil.job_leases, counterfoil.job_runs CASCADE`);
}

/** How many sessions completed in the last day have no bill, one, or several: what is lost and what is twice. */
export async function bills(shop: Shop): Promise<{ none: number; one: number; several: number }> {
  const [row] = await shop.query<{ none: number; one: number; several: number }>(`
    SELECT count(*) FILTER (WHERE bills = 0)::integer AS none, count(*) FILTER (WHERE bills = 1)::integer AS one,
           count(*) FILTER (WHERE bills > 1)::integer AS several
      FROM (SELECT (SELECT count(*) FROM mentor_payable_ledgers WHERE session_id = sessions.id) AS bills
              FROM sessions WHERE completed_at > now() - interval '1 day') AS each`);
  if (row === undefined) throw new Error('no row');
  return row;
}

/** How many of the events of plantProcessed are left. */
export const oldEventsLeft = (shop: Shop) =>
  shop.value<number>(`SELECT count(*)::integer FROM event_backups WHERE event_id LIKE 'old-%'`);
