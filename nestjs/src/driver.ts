/** Rows of one statement, as the database client gives them. */
export interface SqlResult {
  rows: Record<string, unknown>[];
}

/** One statement with numbered parameters (`$1`, `$2`). */
export interface Statement {
  sql: string;
  params: readonly unknown[];
}

/** Runs one statement with numbered parameters (`$1`, `$2`). Rejects with the database's own error. */
export interface SqlRunner {
  run(sql: string, params: readonly unknown[]): Promise<SqlResult>;
}

/** A write that a transaction keeps back until it knows what follows it. */
export interface HeldWrite {
  /** The write where another statement of the transaction follows: it is sent before that one. */
  beforeStatement(): Statement;
  /** The write where COMMIT follows: both travel together, and nothing can come between them. */
  withCommit(): Statement;
  /**
   * Called once where the write was refused, or the COMMIT it was sent with failed or has an unknown outcome. Not for
   * a transaction that is rolled back before.
   */
  failed(error: unknown): void;
}

/** A transaction that can say when it has been committed: all that `EventPublisher.publish` needs of one. */
export interface CommitAware extends SqlRunner {
  /**
   * Calls `callback` once, after the commit was acknowledged; never after a rollback, nor where the outcome of the
   * commit is unknown. Throws when the transaction is already over.
   */
  afterCommit(callback: () => void): void;
  /**
   * Keeps a write back, so that it costs no round trip of its own. Its place among the statements of the transaction
   * stays the same; its error is that of the next statement or of the commit. Optional: without it, `run` is used.
   * Throws when the transaction is already over.
   */
  hold?(write: HeldWrite): void;
}

/** A transaction opened by the driver, with the handle by which the service writes its own rows in it. */
export interface DriverTransaction<Handle = unknown> extends CommitAware {
  /** The service's own way to write in this transaction: a pg client, or drizzle's transaction. */
  readonly handle: Handle;
}

/** The database as the module sees it. Two are ready-made: `pgDriver` and `drizzleDriver`. */
export interface CounterfoilDriver<Handle = unknown> extends SqlRunner {
  /** Commits when `work` resolves and rolls back when it rejects; rejects when nothing was committed. */
  transaction<Result>(work: (tx: DriverTransaction<Handle>) => Promise<Result>): Promise<Result>;
}
