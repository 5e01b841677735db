import { type Database, quoteIdentifier } from './database.ts';
import { RunFailure } from './failures.ts';

/** The level of the state schema this code was written for: the number of its newest migration. */
export const CODE_LEVEL = 2;

export interface SchemaVersion {
  /** The newest migration that was applied. */
  readonly level: number;
  /** The oldest code that may still use the schema. */
  readonly minCompatibleCode: number;
}

/**
 * How far the state schema is, or nothing where it has not been made.
 * @throws RunFailure `grant_missing`
 */
export async function readSchemaVersion(database: Database): Promise<SchemaVersion | undefined> {
  return await database.read(async (transaction) => {
    const [found] = await transaction.query<{ there: boolean; usable: boolean | null; role: string }>(
      `-- runtime: readSchemaVersion (is it there)
       SELECT to_regclass('schema_version') IS NOT NULL AS there,
              has_schema_privilege(to_regnamespace(quote_ident($1::text))::oid, 'USAGE') AS usable,
              quote_ident(current_user) AS role`,
      [database.schema],
    );
    // Without USAGE its tables look as if they were not there.
    if (found?.usable === false) {
      throw new RunFailure(
        'grant_missing',
        `the role may not use the state schema: connect as one of the roles of jobs/schema/roles.sql and run the schema job, or: GRANT USAGE ON SCHEMA ${quoteIdentifier(database.schema)} TO ${found.role};`,
      );
    }
    if (found?.there !== true) return undefined;
    const [row] = await transaction.query<{ level: number; min_compatible_code: number }>(
      `-- runtime: readSchemaVersion
       SELECT level, min_compatible_code FROM schema_version`,
    );
    return row === undefined ? undefined : { level: row.level, minCompatibleCode: row.min_compatible_code };
  });
}

/**
 * Refuses only what cannot work. A newer schema is fine while it still admits this code, so that a rollback of
 * the chart never switches the net off; an absent or older one may still be on its way, so a retry helps.
 * @throws RunFailure `schema_absent`, `schema_older`, `schema_newer`
 */
export async function checkSchemaVersion(database: Database): Promise<void> {
  const version = await readSchemaVersion(database);
  if (version === undefined) {
    throw new RunFailure(
      'schema_absent',
      'the state schema is not there: run the schema job (npm run schema), then this again',
    );
  }
  if (version.minCompatibleCode > CODE_LEVEL) {
    throw new RunFailure(
      'schema_newer',
      `the state schema needs code of level ${version.minCompatibleCode} or newer, this is ${CODE_LEVEL}: use a newer image`,
    );
  }
  if (version.level < CODE_LEVEL) {
    throw new RunFailure(
      'schema_older',
      `the state schema is at level ${version.level}, this code needs ${CODE_LEVEL}: run the schema job (npm run schema), then this again`,
    );
  }
}
