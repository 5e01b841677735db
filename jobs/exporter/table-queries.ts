/** Statements that look at the catalogs. */
import type { Transaction } from '../runtime/database.ts';

export interface FoundColumn {
  readonly name: string;
  readonly type: string;
  readonly readable: boolean;
}

export interface FoundIndex {
  /** Columns and expressions in their order, as Postgres prints them. */
  readonly columns: readonly string[];
  readonly predicate: string | null;
}

export interface FoundTable {
  readonly schema: string;
  readonly name: string;
  /** Whether the role may use its schema. */
  readonly usable: boolean;
  /** Our own role, quoted. */
  readonly role: string;
  readonly columns: readonly FoundColumn[];
  /** Those that a btree search can use. */
  readonly indices: readonly FoundIndex[];
}

/** A table, by the search_path of the role unless a schema is named. */
export const findTable = async (
  transaction: Transaction,
  wanted: { readonly schema: string | undefined; readonly name: string },
): Promise<FoundTable | undefined> => {
  const [table] = await transaction.query<FoundTable>(
    `-- exporter: findTable
     SELECT n.nspname::text AS schema, c.relname::text AS name, quote_ident(current_user) AS role,
            has_schema_privilege(n.oid, 'USAGE') AS usable,
            coalesce((SELECT json_agg(json_build_object(
                               'name', a.attname,
                               'type', format_type(coalesce(nullif(t.typbasetype, 0), t.oid), NULL),
                               'readable', has_column_privilege(c.oid, a.attnum, 'SELECT')))
                        FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
                       WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), '[]') AS columns,
            coalesce((SELECT json_agg(json_build_object(
                               'columns', (SELECT json_agg(pg_get_indexdef(i.indexrelid, k, true) ORDER BY k)
                                             FROM generate_series(1, i.indnkeyatts::integer) AS k),
                               'predicate', pg_get_expr(i.indpred, i.indrelid)))
                        FROM pg_index AS i JOIN pg_class AS x ON x.oid = i.indexrelid
                        JOIN pg_am AS m ON m.oid = x.relam
                       WHERE i.indrelid = c.oid AND i.indisvalid AND m.amname = 'btree'), '[]') AS indices
       FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
      WHERE c.relname = $2::text AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
        AND CASE WHEN $1::text IS NULL THEN n.nspname = ANY (current_schemas(false)) ELSE n.nspname = $1::text END
      ORDER BY array_position(current_schemas(false), n.nspname)
      LIMIT 1`,
    [wanted.schema ?? null, wanted.name],
  );
  return table;
};

/** Whether this server knows a zone; without `pg_timezone_names`, which reads some hundred files. */
export const checkTimeZone = async (transaction: Transaction, name: string): Promise<boolean> => {
  try {
    await transaction.query(
      `-- exporter: checkTimeZone
       SELECT statement_timestamp() AT TIME ZONE $1::text`,
      [name],
    );
    return true;
  } catch (error) {
    // 22023, invalid_parameter_value.
    if ((error as { code?: unknown }).code === '22023') return false;
    throw error;
  }
};

/** By our own search path. */
export async function hasReplayEvents(transaction: Transaction): Promise<boolean> {
  const [row] = await transaction.query<{ there: boolean }>(
    `-- exporter: hasReplayEvents
     SELECT to_regclass('replay_events') IS NOT NULL AS there`,
  );
  return row?.there === true;
}
