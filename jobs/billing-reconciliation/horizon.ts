/**
 * How far a check may look: the newest time up to which nothing can still commit behind it. A row's time is
 * taken before its commit, so a row can appear behind a watermark for as long as its transaction is open.
 * Decides from what the database shows; never guesses in favour of a fresher figure.
 */
import type { Database, Transaction } from '../runtime/database.ts';
import { RunFailure } from '../runtime/failures.ts';
import { addMs, earliest, formatInstant, type Instant, msBetween, parseInstant } from './instant.ts';

interface HorizonSettings {
  readonly graceMs: number;
  readonly blindGraceMs: number;
  readonly maxLagMs: number;
}

/** What the database shows at one moment. */
export interface Observation {
  readonly now: Instant;
  /** Whether the role sees when the transactions of others began. */
  readonly seesAll: boolean;
  /** The oldest open transaction that is visible, if any. */
  readonly oldest:
    | { readonly pid: number; readonly application: string; readonly since: Instant }
    | undefined;
  /** The newest remembered time before which every transaction that writes has ended. */
  readonly settledMemory: Instant | undefined;
  /** The oldest remembered time of which that cannot be said. */
  readonly unsettledMemory: Instant | undefined;
  /** The oldest prepared transaction: when it was prepared, and the newest remembered time before its first write. */
  readonly prepared: { readonly at: Instant; readonly memory: Instant | undefined } | undefined;
  /** Whether this is a replica, and up to when it has replayed. */
  readonly replica: { readonly replayedTo: Instant | undefined } | undefined;
  /** Whether snapshots are remembered at all; not without state. */
  readonly remembers: boolean;
}

export interface Horizon {
  readonly now: Instant;
  /** Nothing before this can still change behind us; undefined when nothing is known to be settled. */
  readonly settled: Instant | undefined;
  /** How far to look. Beyond `settled`, findings are provisional. Undefined: there is nothing to look at. */
  readonly lookTo: Instant | undefined;
  /** Whether it rests on the start of every open transaction, and not on remembered snapshots. */
  readonly exact: boolean;
  /** Why the horizon stands still, for a person. */
  readonly heldBackBy: string | undefined;
}

/** An ordinary transaction is over by then; one that is not is worth a word. */
const NOTEWORTHY_MS = 300_000;

export function decideHorizon(seen: Observation, settings: HorizonSettings): Horizon {
  const { now } = seen;
  const blind = !seen.seesAll || seen.replica !== undefined;
  const target = addMs(now, -(blind ? Math.max(settings.graceMs, settings.blindGraceMs) : settings.graceMs));
  let settled: Instant | undefined = target;
  let heldBackBy: string | undefined;
  const holdAt = (bound: Instant | undefined, reason: () => string) => {
    if (settled === undefined || (bound !== undefined && bound >= settled)) return;
    settled = bound;
    heldBackBy = reason();
  };
  const { oldest, prepared, replica, settledMemory, unsettledMemory } = seen;
  if (replica !== undefined) {
    const bound =
      replica.replayedTo === undefined ? undefined : addMs(replica.replayedTo, -settings.blindGraceMs);
    holdAt(bound, () => 'the replica has not replayed further');
  } else if (blind && seen.remembers) {
    const stuck = unsettledMemory !== undefined && msBetween(unsettledMemory, now) > NOTEWORTHY_MS;
    const bound = settledMemory === undefined ? undefined : addMs(settledMemory, -settings.blindGraceMs);
    holdAt(bound, () => '');
    heldBackBy = stuck
      ? `a transaction that began before ${formatInstant(unsettledMemory)}; GRANT pg_read_all_stats to this role to see which`
      : undefined;
  }
  if (oldest !== undefined) {
    holdAt(
      oldest.since,
      () =>
        `pid ${oldest.pid}, application ${oldest.application === '' ? 'without a name' : oldest.application}, transaction open since ${formatInstant(oldest.since)}`,
    );
  }
  if (prepared !== undefined) {
    holdAt(
      addMs(prepared.memory ?? prepared.at, -settings.blindGraceMs),
      () => `a transaction prepared at ${formatInstant(prepared.at)} and never finished (pg_prepared_xacts)`,
    );
  }
  const lagFrom = settled ?? unsettledMemory ?? now;
  const lookTo = msBetween(lagFrom, now) > settings.maxLagMs ? addMs(now, -settings.graceMs) : settled;
  return {
    now,
    settled,
    lookTo: lookTo === undefined ? undefined : earliest(lookTo, now),
    exact: !blind,
    heldBackBy,
  };
}

/**
 * A 32-bit transaction id with its epoch, given the next one to be assigned: whatever is still open lies less
 * than 2^31 behind it.
 */
export function widenXid(xid: bigint, next: bigint): bigint {
  const wide = (next & ~0xffffffffn) | xid;
  return wide > next ? wide - 0x100000000n : wide;
}

const SETTLE_ATTEMPTS = 20;
const SETTLE_PAUSE_MS = 100;

/**
 * Looks at clock, transactions and snapshots, in this order: a transaction that begins later is newer than the
 * clock, and one that is prepared in between is seen on one of both lists.
 * @param hasState false: nothing is remembered or read of our own tables
 */
export async function observe(
  database: Database,
  hasState: boolean,
  pause: (ms: number) => Promise<void>,
): Promise<Observation> {
  for (let attempt = 1; ; attempt += 1) {
    const seen = await database.transaction(
      { access: hasState ? 'write' : 'read', repeatable: true },
      async (transaction) => await observeOnce(transaction, hasState),
    );
    // Without any memory that is settled, the transactions of this very moment mostly end within a second.
    const hopeful = hasState && !seen.seesAll && seen.settledMemory === undefined;
    if (!hopeful || attempt === SETTLE_ATTEMPTS) return seen;
    await pause(SETTLE_PAUSE_MS);
  }
}

async function observeOnce(transaction: Transaction, hasState: boolean): Promise<Observation> {
  const [server] = await transaction.query<{
    now: string;
    replica: boolean;
    replayed_to: string | null;
    sees_all: boolean;
    may_prepare: boolean;
  }>(
    `-- billing-reconciliation: observe (clock)
     SELECT clock_timestamp() AS now, pg_is_in_recovery() AS replica,
            CASE WHEN pg_is_in_recovery() THEN pg_last_xact_replay_timestamp() END AS replayed_to,
            pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') AS sees_all,
            current_setting('max_prepared_transactions')::integer > 0 AS may_prepare`,
  );
  if (server === undefined) throw new RunFailure('internal', 'the database did not tell its time');
  const now = parseInstant(server.now);
  if (server.replica) {
    const replayedTo = server.replayed_to === null ? undefined : parseInstant(server.replayed_to);
    return { ...nothingSeen, now, seesAll: false, replica: { replayedTo } };
  }
  const [oldest] = await transaction.query<{ pid: number; application: string; since: string }>(
    `-- billing-reconciliation: observe (open transactions of this database, our own left out)
     SELECT pid, coalesce(application_name, '') AS application, xact_start AS since
       FROM pg_stat_activity
      WHERE datname = current_database() AND xact_start IS NOT NULL AND pid <> pg_backend_pid()
        AND backend_type <> 'autovacuum worker'
      ORDER BY xact_start LIMIT 1`,
  );
  const visible =
    oldest === undefined
      ? undefined
      : { pid: oldest.pid, application: oldest.application, since: parseInstant(oldest.since) };
  const seen = { ...nothingSeen, now, seesAll: server.sees_all, oldest: visible, remembers: hasState };
  const remembersNow = hasState && (!server.sees_all || server.may_prepare);
  const prepared = server.may_prepare ? await findPrepared(transaction) : [];
  if (!remembersNow) {
    const [first] = prepared;
    return first === undefined
      ? seen
      : { ...seen, prepared: { at: parseInstant(first.prepared_at), memory: undefined } };
  }
  const memories = await remember(transaction);
  const settled = memories.filter((memory) => memory.next <= memory.oldestRunning);
  const unsettled = memories.filter((memory) => memory.next > memory.oldestRunning);
  const pending = prepared
    .map((one) => {
      const xid = widenXid(BigInt(one.xid), memories[0]?.newest ?? 0n);
      return {
        at: parseInstant(one.prepared_at),
        memory: memories.findLast((memory) => memory.next <= xid)?.takenAt,
      };
    })
    .sort((one, other) => Number((one.memory ?? one.at) - (other.memory ?? other.at)))[0];
  return {
    ...seen,
    settledMemory: settled.at(-1)?.takenAt,
    unsettledMemory: unsettled[0]?.takenAt,
    prepared: pending,
  };
}

const nothingSeen = {
  oldest: undefined,
  settledMemory: undefined,
  unsettledMemory: undefined,
  prepared: undefined,
  replica: undefined,
  remembers: false,
} as const;

const findPrepared = async (transaction: Transaction): Promise<{ xid: string; prepared_at: string }[]> =>
  await transaction.query(
    `-- billing-reconciliation: findPrepared
     SELECT transaction::text AS xid, prepared AS prepared_at
       FROM pg_prepared_xacts WHERE database = current_database() ORDER BY prepared`,
  );

interface Memory {
  readonly takenAt: Instant;
  /** The next transaction id at that time. */
  readonly next: bigint;
  /** The oldest transaction id that is running now. */
  readonly oldestRunning: bigint;
  /** The next transaction id now. */
  readonly newest: bigint;
}

/** Notes the newest transaction id of now, forgets what a newer settled note replaces; oldest first. */
async function remember(transaction: Transaction): Promise<Memory[]> {
  await transaction.execute(
    `-- billing-reconciliation: remember
     INSERT INTO horizon_snapshots (taken_at, next_xid)
     VALUES (clock_timestamp(), pg_snapshot_xmax(pg_current_snapshot())) ON CONFLICT DO NOTHING`,
  );
  await transaction.execute(
    `-- billing-reconciliation: remember (forget)
     DELETE FROM horizon_snapshots
      WHERE taken_at < (SELECT max(taken_at) FROM horizon_snapshots
                         WHERE next_xid <= pg_snapshot_xmin(pg_current_snapshot()))`,
  );
  const rows = await transaction.query<{ taken_at: string; next: string; oldest: string; newest: string }>(
    `-- billing-reconciliation: remember (recall)
     SELECT taken_at, next_xid::text AS next, pg_snapshot_xmin(pg_current_snapshot())::text AS oldest,
            pg_snapshot_xmax(pg_current_snapshot())::text AS newest
       FROM horizon_snapshots ORDER BY taken_at`,
  );
  return rows.map((row) => ({
    takenAt: parseInstant(row.taken_at),
    next: BigInt(row.next),
    oldestRunning: BigInt(row.oldest),
    newest: BigInt(row.newest),
  }));
}
