import { Logger } from '@nestjs/common';
import type { Pool, PoolClient } from 'pg';
import type { CounterfoilDriver, DriverTransaction, SqlRunner } from './driver.js';
import { errorCode } from './error-code.js';

/** A transaction that was to be committed and was rolled back by the server instead. */
export class CommitRefusedError extends Error {
  override readonly name = 'CommitRefusedError';
  constructor() {
    super(
      'COMMIT was answered with ROLLBACK: a statement in the transaction failed and its error was ignored',
    );
  }
}

/** A use of a transaction that has ended. */
export class TransactionOverError extends Error {
  override readonly name = 'TransactionOverError';
  constructor() {
    super('the transaction is over: publish inside the function given to transaction(), and await it there');
  }
}

const logger = new Logger('CounterfoilDatabase');
const guardedPools = new WeakSet<Pool>();

/**
 * Keeps a lost connection from ending the process: pg emits `error` on the pool for idle clients and on the client
 * for checked-out ones, and either without a listener is an uncaught exception. The statement in work still rejects.
 */
function guardPool(pool: Pool): void {
  if (guardedPools.has(pool)) return;
  guardedPools.add(pool);
  const onLost = (error: Error): void =>
    logger.warn({ message: 'A database connection was lost', error: errorCode(error) });
  pool.on('error', onLost);
  pool.on('connect', (client) => client.on('error', onLost));
}

class PgTransaction<Handle> implements DriverTransaction<Handle> {
  private callbacks: (() => void)[] | undefined = [];

  constructor(
    private readonly client: PoolClient,
    readonly handle: Handle,
  ) {}

  async run(sql: string, params: readonly unknown[]): Promise<{ rows: Record<string, unknown>[] }> {
    if (this.callbacks === undefined) throw new TransactionOverError();
    return await this.client.query(sql, [...params]);
  }

  afterCommit(callback: () => void): void {
    if (this.callbacks === undefined) throw new TransactionOverError();
    this.callbacks.push(callback);
  }

  /** Ends the transaction for its users and gives back what waits for the commit. */
  end(): (() => void)[] {
    const callbacks = this.callbacks ?? [];
    this.callbacks = undefined;
    return callbacks;
  }
}

/** Settings of a driver. */
export interface PgDriverOptions {
  /**
   * The server ends a statement in a transaction of the driver after this many ms (57014); 0 for never, the server's
   * own setting by default. Set with BEGIN, in its round trip: as a connection parameter poolers such as PgBouncer
   * refuse it, and set for a session it would leak to others of a transaction pool.
   */
  statementTimeoutMs?: number | undefined;
}

/**
 * The driver for a pg pool. `handle` makes what the service writes with from the checked-out client; it must not
 * begin or commit on its own.
 */
export function pgDriver<Handle>(
  pool: Pool,
  handle: (client: PoolClient) => Handle,
  options?: PgDriverOptions,
): CounterfoilDriver<Handle>;
/** The driver for a pg pool, with the checked-out client as handle. */
export function pgDriver(
  pool: Pool,
  handle?: undefined,
  options?: PgDriverOptions,
): CounterfoilDriver<PoolClient>;
export function pgDriver<Handle>(
  pool: Pool,
  handle?: (client: PoolClient) => Handle,
  { statementTimeoutMs }: PgDriverOptions = {},
): CounterfoilDriver<Handle | PoolClient> {
  if (
    statementTimeoutMs !== undefined &&
    (!Number.isSafeInteger(statementTimeoutMs) || statementTimeoutMs < 0)
  ) {
    throw new RangeError('statementTimeoutMs must be an integer of at least 0');
  }
  guardPool(pool);
  const begin =
    statementTimeoutMs === undefined ? 'begin' : `begin; set local statement_timeout = ${statementTimeoutMs}`;
  const run: SqlRunner['run'] = (sql, params) => pool.query(sql, [...params]);
  return {
    run,
    async transaction(work) {
      const client = await pool.connect();
      const tx = new PgTransaction<Handle | PoolClient>(client, handle ? handle(client) : client);
      let callbacks: (() => void)[];
      let result: Awaited<ReturnType<typeof work>>;
      let broken: Error | undefined;
      try {
        await client.query(begin);
        result = await work(tx);
        // Taken before COMMIT is sent, so that nothing can be added that no commit covers.
        callbacks = tx.end();
        const answer = await client.query('commit');
        if (answer.command !== 'COMMIT') throw new CommitRefusedError();
      } catch (error) {
        tx.end();
        // A client that cannot even roll back is thrown away; the caller sees the error that came first.
        await client.query('rollback').catch((rollbackError: Error) => {
          broken = rollbackError;
        });
        throw error;
      } finally {
        client.release(broken);
      }
      for (const callback of callbacks) runAfterCommit(callback);
      return result;
    },
  };
}

/** The commit stands whatever a callback does: its error must not look like that of the transaction. */
function runAfterCommit(callback: () => void): void {
  try {
    callback();
  } catch (error) {
    logger.error({ message: 'A callback failed after the commit', error: errorCode(error) });
  }
}
