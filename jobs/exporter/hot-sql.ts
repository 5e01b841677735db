/**
 * Statements that judge facts per published hash, made from a check's declaration: those of the last minutes, and those
 * of one version. Bounded by index, by time and by a number of rows. Of a payload only the declared keys are read.
 */
import type { InspectedCheck } from '../checks/inspect.ts';
import {
  type Build,
  bound,
  carry,
  conditions,
  factColumn,
  keyNames,
  ledgerColumn,
  Params,
  quoted,
  type Statement,
  textColumn,
  timeRange,
  typeOf,
} from '../checks/sql-parts.ts';
import { billColumns, billsOf, factColumns, isLive, verdict } from '../checks/verdict-sql.ts';
import { MOST_JUDGED, partsOf } from './event-queries.ts';
import type { EventsSource } from './service-tables.ts';

/** Facts are judged from so long ago … */
export const HOT_FROM_MS = 15 * 60_000;
/** … until so long ago: what is younger may still be on its way. */
export const HOT_UNTIL_MS = 20_000;
/** An event is written with its fact: so far around the window the events are read at once, others by index. */
const EVENT_SLACK_MS = 60_000;
/** Facts of one version that /gate judges, the newest; some fifty times what it needs to judge a share. */
export const MOST_OF_A_VERSION = 20_000;

/** Facts of one version, with what is wrong with them. */
export interface VersionFacts {
  /** Null: nothing says which version it was. */
  readonly published_hash: string | null;
  readonly facts: number;
  readonly missing: number;
  readonly duplicate: number;
  readonly amount: number;
}

/** Whether wrong amounts, and whether wrong currencies, can be seen at all. */
export const measuresAmounts = ({ check: { facts, ledger } }: InspectedCheck): boolean =>
  facts.amount !== null && ledger.amount !== null;

/** What a check's ledger rows of one key add up to, and the types: those of `billColumns`. */
const billTypes = {
  rows: 'bigint',
  net: 'numeric',
  low: 'numeric',
  high: 'numeric',
  without_amount: 'bigint',
  without_currency: 'bigint',
  currency_low: 'text',
  currency_high: 'text',
} as const;
type BillName = keyof typeof billTypes;
const billNames = Object.keys(billTypes) as BillName[];

/** Those of them that this check compares: the others are the same for every key, and need not be sorted along. */
function comparedNames({ check: { ledger } }: InspectedCheck): readonly BillName[] {
  return [
    'rows',
    ...(ledger.amount === null ? [] : (['net', 'low', 'high', 'without_amount'] as const)),
    ...(ledger.currency === null ? [] : (['without_currency', 'currency_low', 'currency_high'] as const)),
  ];
}

/**
 * The facts of the last minutes, counted per version. Facts meet their bills, and their events, by sorting both together
 * and not by a join: of the newest rows the planner knows nothing, takes thousands for one, and a nested loop of two such
 * sides takes minutes.
 * @param source the table of events; undefined where it says nothing of versions, or the check nothing of events
 */
export function hotFacts(
  plan: InspectedCheck,
  source: EventsSource | undefined,
  timeZone: string,
): Statement {
  const build: Build = { plan, options: { timeZone, slackMs: 0 }, params: new Params() };
  const { check } = plan;
  const keys = keyNames(plan);
  const from = before(build, HOT_FROM_MS);
  const until = before(build, HOT_UNTIL_MS);
  const nearFrom = before(build, HOT_FROM_MS + EVENT_SLACK_MS);
  const nearUntil = before(build, -EVENT_SLACK_MS);
  const near = (alias: string) => timeRange(build, plan.ledger, check.ledger, alias, nearFrom, nearUntil);
  const keyList = keys.map((key) => `fact.${key}`).join(', ');
  const versions = versionOf(build, source);
  const compared = comparedNames(plan);
  const constant = (name: BillName) =>
    `${name.startsWith('without_') ? '0' : 'NULL'}::${billTypes[name]} AS ${name}`;
  return {
    text: `-- exporter: hotFacts; index on facts at, ledger at, ledger key, events created_at, events payload key
WITH fact AS MATERIALIZED (
  SELECT ${factColumns(build)}
    FROM ${plan.facts.name} AS f
   WHERE ${timeRange(build, plan.facts, check.facts, 'f', from, until)}
     ${conditions(build, plan.facts, check.facts.where, 'f')} ${sinceCondition(build)}
   ORDER BY f.${quoted(check.facts.at)} DESC LIMIT ${MOST_JUDGED}
), near AS (
  SELECT ${keys.map((key, n) => `l.${quoted(check.ledger.key[n])} AS ${key}`).join(', ')}, ${billColumns(build)}
    FROM ${plan.ledger.name} AS l
   WHERE ${near('l')} AND ${check.ledger.key.map((column) => `l.${quoted(column)} IS NOT NULL`).join(' AND ')}
     ${conditions(build, plan.ledger, check.ledger.where, 'l')}
     ${isLive(build, 'l', () => near('r'))}
   GROUP BY ${keys.map((_, n) => n + 1).join(', ')}
), together AS (
  SELECT ${keys.map((key, n) => `${carry(`fact.${key}`, factColumn(plan, n), ledgerColumn(plan, n))} AS bill_${key}`).join(', ')},
         true AS is_fact, ${keyList}, fact.amount, fact.currency,
         ${compared.map((name) => `NULL::${billTypes[name]} AS ${name}`).join(', ')}
    FROM fact
  UNION ALL
  SELECT ${keys.map((key) => `near.${key}`).join(', ')}, false,
         ${keys.map((_, n) => `NULL::${typeOf(plan.facts, check.facts.key[n] ?? '')}`).join(', ')}, NULL::numeric, NULL::text,
         ${compared.map((name) => `near.${name}`).join(', ')}
    FROM near
), met AS (
  SELECT together.is_fact, ${keys.map((key) => `together.${key}`).join(', ')}, together.amount, together.currency,
         ${compared.map((name) => `max(together.${name}) OVER same AS ${name}`).join(', ')}
    FROM together
  WINDOW same AS (PARTITION BY ${keys.map((key) => `together.bill_${key}`).join(', ')})
), looked AS MATERIALIZED (
  SELECT ${keyList}, fact.amount, fact.currency, ${verdict(build)} IS NOT NULL AS suspect
    FROM met AS fact
   CROSS JOIN LATERAL (SELECT ${billNames.map((name) => (compared.includes(name) ? `fact.${name}` : constant(name))).join(', ')}) AS bill
   WHERE fact.is_fact
), judged AS (
  SELECT ${keyList}, NULL::text AS kind FROM looked AS fact WHERE NOT fact.suspect
  UNION ALL
  SELECT ${keyList}, ${verdict(build)} AS kind
    FROM looked AS fact
   CROSS JOIN LATERAL (${billsOf(build, (n) => carry(`fact.${keys[n]}`, factColumn(plan, n), ledgerColumn(plan, n)))}) AS bill
   WHERE fact.suspect
)${versions.tables}
SELECT ${versions.hash} AS published_hash, ${countedKinds}
  FROM ${versions.from}
 GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 200`,
    params: build.params.values,
  };
}

/**
 * The facts whose event this version has published within the window, the newest ones. One row, without a hash.
 * @param source a table that says of versions, with an index on `created_at`
 */
export function factsOfVersion(
  plan: InspectedCheck,
  source: EventsSource,
  timeZone: string,
  asked: { readonly hash: string; readonly windowMs: number },
): Statement {
  const build: Build = { plan, options: { timeZone, slackMs: 0 }, params: new Params() };
  const { check } = plan;
  const keys = keyNames(plan);
  const { inColumnType } = partsOf(source);
  const until = before(build, HOT_UNTIL_MS);
  return {
    text: `-- exporter: factsOfVersion; index on events created_at, facts key, ledger key
WITH published AS MATERIALIZED (
  SELECT DISTINCT ${eventKeys(build, 'b').join(', ')}
    FROM (SELECT recent.payload
            FROM (SELECT b.payload, b.event_name, b.published_hash FROM ${source.name} AS b
                   WHERE b.created_at >= ${inColumnType(before(build, asked.windowMs))}
                   ORDER BY b.created_at DESC LIMIT ${MOST_READ}) AS recent
           WHERE recent.published_hash = ${build.params.add(asked.hash, 'text')}
             AND recent.event_name = ${build.params.add(check.event?.name ?? '', 'text')}
           LIMIT ${MOST_OF_A_VERSION}) AS b
), judged AS (
  SELECT ${verdict(build)} AS kind
    FROM published
   CROSS JOIN LATERAL (
     SELECT ${factColumns(build)}
       FROM ${plan.facts.name} AS f
      WHERE ${check.facts.key.map((column, n) => `f.${quoted(column)} = ${carry(`published.${keys[n]}`, textColumn, factColumn(plan, n))}`).join(' AND ')}
        AND f.${quoted(check.facts.at)} IS NOT NULL
        ${conditions(build, plan.facts, check.facts.where, 'f')} ${sinceCondition(build)}
      ORDER BY f.${quoted(check.facts.at)} DESC LIMIT 1) AS fact
   CROSS JOIN LATERAL (${billsOf(build, (n) => carry(`fact.${keys[n]}`, factColumn(plan, n), ledgerColumn(plan, n)))}) AS bill
   WHERE fact.at < ${until}
)
SELECT NULL::text AS published_hash, ${countedKinds} FROM judged`,
    params: build.params.values,
  };
}

/** The newest events that /gate reads to find those of one version. */
export const MOST_READ = 200_000;

const countedKinds = `count(*)::integer AS facts,
       count(*) FILTER (WHERE judged.kind = 'missing')::integer AS missing,
       count(*) FILTER (WHERE judged.kind = 'duplicate')::integer AS duplicate,
       count(*) FILTER (WHERE judged.kind = 'amount')::integer AS amount`;

const before = (build: Build, ms: number): string =>
  `(statement_timestamp() - ${build.params.add(ms, 'double precision')} * interval '1 millisecond')`;

/** A check without an event is asked for none. */
function eventKeys(build: Build, alias: string): readonly string[] {
  // Names only, as the language of the checks makes sure: they cannot end the literal.
  return (build.plan.check.event?.key ?? []).map(
    (payloadKey, n) => `${alias}.payload ->> '${payloadKey}' AS k${n}`,
  );
}

/** Nothing older than what the check declares is judged. */
function sinceCondition(build: Build): string {
  const { facts, since } = build.plan.check;
  if (since === null) return '';
  const limit = build.params.add(since, 'timestamptz');
  return `AND f.${quoted(facts.at)} >= ${bound(build, build.plan.facts, facts.at, limit)}`;
}

/**
 * How a judged fact comes by the hash of the version that published its event, the newest one where there are several.
 * Keys are compared as texts, in the form in which Postgres prints them.
 */
function versionOf(
  build: Build,
  source: EventsSource | undefined,
): { readonly tables: string; readonly from: string; readonly hash: string } {
  const { event } = build.plan.check;
  if (source === undefined || event === null) return { tables: '', from: 'judged', hash: 'NULL::text' };
  const { plan } = build;
  const keys = keyNames(plan);
  const { inColumnType } = partsOf(source);
  const name = build.params.add(event.name, 'text');
  const keyTexts = keys.map((key, n) => carry(`judged.${key}`, factColumn(plan, n), textColumn));
  return {
    tables: `, known AS (
  SELECT true AS is_fact, ${keys.map((key, n) => `${keyTexts[n]} AS ${key}`).join(', ')}, judged.kind,
         NULL::text AS published_hash, NULL::${source.createdAtType} AS at
    FROM judged
  UNION ALL
  SELECT false, ${event.key.map((payloadKey) => `b.payload ->> '${payloadKey}'`).join(', ')}, NULL, b.published_hash::text,
         b.created_at
    FROM ${source.name} AS b
   WHERE b.created_at >= ${inColumnType(before(build, HOT_FROM_MS + EVENT_SLACK_MS))} AND b.event_name = ${name}
), attributed AS MATERIALIZED (
  SELECT known.is_fact, ${keys.map((key) => `known.${key}`).join(', ')}, known.kind,
         first_value(known.published_hash) OVER newest AS published_hash,
         first_value(known.is_fact) OVER newest AS without_event
    FROM known
  WINDOW newest AS (PARTITION BY ${keys.map((key) => `known.${key}`).join(', ')} ORDER BY known.is_fact, known.at DESC)
)`,
    from: `(
    SELECT a.published_hash, a.kind FROM attributed AS a WHERE a.is_fact AND NOT a.without_event
    UNION ALL
    -- Of the few whose event lies elsewhere in time; an aggregate, so that the planner walks no index by age.
    SELECT elsewhere.published_hash, a.kind
      FROM attributed AS a
      LEFT JOIN LATERAL (
        SELECT (array_agg(b.published_hash::text ORDER BY b.created_at DESC))[1] AS published_hash
          FROM ${source.name} AS b
         WHERE ${event.key.map((payloadKey, n) => `(b.payload ->> '${payloadKey}') = a.${keys[n]}`).join(' AND ')}
           AND b.event_name = ${name}) AS elsewhere ON true
     WHERE a.is_fact AND a.without_event) AS judged`,
    hash: 'judged.published_hash',
  };
}
