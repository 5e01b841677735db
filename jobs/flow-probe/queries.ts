/** Statements of flow-probe. All of them read; the tables come quoted from the look at the catalogs. */
import type { EventsTable, InspectedCheck } from '../checks/inspect.ts';
import type { Condition } from '../checks/parse.ts';
import { type Build, carry, ledgerColumn, Params, type Statement, textColumn } from '../checks/sql-parts.ts';
import { billsOf } from '../checks/verdict-sql.ts';
import type { Database, Transaction } from '../runtime/database.ts';

export interface ExpectedBill {
  /** The key's columns as text. */
  readonly key: readonly string[];
  /** Minor units; null: not compared. */
  readonly amount: number | null;
  readonly currency: string | null;
}

/** `not_measured` where the check names no such column, or the flow expects nothing. */
export type Comparison = 'right' | 'wrong' | 'not_measured';

export interface BillLook {
  /** Live ledger rows; bigint as text. */
  readonly rows: string;
  readonly amount: Comparison;
  readonly currency: Comparison;
}

/** The conditions of a check without those that leave the probe's own rows out of reconciliation. */
export const withoutMark = (declared: readonly Condition[], mark: string): Condition[] =>
  declared.flatMap((condition): Condition[] => {
    if (condition.op === 'ne' && String(condition.value) === mark) return [];
    if (condition.op !== 'notIn') return [condition];
    const others = condition.value.filter((value) => String(value) !== mark);
    return others.length === 0 ? [] : [{ ...condition, value: others }];
  });

/** The live ledger rows of one key, by index, as the check counts them, and whether they say what is expected. */
export function lookAtBill(
  plan: InspectedCheck,
  options: { readonly mark: string; readonly timeZone: string },
  expected: ExpectedBill,
): Statement {
  const { check } = plan;
  const ledger = { ...check.ledger, where: withoutMark(check.ledger.where, options.mark) };
  const build: Build = {
    plan: { ...plan, check: { ...check, ledger } },
    options: { timeZone: options.timeZone, slackMs: 0 },
    params: new Params(),
  };
  const { params } = build;
  const key = (n: number) =>
    carry(params.add(expected.key[n] ?? null, 'text'), textColumn, ledgerColumn(plan, n));
  const bills = billsOf(build, key);
  const signed = ledger.reverses !== null && 'sign' in ledger.reverses;
  const amountRight = () => {
    const wanted = params.add(expected.amount, 'numeric');
    const { byCurrency, default: rest } = check.tolerance;
    const tolerance = params.add(byCurrency[expected.currency ?? ''] ?? rest, 'numeric');
    const near = (value: string) => `abs(bill.${value} - ${wanted}) <= ${tolerance}`;
    return check.cardinality === 'net_sum' || signed ? near('net') : `${near('low')} AND ${near('high')}`;
  };
  const currencyRight = () => {
    const wanted = params.add(expected.currency, 'text');
    return `bill.currency_low = ${wanted} AND bill.currency_high = ${wanted}`;
  };
  const compared = (value: 'amount' | 'currency', right: () => string) =>
    expected[value] === null || ledger[value] === null
      ? `'not_measured'`
      : `CASE WHEN bill.without_${value} = 0 AND ${right()} THEN 'right' ELSE 'wrong' END`;
  return {
    text: `-- flow-probe: lookAtBill; index on ledger key
SELECT coalesce(bill.rows, 0)::text AS rows, ${compared('amount', amountRight)} AS amount,
       ${compared('currency', currencyRight)} AS currency
  FROM (${bills}) AS bill`,
    params: params.values,
  };
}

export interface EventRow {
  readonly event_id: string;
  readonly status: string;
  /** Null where there is no table of deliveries. */
  readonly listeners_begun: number | null;
  readonly listeners_failed: number | null;
  /** Under a live lease. */
  readonly listeners_running: number | null;
}

/** An event that the flow must have published: its name, and payload keys with their values. */
export interface WantedEvent {
  readonly name: string;
  readonly payload: Readonly<Record<string, string>>;
}

export interface EventSearch {
  readonly table: EventsTable;
  /** Qualified and quoted; nothing where it is missing or closed to us. */
  readonly deliveries: string | undefined;
  readonly timeZone: string;
  /** Nothing that was written before is sought, where no index leads from the payload to the row. */
  readonly notBefore: string;
}

/** The rows of one event, by the index on its payload key, or on created_at within the time of the run. */
export function findEvent(search: EventSearch, wanted: WantedEvent): Statement {
  const { table, deliveries } = search;
  const params = new Params();
  const name = params.add(wanted.name, 'text');
  // Names only, as flow.ts and the language of the checks make sure: they cannot end the literal.
  const matches = Object.entries(wanted.payload).map(
    ([key, value]) => `AND (e.payload ->> '${key}') = ${params.add(value, 'text')}`,
  );
  const indexed = Object.keys(wanted.payload).some((key) => table.indexedKeys.has(key));
  const wall = table.relation.columns.get('created_at')?.base === 'timestamp without time zone';
  const since = () => {
    const time = params.add(search.notBefore, 'timestamptz');
    // On a clock that was set back, what is written now may carry an earlier time.
    return wall
      ? `((${time} - interval '1 hour') AT TIME ZONE ${params.add(search.timeZone, 'text')})`
      : time;
  };
  const counted = (condition: string) =>
    deliveries === undefined
      ? 'NULL::integer'
      : `(SELECT count(*)::integer FROM ${deliveries} AS d WHERE d.event_id::text = e.event_id::text ${condition})`;
  return {
    text: `-- flow-probe: findEvent; index on the payload key, or on created_at
SELECT e.event_id::text AS event_id, e.status::text AS status,
       ${counted('')} AS listeners_begun,
       ${counted(`AND d.status = 'failed'`)} AS listeners_failed,
       ${counted(`AND d.status = 'running' AND d.lease_until > clock_timestamp()`)} AS listeners_running
  FROM ${table.relation.name} AS e
 WHERE e.event_name::text = ${name} ${matches.join(' ')} ${indexed ? '' : `AND e.created_at >= ${since()}`}
 ORDER BY e.created_at LIMIT 10`,
    params: params.values,
  };
}

/** Whether an index leads by `created_at`. */
export const hasTimeIndex = async (transaction: Transaction, table: EventsTable): Promise<boolean> => {
  const rows = await transaction.query(
    `-- flow-probe: hasTimeIndex
     SELECT FROM pg_index AS i
      WHERE i.indrelid = $1::regclass AND i.indisvalid AND i.indpred IS NULL
        AND pg_get_indexdef(i.indexrelid, 1, true) = 'created_at'`,
    [table.relation.name],
  );
  return rows.length > 0;
};

/** The table of deliveries, qualified and quoted, where it has the module's columns and may be read. */
export const findDeliveries = async (
  transaction: Transaction,
  given: string,
): Promise<string | undefined> => {
  const [table] = await transaction.query<{ name: string }>(
    `-- flow-probe: findDeliveries
     SELECT format('%I.%I', n.nspname, c.relname) AS name
       FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
      WHERE c.oid = to_regclass($1::text) AND has_table_privilege(c.oid, 'SELECT')
        AND (SELECT count(*) FROM pg_attribute AS a
              WHERE a.attrelid = c.oid AND a.attname IN ('event_id', 'status', 'lease_until')
                AND NOT a.attisdropped) = 3`,
    [given],
  );
  return table?.name;
};

/** The database's clock, by which the rows of a run are told from older ones. */
export const readClock = async (database: Database): Promise<string> =>
  await database.read(async (transaction) => {
    const [row] = await transaction.query<{ at: string }>(
      `-- flow-probe: readClock
       SELECT clock_timestamp() AS at`,
    );
    return row?.at ?? '';
  });
