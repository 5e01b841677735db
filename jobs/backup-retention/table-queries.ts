/** Statements that look at the catalogs: the table of events, its partitions, and what the role may do. */
import type { Transaction } from '../runtime/database.ts';

export interface FoundTable {
  readonly oid: string;
  readonly schema: string;
  readonly name: string;
  readonly kind: string;
  readonly may_select: boolean;
  readonly may_delete: boolean;
  readonly has_time_index: boolean;
  readonly blocks: number;
  /** Quoted. */
  readonly role: string;
  readonly columns: readonly { readonly name: string; readonly type: string }[];
}

export const findTable = async (
  transaction: Transaction,
  wanted: { readonly schema: string | undefined; readonly name: string },
): Promise<FoundTable | undefined> => {
  const [table] = await transaction.query<FoundTable>(
    `-- backup-retention: findTable
     SELECT c.oid::text AS oid, n.nspname::text AS schema, c.relname::text AS name, c.relkind::text AS kind,
            has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT') AS may_select,
            has_table_privilege(c.oid, 'DELETE') AS may_delete,
            EXISTS (SELECT FROM pg_index AS i
                     WHERE i.indrelid = c.oid AND i.indisvalid AND i.indpred IS NULL
                       AND pg_get_indexdef(i.indexrelid, 1, true) = 'created_at') AS has_time_index,
            (pg_relation_size(c.oid) / current_setting('block_size')::bigint)::integer AS blocks,
            quote_ident(current_user) AS role,
            (SELECT json_agg(json_build_object('name', a.attname,
                               'type', format_type(coalesce(nullif(t.typbasetype, 0), t.oid), NULL)))
               FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
              WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns
       FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
      WHERE c.relname = $2::text AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
        AND CASE WHEN $1::text IS NULL THEN n.nspname = ANY (current_schemas(false)) ELSE n.nspname = $1::text END
      ORDER BY array_position(current_schemas(false), n.nspname)
      LIMIT 1`,
    [wanted.schema ?? null, wanted.name],
  );
  return table;
};

/** Whether the rows of one table go by themselves with those of the other. */
export const hasCascade = async (transaction: Transaction, from: string, to: string): Promise<boolean> => {
  const rows = await transaction.query(
    `-- backup-retention: hasCascade
     SELECT FROM pg_constraint
      WHERE conrelid = $1::oid AND confrelid = $2::oid AND contype = 'f' AND confdeltype = 'c'`,
    [from, to],
  );
  return rows.length > 0;
};

export interface Partition {
  readonly schema: string;
  readonly name: string;
  readonly is_default: boolean;
  readonly may_delete: boolean;
  readonly blocks: number;
  /** The day in its name, where its bounds are exactly that day; null for a partition of another kind. */
  readonly date: string | null;
}

export const findPartitions = async (transaction: Transaction, table: string): Promise<Partition[]> =>
  await transaction.query<Partition>(
    `-- backup-retention: findPartitions
     SELECT p.schema, p.name, p.bound = 'DEFAULT' AS is_default, p.may_delete, p.blocks,
            CASE WHEN p.bound = format('FOR VALUES FROM (%L) TO (%L)', p.day::timestamp, (p.day + 1)::timestamp)
                   OR p.bound = format('FOR VALUES FROM (%L) TO (%L)', p.day::timestamptz, (p.day + 1)::timestamptz)
                 THEN p.day::text END AS date
       FROM (SELECT n.nspname::text AS schema, c.relname::text AS name, pg_get_expr(c.relpartbound, c.oid) AS bound,
                    has_table_privilege(c.oid, 'DELETE') AS may_delete,
                    (pg_relation_size(c.oid) / current_setting('block_size')::bigint)::integer AS blocks,
                    -- A name that is no date is looked at no further: to_date would raise an error.
                    CASE WHEN c.relname ~ '_(19|20)[0-9]{2}(0[1-9]|1[0-2])(0[1-9]|[12][0-9]|3[01])$'
                         THEN to_date(left(right(c.relname, 8), 6), 'YYYYMM') + right(c.relname, 2)::integer - 1 END AS day
               FROM pg_inherits AS i
               JOIN pg_class AS c ON c.oid = i.inhrelid
               JOIN pg_namespace AS n ON n.oid = c.relnamespace
              WHERE i.inhparent = $1::oid AND NOT i.inhdetachpending) AS p`,
    [table],
  );

/** The function that drops one day, qualified and quoted. */
export const findDropFunction = async (
  transaction: Transaction,
  name: string,
): Promise<{ readonly name: string; readonly may_execute: boolean } | undefined> => {
  const [found] = await transaction.query<{ name: string; may_execute: boolean }>(
    `-- backup-retention: findDropFunction
     SELECT format('%I.%I', n.nspname, p.proname) AS name, has_function_privilege(p.oid, 'EXECUTE') AS may_execute
       FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
      WHERE p.oid = to_regprocedure($1::text || '(date)') AND p.prorettype = 'boolean'::regtype`,
    [name],
  );
  return found;
};

export const timeZoneExists = async (transaction: Transaction, name: string): Promise<boolean> => {
  const rows = await transaction.query(
    `-- backup-retention: timeZoneExists
     SELECT FROM pg_timezone_names WHERE lower(name) = lower($1::text)`,
    [name],
  );
  return rows.length > 0;
};
