/** The demo's past: sessions with their events and bills, and in known places what goes wrong in real life. */
import type { Client } from 'pg';

/** One discrepancy: the session (or, for an orphan, the session that never was), its kind and its cause. */
export interface Discrepancy {
  readonly id: string;
  readonly kind: string;
  /** Why a bill is missing; empty for the other kinds. */
  readonly cause: string;
}

/**
 * What is planted: rows `from`..`from + count - 1` of the generated sessions. `mendedByMachine` tells whether the
 * event can be delivered again or rebuilt from the session; the rest waits for an approval or a decision.
 */
const faults = [
  {
    name: 'event_pending',
    kind: 'missing',
    cause: 'event_pending',
    from: 1_000,
    count: 240,
    mendedByMachine: true,
  },
  // A payload that the service refuses: pending until replay finds out, then parked.
  {
    name: 'event_pending_broken',
    kind: 'missing',
    cause: 'event_pending',
    from: 2_000,
    count: 12,
    mendedByMachine: false,
  },
  {
    name: 'event_parked',
    kind: 'missing',
    cause: 'event_parked',
    from: 3_000,
    count: 30,
    mendedByMachine: false,
  },
  {
    name: 'processed_without_ledger',
    kind: 'missing',
    cause: 'processed_without_ledger',
    from: 4_000,
    count: 40,
    mendedByMachine: true,
  },
  {
    name: 'never_published',
    kind: 'missing',
    cause: 'never_published',
    from: 5_000,
    count: 60,
    mendedByMachine: true,
  },
  // From before the oldest event that is still kept: nobody can tell why any more.
  { name: 'unknown', kind: 'missing', cause: 'unknown', from: -1_000, count: 25, mendedByMachine: false },
  { name: 'duplicate', kind: 'duplicate', cause: '', from: 6_000, count: 35, mendedByMachine: false },
  { name: 'amount', kind: 'amount', cause: '', from: 7_000, count: 45, mendedByMachine: false },
  { name: 'orphan', kind: 'orphan', cause: '', from: 1, count: 20, mendedByMachine: false },
] as const;

type FaultName = (typeof faults)[number]['name'];

/** Looks wrong at first sight and is not: none of these may be found. */
const harmless = {
  /** Reversed and billed again: three rows, one of them live. */
  rebilled: { from: 8_000, count: 50 },
  /** Billed three days late. */
  late: { from: -3_000, count: 100 },
  /** Billed, but the event was not marked: replay delivers it again and the service must return the same bill. */
  unmarked: { from: 1_500, count: 20 },
  /** Not completed yet: no fact at all. */
  unfinished: { from: 9_000, count: 500 },
} as const;

/** Fewer sessions than this have no room for all that is planted. */
export const LEAST_FACTS = 20_000;

/** Sessions older than this many days have no event row any more, as after a retention run. */
const EVENTS_KEPT_DAYS = 10;
const HISTORY_DAYS = 30;

function faultCalled(name: FaultName) {
  const fault = faults.find((candidate) => candidate.name === name);
  if (fault === undefined) throw new Error(`no fault is called ${name}`);
  return fault;
}

/** SQL: row `i` belongs to a planted fault or to a harmless oddity. Negative places count from the oldest row. */
function within(place: { readonly from: number; readonly count: number }, facts: number): string {
  const from = place.from < 0 ? facts + place.from : place.from;
  return `i BETWEEN ${from} AND ${from + place.count - 1}`;
}

/** The id of session `i`: the same in every run, so that a person can look it up again. */
const sessionId = `md5('session ' || i)::uuid`;

/** Inserts `facts` sessions with events and bills; `report` takes the share that is done. */
export async function plant(client: Client, facts: number, report: (share: number) => void): Promise<void> {
  const isFault = (name: FaultName) => within(faultCalled(name), facts);
  const unbilled = faults
    .filter((fault) => fault.kind === 'missing')
    .map((fault) => within(fault, facts))
    .join(' OR ');
  await client.query('BEGIN');
  // Row 1 is the newest; the last minutes stay free for the load.
  await client.query(`
    CREATE TEMPORARY TABLE planned ON COMMIT DROP AS
    SELECT i, ${sessionId} AS id, 'contract-' || (i % 900) AS contract_id, 'mentor-' || (i % 300) AS mentor_id,
           (1000 + (i * 37) % 9000)::bigint AS amount_minor, CASE WHEN i % 5 = 0 THEN 'USD' ELSE 'EUR' END AS currency,
           now() - interval '20 minutes' - i * (interval '${HISTORY_DAYS} days' / ${facts}) AS completed_at
      FROM generate_series(1, ${facts}) AS i`);
  report(0.1);
  await client.query(`
    INSERT INTO sessions (id, contract_id, mentor_id, amount_minor, currency, created_at, completed_at)
    SELECT id, contract_id, mentor_id, amount_minor, currency, completed_at - interval '1 hour',
           CASE WHEN ${within(harmless.unfinished, facts)} THEN NULL ELSE completed_at END
      FROM planned ORDER BY i DESC`);
  report(0.3);
  await client.query(`
    INSERT INTO event_backups (event_id, event_name, payload, status, created_at, processed_at)
    SELECT 'planted-' || i, 'services.session.completed.v1',
           CASE WHEN ${isFault('event_pending_broken')}
                THEN jsonb_build_object('sessionId', id)
                ELSE jsonb_build_object('sessionId', id, 'contractId', contract_id, 'mentorId', mentor_id,
                                        'amountMinor', amount_minor, 'currency', currency) END,
           CASE WHEN ${isFault('event_pending')} OR ${isFault('event_pending_broken')} OR ${isFault('event_parked')}
                  OR ${within(harmless.unmarked, facts)} THEN 'pending' ELSE 'processed' END,
           completed_at AT TIME ZONE 'UTC', NULL
      FROM planned
     WHERE completed_at > now() - interval '${EVENTS_KEPT_DAYS} days'
       AND NOT (${isFault('never_published')} OR ${within(harmless.unfinished, facts)})
     ORDER BY i DESC`);
  report(0.5);
  await client.query(`
    INSERT INTO mentor_payable_ledgers (session_id, mentor_id, amount_minor, currency, idempotency_key, created_at)
    SELECT id, mentor_id, CASE WHEN ${isFault('amount')} THEN amount_minor + 100 ELSE amount_minor END, currency,
           'session:' || id || ':1',
           completed_at + CASE WHEN ${within(harmless.late, facts)} THEN interval '3 days' ELSE interval '5 seconds' END
      FROM planned
     WHERE NOT (${unbilled} OR ${within(harmless.unfinished, facts)})
     ORDER BY i DESC`);
  report(0.8);
  await client.query(`
    INSERT INTO mentor_payable_ledgers (session_id, mentor_id, amount_minor, currency, idempotency_key, created_at)
    SELECT id, mentor_id, amount_minor, currency, 'session:' || id || ':2', completed_at + interval '2 minutes'
      FROM planned WHERE ${isFault('duplicate')}`);
  await client.query(`
    INSERT INTO mentor_payable_ledgers
           (session_id, mentor_id, amount_minor, currency, idempotency_key, reverses_id, created_at)
    SELECT p.id, p.mentor_id, -p.amount_minor, p.currency, 'session:' || p.id || ':1:reversal', l.id,
           p.completed_at + interval '1 minute'
      FROM planned p JOIN mentor_payable_ledgers l ON l.session_id = p.id
     WHERE ${within(harmless.rebilled, facts)}`);
  await client.query(`
    INSERT INTO mentor_payable_ledgers (session_id, mentor_id, amount_minor, currency, idempotency_key, created_at)
    SELECT id, mentor_id, amount_minor, currency, 'session:' || id || ':2', completed_at + interval '2 minutes'
      FROM planned WHERE ${within(harmless.rebilled, facts)}`);
  await client.query(`
    INSERT INTO mentor_payable_ledgers (session_id, mentor_id, amount_minor, currency, idempotency_key, created_at)
    SELECT md5('nobody ' || i)::uuid, 'mentor-' || i, 5000, 'EUR', 'session:' || md5('nobody ' || i)::uuid || ':1',
           now() - interval '1 day'
      FROM generate_series(1, ${faultCalled('orphan').count}) AS i`);
  await client.query(`
    INSERT INTO counterfoil.replay_events
           (event_id, event_name, event_created_at, status, parked_at, parked_reason, handler_attempts)
    SELECT 'planted-' || i, 'services.session.completed.v1', completed_at, 'parked', now(), 'attempts_exhausted', 5
      FROM planned WHERE ${isFault('event_parked')}`);
  await client.query('COMMIT');
  await client.query('ANALYZE sessions, mentor_payable_ledgers, event_backups');
  report(1);
}

/** Every planted discrepancy, by id; `mendedByMachine` narrows it to those that are mended without a person, or not. */
export async function listPlanted(
  client: Client,
  facts: number,
  filter: { readonly mendedByMachine?: boolean } = {},
): Promise<Discrepancy[]> {
  const wanted = faults.filter(
    (fault) => filter.mendedByMachine === undefined || fault.mendedByMachine === filter.mendedByMachine,
  );
  const planted: Discrepancy[] = [];
  for (const fault of wanted) {
    const ids = await client.query<{ id: string }>(
      `SELECT ${fault.kind === 'orphan' ? `md5('nobody ' || i)::uuid` : sessionId} AS id
         FROM generate_series(1, ${facts}) AS i
        WHERE ${fault.kind === 'orphan' ? `i <= ${fault.count}` : within(fault, facts)}`,
    );
    for (const row of ids.rows) planted.push({ id: row.id, kind: fault.kind, cause: fault.cause });
  }
  return planted;
}
