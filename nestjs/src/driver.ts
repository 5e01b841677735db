/** Rows of one statement, as the database client gives them. */
export interface SqlResult {
  rows: Record<string, unknown>[];
}

/** Runs one statement with numbered parameters (`$1`, `$2`). Rejects with the database's own error. */
export interface SqlRunner {
  run(sql: string, params: readonly unknown[]): Promise<SqlResult>;
}

/** A transaction that can say when it has been committed: all that `EventPublisher.publish` needs of one. */
export interface CommitAware extends SqlRunner {
  /**
   * Calls `callback` once, after the commit was acknowledged; never after a rollback, nor where the outcome of the
   * commit is unknown. Throws when the transaction is already over.
   */
  afterCommit(callback: () => void): void;
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
