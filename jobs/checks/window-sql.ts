/**
 * The statements of one check: one window of facts, one window of ledger rows, and the judgement of single keys.
 * A window is compared by one hash join with the other side's rows of about the same time; only what does not
 * come out even is then looked up by index, over all time. So a statement costs what its window holds, and a
 * verdict never rests on the window alone.
 *
 * Keys are compared in the type of the side that is looked up, so that its index stays usable. Where the types
 * differ, a text counts as the same key only in the form in which Postgres prints the other type.
 */
import { quoteIdentifier } from '../runtime/database.ts';
import { type Column, type InspectedCheck, keyFamily, type Relation } from './inspect.ts';
import type { Amount, CheckSide, Condition, PerCurrency } from './parse.ts';

export interface Statement {
  readonly text: string;
  readonly params: readonly unknown[];
}

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

/** A discrepancy among keys that were judged; `position` counts the keys as given, from 0. */
export interface JudgedRow extends WindowRow {
  readonly position: number;
}

export interface SqlOptions {
  /** The zone of the service's `timestamp` columns. */
  readonly timeZone: string;
  /** How far from a fact its ledger row is sought before the index has to find it, in milliseconds. */
  readonly slackMs: number;
}

/** A wall clock can jump by so much: `timestamp` columns are read with that much more around them. */
const CLOCK_CHANGE_MS = 3_600_000;

class Params {
  readonly values: unknown[] = [];

  /** A parameter with its cast. */
  add(value: unknown, type: string): string {
    this.values.push(value);
    return `$${this.values.length}::${type}`;
  }
}

interface Build {
  readonly plan: InspectedCheck;
  readonly options: SqlOptions;
  readonly params: Params;
}

/**
 * Facts of `[from, to)`, judged.
 * @param from as text in UTC
 * @param to as text in UTC
 */
export function forwardWindow(
  plan: InspectedCheck,
  options: SqlOptions,
  window: { readonly from: string; readonly to: string },
): Statement {
  const build = { plan, options, params: new Params() };
  const { check } = plan;
  const from = build.params.add(window.from, 'timestamptz');
  const to = build.params.add(window.to, 'timestamptz');
  const keys = keyNames(plan);
  return {
    text: `-- billing-reconciliation: forwardWindow; index on facts at, ledger at, ledger key
WITH fact AS MATERIALIZED (
  SELECT ${factColumns(build)}
    FROM ${plan.facts.name} AS f
   WHERE ${timeRange(build, plan.facts, check.facts, 'f', from, to)}
     ${conditions(build, plan.facts, check.facts.where, 'f')}
), near AS (
  SELECT ${keys.map((key, n) => `l.${quoted(check.ledger.key[n])} AS ${key}`).join(', ')},
         ${billColumns(build)}
    FROM ${plan.ledger.name} AS l
   WHERE ${nearRange(build, plan.ledger, check.ledger, 'l', from, to)}
     ${conditions(build, plan.ledger, check.ledger.where, 'l')}
     ${isLive(build, 'l', () => nearRange(build, plan.ledger, check.ledger, 'r', from, to))}
   GROUP BY ${keys.map((_, n) => n + 1).join(', ')}
), suspect AS (
  SELECT fact.*
    FROM fact
    LEFT JOIN near AS bill ON ${keys.map((key, n) => `bill.${key} = ${carry(`fact.${key}`, factColumn(plan, n), ledgerColumn(plan, n))}`).join(' AND ')}
   WHERE ${verdict(build)} IS NOT NULL
), found AS (
  SELECT fact.*, bill.*, ${verdict(build)} AS kind, ${actual(build)} AS actual
    FROM suspect AS fact
   CROSS JOIN LATERAL (${billsOf(build, (n) => carry(`fact.${keys[n]}`, factColumn(plan, n), ledgerColumn(plan, n)))}) AS bill
)
SELECT counted.rows::text AS rows, found.kind, ${keyArray('found', keys)} AS key,
       ${idUnlessKeyed('found', keys, plan.facts)} AS row_id,
       found.at AS fact_at, found.rows AS ledger_rows, trim_scale(found.amount) AS expected_minor,
       trim_scale(found.actual) AS actual_minor, coalesce(found.currency, found.currency_low) AS currency
  FROM (SELECT count(*) AS rows FROM fact) AS counted
  LEFT JOIN found ON found.kind IS NOT NULL ${named('found', keys, plan.facts)}`,
    params: build.params.values,
  };
}

/**
 * Ledger rows of `[from, to)`: those without a fact, and keys whose fact lies too far away in time for the
 * forward pass to have seen this row beside it.
 * @param settledTo facts from here on are left to a later forward pass
 */
export function reverseWindow(
  plan: InspectedCheck,
  options: SqlOptions,
  window: { readonly from: string; readonly to: string; readonly settledTo: string },
): Statement {
  const build = { plan, options, params: new Params() };
  const { check } = plan;
  const { reverses } = check.ledger;
  const from = build.params.add(window.from, 'timestamptz');
  const to = build.params.add(window.to, 'timestamptz');
  const settledTo = build.params.add(window.settledTo, 'timestamptz');
  const slack = build.params.add(options.slackMs, 'double precision');
  const keys = keyNames(plan);
  const rowColumns = (alias: string) =>
    [
      ...keys.map((key, n) => `${alias}.${quoted(check.ledger.key[n])} AS ${key}`),
      ...idColumns(alias, plan.ledger),
      `${positive(build, alias)} AS positive`,
      `${minorUnits(build, check.ledger, alias)} AS own_amount`,
      `${currencyOf(check.ledger, alias)} AS own_currency`,
      ...(plan.reversedId === undefined ? [] : [`${alias}.${quoted(plan.reversedId)} AS reversed_id`]),
    ].join(', ');
  const byColumn = reverses !== null && 'column' in reverses ? reverses.column : undefined;
  const reversals =
    byColumn === undefined || plan.reversedId === undefined
      ? ''
      : `
  UNION ALL
  SELECT o.*, ${instant(build, plan.ledger, check.ledger.at, 'l')} AS at
    FROM ${plan.ledger.name} AS l
   CROSS JOIN LATERAL (SELECT ${rowColumns('o')} FROM ${plan.ledger.name} AS o
                        WHERE o.${quoted(plan.reversedId)} = l.${quoted(byColumn)} LIMIT 1) AS o
   WHERE ${timeRange(build, plan.ledger, check.ledger, 'l', from, to)} AND l.${quoted(byColumn)} IS NOT NULL`;
  const anyNull = keys.map((key) => `touched.${key} IS NULL`).join(' OR ');
  const stillLive =
    byColumn === undefined
      ? ''
      : `AND NOT EXISTS (SELECT FROM ${plan.ledger.name} AS r WHERE r.${quoted(byColumn)} = touched.reversed_id)`;
  return {
    text: `-- billing-reconciliation: reverseWindow; index on ledger at, facts at, facts key, ledger key
WITH touched AS MATERIALIZED (
  SELECT ${rowColumns('l')}, ${instant(build, plan.ledger, check.ledger.at, 'l')} AS at
    FROM ${plan.ledger.name} AS l
   WHERE ${timeRange(build, plan.ledger, check.ledger, 'l', from, to)}
     ${conditions(build, plan.ledger, check.ledger.where, 'l')}
     ${byColumn === undefined ? '' : `AND l.${quoted(byColumn)} IS NULL`}${reversals}
), near AS (
  SELECT ${keys.map((key, n) => `f.${quoted(check.facts.key[n])} AS ${key}`).join(', ')},
         ${instant(build, plan.facts, check.facts.at, 'f')} AS at
    FROM ${plan.facts.name} AS f
   WHERE ${nearRange(build, plan.facts, check.facts, 'f', from, to)}
     ${conditions(build, plan.facts, check.facts.where, 'f')}
), leftover AS (
  SELECT DISTINCT ${keys.map((key) => `touched.${key}`).join(', ')}, NULL::text[] AS id, NULL::timestamptz AS at,
         NULL::numeric AS own_amount, NULL::text AS own_currency
    FROM touched
   WHERE NOT (${anyNull})
     AND NOT EXISTS (
       SELECT FROM near
        WHERE ${keys.map((key, n) => `near.${key} = ${carry(`touched.${key}`, ledgerColumn(plan, n), factColumn(plan, n))}`).join(' AND ')}
          AND touched.at >= near.at - ${slack} * interval '1 millisecond'
          AND touched.at < near.at + ${slack} * interval '1 millisecond')
  UNION ALL
  SELECT ${keys.map((key) => `touched.${key}`).join(', ')}, ${idText('touched', plan.ledger)}, touched.at,
         touched.own_amount, touched.own_currency
    FROM touched
   WHERE (${anyNull}) AND touched.positive ${stillLive}
), found AS (
  ${judgement(build, {
    source: 'leftover',
    factKey: (n) => carry(`leftover.${keys[n]}`, ledgerColumn(plan, n), factColumn(plan, n)),
    ledgerKey: (n) => `leftover.${keys[n]}`,
    settledTo,
    columns: 'leftover.id, leftover.at AS own_at, leftover.own_amount, leftover.own_currency',
    keyless: 'leftover.id IS NOT NULL',
  })}
)
SELECT counted.rows::text AS rows, found.kind, found.key, found.id AS row_id,
       coalesce(found.fact_at, found.own_at) AS fact_at,
       CASE WHEN found.id IS NULL THEN found.ledger_rows ELSE 1 END AS ledger_rows,
       found.expected_minor, coalesce(found.actual_minor, trim_scale(found.own_amount)) AS actual_minor,
       coalesce(found.currency, found.own_currency) AS currency
  FROM (SELECT count(*) AS rows FROM touched) AS counted
  LEFT JOIN found ON found.kind IS NOT NULL`,
    params: build.params.values,
  };
}

/**
 * Single keys, whatever their time. Only keys with a discrepancy come back.
 * @param keys each the key's columns as text
 * @param settledTo facts from here on are not judged
 */
export function judgeKeys(
  plan: InspectedCheck,
  options: SqlOptions,
  keys: readonly (readonly string[])[],
  settledTo: string,
): Statement {
  const build = { plan, options, params: new Params() };
  const names = keyNames(plan);
  const limit = build.params.add(settledTo, 'timestamptz');
  const arrays = names.map((_, n) =>
    build.params.add(
      keys.map((key) => key[n]),
      'text[]',
    ),
  );
  return {
    text: `-- billing-reconciliation: judgeKeys; index on facts key, ledger key
WITH wanted AS MATERIALIZED (
  SELECT * FROM unnest(${arrays.join(', ')}) WITH ORDINALITY AS wanted (${names.join(', ')}, position)
), found AS (
  ${judgement(build, {
    source: 'wanted',
    factKey: (n) => carry(`wanted.${names[n]}`, textColumn, factColumn(plan, n)),
    ledgerKey: (n) => carry(`wanted.${names[n]}`, textColumn, ledgerColumn(plan, n)),
    settledTo: limit,
    columns: '(wanted.position - 1)::integer AS position',
    keyless: 'false',
  })}
)
SELECT '0' AS rows, position, kind, key, NULL::text[] AS row_id, fact_at, ledger_rows, expected_minor,
       actual_minor, currency
  FROM found WHERE kind IS NOT NULL`,
    params: build.params.values,
  };
}

/**
 * Single rows whose key has a null: a fact that no ledger row can match, or a ledger row that can match no fact.
 * Only those that are still so come back.
 * @param ids each the primary key's columns as text
 */
export function judgeRows(
  plan: InspectedCheck,
  options: SqlOptions,
  side: 'facts' | 'ledger',
  ids: readonly (readonly string[])[],
  settledTo: string,
): Statement {
  const build = { plan, options, params: new Params() };
  const { check } = plan;
  const relation = plan[side];
  const declared: CheckSide = check[side];
  const limit = build.params.add(settledTo, 'timestamptz');
  const names = relation.primaryKey.map((_, n) => `id_${n}`);
  const arrays = names.map((_, n) =>
    build.params.add(
      ids.map((id) => id[n]),
      'text[]',
    ),
  );
  const { reverses } = check.ledger;
  const live =
    side === 'facts' || reverses === null
      ? ''
      : 'column' in reverses
        ? isLive(build, 't', undefined)
        : `AND ${positive(build, 't')}`;
  const time = instant(build, relation, declared.at, 't');
  const sinceBound =
    check.since === null ? '' : `AND ${time} >= ${build.params.add(check.since, 'timestamptz')}`;
  return {
    text: `-- billing-reconciliation: judgeRows; the primary key
SELECT '0' AS rows, (wanted.position - 1)::integer AS position,
       '${side === 'facts' ? 'missing' : 'orphan'}' AS kind,
       array[${declared.key.map((column) => `t.${quoted(column)}::text`).join(', ')}] AS key,
       ${idArray('t', relation)} AS row_id, ${time} AS fact_at, '${side === 'facts' ? 0 : 1}' AS ledger_rows,
       ${side === 'facts' ? `trim_scale(${minorUnits(build, declared, 't')})` : 'NULL::numeric'} AS expected_minor,
       ${side === 'ledger' ? `trim_scale(${minorUnits(build, declared, 't')})` : 'NULL::numeric'} AS actual_minor,
       ${currencyOf(declared, 't')} AS currency
  FROM unnest(${arrays.join(', ')}) WITH ORDINALITY AS wanted (${names.join(', ')}, position)
  JOIN ${relation.name} AS t ON ${relation.primaryKey.map((column, n) => `t.${quoted(column)} = ${carry(`wanted.${names[n]}`, textColumn, relation.columns.get(column))}`).join(' AND ')}
 WHERE (${declared.key.map((column) => `t.${quoted(column)} IS NULL`).join(' OR ')})
   AND ${time} < ${limit} ${sinceBound}
   ${conditions(build, relation, declared.where, 't')} ${live}`,
    params: build.params.values,
  };
}

/** The time of the first row of either side: where a look at everything begins. */
export function firstRow(plan: InspectedCheck, options: SqlOptions): Statement {
  const build = { plan, options, params: new Params() };
  const first = (relation: Relation, side: CheckSide) =>
    `(SELECT ${instant(build, relation, 'first', 'x')}
        FROM (SELECT min(t.${quoted(side.at)}) AS first FROM ${relation.name} AS t
               WHERE t.${quoted(side.at)} > '0001-01-01 00:00:00'::${typeOf(relation, side.at)}) AS x)`;
  return {
    text: `-- billing-reconciliation: firstRow; index on facts at, ledger at
SELECT least(${first({ ...plan.facts, columns: withFirst(plan.facts, plan.check.facts) }, plan.check.facts)},
             ${first({ ...plan.ledger, columns: withFirst(plan.ledger, plan.check.ledger) }, plan.check.ledger)}) AS at`,
    params: build.params.values,
  };
}

const withFirst = (relation: Relation, side: CheckSide): ReadonlyMap<string, Column> => {
  const at = relation.columns.get(side.at);
  return at === undefined ? relation.columns : new Map([...relation.columns, ['first', at]]);
};

/** Facts dated later than now, counted up to 10,000. */
export function futureFacts(plan: InspectedCheck, options: SqlOptions, now: string): Statement {
  const build = { plan, options, params: new Params() };
  const { facts } = plan.check;
  return {
    text: `-- billing-reconciliation: futureFacts; index on facts at
SELECT count(*)::text AS rows
  FROM (SELECT FROM ${plan.facts.name} AS f
         WHERE f.${quoted(facts.at)} > ${bound(build, plan.facts, facts.at, build.params.add(now, 'timestamptz'))}
           ${conditions(build, plan.facts, facts.where, 'f')} LIMIT 10000) AS future`,
    params: build.params.values,
  };
}

const keyNames = (plan: InspectedCheck): readonly string[] => plan.check.facts.key.map((_, n) => `k${n}`);

const quoted = (name: string | undefined): string => quoteIdentifier(name ?? '');

const textColumn: Column = { type: 'text', base: 'text', category: 'S' };

const factColumn = (plan: InspectedCheck, n: number): Column | undefined =>
  plan.facts.columns.get(plan.check.facts.key[n] ?? '');

const ledgerColumn = (plan: InspectedCheck, n: number): Column | undefined =>
  plan.ledger.columns.get(plan.check.ledger.key[n] ?? '');

const typeOf = (relation: Relation, column: string): string => relation.columns.get(column)?.type ?? 'text';

/**
 * An expression of one type as a value of another, null where it cannot be one: a ledger key `manual-7` names no
 * uuid, and must not fail the statement.
 */
function carry(expression: string, from: Column | undefined, to: Column | undefined): string {
  if (from === undefined || to === undefined) return expression;
  const source = keyFamily(from);
  const target = keyFamily(to);
  if (source === target) return expression;
  switch (target) {
    case 'text':
      return `${expression}::text`;
    case 'bpchar':
      return `${expression}::text::bpchar`;
    case 'uuid':
      return `CASE WHEN ${expression}::text ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN ${expression}::text::uuid END`;
    case 'integer':
      return source === 'numeric'
        ? `CASE WHEN ${expression} = trunc(${expression}) AND abs(${expression}) < 9223372036854775808 THEN ${expression}::bigint END`
        : `CASE WHEN ${expression}::text ~ '^(0|-?[1-9][0-9]{0,18})$' THEN
             CASE WHEN abs(${expression}::text::numeric) < 9223372036854775808 THEN ${expression}::text::bigint END END`;
    case 'numeric':
      return source === 'integer'
        ? `${expression}::numeric`
        : `CASE WHEN ${expression}::text ~ '^-?[0-9]{1,1000}([.][0-9]{1,1000})?$' THEN ${expression}::text::numeric END`;
    default:
      return `${expression}::${to.type}`;
  }
}

const isWallClock = (relation: Relation, column: string): boolean =>
  relation.columns.get(column)?.base === 'timestamp without time zone';

/** The instant that a column means. */
function instant(build: Build, relation: Relation, column: string, alias: string): string {
  const value = `${alias}.${quoted(column)}`;
  return isWallClock(relation, column)
    ? `(${value} AT TIME ZONE ${build.params.add(build.options.timeZone, 'text')})`
    : value;
}

/**
 * A point in time in the type of a column, so that bounds tile whatever the column holds. On a wall clock that
 * is set back, an hour happens twice: through its first pass the bound stays at the start of that hour, so all
 * of its rows belong to windows of the second pass (and `settledInstant` keeps the horizon out of the first).
 */
function bound(build: Build, relation: Relation, column: string, time: string): string {
  if (!isWallClock(relation, column)) return time;
  return wallBound(time, build.params.add(build.options.timeZone, 'text'));
}

function wallBound(time: string, zone: string): string {
  const wall = `((${time}) AT TIME ZONE ${zone})`;
  const again = `(${wall} AT TIME ZONE ${zone} - (${time}))`;
  return `CASE WHEN ${again} > interval '0' THEN date_bin(${again}, ${wall}, timestamp '2000-01-01') ELSE ${wall} END`;
}

/** The newest instant at or before `$1` whose wall-clock bound has nothing of an unfinished hour behind it. */
export function settledInstant(time: string, timeZone: string): Statement {
  const zoned = wallBound('$1::timestamptz', '$2::text');
  return {
    text: `-- billing-reconciliation: settledInstant
SELECT $1::timestamptz - (($1::timestamptz AT TIME ZONE $2::text) - (${zoned})) AS at`,
    params: [time, timeZone],
  };
}

/** Whether a check reads a column that is a wall clock. */
export function readsWallClock(plan: InspectedCheck): boolean {
  return isWallClock(plan.facts, plan.check.facts.at) || isWallClock(plan.ledger, plan.check.ledger.at);
}

/** Whether a zone is known to this server. */
export function zoneExists(timeZone: string): Statement {
  return {
    text: `-- billing-reconciliation: zoneExists
SELECT EXISTS (SELECT FROM pg_timezone_names WHERE name = $1::text) AS there`,
    params: [timeZone],
  };
}

function timeRange(
  build: Build,
  relation: Relation,
  side: CheckSide,
  alias: string,
  from: string,
  to: string,
): string {
  const at = `${alias}.${quoted(side.at)}`;
  return `${at} >= ${bound(build, relation, side.at, from)} AND ${at} < ${bound(build, relation, side.at, to)}`;
}

/** The window and what lies near it: every row within the slack of any row of the window. */
function nearRange(
  build: Build,
  relation: Relation,
  side: CheckSide,
  alias: string,
  from: string,
  to: string,
): string {
  const ms = build.options.slackMs + (readsWallClock(build.plan) ? CLOCK_CHANGE_MS : 0);
  const slack = `${build.params.add(ms, 'double precision')} * interval '1 millisecond'`;
  return timeRange(build, relation, side, alias, `${from} - ${slack}`, `${to} + ${slack}`);
}

const conditions = (
  build: Build,
  relation: Relation,
  declared: readonly Condition[],
  alias: string,
): string => declared.map((one) => `AND ${predicate(build, relation, one, alias)}`).join('\n     ');

function predicate(build: Build, relation: Relation, condition: Condition, alias: string): string {
  const column = `${alias}.${quoted(condition.column)}`;
  const type = typeOf(relation, condition.column);
  switch (condition.op) {
    case 'eq':
      return `${column} = ${build.params.add(String(condition.value), type)}`;
    case 'ne':
      return `${column} IS DISTINCT FROM ${build.params.add(String(condition.value), type)}`;
    case 'gte':
      return `${column} >= ${build.params.add(String(condition.value), type)}`;
    case 'lt':
      return `${column} < ${build.params.add(String(condition.value), type)}`;
    case 'in':
      return `${column} = ANY (${build.params.add(condition.value.map(String), `${type}[]`)})`;
    case 'notIn':
      // A null is in no list.
      return `(${column} = ANY (${build.params.add(condition.value.map(String), `${type}[]`)})) IS NOT TRUE`;
    case 'isNull':
      return `${column} IS NULL`;
    case 'notNull':
      return `${column} IS NOT NULL`;
  }
}

/**
 * Neither reversing nor reversed.
 * @param reversingRange where reversing rows are sought; everywhere by index where not given
 */
function isLive(build: Build, alias: string, reversingRange: (() => string) | undefined): string {
  const { reverses } = build.plan.check.ledger;
  if (reverses === null || 'sign' in reverses) return '';
  return `AND ${alias}.${quoted(reverses.column)} IS NULL
     AND NOT EXISTS (SELECT FROM ${build.plan.ledger.name} AS r
                      WHERE r.${quoted(reverses.column)} = ${alias}.${quoted(build.plan.reversedId)}
                        ${reversingRange === undefined ? '' : `AND ${reversingRange()}`})`;
}

/** Whether a row adds to the bill; false for a reversing row that is told by its sign column. */
function positive(build: Build, alias: string): string {
  const { reverses } = build.plan.check.ledger;
  if (reverses === null || 'column' in reverses) return 'true';
  const type = typeOf(build.plan.ledger, reverses.sign.column);
  const negative = build.params.add(reverses.sign.negative.map(String), `${type}[]`);
  return `((${alias}.${quoted(reverses.sign.column)} = ANY (${negative})) IS NOT TRUE)`;
}

function minorUnits(
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

const currencyOf = (side: { currency: string | null }, alias: string): string =>
  side.currency === null ? 'NULL::text' : `${alias}.${quoted(side.currency)}::text`;

function factColumns(build: Build): string {
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
function billColumns(build: Build): string {
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
function billsOf(build: Build, key: (n: number) => string): string {
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
function verdict(build: Build): string {
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
function actual(build: Build): string {
  if (build.plan.check.cardinality !== 'at_least_one') return 'bill.net';
  return `CASE WHEN bill.without_amount > 0 THEN NULL
               WHEN abs(bill.low - fact.amount) > ${tolerance(build)} THEN bill.low ELSE bill.high END`;
}

/** Looks up fact and bills of each row of `source` by index, and judges them. */
function judgement(
  build: Build,
  from: {
    readonly source: string;
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
  return `SELECT ${from.columns}, array[${keys.map((key) => `${from.source}.${key}::text`).join(', ')}] AS key,
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

const keyArray = (alias: string, keys: readonly string[]): string =>
  `array[${keys.map((key) => `${alias}.${key}::text`).join(', ')}]`;

const idArray = (alias: string, relation: Relation): string =>
  relation.primaryKey.length === 0
    ? 'NULL::text[]'
    : `array[${relation.primaryKey.map((column) => `${alias}.${quoted(column)}::text`).join(', ')}]`;

/** The primary key as it is: made text only for the few rows that need it, which halves the time of a window. */
const idColumns = (alias: string, relation: Relation): readonly string[] =>
  relation.primaryKey.map((column, n) => `${alias}.${quoted(column)} AS id${n}`);

/** The primary key of a row that was read with `idColumns`. */
const idText = (alias: string, relation: Relation): string =>
  relation.primaryKey.length === 0
    ? 'NULL::text[]'
    : `array[${relation.primaryKey.map((_, n) => `${alias}.id${n}::text`).join(', ')}]`;

const idUnlessKeyed = (alias: string, keys: readonly string[], relation: Relation): string =>
  `CASE WHEN ${keys.map((key) => `${alias}.${key} IS NULL`).join(' OR ')} THEN ${idText(alias, relation)} END`;

/** A row without key and without primary key cannot be named, so it cannot be a finding. */
const named = (alias: string, keys: readonly string[], relation: Relation): string =>
  relation.primaryKey.length > 0
    ? ''
    : `AND NOT (${keys.map((key) => `${alias}.${key} IS NULL`).join(' OR ')})`;
