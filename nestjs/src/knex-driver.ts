import type { CounterfoilDriver } from './driver.js';
import {
  type CommitWatch,
  limitStatement,
  type NativeClient,
  nativeRunner,
  OpenTransaction,
  type OrmDriverOptions,
  runAfterCommit,
  TransactionEndedEarlyError,
  watchCommit,
} from './open-transaction.js';

/** What the driver needs of a Knex transaction. */
export interface KnexTransaction {
  // biome-ignore lint/suspicious/noExplicitAny: Knex declares its client so; it is used as KnexConnections.
  client: any;
  isCompleted(): boolean;
}

/** What the driver needs of a Knex instance; by form, so that no version of Knex is named. */
export interface KnexInstance<Transaction extends KnexTransaction> {
  // biome-ignore lint/suspicious/noExplicitAny: as above.
  client: any;
  transaction<Result>(
    work: (transaction: Transaction) => Promise<Result>,
    config: { doNotRejectOnRollback: boolean },
  ): Promise<Result>;
}

interface KnexConnections {
  acquireConnection(): Promise<NativeClient>;
  releaseConnection(connection: NativeClient): Promise<void>;
}

/**
 * The driver for Knex with the client `pg`; the handle is a Knex transaction, whose nested `transaction` is a
 * savepoint. Knex begins and commits. It has no hook after a commit, and resolves as well where COMMIT was answered
 * with ROLLBACK; the driver rejects then.
 */
export function knexDriver<Transaction extends KnexTransaction>(
  knex: KnexInstance<Transaction>,
  options: OrmDriverOptions = {},
): CounterfoilDriver<Transaction> {
  const limit = limitStatement(options);
  return {
    async run(sql, params) {
      const pool = knex.client as KnexConnections;
      const connection = await pool.acquireConnection();
      try {
        return await nativeRunner(connection, () => false).run(sql, params);
      } finally {
        await pool.releaseConnection(connection);
      }
    },

    async transaction(work) {
      let callbacks: (() => void)[] = [];
      let watch: CommitWatch | undefined;
      try {
        const result = await knex.transaction(
          async (handle) => {
            const connection = await (handle.client as KnexConnections).acquireConnection();
            const tx = new OpenTransaction(
              nativeRunner(connection, () => handle.isCompleted()),
              handle,
            );
            try {
              if (limit !== undefined) await tx.run(limit, []);
              const value = await work(tx);
              // Knex sends COMMIT as soon as this function has resolved, which must find nothing added any more.
              callbacks = tx.end();
              watch = watchCommit(connection);
              return value;
            } finally {
              tx.end();
            }
          },
          // A rollback by the handle is no success.
          { doNotRejectOnRollback: false },
        );
        if (watch?.committed !== true) throw new TransactionEndedEarlyError();
        runAfterCommit(callbacks);
        return result;
      } finally {
        watch?.stop();
      }
    },
  };
}
