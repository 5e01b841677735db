/** Statements of /gate on the service's events and on our own tables. Times are text in UTC. */
import type { Transaction } from '../runtime/database.ts';
import { partsOf, sentByReplay } from './event-queries.ts';
import type { EventsSource } from './service-tables.ts';

export interface GateEvents {
  readonly now: string;
  /** Events of all versions that were read; the limit where there are more. */
  readonly read: number;
  /** Of this version, those old enough to be judged. */
  readonly published: number;
  /** Of them, those still pending under no live lease, and those that replay had to send. */
  readonly lost: number;
  readonly first_at: string | null;
  readonly first_age: number | null;
}

/** What one version has published within the window, and what of it was lost. Needs the index on `created_at`. */
export async function readGateEvents(
  transaction: Transaction,
  source: EventsSource,
  asked: {
    readonly hash: string;
    readonly windowMs: number;
    readonly lossDelayMs: number;
    readonly most: number;
  },
): Promise<GateEvents | undefined> {
  const { createdAt, inColumnType, lease } = partsOf(source);
  const ago = (parameter: string) =>
    `statement_timestamp() - ${parameter}::double precision * interval '1 millisecond'`;
  const sent = sentByReplay({
    from: '$1',
    delay: '$3',
    oldestRead: '(SELECT min(recent.created_at) FROM recent)',
    most: '$4::integer',
  });
  const [row] = await transaction.query<GateEvents>(
    `-- exporter: readGateEvents; index on events created_at, deliveries event_id, replay_events_done
     WITH recent AS MATERIALIZED (
       SELECT CASE WHEN b.status = 'pending' AND b.published_hash = $2::text THEN b.event_id END AS event_id,
              b.published_hash = $2::text AS ours, ${createdAt} AS created_at
         FROM ${source.name} AS b
        WHERE b.created_at >= ${inColumnType(ago('$1'))}
        ORDER BY b.created_at DESC LIMIT $4::integer
     ), counted AS (
       SELECT count(*)::integer AS read, count(*) FILTER (WHERE ours AND created_at < ${ago('$3')})::integer AS published,
              min(created_at) FILTER (WHERE ours) AS first_at
         FROM recent
     ), lost AS (
       SELECT count(*)::integer AS lost
         FROM (SELECT pending.event_id::text AS event_id
                 FROM (SELECT recent.event_id FROM recent
                        WHERE recent.event_id IS NOT NULL AND recent.created_at < ${ago('$3')}) AS pending ${lease('pending')}
                WHERE lease.live IS NULL
               ${source.hasReplayRecord ? `UNION SELECT replayed.event_id FROM (${sent}) AS replayed WHERE replayed.published_hash = $2::text` : ''}) AS every
     )
     SELECT statement_timestamp() AS now, counted.read, counted.published, lost.lost, counted.first_at,
            extract(epoch FROM statement_timestamp() - counted.first_at)::integer AS first_age
       FROM counted CROSS JOIN lost`,
    [asked.windowMs, asked.hash, asked.lossDelayMs, asked.most],
  );
  return row;
}

export interface GateCheck {
  readonly name: string;
  readonly verified_through: string | null;
  readonly verified_age: number | null;
  readonly suspected: number;
  readonly open: number;
}

/**
 * How far each check is verified, and what is on record against this version, acknowledged findings left out.
 * @param asked.since findings first seen before that are left out; null: none are
 */
export const readGateChecks = async (
  transaction: Transaction,
  asked: { readonly installation: string; readonly hash: string; readonly since: string | null },
): Promise<GateCheck[]> =>
  await transaction.query(
    `-- exporter: readGateChecks; index discrepancies_unsettled
     SELECT c.name, c.verified_through,
            extract(epoch FROM statement_timestamp() - c.verified_through)::integer AS verified_age,
            found.suspected, found.open
       FROM checks AS c
      CROSS JOIN LATERAL (
        SELECT count(*) FILTER (WHERE d.status = 'suspected')::integer AS suspected,
               count(*) FILTER (WHERE d.status = 'open'
                                   OR (d.status = 'acknowledged' AND d.acknowledged_until <= statement_timestamp()))::integer
                 AS open
          FROM discrepancies AS d
         WHERE d.check_name = c.name AND d.status IN ('suspected', 'open', 'acknowledged')
           AND d.published_hash = $2::text
           AND ($3::timestamptz IS NULL OR d.first_seen_at >= $3::timestamptz)) AS found
      WHERE c.installation = $1::text ORDER BY c.name`,
    [asked.installation, asked.hash, asked.since],
  );
