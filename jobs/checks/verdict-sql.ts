/** What is wrong between a fact and its bills, as SQL; the same words whether a window or a single key is judged. */
import { type Relation } from './inspect.ts';
import { type Amount, type PerCurrency } from './parse.ts';
import { type Build, conditions, instant, keyNames, quoted, typeOf } from './sql-parts.ts';

export type Kind = 'missing' | 'duplicate' | 'amount' | 'orphan';

/** One row of a statement. A window without discrepancy still gives one, with the rows it read. */
export interface WindowRow {
  /** Rows of the window; bigint as text. */
  readonly rows: string;
  readonly kind: Kind | null;
  /** The key's columns as text; null where the row has none. */
  readonly key: readonly (string | null)[];
  /** The row's primary key as text where the key has a null, else null. */
  readonly row_id: readonly string[] | null;
  /** When the fact happened; for an orphan, when its ledger row was made. UTC. */
  readonly fact_at: string;
  /** Live ledger rows; bigint as text. */
  readonly ledger_rows: string;
  readonly expected_minor: string | null;
  readonly actual_minor: string | null;
  readonly currency: string | null;
}

/**
 * Neither reversing nor reversed.
 * @param reversingRange where reversing rows are sought; everywhere by index where not given
 */
export function isLive(build: Build, alias: string, reversingRange: (() => string) | undefined): string {
  const { reverses } = build.plan.check.ledger;
  if (reverses === null || 'sign' in reverses) return '';
  return `AND ${alias}.${quoted(reverses.column)} IS NULL
     AND NOT EXISTS (SELECT FROM ${build.plan.ledger.name} AS r
                      WHERE r.${quoted(reverses.column)} = ${alias}.${quoted(build.plan.reversedId)}
                        ${reversingRange === undefined ? '' : `AND ${reversingRange()}`})`;
}

/** Whether a row adds to the bill; false for a reversing row that is told by its sign column. */
export function positive(build: Build, alias: string): string {
  const { reverses } = build.plan.check.ledger;
  if (reverses === null || 'column' in reverses) return 'true';
  const type = typeOf(build.plan.ledger, reverses.sign.column);
  const negative = build.params.add(reverses.sign.negative.map(String), `${type}[]`);
  return `((${alias}.${quoted(reverses.sign.column)} = ANY (${negative})) IS NOT TRUE)`;
}

export function minorUnits(
  build: Build,
  side: { amount: Amount | null; currency: string | null },
  alias: string,
): string {
  if (side.amount === null) return 'NULL::numeric';
  const factor = byCurrency(
    build,
    side.amount.scale,
    side.currency === null ? 'NULL::text' : `${alias}.${quoted(side.currency)}::text`,
    (decimals) => 10 ** decimals,
  );
  return `(${alias}.${quoted(side.amount.column)}::numeric * ${factor})`;
}

function byCurrency(
  build: Build,
  values: PerCurrency,
  currency: string,
  value: (declared: number) => number,
): string {
  const rest = build.params.add(value(values.default), 'numeric');
  const cases = Object.entries(values.byCurrency).map(
    ([code, declared]) =>
      `WHEN ${build.params.add(code, 'text')} THEN ${build.params.add(value(declared), 'numeric')}`,
  );
  return cases.length === 0 ? rest : `CASE ${currency} ${cases.join(' ')} ELSE ${rest} END`;
}

export const currencyOf = (side: { currency: string | null }, alias: string): string =>
  side.currency === null ? 'NULL::text' : `${alias}.${quoted(side.currency)}::text`;

export function factColumns(build: Build): string {
  const { plan } = build;
  const { facts } = plan.check;
  return [
    ...facts.key.map((column, n) => `f.${quoted(column)} AS k${n}`),
    `${instant(build, plan.facts, facts.at, 'f')} AS at`,
    `${minorUnits(build, facts, 'f')} AS amount`,
    `${currencyOf(facts, 'f')} AS currency`,
    ...idColumns('f', plan.facts),
  ].join(', ');
}

/** What the ledger rows `l` of one key add up to. */
export function billColumns(build: Build): string {
  const { ledger } = build.plan.check;
  const minor = minorUnits(build, ledger, 'l');
  const signed = ledger.reverses !== null && 'sign' in ledger.reverses;
  const sign = signed ? `CASE WHEN ${positive(build, 'l')} THEN 1 ELSE -1 END` : '1';
  // With net_sum a reversal may cancel a part of a row: rows are told apart by amounts and not by number.
  const rows =
    signed && build.plan.check.cardinality !== 'net_sum' ? `coalesce(sum(${sign}), 0)::bigint` : 'count(*)';
  return [
    `${rows} AS rows`,
    // A sum of the amounts that are known would pass for all of it.
    ledger.amount === null
      ? 'NULL::numeric AS net'
      : `CASE WHEN ${countOfUnknown(minor)} = 0 THEN sum(${sign} * ${minor}) END AS net`,
    ledger.amount === null ? 'NULL::numeric AS low' : `min(${minor}) AS low`,
    ledger.amount === null ? 'NULL::numeric AS high' : `max(${minor}) AS high`,
    `${countOfUnknown(ledger.amount === null ? undefined : minor)} AS without_amount`,
    `${countOfUnknown(ledger.currency === null ? undefined : currencyOf(ledger, 'l'))} AS without_currency`,
    ledger.currency === null
      ? 'NULL::text AS currency_low'
      : `min(${currencyOf(ledger, 'l')}) AS currency_low`,
    ledger.currency === null
      ? 'NULL::text AS currency_high'
      : `max(${currencyOf(ledger, 'l')}) AS currency_high`,
  ].join(', ');
}

/** How many rows leave a declared value open; none where it is not declared. */
const countOfUnknown = (expression: string | undefined): string =>
  expression === undefined ? '0' : `count(*) FILTER (WHERE ${expression} IS NULL)`;

/** All live ledger rows of one key, over all time, by index. */
export function billsOf(build: Build, key: (n: number) => string): string {
  const { plan } = build;
  const at = instant(build, plan.ledger, plan.check.ledger.at, 'l');
  return `SELECT ${billColumns(build)}, min(${at}) AS first_at, max(${at}) AS last_at
            FROM ${plan.ledger.name} AS l
           WHERE ${plan.check.ledger.key.map((column, n) => `l.${quoted(column)} = ${key(n)}`).join(' AND ')}
             ${conditions(build, plan.ledger, plan.check.ledger.where, 'l')}
             ${isLive(build, 'l', undefined)}`;
}

const comparesNet = (build: Build): boolean => {
  const { cardinality, ledger } = build.plan.check;
  return cardinality === 'net_sum' || (ledger.reverses !== null && 'sign' in ledger.reverses);
};

const tolerance = (build: Build): string =>
  byCurrency(
    build,
    build.plan.check.tolerance,
    'coalesce(fact.currency, bill.currency_low)',
    (declared) => declared,
  );

/**
 * Where both sides declare a value, one that only one side knows counts as a difference: it cannot be shown to be
 * right. Where both leave it open there is nothing to compare.
 */
function oneSided(build: Build, value: 'amount' | 'currency', known: string): string {
  const { facts, ledger } = build.plan.check;
  if (facts[value] === null || ledger[value] === null) return 'false';
  return `(fact.${value} IS NULL AND bill.${known} IS NOT NULL) OR (fact.${value} IS NOT NULL AND bill.without_${value} > 0)`;
}

/** What is wrong between `fact` and `bill`, or null. */
export function verdict(build: Build): string {
  const { check } = build.plan;
  const limit = tolerance(build);
  const rows = 'coalesce(bill.rows, 0)';
  const missing =
    check.cardinality === 'net_sum'
      ? `(${rows} = 0 AND fact.amount IS DISTINCT FROM 0) OR (bill.net = 0 AND abs(fact.amount) > ${limit})`
      : `${rows} <= 0`;
  const amountsDiffer = comparesNet(build)
    ? `abs(bill.net - fact.amount) > ${limit}`
    : `abs(bill.low - fact.amount) > ${limit} OR abs(bill.high - fact.amount) > ${limit}`;
  return `CASE WHEN ${missing} THEN 'missing'
       ${check.cardinality === 'one' ? `WHEN ${rows} > 1 THEN 'duplicate'` : ''}
       WHEN bill.currency_low <> bill.currency_high OR bill.currency_low <> fact.currency THEN 'amount'
       WHEN ${oneSided(build, 'currency', 'currency_low')} THEN 'amount'
       WHEN ${oneSided(build, 'amount', 'low')} THEN 'amount'
       WHEN ${amountsDiffer} THEN 'amount' END`;
}

/**
 * What was billed, in minor units: all of it, or of several whole bills the one that is wrong. Null where the amount
 * of any of them is not known.
 */
export function actual(build: Build): string {
  if (build.plan.check.cardinality !== 'at_least_one') return 'bill.net';
  return `CASE WHEN bill.without_amount > 0 THEN NULL
               WHEN abs(bill.low - fact.amount) > ${tolerance(build)} THEN bill.low ELSE bill.high END`;
}

/** Looks up fact and bills of each row of `source` by index, and judges them. */
export function judgement(
  build: Build,
  from: {
    readonly source: string;
    /** As the finding names it. */
    readonly keyText: (n: number) => string;
    readonly factKey: (n: number) => string;
    readonly ledgerKey: (n: number) => string;
    readonly settledTo: string;
    readonly columns: string;
    /** A row whose key has a null: an orphan in any case. */
    readonly keyless: string;
  },
): string {
  const { plan } = build;
  const { check } = plan;
  const keys = keyNames(plan);
  const since = check.since === null ? undefined : build.params.add(check.since, 'timestamptz');
  const orphan =
    check.cardinality === 'net_sum'
      ? 'coalesce(bill.rows, 0) > 0 AND bill.net IS DISTINCT FROM 0'
      : 'coalesce(bill.rows, 0) > 0';
  return `SELECT ${from.columns}, array[${keys.map((_, n) => from.keyText(n)).join(', ')}] AS key,
         CASE WHEN ${from.keyless} THEN 'orphan'
              WHEN fact.at IS NULL THEN CASE WHEN ${orphan} ${since === undefined ? '' : `AND bill.last_at >= ${since}`} THEN 'orphan' END
              WHEN fact.at >= ${from.settledTo} ${since === undefined ? '' : `OR fact.at < ${since}`} THEN NULL
              ELSE ${verdict(build)} END AS kind,
         coalesce(fact.at, bill.first_at) AS fact_at, bill.rows AS ledger_rows,
         trim_scale(fact.amount) AS expected_minor,
         trim_scale(CASE WHEN fact.at IS NULL THEN bill.net ELSE ${actual(build)} END) AS actual_minor,
         coalesce(fact.currency, bill.currency_low) AS currency
    FROM ${from.source}
    LEFT JOIN LATERAL (
      SELECT ${factColumns(build)}
        FROM ${plan.facts.name} AS f
       WHERE ${check.facts.key.map((column, n) => `f.${quoted(column)} = ${from.factKey(n)}`).join(' AND ')}
         AND f.${quoted(check.facts.at)} IS NOT NULL
         ${conditions(build, plan.facts, check.facts.where, 'f')}
       ORDER BY f.${quoted(check.facts.at)} DESC LIMIT 1) AS fact ON true
   CROSS JOIN LATERAL (${billsOf(build, from.ledgerKey)}) AS bill`;
}

export const idArray = (alias: string, relation: Relation): string =>
  relation.primaryKey.length === 0
    ? 'NULL::text[]'
    : `array[${relation.primaryKey.map((column) => `${alias}.${quoted(column)}::text`).join(', ')}]`;

/** The primary key as it is: made text only for the few rows that need it, which halves the time of a window. */
export const idColumns = (alias: string, relation: Relation): readonly string[] =>
  relation.primaryKey.map((column, n) => `${alias}.${quoted(column)} AS id${n}`);

/** The primary key of a row that was read with `idColumns`. */
export const idText = (alias: string, relation: Relation): string =>
  relation.primaryKey.length === 0
    ? 'NULL::text[]'
    : `array[${relation.primaryKey.map((_, n) => `${alias}.id${n}::text`).join(', ')}]`;
