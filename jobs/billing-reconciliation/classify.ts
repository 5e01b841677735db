/**
 * Why a bill is missing, from what the service recorded about the fact's event. Decides from one event row and
 * never from the absence of a table: where nothing can be known, it says so.
 */
import type { EventsTable } from '../checks/inspect.ts';
import type { Check } from '../checks/parse.ts';
import { type Statement } from '../checks/sql-parts.ts';
import { type Instant, parseInstant } from './instant.ts';

export type Cause =
  | 'event_pending'
  | 'event_parked'
  | 'processed_without_ledger'
  | 'never_published'
  | 'unknown';

interface EventFound {
  readonly eventId: string;
  readonly status: string;
  /** Whether replay has given it up. */
  readonly parked: boolean;
}

/**
 * @param oldestKept the time of the oldest event that was surely not purged; undefined when it is not known
 */
export function causeOf(
  event: EventFound | undefined,
  factAt: Instant,
  oldestKept: Instant | undefined,
): Cause {
  if (event === undefined)
    return oldestKept !== undefined && factAt >= oldestKept ? 'never_published' : 'unknown';
  switch (event.status) {
    case 'pending':
      return event.parked ? 'event_parked' : 'event_pending';
    case 'processed':
      return 'processed_without_ledger';
    default:
      return 'unknown';
  }
}

export interface EventRow {
  /** Counts the facts as given, from 0. */
  readonly position: number;
  readonly event_id: string;
  readonly status: string;
  readonly published_hash: string | null;
}

interface WantedFact {
  readonly key: readonly string[];
  /** UTC, as text. */
  readonly at: string;
}

export interface EventSearch {
  readonly table: EventsTable;
  readonly timeZone: string;
  /** How far from the fact its event is sought where no index leads from the payload to it. */
  readonly slackMs: number;
}

/** The event of each fact: the oldest that is pending, else the oldest. Reads the declared payload keys only. */
export function eventsOfFacts(
  search: EventSearch,
  event: NonNullable<Check['event']>,
  facts: readonly WantedFact[],
): Statement {
  const { relation, indexedKeys, hasPublishedHash } = search.table;
  const keys = event.key.map((payloadKey, n) => ({ payloadKey, name: `k${n}` }));
  const params: unknown[] = [
    event.name,
    facts.map(({ at }) => at),
    ...keys.map((_, n) => facts.map(({ key }) => key[n])),
  ];
  const wanted = `unnest($2::timestamptz[], ${keys.map((_, n) => `$${n + 3}::text[]`).join(', ')})
       WITH ORDINALITY AS wanted (at, ${keys.map(({ name }) => name).join(', ')}, position)`;
  const matches = keys
    .map(({ payloadKey, name }) => `(e.payload ->> '${payloadKey}') = wanted.${name}`)
    .join(' AND ');
  const columns = `(wanted.position - 1)::integer AS position, e.event_id, e.status,
       ${hasPublishedHash ? 'e.published_hash' : 'NULL::text'} AS published_hash`;
  const order = `(e.status <> 'pending'), e.created_at`;
  if (keys.some(({ payloadKey }) => indexedKeys.has(payloadKey))) {
    return {
      text: `-- billing-reconciliation: eventsOfFacts; expression index on the payload key
SELECT e.*
  FROM ${wanted}
 CROSS JOIN LATERAL (
   SELECT ${columns}
     FROM ${relation.name} AS e
    WHERE ${matches} AND e.event_name = $1::text
    ORDER BY ${order} LIMIT 1) AS e`,
      params,
    };
  }
  const zone = zoneOf(search);
  const local = (time: string) =>
    zone === undefined ? `(${time})` : `((${time}) AT TIME ZONE $${params.length + 1}::text)`;
  const slack = `$${params.length + (zone === undefined ? 1 : 2)}::double precision * interval '1 millisecond'`;
  const first = local(`(SELECT min(t) FROM unnest($2::timestamptz[]) AS t) - ${slack}`);
  const last = local(`(SELECT max(t) FROM unnest($2::timestamptz[]) AS t) + ${slack}`);
  if (zone !== undefined) params.push(zone);
  params.push(search.slackMs);
  return {
    text: `-- billing-reconciliation: eventsOfFacts (by time); index on created_at
SELECT DISTINCT ON (position) ${columns}
  FROM ${wanted}
  JOIN ${relation.name} AS e ON ${matches}
 WHERE e.event_name = $1::text AND e.created_at >= ${first} AND e.created_at < ${last}
 ORDER BY position, ${order}`,
    params,
  };
}

/**
 * The time of the oldest event that retention has left. Retention takes processed rows only, so a pending one
 * that is older proves nothing about its neighbours.
 */
export function oldestEvent(search: EventSearch): Statement {
  const zone = zoneOf(search);
  const { relation } = search.table;
  const instant = zone === undefined ? 'first' : 'first AT TIME ZONE $1::text';
  return {
    text: `-- billing-reconciliation: oldestEvent; index on created_at
SELECT ${instant} AS at
  FROM (SELECT coalesce((SELECT min(created_at) FROM ${relation.name} WHERE status = 'processed'),
                        (SELECT min(created_at) FROM ${relation.name})) AS first) AS kept`,
    params: zone === undefined ? [] : [zone],
  };
}

function zoneOf(search: EventSearch): string | undefined {
  return search.table.relation.columns.get('created_at')?.base === 'timestamp without time zone'
    ? search.timeZone
    : undefined;
}

export const parseOldest = (at: string | null | undefined): Instant | undefined =>
  at === null || at === undefined ? undefined : parseInstant(at);
