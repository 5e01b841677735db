import type { CounterfoilDriver, SqlResult, SqlRunner } from './driver.js';
import {
  limitStatement,
  OpenTransaction,
  type OrmDriverOptions,
  runAfterCommit,
} from './open-transaction.js';
import { CommitRefusedError } from './pg-driver.js';

/** What the driver needs of a Prisma client, inside and outside a transaction. */
export interface PrismaStatements {
  // biome-ignore lint/suspicious/noExplicitAny: as the generated client declares it.
  $queryRawUnsafe<Rows = unknown>(sql: string, ...values: any[]): PromiseLike<Rows>;
}

/** What the driver needs of a Prisma client; by form, since every service generates its own. */
export interface PrismaDatabase<Transaction extends PrismaStatements> extends PrismaStatements {
  $transaction<Result>(
    work: (transaction: Transaction) => Promise<Result>,
    options?: { maxWait?: number; timeout?: number },
  ): Promise<Result>;
}

/** Settings of the driver for Prisma. */
export interface PrismaDriverOptions extends OrmDriverOptions {
  /** Prisma rolls a transaction back after this many ms; 5 000 by default, which is Prisma's own. */
  timeoutMs?: number | undefined;
  /** How long a transaction waits for a connection, in ms; 2 000 by default, which is Prisma's own. */
  maxWaitMs?: number | undefined;
}

/** A statement that the database refused, with its SQLSTATE. The cause is Prisma's error. */
export class PrismaStatementError extends Error {
  override readonly name = 'PrismaStatementError';
  constructor(
    /** SQLSTATE. */
    readonly code: string,
    options: { cause: unknown },
  ) {
    super(`the database refused a statement: ${code}`, options);
  }
}

const IN_FAILED_TRANSACTION = '25P02';

/**
 * The driver for Prisma with a driver adapter (`@prisma/adapter-pg`); the handle is the client of an interactive
 * transaction. Prisma has no hook after a commit and does not look at what COMMIT was answered with, so that the
 * driver asks before it whether the transaction still stands: one round trip more than the other drivers.
 */
export function prismaDriver<Transaction extends PrismaStatements>(
  prisma: PrismaDatabase<Transaction>,
  { timeoutMs, maxWaitMs, ...options }: PrismaDriverOptions = {},
): CounterfoilDriver<Transaction> {
  const limit = limitStatement(options);
  const limits = {
    ...(timeoutMs === undefined ? {} : { timeout: timeoutMs }),
    ...(maxWaitMs === undefined ? {} : { maxWait: maxWaitMs }),
  };
  return {
    ...rawRunner(prisma),

    async transaction(work) {
      let callbacks: (() => void)[] = [];
      const result = await prisma.$transaction(async (handle) => {
        const tx = new OpenTransaction(rawRunner(handle), handle);
        try {
          if (limit !== undefined) await tx.run(limit, []);
          const value = await work(tx);
          // Taken before COMMIT is sent, so that nothing can be added that no commit covers.
          callbacks = tx.end();
          await refuseFailedTransaction(handle);
          return value;
        } finally {
          tx.end();
        }
      }, limits);
      runAfterCommit(callbacks);
      return result;
    },
  };
}

/** COMMIT would be answered with ROLLBACK: found before it, since Prisma would call it a commit. */
async function refuseFailedTransaction(handle: PrismaStatements): Promise<void> {
  try {
    await rawRunner(handle).run('/* counterfoil find-failed-transaction */ select 1', []);
  } catch (error) {
    throw (error as { code?: unknown }).code === IN_FAILED_TRANSACTION ? new CommitRefusedError() : error;
  }
}

function rawRunner(prisma: PrismaStatements): SqlRunner {
  return {
    async run(sql, params): Promise<SqlResult> {
      try {
        const rows = await prisma.$queryRawUnsafe<Record<string, unknown>[]>(sql, ...params);
        for (const row of rows) asPgGivesIt(row);
        return { rows };
      } catch (error) {
        const code = sqlState(error);
        throw code === undefined ? error : new PrismaStatementError(code, { cause: error });
      }
    },
  };
}

/** Prisma reads int8 as BigInt, pg as text. */
function asPgGivesIt(row: Record<string, unknown>): void {
  for (const [column, value] of Object.entries(row)) {
    if (typeof value === 'bigint') row[column] = String(value);
  }
}

/** The SQLSTATE within the error of a raw query, whose own code is only Prisma's P2010. */
function sqlState(error: unknown): string | undefined {
  const meta = (
    error as { meta?: { code?: unknown; driverAdapterError?: { cause?: { originalCode?: unknown } } } }
  )?.meta;
  const code = meta?.driverAdapterError?.cause?.originalCode ?? meta?.code;
  return typeof code === 'string' ? code : undefined;
}
