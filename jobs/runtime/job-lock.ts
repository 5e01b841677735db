/**
 * One run at a time, by a lease in a row. A row and not an advisory lock: it works through a transaction-mode
 * pooler, and it does not outlive a killed client by the length of its last statement (P23).
 */
import { randomUUID } from 'node:crypto';
import type { Database } from './database.ts';
import { RunFailure } from './failures.ts';
import type { Logger } from './logger.ts';
import { pause } from './pause.ts';

export interface Lease {
  readonly name: string;
  /** Aborted when the lease may have run out; whoever works under it stops at once. */
  readonly lost: AbortSignal;
  /** Throws `lease_lost` once the lease may have run out; call before every write that it protects. */
  check(): void;
  /** Gives the lease back; the next run need not wait for its end. */
  release(): Promise<void>;
}

export interface LeaseRequest {
  /** What is leased, such as `event-replay` or `billing-reconciliation:session-billing`. */
  readonly name: string;
  /** The run that holds it, for whoever looks at the table. */
  readonly holder: string;
  readonly ttlMs: number;
  /** How long to wait for a lease that is held. */
  readonly waitMs: number;
  readonly signal: AbortSignal;
}

/** Waits for the lease up to `waitMs`. Nothing when it is still held then, or when the run is told to stop. */
export async function acquireLease(
  database: Database,
  logger: Logger,
  request: LeaseRequest,
): Promise<Lease | undefined> {
  const token = randomUUID();
  const deadline = Date.now() + request.waitMs;
  while (!request.signal.aborted) {
    const askedAt = Date.now();
    if (await tryAcquire(database, request, token)) return hold(database, logger, request, token, askedAt);
    const leftMs = deadline - Date.now();
    if (leftMs <= 0) return undefined;
    await pause(Math.min(leftMs, 1_000), request.signal);
  }
  return undefined;
}

function hold(
  database: Database,
  logger: Logger,
  request: LeaseRequest,
  token: string,
  askedAt: number,
): Lease {
  const lost = new AbortController();
  // Counted from before the statement was sent: on the safe side of the database's own clock.
  let validUntil = askedAt + request.ttlMs;
  let renewing: Promise<void> = Promise.resolve();
  const giveUp = (reason: string) => {
    if (lost.signal.aborted) return;
    logger.error({ lease: request.name }, reason);
    lost.abort();
  };
  const renewOnce = async () => {
    // What was given up is not renewed: the next run need not wait for it.
    if (lost.signal.aborted) return;
    const renewedAt = Date.now();
    try {
      const renewed = await renew(database, request, token);
      if (renewed) validUntil = renewedAt + request.ttlMs;
      else giveUp('the lease of this run was taken over by another run: stopping');
    } catch (error) {
      if (lost.signal.aborted) return;
      logger.warn({ lease: request.name, err: error }, 'the lease could not be renewed: trying again');
    }
    if (Date.now() >= validUntil) giveUp('the lease of this run could not be renewed in time: stopping');
  };
  const timer = setInterval(() => {
    renewing = renewing.then(renewOnce);
  }, request.ttlMs / 3);
  const expiry = setInterval(
    () => {
      if (Date.now() >= validUntil) giveUp('the lease of this run could not be renewed in time: stopping');
    },
    Math.min(1_000, request.ttlMs / 10),
  );
  return {
    name: request.name,
    lost: lost.signal,
    check() {
      if (lost.signal.aborted || Date.now() >= validUntil) {
        throw new RunFailure('lease_lost', `the lease ${request.name} was lost: another run may be at work`);
      }
    },
    async release() {
      clearInterval(timer);
      clearInterval(expiry);
      await renewing;
      await release(database, request.name, token);
    },
  };
}

const tryAcquire = async (database: Database, request: LeaseRequest, token: string): Promise<boolean> =>
  await database.transaction({ repeatable: true, signal: request.signal }, async (transaction) => {
    const taken = await transaction.execute(
      `-- runtime: tryAcquire. The token makes a repeat after an unknown commit find its own row.
       INSERT INTO job_leases (name, holder, token, acquired_at, expires_at)
       VALUES ($1::text, $2::text, $3::uuid, clock_timestamp(),
               clock_timestamp() + $4::double precision * interval '1 millisecond')
       ON CONFLICT (name) DO UPDATE
          SET holder = excluded.holder, token = excluded.token,
              acquired_at = excluded.acquired_at, expires_at = excluded.expires_at
        WHERE job_leases.expires_at <= clock_timestamp() OR job_leases.token = excluded.token`,
      [request.name, request.holder, token, request.ttlMs],
    );
    return taken === 1;
  });

const renew = async (database: Database, request: LeaseRequest, token: string): Promise<boolean> =>
  await database.transaction({ repeatable: true }, async (transaction) => {
    const renewed = await transaction.execute(
      `-- runtime: renew
       UPDATE job_leases
          SET expires_at = clock_timestamp() + $3::double precision * interval '1 millisecond'
        WHERE name = $1::text AND token = $2::uuid`,
      [request.name, token, request.ttlMs],
    );
    return renewed === 1;
  });

const release = async (database: Database, name: string, token: string): Promise<void> =>
  await database.transaction({ repeatable: true }, async (transaction) => {
    await transaction.execute(
      `-- runtime: release
       DELETE FROM job_leases WHERE name = $1::text AND token = $2::uuid`,
      [name, token],
    );
  });
