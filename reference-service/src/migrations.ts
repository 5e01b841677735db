import { fileURLToPath } from 'node:url';
import { drizzle } from 'drizzle-orm/node-postgres';
import { migrate } from 'drizzle-orm/node-postgres/migrator';
import pg from 'pg';

/** The numbered SQL and the journal that orders it, in drizzle-kit's form. */
export const MIGRATIONS = fileURLToPath(new URL('../migrations', import.meta.url));

/** Any number, the same for every process that migrates this service's database. */
const LOCK = 7_264_180_113;

/**
 * Brings a database to this version's tables; one that is there already is left alone. Two at once wait for each other:
 * the lock is held by a transaction, so that it holds through PgBouncer and ends with the process.
 */
export async function migrateDatabase(databaseUrl: string): Promise<void> {
  const pool = new pg.Pool({
    connectionString: databaseUrl,
    max: 2,
    connectionTimeoutMillis: 10_000,
    application_name: 'reference-service migrate',
  });
  pool.on('error', () => undefined);
  try {
    const guard = await pool.connect();
    try {
      await guard.query('begin');
      await guard.query('/* reference-service lock-migrations */ select pg_advisory_xact_lock($1::bigint)', [
        LOCK,
      ]);
      await migrate(drizzle(pool), { migrationsFolder: MIGRATIONS });
      await guard.query('commit');
    } finally {
      // Not back into the pool: after a failure its transaction is still open.
      guard.release(true);
    }
  } finally {
    await pool.end();
  }
}
