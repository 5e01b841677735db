/**
 * From events to what they are about, whatever their time: whether a bill stands for each, and what its fact says
 * today. Of a payload only the declared keys are read.
 */
import type { InspectedCheck } from './inspect.ts';
import type { Check } from './parse.ts';
import {
  type Build,
  carry,
  conditions,
  factColumn,
  ledgerColumn,
  Params,
  quoted,
  type Statement,
  textColumn,
} from './sql-parts.ts';
import { billsOf } from './verdict-sql.ts';

/** The table of events, as its reader has found it. */
export interface EventSource {
  /** Qualified and quoted. */
  readonly name: string;
  /** The type of `event_id`. */
  readonly idType: string;
  /** The zone of the service's `timestamp` columns. */
  readonly timeZone: string;
}

/** Of these events, those for whose fact a live ledger row stands: rows of `event_id`. */
export function billedEvents(
  plan: InspectedCheck,
  source: EventSource,
  eventIds: readonly string[],
): Statement {
  const build = buildOf(plan, source);
  return {
    text: `-- event-replay: billedEvents; primary key of the events, index on ledger key
SELECT event.event_id
  FROM (${eventKeys(build, source, eventIds, [])}) AS event
 CROSS JOIN LATERAL (${billsOf(build, (n) => carry(`event.k${n}`, textColumn, ledgerColumn(plan, n)))}) AS bill
 WHERE coalesce(bill.rows, 0) > 0`,
    params: build.params.values,
  };
}

/** What an event said of its fact and what the fact says today; `today` is null where there is no such fact. */
export interface FactComparison {
  readonly event_id: string;
  readonly said: readonly (string | null)[];
  readonly today: readonly (string | null)[] | null;
}

/** The values that `match` of the check declares, of each of these events and of its fact. */
export function factsOfEvents(
  plan: InspectedCheck,
  source: EventSource,
  eventIds: readonly string[],
): Statement {
  const build = buildOf(plan, source);
  const { facts } = plan.check;
  const matched = Object.entries(eventOf(plan).match);
  return {
    text: `-- event-replay: factsOfEvents; primary key of the events, index on facts key
SELECT event.event_id, array[${matched.map((_, n) => `event.m${n}`).join(', ')}]::text[] AS said, fact.today
  FROM (${eventKeys(
    build,
    source,
    eventIds,
    matched.map(([payloadKey]) => payloadKey),
  )}) AS event
  LEFT JOIN LATERAL (
    SELECT array[${matched.map(([, column]) => `to_jsonb(f.${quoted(column)}) #>> '{}'`).join(', ')}]::text[] AS today
      FROM ${plan.facts.name} AS f
     WHERE ${facts.key.map((column, n) => `f.${quoted(column)} = ${carry(`event.k${n}`, textColumn, factColumn(plan, n))}`).join(' AND ')}
       AND f.${quoted(facts.at)} IS NOT NULL
       ${conditions(build, plan.facts, facts.where, 'f')}
     ORDER BY f.${quoted(facts.at)} DESC LIMIT 1) AS fact ON true`,
    params: build.params.values,
  };
}

const buildOf = (plan: InspectedCheck, { timeZone }: EventSource): Build => ({
  plan,
  options: { timeZone, slackMs: 0 },
  params: new Params(),
});

/** A check without an event has no statement here: the caller has asked by the name of one. */
function eventOf(plan: InspectedCheck): NonNullable<Check['event']> {
  const { event } = plan.check;
  if (event === null) throw new TypeError(`check ${plan.check.name} declares no event`);
  return event;
}

/** The declared keys of the events as `k0`, `k1`, …, and more payload keys as `m0`, `m1`, …; all as text. */
function eventKeys(
  build: Build,
  source: EventSource,
  eventIds: readonly string[],
  more: readonly string[],
): string {
  const event = eventOf(build.plan);
  // Names only, as the language of the checks makes sure: they cannot end the literal.
  const columns = [
    ...event.key.map((payloadKey, n) => `e.payload ->> '${payloadKey}' AS k${n}`),
    ...more.map((payloadKey, n) => `e.payload ->> '${payloadKey}' AS m${n}`),
  ];
  return `SELECT e.event_id::text AS event_id, ${columns.join(', ')}
           FROM ${source.name} AS e
          WHERE e.event_id = ANY (${build.params.add(eventIds, 'text[]')}::${source.idType}[])
            AND e.event_name::text = ${build.params.add(event.name, 'text')}`;
}
