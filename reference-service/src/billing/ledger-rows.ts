import type { SqlRunner } from '@counterfoil/nestjs';
import type { Ledger } from '../tables.js';

// Every statement on the ledger, one function each. Rows are inserted in the order of their keys everywhere, so that two
// writers of the same keys wait for each other and never deadlock. Amounts are texts: minor units of any size.

/** A ledger row to write. */
export interface NewLedgerRow {
  sessionId: string;
  mentorId: string;
  amountMinor: string;
  currency: string;
  idempotencyKey: string;
  /** The row this one cancels. */
  reversesId: string | null;
}

/** A ledger row as the corrections see it. */
export interface LedgerRow extends NewLedgerRow {
  id: string;
  /** Neither does it reverse another row, nor is it reversed by one. */
  isLive: boolean;
}

/**
 * Key of bill `number` of a session: the first, or a later one that follows a reversal. A session's id is a uuid, which
 * may be written in capitals too: Postgres and the predecessor write it in small letters.
 */
export const billKey = (sessionId: string, number: number): string =>
  `session:${sessionId.toLowerCase()}:${number}`;

/** Key of the reversal of a ledger row: there is at most one. */
export const reversalKey = (ledgerId: string): string => `reversal:${ledgerId}`;

const UNIQUE_CONSTRAINT_MISSING = '42P10';

/**
 * The ledger, in whichever of its two forms the database has it: one table with a unique key, or a table partitioned
 * by date, where no unique key over all partitions can exist and `mentor_payable_ledger_keys` holds it, written in the
 * same statement. Found out once per process, and again where the form has changed under it.
 */
export class LedgerTable {
  private isPartitioned: boolean | undefined;

  /** Writes the rows whose keys are not taken and gives those; what another transaction is writing is waited for. */
  async insert(sql: SqlRunner, rows: readonly NewLedgerRow[]): Promise<Ledger[]> {
    this.isPartitioned ??= await readIsPartitioned(sql);
    try {
      const insert = this.isPartitioned ? insertWithKeys : insertByUniqueKey;
      return await insert(sql, rows);
    } catch (error) {
      if ((error as { code?: unknown }).code === UNIQUE_CONSTRAINT_MISSING) this.isPartitioned = undefined;
      throw error;
    }
  }
}

async function readIsPartitioned(sql: SqlRunner): Promise<boolean> {
  const { rows } = await sql.run(
    `/* reference-service find-ledger-form */
select relkind = 'p' as "isPartitioned" from pg_class where oid = to_regclass('mentor_payable_ledgers')`,
    [],
  );
  return rows[0]?.isPartitioned === true;
}

async function insertByUniqueKey(sql: SqlRunner, rows: readonly NewLedgerRow[]): Promise<Ledger[]> {
  const { rows: written } = await sql.run(
    `/* reference-service insert-ledger-rows */
insert into mentor_payable_ledgers (session_id, mentor_id, amount_minor, currency, idempotency_key, reverses_id)
select * from unnest($1::uuid[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::bigint[])
  as n (session_id, mentor_id, amount_minor, currency, idempotency_key, reverses_id)
order by n.idempotency_key
on conflict (idempotency_key) do nothing
returning id, session_id as "sessionId", mentor_id as "mentorId", amount_minor as "amountMinor", currency,
  idempotency_key as "idempotencyKey", reverses_id as "reversesId", created_at as "createdAt"`,
    columns(rows),
  );
  return written.map(toLedger);
}

async function insertWithKeys(sql: SqlRunner, rows: readonly NewLedgerRow[]): Promise<Ledger[]> {
  const { rows: written } = await sql.run(
    `/* reference-service insert-partitioned-ledger-rows */
with claimed as (
  insert into mentor_payable_ledger_keys (idempotency_key)
  select k.idempotency_key from unnest($5::text[]) as k (idempotency_key) order by k.idempotency_key
  on conflict (idempotency_key) do nothing
  returning idempotency_key
)
insert into mentor_payable_ledgers (session_id, mentor_id, amount_minor, currency, idempotency_key, reverses_id)
select n.session_id, n.mentor_id, n.amount_minor, n.currency, n.idempotency_key, n.reverses_id
from unnest($1::uuid[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::bigint[])
  as n (session_id, mentor_id, amount_minor, currency, idempotency_key, reverses_id)
join claimed using (idempotency_key)
returning id, session_id as "sessionId", mentor_id as "mentorId", amount_minor as "amountMinor", currency,
  idempotency_key as "idempotencyKey", reverses_id as "reversesId", created_at as "createdAt"`,
    columns(rows),
  );
  return written.map(toLedger);
}

/** The rows of these keys, in no order. */
export async function selectByKeys(sql: SqlRunner, keys: readonly string[]): Promise<Ledger[]> {
  const { rows } = await sql.run(
    `/* reference-service select-ledger-rows-by-key */
select id, session_id as "sessionId", mentor_id as "mentorId", amount_minor as "amountMinor", currency,
  idempotency_key as "idempotencyKey", reverses_id as "reversesId", created_at as "createdAt"
from mentor_payable_ledgers where idempotency_key = any($1::text[])`,
    [keys],
  );
  return rows.map(toLedger);
}

/** All rows of a session, oldest first. */
export async function selectBySession(sql: SqlRunner, sessionId: string): Promise<LedgerRow[]> {
  const { rows } = await sql.run(
    `/* reference-service select-ledger-rows-of-session */
select l.id::text as id, l.session_id as "sessionId", l.mentor_id as "mentorId", l.amount_minor::text as "amountMinor",
  l.currency, l.idempotency_key as "idempotencyKey", l.reverses_id::text as "reversesId",
  l.reverses_id is null and not exists (select from mentor_payable_ledgers r where r.reverses_id = l.id) as "isLive"
from mentor_payable_ledgers l where l.session_id = $1::uuid order by l.created_at, l.id`,
    [sessionId],
  );
  return rows as unknown as LedgerRow[];
}

/** One array per column, in the order of the statements above. */
function columns(rows: readonly NewLedgerRow[]): unknown[] {
  return [
    rows.map((row) => row.sessionId),
    rows.map((row) => row.mentorId),
    rows.map((row) => row.amountMinor),
    rows.map((row) => row.currency),
    rows.map((row) => row.idempotencyKey),
    rows.map((row) => row.reversesId),
  ];
}

/** node-postgres gives bigint as text. */
function toLedger(row: Record<string, unknown>): Ledger {
  const { id, amountMinor, reversesId } = row as {
    id: string;
    amountMinor: string;
    reversesId: string | null;
  };
  return {
    ...(row as unknown as Ledger),
    id: Number(id),
    amountMinor: Number(amountMinor),
    reversesId: reversesId === null ? null : Number(reversesId),
  };
}
