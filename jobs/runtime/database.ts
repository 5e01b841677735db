/**
 * The only file that imports `pg`. Everything runs in a short transaction whose settings are made by
 * SET LOCAL: no session state, no prepared names, so that it works through PgBouncer in transaction mode.
 * Each method has one signature: biome cannot see a forgotten `await` behind overloads like those of pg.
 */
import { Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { Client, Pool, type PoolClient, type QueryConfig, type QueryResult, types } from 'pg';
import { RunFailure } from './failures.ts';
import type { Logger } from './logger.ts';
import { breaksConnection, errorCode, mayRetry, toRunFailure } from './sqlstates.ts';

export interface DatabaseSettings {
  /** `postgresql://…`; `sslmode` and `sslrootcert` as in libpq. */
  readonly url: string;
  /** Shown in `pg_stat_activity`, so that a person finds us and we find who holds us up. */
  readonly applicationName: string;
  /** The Postgres schema of our own tables: the whole `search_path` of our transactions. */
  readonly schema: string;
  readonly poolSize: number;
  readonly connectTimeoutMs: number;
  readonly lockTimeoutMs: number;
  /** Total time for retries of one transaction while the database is away. 0: no retry. */
  readonly retryMs: number;
}

export interface TransactionOptions {
  /** `BEGIN READ ONLY`: Postgres itself refuses a write, whatever the statement says. Default `write`. */
  readonly access?: 'read' | 'write';
  /** Limit of one statement, in milliseconds. Default 5,000. */
  readonly statementTimeoutMs?: number;
  /**
   * Whether running the whole transaction twice gives the same result. Only then is it tried again after a
   * connection that was lost during COMMIT, when nobody knows the outcome. Default true for reads, else false.
   */
  readonly repeatable?: boolean;
  /** Looks names up by the role's own `search_path` and not in our schema: for names that a user gave. */
  readonly userSearchPath?: boolean;
  /** Walks indexes in their order, whatever the statistics say (`BY_INDEX`). */
  readonly byIndex?: boolean;
  readonly signal?: AbortSignal;
}

/** One open transaction. Times arrive as text in UTC, bigint and numeric as text: nothing is rounded. */
export interface Transaction {
  /** Runs one statement and gives its rows. */
  query<Row>(text: string, params?: readonly unknown[]): Promise<Row[]>;
  /** Runs one statement and gives the number of rows that it changed or returned. */
  execute(text: string, params?: readonly unknown[]): Promise<number>;
  /** Runs several statements without parameters, as one round trip. */
  script(text: string): Promise<void>;
}

const INT8 = 20;
const NUMERIC = 1700;
const DATE = 1082;
const TIMESTAMP = 1114;
const TIMESTAMPTZ = 1184;
const asText = new Set<number>([INT8, NUMERIC, DATE, TIMESTAMP, TIMESTAMPTZ]);
const rawTypes = {
  getTypeParser: (oid: number, format?: 'text' | 'binary') =>
    asText.has(oid) ? (value: string) => value : types.getTypeParser(oid, format as 'text'),
};

/** Quotes an identifier that a user gave, for the few statements whose tables are settings. */
export function quoteIdentifier(name: string): string {
  if (name.includes('\0')) throw new RunFailure('checks_invalid', 'an identifier contains a NUL character');
  return `"${name.replaceAll('"', '""')}"`;
}

/**
 * For a statement that takes some rows from the head of an index. By statistics from when hardly any were in it, the planner
 * would rather read and sort all of them each time.
 */
export const BY_INDEX =
  'SET LOCAL enable_sort = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_seqscan = off';

const DEFAULT_STATEMENT_TIMEOUT_MS = 5_000;
/** The client waits this much longer than the server before it takes the connection for half open (P24). */
const HALF_OPEN_MARGIN_MS = 5_000;
/** The longest statement that any job may ask for. */
const LONGEST_STATEMENT_MS = 60_000;
/** The client's limit for BEGIN, COMMIT and ROLLBACK; a COMMIT may wait for a synchronous replica. */
const TRANSACTION_CONTROL_LIMIT_MS = 30_000;

export class Database {
  readonly #pool: Pool;
  readonly #settings: DatabaseSettings;
  readonly #logger: Logger;
  readonly #sockets = new Set<Socket>();
  #closed = false;
  #retryUntil = Number.POSITIVE_INFINITY;

  constructor(settings: DatabaseSettings, logger: Logger) {
    this.#settings = settings;
    this.#logger = logger;
    this.#pool = new Pool({
      connectionString: withLibpqMeaning(settings.url),
      application_name: settings.applicationName,
      max: settings.poolSize,
      connectionTimeoutMillis: settings.connectTimeoutMs,
      idleTimeoutMillis: 30_000,
      keepAlive: true,
      keepAliveInitialDelayMillis: 10_000,
      query_timeout: TRANSACTION_CONTROL_LIMIT_MS,
      types: rawTypes,
      stream: () => this.#newSocket(),
    });
    // Without a listener, the server ending an idle connection would end this process (P25).
    this.#pool.on('error', (error) => {
      this.#logger.warn({ code: errorCode(error) }, 'an idle database connection was lost');
    });
  }

  /** The Postgres schema of our own tables. */
  get schema(): string {
    return this.#settings.schema;
  }

  /**
   * Runs `work` in one short transaction and commits it. Errors of the table in sqlstates.ts that may be
   * retried are, with jitter, until `retryMs` is used up; `work` must therefore have no effect but on the
   * database.
   * @throws RunFailure, with the failure of that table
   */
  async transaction<Result>(
    options: TransactionOptions,
    work: (transaction: Transaction) => Promise<Result>,
  ): Promise<Result> {
    const deadline = Date.now() + this.#settings.retryMs;
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await this.#once(options, work);
      } catch (error) {
        const waitMs = Math.min(100 * 2 ** attempt, 5_000) * (0.5 + Math.random() / 2);
        const outcomeUnknown = error instanceof CommitOutcomeUnknown;
        const cause = outcomeUnknown ? error.cause : error;
        const again = outcomeUnknown
          ? (options.repeatable ?? options.access === 'read')
          : mayRetry(error) && !this.#closed;
        const latest = Math.min(deadline, this.#retryUntil);
        if (!again || Date.now() + waitMs > latest || options.signal?.aborted === true) {
          throw toRunFailure(cause);
        }
        this.#logger.warn(
          { code: errorCode(cause), attempt },
          'the database did not answer as it should: trying again',
        );
        await delay(waitMs, undefined, options.signal === undefined ? {} : { signal: options.signal }).catch(
          () => {
            throw toRunFailure(cause);
          },
        );
      }
    }
  }

  /** `transaction` for a read: Postgres refuses writes, and it may always be tried again. */
  async read<Result>(
    work: (transaction: Transaction) => Promise<Result>,
    options: TransactionOptions = {},
  ): Promise<Result> {
    return await this.transaction({ ...options, access: 'read' }, work);
  }

  /** Nothing is tried again after this moment, in milliseconds since 1970: a run that has to end cannot wait longer. */
  limitRetries(until: number): void {
    this.#retryUntil = until;
  }

  /** Ends all connections. Idle at this point: a statement still running is bounded by its own time limit. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#pool.end();
    for (const socket of this.#sockets) socket.destroy();
  }

  /**
   * pg leaves the socket of a login that it gives up itself (no password in the URL), and the process would stay
   * alive until the server loses patience after a minute: close() ends what is left.
   */
  #newSocket(): Socket {
    const socket = new Socket();
    this.#sockets.add(socket);
    socket.once('close', () => this.#sockets.delete(socket));
    return socket;
  }

  async #once<Result>(
    options: TransactionOptions,
    work: (transaction: Transaction) => Promise<Result>,
  ): Promise<Result> {
    const client = await this.#pool.connect();
    let lost: unknown;
    const onError = (error: unknown) => {
      lost = error;
    };
    // A client that is checked out reports a lost connection here and not on the pool.
    client.on('error', onError);
    try {
      await client.query(this.#begin(options)).catch((error: unknown) => {
        throw refusedByStandby(error) ?? error;
      });
      const result = await work(new OpenTransaction(client, statementLimit(options) + HALF_OPEN_MARGIN_MS));
      await commit(client);
      return result;
    } catch (error) {
      lost ??= breaksConnection(error) || error instanceof CommitOutcomeUnknown ? error : undefined;
      if (lost === undefined) {
        await client.query('ROLLBACK').catch((rollbackError: unknown) => {
          lost = rollbackError;
        });
      }
      throw error;
    } finally {
      client.off('error', onError);
      client.release(lost !== undefined);
    }
  }

  #begin(options: TransactionOptions): string {
    return [
      options.access === 'read' ? 'BEGIN READ ONLY' : 'BEGIN READ WRITE',
      `SET LOCAL statement_timeout = ${statementLimit(options)}`,
      `SET LOCAL lock_timeout = ${Math.round(this.#settings.lockTimeoutMs)}`,
      `SET LOCAL idle_in_transaction_session_timeout = ${LONGEST_STATEMENT_MS}`,
      `SET LOCAL TimeZone = 'UTC'`,
      `SET LOCAL DateStyle = 'ISO, YMD'`,
      // One core of a database that others live on, and no compilation for statements of milliseconds.
      'SET LOCAL max_parallel_workers_per_gather = 0',
      'SET LOCAL jit = off',
      // A window of some 200,000 rows is hashed in it, where the 4 MB of a server's default would spill at a quarter of that.
      `SET LOCAL work_mem = '32MB'`,
      ...(options.byIndex === true ? [BY_INDEX] : []),
      ...(options.userSearchPath === true
        ? []
        : [`SET LOCAL search_path = ${quoteIdentifier(this.#settings.schema)}, pg_temp`]),
    ].join('; ');
  }
}

/** A standby answers BEGIN READ WRITE with 0A000, feature_not_supported, and nothing else in our BEGIN can. */
function refusedByStandby(error: unknown): RunFailure | undefined {
  if (errorCode(error) !== '0A000') return undefined;
  return new RunFailure(
    'database_read_only',
    'this server is a standby, and this run has to write: name the primary in DATABASE_URL',
    { cause: error },
  );
}

/** The server's limit for one statement, in whole milliseconds. */
function statementLimit(options: TransactionOptions): number {
  const limitMs = Math.round(options.statementTimeoutMs ?? DEFAULT_STATEMENT_TIMEOUT_MS);
  if (limitMs < 1 || limitMs > LONGEST_STATEMENT_MS) {
    throw new RunFailure('internal', `a statement limit must lie between 1 and ${LONGEST_STATEMENT_MS} ms`);
  }
  return limitMs;
}

class OpenTransaction implements Transaction {
  readonly #client: PoolClient;
  readonly #clientLimitMs: number;

  constructor(client: PoolClient, clientLimitMs: number) {
    this.#client = client;
    this.#clientLimitMs = clientLimitMs;
  }

  async query<Row>(text: string, params: readonly unknown[] = []): Promise<Row[]> {
    return (await this.#run(text, params)).rows as Row[];
  }

  async execute(text: string, params: readonly unknown[] = []): Promise<number> {
    return (await this.#run(text, params)).rowCount ?? 0;
  }

  async script(text: string): Promise<void> {
    await this.#client.query({
      text,
      query_timeout: LONGEST_STATEMENT_MS + HALF_OPEN_MARGIN_MS,
    } as QueryConfig);
  }

  async #run(text: string, params: readonly unknown[]): Promise<QueryResult> {
    // pg honours query_timeout per query; its types do not know that.
    return await this.#client.query({
      text,
      values: [...params],
      query_timeout: this.#clientLimitMs,
    } as QueryConfig);
  }
}

/** COMMIT was sent and no answer came: committed or not, nobody knows. */
class CommitOutcomeUnknown extends Error {}

async function commit(client: PoolClient): Promise<void> {
  let command: string;
  try {
    command = (await client.query('COMMIT')).command;
  } catch (error) {
    // An answer with a SQLSTATE (a deferred constraint) is a clear "no"; silence is not.
    if (!breaksConnection(error)) throw error;
    throw new CommitOutcomeUnknown('the connection was lost during COMMIT', { cause: error });
  }
  // Postgres answers ROLLBACK to the COMMIT of a transaction in which a statement failed.
  if (command !== 'COMMIT') {
    throw new RunFailure('internal', 'a transaction was rolled back by the server at its COMMIT');
  }
}

/**
 * What keeps a URL from being used, without quoting it: no server is asked. pg reads a URL, and the certificates
 * that it names, only when it makes a client, which is too late for a list of all settings that are wrong.
 */
export function problemOfUrl(url: string): string | undefined {
  try {
    new Client({ connectionString: withLibpqMeaning(url) });
    return undefined;
  } catch (error) {
    switch (errorCode(error)) {
      case undefined:
        return 'sslmode=verify-ca needs sslrootcert';
      case 'ERR_INVALID_URL':
        return 'is not a URL';
      default:
        return `names a file that cannot be read (${errorCode(error)})`;
    }
  }
}

/**
 * pg reads `sslmode=require` as "verify"; libpq, every other tool and its documentation do not. This switch of
 * pg-connection-string gives the URL the meaning that people know.
 */
function withLibpqMeaning(url: string): string {
  if (!/[?&]sslmode=/.test(url)) return url;
  return `${url}&uselibpqcompat=true`;
}
