import { Logger } from '@nestjs/common';
import type { DriverTransaction, SqlResult, SqlRunner } from './driver.js';
import { errorCode } from './error-code.js';
import { CommitRefusedError, TransactionOverError } from './pg-driver.js';

// What the drivers for TypeORM, Knex and Prisma share. These begin and commit themselves, have no hook after a commit
// that could be relied on, and none looks at what COMMIT was answered with.

/** A use of the ORM's own commit or rollback inside a transaction of the driver. */
export class TransactionEndedEarlyError extends Error {
  override readonly name = 'TransactionEndedEarlyError';
  constructor() {
    super(
      'the transaction was ended inside the function given to transaction(): let it resolve to commit, or throw',
    );
  }
}

/** What is needed of a pg client that an ORM has checked out. */
export interface NativeClient {
  query(...args: unknown[]): unknown;
}

/** Settings of every ORM's driver. */
export interface OrmDriverOptions {
  /**
   * The server ends a statement in a transaction of the driver after this many ms (57014); 0 for never, the server's
   * own setting by default. Set in each transaction, by one statement of its own: what is set for a session would
   * leak to others behind a pooler such as PgBouncer.
   */
  statementTimeoutMs?: number | undefined;
}

/** The statement by which a transaction limits its own; undefined without a limit. Throws RangeError. */
export function limitStatement({ statementTimeoutMs }: OrmDriverOptions): string | undefined {
  if (statementTimeoutMs === undefined) return undefined;
  if (!Number.isSafeInteger(statementTimeoutMs) || statementTimeoutMs < 0) {
    throw new RangeError('statementTimeoutMs must be an integer of at least 0');
  }
  return `set local statement_timeout = ${statementTimeoutMs}`;
}

/**
 * Runs statements on the client itself. Through the ORM, an error would carry the parameters (TypeORM as a property,
 * Knex in the message), a log of statements would show them, and Knex would look for `?` in the text.
 */
export function nativeRunner(client: NativeClient, isOver: () => boolean): SqlRunner {
  return {
    async run(sql, params) {
      if (isOver()) throw new TransactionOverError();
      return (await client.query(sql, [...params])) as SqlResult;
    },
  };
}

/** A transaction while the function given to `transaction` runs; afterwards every use throws. */
export class OpenTransaction<Handle> implements DriverTransaction<Handle> {
  private callbacks: (() => void)[] | undefined = [];

  constructor(
    private readonly runner: SqlRunner,
    readonly handle: Handle,
  ) {}

  async run(sql: string, params: readonly unknown[]): Promise<SqlResult> {
    if (this.callbacks === undefined) throw new TransactionOverError();
    return await this.runner.run(sql, params);
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

/** What is known of the commit of a watched client. */
export interface CommitWatch {
  /** Whether the server has acknowledged a COMMIT as one. */
  committed: boolean;
  /** Gives the client back as it was. */
  stop(): void;
}

const COMMIT = /^\s*commit\b/i;

type Callback = (error: unknown, result?: unknown) => void;

/**
 * Makes a COMMIT that the server answers with ROLLBACK fail with CommitRefusedError, until stopped: both TypeORM and
 * Knex throw the answer away and call it a commit. Only this one client's `query` is covered, for one transaction.
 */
export function watchCommit(client: NativeClient): CommitWatch {
  const own = Object.getOwnPropertyDescriptor(client, 'query');
  const query = client.query;
  const watch: CommitWatch = {
    committed: false,
    stop() {
      if (own === undefined) Reflect.deleteProperty(client, 'query');
      else Object.defineProperty(client, 'query', own);
    },
  };
  const judge = (result: unknown): void => {
    if ((result as { command?: unknown } | undefined)?.command !== 'COMMIT') throw new CommitRefusedError();
    watch.committed = true;
  };
  client.query = (...args) => {
    const [statement, ...rest] = args;
    const text = typeof statement === 'string' ? statement : (statement as { text?: unknown })?.text;
    if (typeof text !== 'string' || !COMMIT.test(text)) return query.apply(client, args);
    const done = rest.at(-1);
    if (typeof done !== 'function') {
      return (query.apply(client, args) as Promise<unknown>).then((result) => {
        judge(result);
        return result;
      });
    }
    return query.call(client, statement, ...rest.slice(0, -1), (error: unknown, result: unknown) => {
      try {
        if (!error) judge(result);
      } catch (refused) {
        return (done as Callback)(refused);
      }
      (done as Callback)(error, result);
    });
  };
  return watch;
}

const logger = new Logger('CounterfoilDatabase');

/** The commit stands whatever a callback does: its error must not look like that of the transaction. */
export function runAfterCommit(callbacks: readonly (() => void)[]): void {
  for (const callback of callbacks) {
    try {
      callback();
    } catch (error) {
      noteAfterCommit(error);
    }
  }
}

/** Logs what failed after a commit that stands. */
export function noteAfterCommit(error: unknown): void {
  logger.error({ message: 'A callback failed after the commit', error: errorCode(error) });
}
