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

/**
 * The facts of the last minutes, counted per version.
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
   WHERE ${near('l')}
     ${conditions(build, plan.ledger, check.ledger.where, 'l')}
     ${isLive(build, 'l', () => near('r'))}
   GROUP BY ${keys.map((_, n) => n + 1).join(', ')}
), looked AS MATERIALIZED (
  SELECT fact.*, ${verdict(build)} IS NOT NULL AS suspect
    FROM fact
    LEFT JOIN near AS bill ON ${keys.map((key, n) => `bill.${key} = ${carry(`fact.${key}`, factColumn(plan, n), ledgerColumn(plan, n))}`).join(' AND ')}
), judged AS (
  SELECT ${keyList}, NULL::text AS kind FROM looked AS fact WHERE NOT fact.suspect
  UNION ALL
  SELECT ${keyList}, ${verdict(build)} AS kind
    FROM looked AS fact
   CROSS JOIN LATERAL (${billsOf(build, (n) => carry(`fact.${keys[n]}`, factColumn(plan, n), ledgerColumn(plan, n)))}) AS bill
   WHERE fact.suspect
)${versions.tables}
SELECT ${versions.hash} AS published_hash, ${countedKinds}
  FROM judged ${versions.joins}
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

/** How a judged fact comes by the hash of the version that published its event, the newest one where there are several. */
function versionOf(
  build: Build,
  source: EventsSource | undefined,
): { readonly tables: string; readonly joins: string; readonly hash: string } {
  const { event } = build.plan.check;
  if (source === undefined || event === null) return { tables: '', joins: '', hash: 'NULL::text' };
  const { plan } = build;
  const keys = keyNames(plan);
  const { inColumnType } = partsOf(source);
  const name = build.params.add(event.name, 'text');
  const hash = 'b.published_hash::text AS published_hash';
  return {
    tables: `, published AS MATERIALIZED (
  SELECT DISTINCT ON (${keys.join(', ')}) ${eventKeys(build, 'b').join(', ')}, ${hash}
    FROM ${source.name} AS b
   WHERE b.created_at >= ${inColumnType(before(build, HOT_FROM_MS + EVENT_SLACK_MS))}
     AND b.event_name = ${name}
   ORDER BY ${keys.join(', ')}, b.created_at DESC
)`,
    joins: `
  LEFT JOIN published ON ${keys.map((key, n) => `judged.${key} = ${carry(`published.${key}`, textColumn, factColumn(plan, n))}`).join(' AND ')}
  -- Of the few whose event lies elsewhere in time; an aggregate, so that the planner walks no index by age.
  LEFT JOIN LATERAL (
    SELECT (array_agg(b.published_hash::text ORDER BY b.created_at DESC))[1] AS published_hash
      FROM ${source.name} AS b
     WHERE published.${keys[0]} IS NULL
       AND ${event.key.map((payloadKey, n) => `(b.payload ->> '${payloadKey}') = ${carry(`judged.${keys[n]}`, factColumn(plan, n), textColumn)}`).join(' AND ')}
       AND b.event_name = ${name}) AS elsewhere ON true`,
    hash: 'coalesce(published.published_hash, elsewhere.published_hash)',
  };
}
