/**
 * Statements on the service's table of events. Each is bounded: by an index and by a number of rows, whatever the table
 * has grown to. They name our own tables without a schema and the service's with theirs.
 */
import type { Transaction } from '../runtime/database.ts';
import type { EventsSource } from './service-tables.ts';

/** Rows are counted up to one less: "100,000 or more" is all that anybody has to know. */
export const MOST_COUNTED = 100_001;
/** Of so many overdue events each one is looked up: parked, or under a live lease. */
export const MOST_LOOKED_UP = 2_001;
/** The newest rows of a window that are judged: at 1,000 events a second the last two minutes of it. */
export const MOST_JUDGED = 100_000;
/** Versions that a statement tells apart; in a table that somebody has filled with anything there may be many more. */
const MOST_HASHES = 200;

/** The parts of a statement that depend on what the table looks like. */
export function partsOf(source: EventsSource) {
  // A name without quotes, as env.ts makes sure, that the database knows.
  const zone = `'${source.timeZone}'`;
  const { deliveries } = source;
  return {
    /** `created_at` as timestamptz. */
    createdAt: source.createdAtType === 'timestamp' ? `b.created_at AT TIME ZONE ${zone}` : 'b.created_at',
    /** A timestamptz in the type of the column, so that an index on it can be used. */
    inColumnType: (moment: string) =>
      source.createdAtType === 'timestamp' ? `((${moment}) AT TIME ZONE ${zone})` : `(${moment})`,
    publishedHash: source.hasPublishedHash ? 'b.published_hash::text' : 'NULL::text',
    /** A moment of the type of `created_at`, as timestamptz. */
    asTime: (moment: string) =>
      source.createdAtType === 'timestamp' ? `((${moment}) AT TIME ZONE ${zone})` : `(${moment})`,
    /** Joins `lease` to each `row` of events: probes, since a join could read the whole table of deliveries. */
    lease: (row: string) =>
      deliveries === undefined
        ? 'CROSS JOIN (SELECT NULL::boolean AS live) AS lease'
        : `LEFT JOIN LATERAL (
              SELECT true AS live FROM ${deliveries.name} AS d
               WHERE d.event_id = ${row}.event_id${deliveries.idCast} AND d.lease_until > statement_timestamp()
               LIMIT 1) AS lease ON true`,
  };
}

/**
 * What replay had to send: the row says processed by now, and the version lost it all the same. A call has reached a
 * handler: what was found processed, slow but by itself, is no loss. Gives `event_id` and `published_hash`.
 */
export const sentByReplay = (limits: {
  /** Parameters, in milliseconds before now: the events' age, and from which age on they count as lost. */
  readonly from: string;
  readonly delay: string;
  /** Nothing older is judged: the oldest row that was read, as timestamptz; null where none was. */
  readonly oldestRead: string;
  readonly most: number | string;
}): string => `
       SELECT sent.event_id, sent.published_hash
         FROM (SELECT r.event_id, r.published_hash, r.event_created_at, r.finished_at, r.handler_attempts
                 FROM replay_events AS r
                WHERE r.status = 'done' AND r.finished_at >= ${ago(limits.from)}
                ORDER BY r.finished_at DESC LIMIT ${limits.most}) AS sent
        WHERE sent.handler_attempts > 0
          AND sent.event_created_at >= greatest(${ago(limits.from)}, ${limits.oldestRead})
          AND sent.event_created_at < ${ago(limits.delay)}
          AND sent.finished_at >= sent.event_created_at + ${limits.delay}::double precision * interval '1 millisecond'`;

const ago = (parameter: string) =>
  `statement_timestamp() - ${parameter}::double precision * interval '1 millisecond'`;

export interface PendingCount {
  readonly pending: number;
  /** Of them, those older than the grace; parked ones and those under a lease among them. */
  readonly old: number;
}

/** Needs an index that leads to what is pending; reads that index alone where it holds `created_at`. */
export async function countPending(
  transaction: Transaction,
  source: EventsSource,
  graceMs: number,
): Promise<PendingCount> {
  const { inColumnType } = partsOf(source);
  const [row] = await transaction.query<PendingCount>(
    `-- exporter: countPending; index on events pending
     SELECT count(*)::integer AS pending,
            count(*) FILTER (WHERE p.created_at < ${inColumnType(ago('$1'))})::integer AS old
       FROM (SELECT b.created_at FROM ${source.name} AS b
              WHERE b.status = 'pending'
              ${source.pendingIndex === 'by_age' ? 'ORDER BY b.created_at' : ''}
              LIMIT ${MOST_COUNTED}) AS p`,
    [graceMs],
  );
  return row ?? { pending: 0, old: 0 };
}

export interface OverdueEvents {
  /** How many were looked up; `MOST_LOOKED_UP` where there are more. */
  readonly looked_up: number;
  readonly overdue: number;
  /** In seconds since 1970. */
  readonly oldest: number | null;
}

/** The oldest pending events beyond the grace that are not parked, and of them those under no live lease. */
export async function readOverdue(
  transaction: Transaction,
  source: EventsSource,
  graceMs: number,
): Promise<OverdueEvents> {
  const { inColumnType, createdAt, lease } = partsOf(source);
  const [row] = await transaction.query<OverdueEvents>(
    `-- exporter: readOverdue; index on events pending, primary key of replay_events, deliveries event_id
     WITH candidate AS MATERIALIZED (
       SELECT b.event_id, ${createdAt} AS created_at
         FROM ${source.name} AS b
         -- A probe of the key: of what was parked a minute ago the planner knows nothing, and would walk all of it.
         LEFT JOIN LATERAL (SELECT r.status FROM replay_events AS r
                             WHERE r.event_id = b.event_id::text LIMIT 1) AS replay ON true
        WHERE b.status = 'pending'
          AND b.created_at < ${inColumnType(ago('$1'))}
          -- Where clocks are set back an hour happens twice: a row of the second pass is not an hour old.
          AND ${createdAt} < ${ago('$1')}
          AND replay.status IS DISTINCT FROM 'parked'
        ${source.pendingIndex === 'by_age' ? 'ORDER BY b.created_at' : ''}
        LIMIT ${MOST_LOOKED_UP}
     )
     SELECT count(*)::integer AS looked_up, count(*) FILTER (WHERE lease.live IS NULL)::integer AS overdue,
            extract(epoch FROM min(candidate.created_at) FILTER (WHERE lease.live IS NULL))::double precision AS oldest
       FROM candidate ${lease('candidate')}`,
    [graceMs],
  );
  return row ?? { looked_up: 0, overdue: 0, oldest: null };
}

/** Parked events, counted up to the limit. */
export async function countParked(transaction: Transaction): Promise<number> {
  const [row] = await transaction.query<{ parked: number }>(
    `-- exporter: countParked; index replay_events_parked
     SELECT count(*)::integer AS parked
       FROM (SELECT FROM replay_events WHERE status = 'parked' LIMIT ${MOST_COUNTED}) AS p`,
  );
  return row?.parked ?? 0;
}

/** When the newest event was written, in seconds since 1970. Needs the index on `created_at`. */
export async function readNewestEvent(
  transaction: Transaction,
  source: EventsSource,
): Promise<number | undefined> {
  const { createdAt } = partsOf(source);
  const [row] = await transaction.query<{ at: number }>(
    `-- exporter: readNewestEvent; index on events created_at
     SELECT extract(epoch FROM ${createdAt})::double precision AS at
       FROM ${source.name} AS b ORDER BY b.created_at DESC LIMIT 1`,
  );
  return row?.at;
}

/** Events of one version in a window. */
export interface VersionEvents {
  /** Null: nothing says which version it was. */
  readonly published_hash: string | null;
  readonly events: number;
  /** Of them, those still pending under no live lease, and those that replay had to send. */
  readonly lost: number;
}

/** What each version has published between `fromMs` and `toMs` ago. Needs the index on `created_at`. */
export async function readVersionEvents(
  transaction: Transaction,
  source: EventsSource,
  window: { readonly fromMs: number; readonly toMs: number },
): Promise<VersionEvents[]> {
  const { inColumnType, asTime, createdAt, publishedHash, lease } = partsOf(source);
  const sent = sentByReplay({
    from: '$1',
    delay: '$2',
    oldestRead: asTime('SELECT min(recent.created_at) FROM recent'),
    most: MOST_JUDGED,
  });
  return await transaction.query<VersionEvents>(
    `-- exporter: readVersionEvents; index on events created_at, deliveries event_id, replay_events_done
     WITH recent AS MATERIALIZED (
       SELECT CASE WHEN b.status = 'pending' THEN b.event_id END AS event_id, ${publishedHash} AS published_hash,
              b.created_at
         FROM ${source.name} AS b
        WHERE b.created_at >= ${inColumnType(ago('$1'))} AND b.created_at < ${inColumnType(ago('$2'))}
          AND ${createdAt} >= ${ago('$1')} AND ${createdAt} < ${ago('$2')}
        ORDER BY b.created_at DESC LIMIT ${MOST_JUDGED}
     ), lost AS (
       SELECT pending.event_id::text AS event_id, pending.published_hash
         FROM (SELECT recent.event_id, recent.published_hash FROM recent WHERE recent.event_id IS NOT NULL) AS pending
              ${lease('pending')}
        WHERE lease.live IS NULL
       ${source.hasReplayRecord ? `UNION SELECT replayed.event_id, ${source.hasPublishedHash ? 'replayed.published_hash' : 'NULL::text'} FROM (${sent}) AS replayed` : ''}
     )
     SELECT counted.published_hash, sum(counted.events)::integer AS events, sum(counted.lost)::integer AS lost
       FROM (SELECT recent.published_hash, count(*) AS events, 0 AS lost FROM recent GROUP BY 1
             UNION ALL
             SELECT lost.published_hash, 0, count(*) FROM lost GROUP BY 1) AS counted
      GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT ${MOST_HASHES}`,
    [window.fromMs, window.toMs],
  );
}
