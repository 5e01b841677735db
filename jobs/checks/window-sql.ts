/**
 * The statements of one check that read a window: of facts, and of ledger rows. A window is compared by one hash join
 * with the other side's rows of about the same time; only what does not come out even is then looked up by index,
 * over all time. So a statement costs what its window holds, and a verdict never rests on the window alone.
 */
import { type Column, type InspectedCheck, type Relation } from './inspect.ts';
import { type CheckSide } from './parse.ts';
import {
  type Build,
  bound,
  carry,
  conditions,
  factColumn,
  instant,
  keyNames,
  ledgerColumn,
  Params,
  quoted,
  readsWallClock,
  type SqlOptions,
  type Statement,
  timeRange,
  typeOf,
  wallBound,
} from './sql-parts.ts';
import {
  actual,
  billColumns,
  billsOf,
  currencyOf,
  factColumns,
  idColumns,
  idText,
  isLive,
  judgement,
  minorUnits,
  positive,
  verdict,
} from './verdict-sql.ts';

/** A wall clock can jump by so much: `timestamp` columns are read with that much more around them. */
const CLOCK_CHANGE_MS = 3_600_000;

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

/** The newest instant at or before `$1` whose wall-clock bound has nothing of an unfinished hour behind it. */
export function settledInstant(time: string, timeZone: string): Statement {
  const zoned = wallBound('$1::timestamptz', '$2::text');
  return {
    text: `-- billing-reconciliation: settledInstant
SELECT $1::timestamptz - (($1::timestamptz AT TIME ZONE $2::text) - (${zoned})) AS at`,
    params: [time, timeZone],
  };
}

/** Whether a zone is known to this server. */
export function zoneExists(timeZone: string): Statement {
  return {
    text: `-- billing-reconciliation: zoneExists
SELECT EXISTS (SELECT FROM pg_timezone_names WHERE name = $1::text) AS there`,
    params: [timeZone],
  };
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

const keyArray = (alias: string, keys: readonly string[]): string =>
  `array[${keys.map((key) => `${alias}.${key}::text`).join(', ')}]`;

const idUnlessKeyed = (alias: string, keys: readonly string[], relation: Relation): string =>
  `CASE WHEN ${keys.map((key) => `${alias}.${key} IS NULL`).join(' OR ')} THEN ${idText(alias, relation)} END`;

/** A row without key and without primary key cannot be named, so it cannot be a finding. */
const named = (alias: string, keys: readonly string[], relation: Relation): string =>
  relation.primaryKey.length > 0
    ? ''
    : `AND NOT (${keys.map((key) => `${alias}.${key} IS NULL`).join(' OR ')})`;
