import { Logger } from '@nestjs/common';
import type { Pool, PoolClient } from 'pg';
import type {
  CounterfoilDriver,
  DriverTransaction,
  HeldWrite,
  SqlResult,
  SqlRunner,
  Statement,
} from './driver.js';
import { errorCode } from './error-code.js';
import { canPipeline, pipelinedQueryOf, type WireResult } from './pipelined-query.js';

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

type Query = (...args: unknown[]) => unknown;

/**
 * One client of the pool, with its `query` routed through the transaction that has the client at the time: it must see
 * every statement, so that what it keeps back is sent before.
 */
class RoutedClient {
  transaction: PgTransaction<unknown> | undefined;
  readonly pipelines: boolean;
  /** The client's own `query`, whoever has wrapped it. */
  readonly direct: Query;

  constructor(readonly client: PoolClient) {
    this.pipelines = canPipeline(client);
    const target = client as unknown as { query: Query };
    const own = Object.getOwnPropertyDescriptor(client, 'query')?.value as Query | undefined;
    // Otherwise looked up with each call: tracing may patch the prototype later.
    const prototype = Object.getPrototypeOf(client) as { query: Query };
    this.direct = (...args) => (own ?? prototype.query).apply(client, args);
    target.query = (...args) =>
      this.transaction === undefined ? this.direct(...args) : this.transaction.route(args);
  }
}

const routedClients = new WeakMap<PoolClient, RoutedClient>();

function routed(client: PoolClient): RoutedClient {
  let found = routedClients.get(client);
  if (found === undefined) {
    found = new RoutedClient(client);
    routedClients.set(client, found);
  }
  return found;
}

const COMMIT = { text: 'commit', queryMode: 'extended' } as const;
/** `in_failed_sql_transaction`: an earlier statement is the one to blame. */
const IN_FAILED_TRANSACTION = '25P02';

class PgTransaction<Handle> implements DriverTransaction<Handle> {
  private callbacks: (() => void)[] | undefined = [];
  private held: HeldWrite[] = [];
  /**
   * BEGIN travels with the first statement. `sent`: not answered yet, so that what follows waits for it; `failed`:
   * there is no transaction, and nothing more may be sent, since it would commit by itself.
   */
  private begun: 'not_yet' | 'sent' | 'yes' | 'failed' = 'not_yet';
  private beginError: unknown;
  /** Resolves, and never rejects, when BEGIN is answered. */
  private beginAnswered: Promise<void> | undefined;
  private onBeginAnswered: (() => void) | undefined;
  /** What became of a write that was kept back and then sent before another statement. */
  private heldError: unknown;
  readonly handle: Handle;
  readonly hold?: (write: HeldWrite) => void;

  constructor(
    private readonly routedClient: RoutedClient,
    private readonly begin: readonly Statement[],
    handle: (client: PoolClient) => Handle,
  ) {
    this.handle = handle(routedClient.client);
    if (routedClient.pipelines) {
      this.hold = (write) => {
        if (this.callbacks === undefined) throw new TransactionOverError();
        this.held.push(write);
      };
    }
  }

  async run(sql: string, params: readonly unknown[]): Promise<SqlResult> {
    if (this.callbacks === undefined) throw new TransactionOverError();
    return (await this.route([{ text: sql, queryMode: 'extended' }, params])) as SqlResult;
  }

  afterCommit(callback: () => void): void {
    if (this.callbacks === undefined) throw new TransactionOverError();
    this.callbacks.push(callback);
  }

  /** Where the client cannot send BEGIN with the first statement. */
  async beginAtOnce(): Promise<void> {
    for (const { sql } of this.begin) await this.routedClient.direct(sql);
    this.begun = 'yes';
  }

  /** Any statement of the transaction, as it was given to the client's `query`. */
  route(args: unknown[]): unknown {
    if (this.callbacks === undefined) return this.refuse(args, new TransactionOverError());
    if (this.begun === 'failed') return this.refuse(args, this.beginError);
    if (this.begun === 'sent') return this.routeOnceBegun(args);
    if (this.held.length > 0) return this.sendAfterHeld(args);
    if (this.begun === 'yes') return this.routedClient.direct(...args);
    if (canFollow(args)) return this.sendPipelined(this.begin, args[0] as object, args[1]);
    void this.sendGroup([]).catch(() => undefined);
    return this.routeOnceBegun(args);
  }

  /** Commits, and gives back what waits for the commit. */
  async commit(): Promise<(() => void)[]> {
    // Taken before COMMIT is sent, so that nothing can be added that no commit covers.
    const callbacks = this.end();
    await this.beginAnswered;
    if (this.begun === 'failed') throw this.beginError;
    const held = this.held.splice(0);
    if (held.length === 0) {
      // Nothing was ever sent: there is no transaction to end.
      if (this.begun === 'not_yet') return callbacks;
      const answer = (await this.routedClient.direct('commit')) as WireResult;
      if (answer.command !== 'COMMIT') throw this.heldError ?? new CommitRefusedError();
      return callbacks;
    }
    const sent: HeldWrite[] = [];
    try {
      const writes = held.map((write) => {
        sent.push(write);
        return write.withCommit();
      });
      const first = this.begun === 'not_yet' ? [...this.begin, ...writes] : writes;
      const answer = (await this.sendPipelined(first, COMMIT)) as WireResult;
      if (answer.command !== 'COMMIT') throw new CommitRefusedError();
      return callbacks;
    } catch (error) {
      for (const write of sent) write.failed(error);
      throw error;
    }
  }

  /** Rolls back what may have been begun. Gives the error of a client that cannot even do that. */
  async abandon(): Promise<Error | undefined> {
    this.end();
    this.held = [];
    if (this.begun === 'not_yet') return undefined;
    try {
      await this.routedClient.direct('rollback');
      return undefined;
    } catch (rollbackError) {
      return rollbackError as Error;
    }
  }

  private end(): (() => void)[] {
    const callbacks = this.callbacks ?? [];
    this.callbacks = undefined;
    return callbacks;
  }

  /** What is kept back goes first, as a message of its own: a later `rollback to savepoint` must still be run. */
  private sendAfterHeld(args: unknown[]): unknown {
    const held = this.held.splice(0);
    const writes = held.map((write) => write.beforeStatement());
    const sent = this.sendGroup(writes).catch((error: unknown) => {
      this.heldError ??= error;
      for (const write of held) write.failed(error);
    });
    const answer = this.route(args);
    if (!(answer instanceof Promise)) return answer;
    return answer.catch(async (error: unknown) => {
      await sent;
      throw errorCode(error) === IN_FAILED_TRANSACTION ? (this.heldError ?? error) : error;
    });
  }

  /** Statements of ours alone, with BEGIN before them where it is still to be sent. */
  private async sendGroup(writes: readonly Statement[]): Promise<void> {
    const all = this.begun === 'not_yet' ? [...this.begin, ...writes] : writes;
    const last = all[all.length - 1] as Statement;
    await this.sendPipelined(all.slice(0, -1), { text: last.sql, queryMode: 'extended' }, last.params);
  }

  private async sendPipelined(
    first: readonly Statement[],
    config: object,
    values?: unknown,
  ): Promise<unknown> {
    const begins = this.begun === 'not_yet';
    if (begins) {
      this.begun = 'sent';
      this.beginAnswered = new Promise((resolve) => {
        this.onBeginAnswered = resolve;
      });
    }
    const { client, direct } = this.routedClient;
    const Pipelined = pipelinedQueryOf(client);
    const onBegun = begins ? () => this.settleBegin() : undefined;
    const query = new Pipelined(first, onBegun, config, values);
    try {
      return await new Promise((resolve, reject) => {
        query.callback = (error, result) => {
          if (begins && this.begun === 'sent') this.settleBegin(error);
          if (error) reject(error);
          else resolve(result);
        };
        direct(query);
      });
    } catch (error) {
      // The place in pg that has read the answer says nothing; the one that has asked does.
      if (error instanceof Error) Error.captureStackTrace(error);
      throw error;
    }
  }

  private settleBegin(error?: unknown): void {
    this.begun = error ? 'failed' : 'yes';
    this.beginError = error;
    this.onBeginAnswered?.();
  }

  /** A statement that comes while BEGIN is not answered: it must not be sent where BEGIN fails. */
  private routeOnceBegun(args: unknown[]): unknown {
    const routing = this.beginAnswered?.then(() => this.route(args));
    const isQuery = typeof (args[0] as { submit?: unknown } | null)?.submit === 'function';
    if (isQuery) return args[0];
    return args.some((arg) => typeof arg === 'function') ? undefined : routing;
  }

  /** The same form of answer as pg gives to a query that cannot be sent. */
  private refuse(args: unknown[], error: unknown): unknown {
    const callback = args.find((arg) => typeof arg === 'function') as ((error: unknown) => void) | undefined;
    if (callback !== undefined) {
      process.nextTick(callback, error);
      return undefined;
    }
    const query = args[0] as { submit?: unknown; handleError?(error: unknown, connection: unknown): void };
    if (typeof query?.submit === 'function') {
      process.nextTick(() => query.handleError?.(error, undefined));
      return query;
    }
    return Promise.reject(error);
  }
}

/**
 * Whether BEGIN can travel in front of this statement: one that has parameters, hence is a single one, is sent by the
 * extended protocol and whose result is waited for as a promise.
 */
function canFollow([config, values, callback]: unknown[]): boolean {
  if (callback !== undefined || typeof values === 'function') return false;
  const query = (typeof config === 'string' ? { text: config } : config) as {
    text?: unknown;
    name?: unknown;
    rows?: unknown;
    values?: unknown;
    submit?: unknown;
    callback?: unknown;
    queryMode?: unknown;
  } | null;
  const parameters = values ?? query?.values;
  return (
    query !== null &&
    typeof query?.text === 'string' &&
    query.submit === undefined &&
    query.callback === undefined &&
    !query.name &&
    !query.rows &&
    (Array.isArray(parameters) ? parameters.length > 0 || query.queryMode === 'extended' : false)
  );
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
  const begin: Statement[] = [{ sql: 'begin', params: [] }];
  if (statementTimeoutMs !== undefined) {
    begin.push({ sql: `set local statement_timeout = ${statementTimeoutMs}`, params: [] });
  }
  const handleOf: (client: PoolClient) => Handle | PoolClient = handle ?? ((client) => client);
  const run: SqlRunner['run'] = (sql, params) => pool.query(sql, params as unknown[]);
  return {
    run,
    async transaction(work) {
      const client = await pool.connect();
      const route = routed(client);
      const tx = new PgTransaction(route, begin, handleOf);
      route.transaction = tx;
      let callbacks: (() => void)[];
      let result: Awaited<ReturnType<typeof work>>;
      let broken: Error | undefined;
      try {
        if (!route.pipelines) await tx.beginAtOnce();
        result = await work(tx);
        callbacks = await tx.commit();
      } catch (error) {
        // A client that cannot even roll back is thrown away; the caller sees the error that came first.
        broken = await tx.abandon();
        throw error;
      } finally {
        route.transaction = undefined;
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
    try {
      logger.error({ message: 'A callback failed after the commit', error: errorCode(error) });
    } catch {
      // Neither may a logger.
    }
  }
}
