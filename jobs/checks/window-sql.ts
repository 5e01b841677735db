/**
 * The statements of one check that read a window. Its facts and its ledger rows are compared by one full join of the rows
 * of about that time; only what does not come out even is then looked up by index, over all time. So a statement costs what
 * its window holds, and a verdict never rests on the window alone.
 */
import { type Column, type InspectedCheck, keyFamily, type Relation } from './inspect.ts';
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
  billsOf,
  currencyOf,
  factColumns,
  idArray,
  idText,
  isLive,
  judgement,
  minorUnits,
  positive,
  verdict,
  type WindowRow,
} from './verdict-sql.ts';

/** A wall clock can jump by so much: `timestamp` columns are read with that much more around them. */
const CLOCK_CHANGE_MS = 3_600_000;

/** What one window holds, and what is wrong in it. */
export interface ComparedRow extends WindowRow {
  /** Ledger rows of the window, where `rows` are its keys of facts; bigint as text. */
  readonly ledger_window_rows: string;
}

/**
 * Facts and ledger rows of `[from, to)`, compared. A key is well where its fact and its bills lie near each other and say
 * the same; every other one is judged by index, over all time. So this may take too many for suspects but never too few, and
 * what it cannot tell at a glance (reversals, several facts of one key) it leaves to that judgement.
 * @param from as text in UTC
 * @param to as text in UTC
 * @param settledTo facts from here on are left to a later window
 */
export function compareWindow(
  plan: InspectedCheck,
  options: SqlOptions,
  window: { readonly from: string; readonly to: string; readonly settledTo: string },
): Statement {
  const build = { plan, options, params: new Params() };
  const { check } = plan;
  const from = build.params.add(window.from, 'timestamptz');
  const to = build.params.add(window.to, 'timestamptz');
  const settledTo = build.params.add(window.settledTo, 'timestamptz');
  const keys = keyNames(plan);
  const own = ownKeys(plan);
  const names = [...keys, ...own.map(({ name }) => name)];
  const list = (text: (name: string, n: number) => string) => names.map(text).join(', ');
  const inside = (alias: string) => `${alias}.at >= ${from} AND ${alias}.at < ${to}`;
  const known = (columns: readonly string[]) => columns.map((name) => `${name} IS NOT NULL`).join(' AND ');
  const named =
    own.length === 0 ? known(keys) : `((${known(keys)}) OR (${known(own.map(({ name }) => name))}))`;
  return {
    text: `-- billing-reconciliation: compareWindow; index on facts at, ledger at, facts key, ledger key
WITH fact AS (
  SELECT ${keys.map((key, n) => `${carry(`f.${quoted(check.facts.key[n])}`, factColumn(plan, n), ledgerColumn(plan, n))} AS ${key}`).join(', ')},
         ${own.map(({ name, column }) => `f.${quoted(column)} AS ${name}, `).join('')}${instant(build, plan.facts, check.facts.at, 'f')} AS at,
         ${plainUnits(build, plan.facts, check.facts, 'f')} AS amount, ${currencyOf(check.facts, 'f')} AS currency
    FROM ${plan.facts.name} AS f
   WHERE ${nearRange(build, plan.facts, check.facts, 'f', from, to)}
     ${conditions(build, plan.facts, check.facts.where, 'f')}
), bill AS (
  SELECT ${keys.map((key, n) => `l.${quoted(check.ledger.key[n])} AS ${key}`).join(', ')},
         ${instant(build, plan.ledger, check.ledger.at, 'l')} AS at, ${positive(build, 'l')} AS positive,
         ${plainUnits(build, plan.ledger, check.ledger, 'l')} AS amount, ${currencyOf(check.ledger, 'l')} AS currency
    FROM ${plan.ledger.name} AS l
   WHERE ${nearRange(build, plan.ledger, check.ledger, 'l', from, to)}
     ${conditions(build, plan.ledger, check.ledger.where, 'l')} ${reversesNothing(plan, 'l')}
), met AS (
  SELECT ${[...keys.map((key) => `coalesce(fact.${key}, bill.${key}) AS ${key}`), ...own.map(({ name }) => `fact.${name}`)].join(', ')},
         count(*) FILTER (WHERE ${inside('fact')}) AS facts, count(*) FILTER (WHERE ${inside('bill')}) AS bills,
         ${isWell(build)} AS well
    FROM fact
    FULL JOIN bill ON ${keys.map((key) => `bill.${key} = fact.${key}`).join(' AND ')}
   GROUP BY ${list((_, n) => String(n + 1))}
), counted AS MATERIALIZED (
  SELECT count(*) FILTER (WHERE facts > 0) AS facts, coalesce(sum(bills), 0) AS bills,
         ${list((name) => `array_agg(${name}) FILTER (WHERE well IS NOT TRUE AND facts + bills > 0 AND ${named}) AS ${name}`)}
    FROM met
), leftover AS (
  SELECT ${list((name) => `suspect.${name}`)}, NULL::text[] AS id, NULL::timestamptz AS at, NULL::numeric AS own_amount, NULL::text AS own_currency
    FROM (SELECT suspect.*
            FROM counted
           CROSS JOIN LATERAL unnest(${list((name) => `counted.${name}`)}) AS suspect (${names.join(', ')})
          ${reversedIn(build, from, to)}) AS suspect
${keylessRows(build, from, to)}), found AS (
  ${judgement(build, {
    source: 'leftover',
    keyText: (n) =>
      own.length === 0
        ? `leftover.${keys[n]}::text`
        : `coalesce(leftover.${own[n]?.name}::text, leftover.${keys[n]}::text)`,
    factKey: (n) => {
      const carried = carry(`leftover.${keys[n]}`, ledgerColumn(plan, n), factColumn(plan, n));
      return own.length === 0 ? carried : `coalesce(leftover.${own[n]?.name}, ${carried})`;
    },
    ledgerKey: (n) => `leftover.${keys[n]}`,
    settledTo,
    columns: 'leftover.id, leftover.at AS own_at, leftover.own_amount, leftover.own_currency',
    keyless: 'leftover.id IS NOT NULL',
  })}
${keylessFacts(build, from, to)})
SELECT counted.facts::text AS rows, counted.bills::text AS ledger_window_rows, found.kind, found.key, found.id AS row_id,
       coalesce(found.fact_at, found.own_at) AS fact_at,
       CASE WHEN found.own_at IS NULL THEN found.ledger_rows ELSE 1 END AS ledger_rows,
       found.expected_minor, coalesce(found.actual_minor, trim_scale(found.own_amount)) AS actual_minor,
       coalesce(found.currency, found.own_currency) AS currency
  FROM counted
  LEFT JOIN found ON found.kind IS NOT NULL`,
    params: build.params.values,
  };
}

/** What holds of a key whose fact has its bills: of the rows that `fact` and `bill` have joined under it. */
function isWell(build: Build): string {
  const { facts, ledger, cardinality, tolerance, reverses } = {
    ...build.plan.check,
    ...build.plan.check.ledger,
  };
  const slack = `${build.params.add(build.options.slackMs, 'double precision')} * interval '1 millisecond'`;
  const least = Math.min(tolerance.default, ...Object.values(tolerance.byCurrency));
  const comparesAmounts = facts.amount !== null && ledger.amount !== null;
  const same = (one: string, other: string) =>
    least === 0
      ? `${one} IS NOT DISTINCT FROM ${other}`
      : `(${one} IS NOT DISTINCT FROM ${other} OR abs(${one} - ${other}) <= ${build.params.add(least, 'numeric')})`;
  // Of several bills the amounts are added up only where a fact cannot be joined to them twice.
  const adds = cardinality === 'net_sum' && comparesAmounts && hasUniqueFacts(build.plan);
  const pair = [
    `bill.at >= fact.at - ${slack} AND bill.at < fact.at + ${slack}`,
    ...(reverses !== null && 'sign' in reverses ? ['bill.positive'] : []),
    ...(comparesAmounts
      ? [adds ? 'fact.amount IS NOT NULL AND bill.amount IS NOT NULL' : same('fact.amount', 'bill.amount')]
      : []),
    ...(facts.currency !== null && ledger.currency !== null
      ? ['fact.currency IS NOT DISTINCT FROM bill.currency']
      : []),
  ].join(' AND ');
  // Bills in several currencies are told from each other only beside that of the fact.
  const several =
    (cardinality === 'at_least_one' || adds) && (ledger.currency === null || facts.currency !== null);
  return [
    `bool_and(${pair})`,
    ...(several ? [] : ['count(*) = 1']),
    ...(adds ? [same('sum(bill.amount)', 'min(fact.amount)')] : []),
  ].join(' AND ');
}

/** Whether no two facts can have the same key. */
const hasUniqueFacts = ({ facts, check }: InspectedCheck): boolean =>
  facts.primaryKey.length > 0 && facts.primaryKey.every((column) => check.facts.key.includes(column));

/** Minor units in the column's own type where that is a whole number of them: `numeric` is slow. */
function plainUnits(build: Build, relation: Relation, side: CheckSide, alias: string): string {
  if (side.amount === null) return 'NULL::bigint';
  const { column, scale } = side.amount;
  const found = relation.columns.get(column);
  const whole = found !== undefined && keyFamily(found) === 'integer';
  const plain = scale.default === 0 && Object.values(scale.byCurrency).every((decimals) => decimals === 0);
  return whole && plain ? `${alias}.${quoted(column)}` : minorUnits(build, side, alias);
}

/**
 * The key of a fact in its own type, where the ledger's is another one: what it was made into may not lead back to it.
 */
const ownKeys = (plan: InspectedCheck): readonly { readonly name: string; readonly column: string }[] => {
  const same = keyNames(plan).every((_, n) => {
    const [one, other] = [factColumn(plan, n), ledgerColumn(plan, n)];
    return one !== undefined && other !== undefined && keyFamily(one) === keyFamily(other);
  });
  return same ? [] : plan.check.facts.key.map((column, n) => ({ name: `own_k${n}`, column }));
};

const reversesNothing = (plan: InspectedCheck, alias: string): string => {
  const { reverses } = plan.check.ledger;
  return reverses === null || 'sign' in reverses ? '' : `AND ${alias}.${quoted(reverses.column)} IS NULL`;
};

/** The keys of the rows that reversing rows of the window name: what was well before them may not be so any more. */
function reversedIn(build: Build, from: string, to: string): string {
  const { plan } = build;
  const { ledger } = plan.check;
  if (ledger.reverses === null || 'sign' in ledger.reverses || plan.reversedId === undefined) return '';
  const reversing = quoted(ledger.reverses.column);
  const columns = [
    ...ledger.key.map((column) => `o.${quoted(column)}`),
    ...ownKeys(plan).map((_, n) => `NULL::${typeOf(plan.facts, plan.check.facts.key[n] ?? '')}`),
  ];
  return `UNION
          SELECT ${columns.join(', ')}
            FROM ${plan.ledger.name} AS l
            JOIN ${plan.ledger.name} AS o ON o.${quoted(plan.reversedId)} = l.${reversing}
           WHERE ${timeRange(build, plan.ledger, ledger, 'l', from, to)} AND l.${reversing} IS NOT NULL
             AND ${ledger.key.map((column) => `o.${quoted(column)} IS NOT NULL`).join(' AND ')}`;
}

/** Ledger rows of the window whose key has a null: they can match no fact. */
function keylessRows(build: Build, from: string, to: string): string {
  const { plan } = build;
  const { ledger } = plan.check;
  if (!mayBeKeyless(plan.ledger, ledger.key)) return '';
  const columns = [
    ...ledger.key.map((column) => `l.${quoted(column)}`),
    ...ownKeys(plan).map((_, n) => `NULL::${typeOf(plan.facts, plan.check.facts.key[n] ?? '')}`),
  ];
  return `   UNION ALL
  SELECT ${columns.join(', ')}, ${idArray('l', plan.ledger)}, ${instant(build, plan.ledger, ledger.at, 'l')},
         ${minorUnits(build, ledger, 'l')}, ${currencyOf(ledger, 'l')}
    FROM ${plan.ledger.name} AS l
   WHERE ${timeRange(build, plan.ledger, ledger, 'l', from, to)}
     AND (${ledger.key.map((column) => `l.${quoted(column)} IS NULL`).join(' OR ')})
     ${conditions(build, plan.ledger, ledger.where, 'l')} ${isLive(build, 'l', undefined)} AND ${positive(build, 'l')}
`;
}

/** Facts of the window whose key has a null: no ledger row can match them. */
function keylessFacts(build: Build, from: string, to: string): string {
  const { plan } = build;
  const { facts } = plan.check;
  if (!mayBeKeyless(plan.facts, facts.key)) return '';
  const keys = keyNames(plan);
  return `   UNION ALL
  SELECT ${idText('fact', plan.facts)}, NULL, NULL, NULL, array[${keys.map((key) => `fact.${key}::text`).join(', ')}], ${verdict(build)},
         fact.at, bill.rows, trim_scale(fact.amount), NULL::numeric, fact.currency
    FROM (SELECT ${factColumns(build)}
            FROM ${plan.facts.name} AS f
           WHERE ${timeRange(build, plan.facts, facts, 'f', from, to)}
             AND (${facts.key.map((column) => `f.${quoted(column)} IS NULL`).join(' OR ')})
             ${conditions(build, plan.facts, facts.where, 'f')}) AS fact
   CROSS JOIN LATERAL (${billsOf(build, (n) => carry(`fact.${keys[n]}`, factColumn(plan, n), ledgerColumn(plan, n)))}) AS bill
`;
}

/** A row without key and without primary key cannot be named, so it cannot be a finding. */
const mayBeKeyless = (relation: Relation, key: readonly string[]): boolean =>
  relation.primaryKey.length > 0 && key.some((column) => relation.columns.get(column)?.nullable !== false);

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

/** Whether a zone is known to this server; the list of them takes it some ten milliseconds, which few need. */
export function zoneExists(timeZone: string): Statement {
  return {
    text: `-- billing-reconciliation: zoneExists
SELECT CASE $1::text WHEN 'UTC' THEN true ELSE EXISTS (SELECT FROM pg_timezone_names WHERE name = $1::text) END AS there`,
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
