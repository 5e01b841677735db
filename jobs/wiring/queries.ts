import type { Transaction } from '../runtime/database.ts';

/** A table, and what a role has to be allowed to do with it. */
export type Right = readonly [table: string, privilege: 'SELECT' | 'INSERT' | 'UPDATE' | 'DELETE'];

export interface Login {
  /** Quoted. */
  readonly role: string;
  readonly standby: boolean;
  /** Whether it may make tables in the state schema. */
  readonly mayCreate: boolean;
  /** Whether it sees when the transactions of others began. */
  readonly seesOthers: boolean;
}

export async function readLogin(transaction: Transaction): Promise<Login> {
  const [row] = await transaction.query<{
    role: string;
    standby: boolean;
    may_create: boolean;
    sees_others: boolean;
  }>(
    `-- wiring: readLogin
     SELECT quote_ident(current_user) AS role, pg_is_in_recovery() AS standby,
            coalesce(has_schema_privilege(to_regnamespace(current_schema())::oid, 'CREATE'), false) AS may_create,
            pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') AS sees_others`,
  );
  return {
    role: row?.role ?? 'nobody',
    standby: row?.standby ?? false,
    mayCreate: row?.may_create ?? false,
    seesOthers: row?.sees_others ?? false,
  };
}

/** Those of these rights that the login does not have, as a person would write them. */
export async function missingRights(transaction: Transaction, rights: readonly Right[]): Promise<string[]> {
  const rows = await transaction.query<{ missing: string }>(
    `-- wiring: missingRights
     SELECT wanted.privilege || ' on ' || wanted.name AS missing
       FROM unnest($1::text[], $2::text[]) AS wanted (name, privilege)
      WHERE NOT coalesce(has_table_privilege(to_regclass(wanted.name)::oid, wanted.privilege), false)`,
    [rights.map(([table]) => table), rights.map(([, privilege]) => privilege)],
  );
  return rows.map((row) => row.missing);
}

/** Those of these tables whose rows the login may change. */
export async function writableTables(transaction: Transaction, tables: readonly string[]): Promise<string[]> {
  const rows = await transaction.query<{ name: string }>(
    `-- wiring: writableTables
     SELECT given.name
       FROM unnest($1::text[]) AS given (name)
      WHERE has_table_privilege(to_regclass(given.name)::oid, 'INSERT, UPDATE, DELETE')`,
    [tables],
  );
  return rows.map((row) => row.name);
}
