/**
 * Applies the numbered migrations, the functions and the grants in one transaction. Two that start at once wait for each other
 * on a transaction-level lock (P32), so the second finds nothing left to do; a failure leaves nothing behind.
 */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import Postgrator from 'postgrator';
import { type Database, quoteIdentifier } from '../runtime/database.ts';
import { RunFailure } from '../runtime/failures.ts';
import type { Logger } from '../runtime/logger.ts';
import { CODE_LEVEL } from '../runtime/schema-level.ts';
import { mayRetry, safeMessage, toRunFailure } from '../runtime/sqlstates.ts';

/** A migration may rewrite a table; this is far above what a run may take. */
const MIGRATION_TIMEOUT_MS = 60_000;

export interface MigrationResult {
  /** Levels that were applied now; empty when the schema was up to date. */
  readonly applied: readonly number[];
  /** The level the schema is at now; above our own when newer code has migrated it. */
  readonly level: number;
}

/**
 * @param schema the state schema; made when it does not exist and the role may do so
 * @throws RunFailure `schema_newer` when the schema has dropped what this code needs; `migration_failed`
 */
export async function migrate(database: Database, logger: Logger, schema: string): Promise<MigrationResult> {
  return await database.transaction(
    { statementTimeoutMs: MIGRATION_TIMEOUT_MS, repeatable: true },
    async (transaction) => {
      await transaction.query(
        `-- schema: migrate (one at a time)
         SELECT pg_advisory_xact_lock(hashtextextended('counterfoil schema ' || $1::text, 0))`,
        [schema],
      );
      const [existing] = await transaction.query<{ there: boolean }>(
        `-- schema: migrate (is the schema there)
         SELECT to_regnamespace(quote_ident($1::text)) IS NOT NULL AS there`,
        [schema],
      );
      // Asked first, so that an owner without the right to create schemas can use one that was made for it.
      if (existing?.there !== true) await transaction.script(`CREATE SCHEMA ${quoteIdentifier(schema)}`);
      const postgrator = new Postgrator({
        driver: 'pg',
        migrationPattern: `${fileURLToPath(new URL('migrations', import.meta.url))}/*.sql`,
        schemaTable: 'schema_migrations',
        currentSchema: schema,
        newline: 'LF',
        // postgrator sets the path for the whole session; ours must not outlive the transaction.
        execQuery: async (text: string) => ({
          rows: await transaction.query(text.replace(/^SET search_path/, 'SET LOCAL search_path')),
        }),
        execSqlScript: async (text: string) => await transaction.script(text),
      });
      const level = await postgrator.getDatabaseVersion();
      if (level > CODE_LEVEL) {
        await refuseIfTooNew(transaction);
        logger.info(
          { schemaLevel: level, codeLevel: CODE_LEVEL },
          'the schema is newer than this code and still admits it: left as it is',
        );
        return { applied: [], level };
      }
      const applied = await postgrator.migrate().catch(refuseMigration);
      for (const file of ['functions.sql', 'grants.sql'])
        await transaction.script(readFileSync(new URL(file, import.meta.url), 'utf8'));
      return { applied: applied.map((migration) => migration.version), level: CODE_LEVEL };
    },
  );
}

/** What the table of SQLSTATEs calls passing or a missing grant stays that; the rest is a migration that failed. */
function refuseMigration(error: unknown): never {
  if (mayRetry(error) || toRunFailure(error).exitCode === 2) throw error;
  throw new RunFailure(
    'migration_failed',
    `a migration of the state schema did not go through, and nothing of it was kept: ${safeMessage(error)}`,
    { cause: error },
  );
}

async function refuseIfTooNew(transaction: { query<Row>(text: string): Promise<Row[]> }): Promise<void> {
  const [version] = await transaction.query<{ min_compatible_code: number }>(
    `-- schema: refuseIfTooNew
     SELECT min_compatible_code FROM schema_version`,
  );
  if (version !== undefined && version.min_compatible_code > CODE_LEVEL) {
    throw new RunFailure(
      'schema_newer',
      `the state schema needs code of level ${version.min_compatible_code} or newer, this is ${CODE_LEVEL}: use a newer image`,
    );
  }
}
