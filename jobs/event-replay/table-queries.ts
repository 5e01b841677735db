/** Statements that look at the tables of the service, and to whose events the state belongs. */
import type { Database } from '../runtime/database.ts';

export interface FoundColumn {
  readonly name: string;
  readonly type: string;
  readonly readable: boolean;
}

export interface FoundTable {
  readonly schema: string;
  readonly name: string;
  readonly schemaUsable: boolean;
  readonly columns: readonly FoundColumn[];
}

export const findTable = async (
  database: Database,
  wanted: { readonly schema: string | undefined; readonly name: string },
): Promise<FoundTable | undefined> =>
  await database.read(
    async (transaction) => {
      const [table] = await transaction.query<{
        schema: string;
        name: string;
        schema_usable: boolean;
        columns: FoundColumn[];
      }>(
        `-- event-replay: findTable
         SELECT n.nspname::text AS schema, c.relname::text AS name,
                has_schema_privilege(n.oid, 'USAGE') AS schema_usable,
                (SELECT json_agg(json_build_object(
                          'name', a.attname,
                          'type', format_type(coalesce(nullif(t.typbasetype, 0), t.oid), NULL),
                          'readable', has_column_privilege(c.oid, a.attnum, 'SELECT')))
                   FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
                  WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns
           FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
          WHERE c.relname = $2::text AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
            AND CASE WHEN $1::text IS NULL THEN n.nspname = ANY (current_schemas(false)) ELSE n.nspname = $1::text END
          ORDER BY array_position(current_schemas(false), n.nspname)
          LIMIT 1`,
        [wanted.schema ?? null, wanted.name],
      );
      if (table === undefined) return undefined;
      const { schema, name, schema_usable: schemaUsable, columns } = table;
      return { schema, name, schemaUsable, columns: columns ?? [] };
    },
    // The name came from a setting: it means what it means to this role everywhere else.
    { userSearchPath: true },
  );

export const checkTimeZone = async (database: Database, name: string): Promise<boolean> =>
  await database.read(async (transaction) => {
    const rows = await transaction.query(
      `-- event-replay: checkTimeZone
       SELECT FROM pg_timezone_names WHERE lower(name) = lower($1::text)`,
      [name],
    );
    return rows.length > 0;
  });

export interface ReplaySource {
  readonly installation: string;
  readonly events_table: string;
}

/** To which events table this state schema belongs: to the first one that asked. A dry run only reads. */
export const declareSource = async (
  database: Database,
  source: ReplaySource,
  access: 'read' | 'write',
): Promise<ReplaySource> =>
  await database.transaction({ access, repeatable: true }, async (transaction) => {
    if (access === 'write') {
      await transaction.execute(
        `-- event-replay: declareSource
         INSERT INTO replay_source (installation, events_table) VALUES ($1::text, $2::text) ON CONFLICT DO NOTHING`,
        [source.installation, source.events_table],
      );
    }
    const [declared] = await transaction.query<ReplaySource>(
      `-- event-replay: findSource
       SELECT installation, events_table FROM replay_source`,
    );
    return declared ?? source;
  });
