import type { CounterfoilDriver } from './driver.js';
import {
  limitStatement,
  type NativeClient,
  nativeRunner,
  noteAfterCommit,
  OpenTransaction,
  type OrmDriverOptions,
  runAfterCommit,
  TransactionEndedEarlyError,
  watchCommit,
} from './open-transaction.js';
import { CommitRefusedError } from './pg-driver.js';

/** What the driver needs of TypeORM's QueryRunner; by form, so that 0.3 and 1.x both fit. */
export interface TypeormQueryRunner<Manager> {
  readonly manager: Manager;
  readonly isTransactionActive: boolean;
  connect(): Promise<unknown>;
  startTransaction(): Promise<void>;
  commitTransaction(): Promise<void>;
  rollbackTransaction(): Promise<void>;
  release(): Promise<void>;
}

/** What the driver needs of TypeORM's DataSource. */
export interface TypeormDataSource<Manager> {
  createQueryRunner(): TypeormQueryRunner<Manager>;
}

/**
 * The driver for a TypeORM DataSource of type `postgres`; the handle is an EntityManager, whose nested `transaction`
 * is a savepoint. TypeORM begins and commits, so that its subscribers hear of it. Its own afterTransactionCommit is
 * not relied on: it is called as well for a COMMIT that was answered with ROLLBACK.
 */
export function typeormDriver<Manager>(
  dataSource: TypeormDataSource<Manager>,
  options: OrmDriverOptions = {},
): CounterfoilDriver<Manager> {
  const limit = limitStatement(options);
  return {
    async run(sql, params) {
      const queryRunner = dataSource.createQueryRunner();
      try {
        const client = (await queryRunner.connect()) as NativeClient;
        return await nativeRunner(client, () => false).run(sql, params);
      } finally {
        await queryRunner.release();
      }
    },

    async transaction(work) {
      const queryRunner = dataSource.createQueryRunner();
      try {
        const client = (await queryRunner.connect()) as NativeClient;
        await queryRunner.startTransaction();
        const tx = new OpenTransaction(
          nativeRunner(client, () => !queryRunner.isTransactionActive),
          queryRunner.manager,
        );
        try {
          if (limit !== undefined) await tx.run(limit, []);
          const result = await work(tx);
          // Taken before COMMIT is sent, so that nothing can be added that no commit covers.
          const callbacks = tx.end();
          await commit(queryRunner, client);
          runAfterCommit(callbacks);
          return result;
        } catch (error) {
          tx.end();
          // The caller sees the error that came first.
          if (queryRunner.isTransactionActive) await queryRunner.rollbackTransaction().catch(() => undefined);
          throw error;
        }
      } finally {
        await queryRunner.release();
      }
    },
  };
}

async function commit(queryRunner: TypeormQueryRunner<unknown>, client: NativeClient): Promise<void> {
  if (!queryRunner.isTransactionActive) throw new TransactionEndedEarlyError();
  const watch = watchCommit(client);
  try {
    await queryRunner.commitTransaction();
  } catch (error) {
    // A subscriber told of the commit has failed: the commit stands.
    if (watch.committed) return noteAfterCommit(error);
    const { driverError } = error as { driverError?: unknown };
    throw driverError instanceof CommitRefusedError ? driverError : error;
  } finally {
    watch.stop();
  }
  // A transaction begun on the QueryRunner inside and left open: only its savepoint was released.
  if (!watch.committed) throw new TransactionEndedEarlyError();
}
