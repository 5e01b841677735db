/**
 * Statements of the repair after an abort. Each request is written once per abort, whoever asks and how often: one
 * transaction lock per abort, and nothing is inserted where something is. The role may insert requests and rows of
 * the audit, and read.
 */
import { type Database, quoteIdentifier, type Transaction } from '../runtime/database.ts';
import type { Abort, RepairProgress, RequestProgress } from './abort-state.ts';

/** An abort that was seen, and since when its version can have written. */
export interface NotedAbort {
  readonly abort: Abort;
  /** As text in UTC. */
  readonly from: string;
}

/** Another exporter waits here until the first one has committed, and then finds its rows. */
const lockAbort = async (transaction: Transaction, abort: Abort): Promise<void> => {
  await transaction.execute(
    `-- exporter: lockAbort
     SELECT pg_advisory_xact_lock(hashtextextended('counterfoil abort ' || $1::jsonb::text, 0))`,
    [JSON.stringify(abort)],
  );
};

/** Remembers an abort at once: it stays known when the Rollout has long forgotten it. */
export const noteAbort = async (
  database: Database,
  installation: string,
  { abort, from }: NotedAbort,
): Promise<boolean> =>
  await database.transaction({ repeatable: true }, async (transaction) => {
    await lockAbort(transaction, abort);
    const noted = await transaction.execute(
      `-- exporter: noteAbort
       INSERT INTO audit (installation, actor, action, scope)
       SELECT $1::text, 'exporter', 'rollout aborted', jsonb_build_object('abort', $2::jsonb, 'from', $3::text)
        WHERE NOT EXISTS (SELECT FROM audit
                           WHERE id > (SELECT max(id) FROM audit) - ${AUDIT_ROWS} AND action = 'rollout aborted'
                             AND installation = $1::text AND scope -> 'abort' = $2::jsonb)`,
      [installation, JSON.stringify(abort), from],
    );
    return noted === 1;
  });

/** As far back as an abort is looked for in the audit, which has no index but its key. */
const AUDIT_ROWS = 200_000;
/** Aborts of one rollout that are looked after at once. */
const MOST_ABORTS = 20;

/** The aborts of a rollout in the last days, newest first. */
export const listAborts = async (
  database: Database,
  installation: string,
  rollout: { readonly namespace: string; readonly name: string },
): Promise<NotedAbort[]> =>
  await database.read(
    async (transaction) =>
      await transaction.query<NotedAbort>(
        `-- exporter: listAborts
       SELECT scope -> 'abort' AS abort, scope ->> 'from' AS "from" FROM audit
        WHERE id > (SELECT max(id) FROM audit) - ${AUDIT_ROWS} AND at > clock_timestamp() - interval '30 days'
          AND action = 'rollout aborted' AND installation = $1::text
          AND scope -> 'abort' ->> 'namespace' = $2::text AND scope -> 'abort' ->> 'rollout' = $3::text
        ORDER BY id DESC LIMIT ${MOST_ABORTS}`,
        [installation, rollout.namespace, rollout.name],
      ),
  );

/** What the service's table of events can tell: nothing where there is none. */
export const readEventsForm = async (
  database: Database,
  table: string,
): Promise<{ readonly hasHash: boolean } | undefined> =>
  await database.read(
    async (transaction) => {
      const [row] = await transaction.query<{ has_hash: boolean }>(
        `-- exporter: readEventsForm
       SELECT EXISTS (SELECT FROM pg_attribute AS a
                       WHERE a.attrelid = t.oid AND a.attname = 'published_hash' AND NOT a.attisdropped) AS has_hash
         FROM to_regclass($1::text) AS t (oid) WHERE t.oid IS NOT NULL`,
        [table.split('.').map(quoteIdentifier).join('.')],
      );
      return row === undefined ? undefined : { hasHash: row.has_hash };
    },
    { userSearchPath: true },
  );

export interface RepairRequest {
  readonly kind: 'replay' | 'verify';
  readonly noted: NotedAbort;
  /** Where the range ends, as text in UTC; now when left out. */
  readonly to: string | undefined;
  /** Whether only the events of the aborted version are meant; all of the range where no column tells them apart. */
  readonly byHash: boolean;
}

/** Asks the jobs, together with its row of the audit. False when this was asked before. */
export const requestRepair = async (
  database: Database,
  installation: string,
  { kind, noted, to, byHash }: RepairRequest,
): Promise<boolean> =>
  await database.transaction({ repeatable: true }, async (transaction) => {
    await lockAbort(transaction, noted.abort);
    const made = await transaction.execute(
      `-- exporter: requestRepair
       WITH asked AS (
         SELECT jsonb_build_object(
                  'abort', $2::jsonb,
                  'from', to_char($3::timestamptz AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
                  'to', to_char(greatest(coalesce($4::timestamptz, clock_timestamp()), $3::timestamptz + interval '1 second')
                                AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))
                || CASE WHEN $5::boolean THEN jsonb_build_object('published_hash', $2::jsonb ->> 'hash') ELSE '{}' END
                AS scope
       ), made AS (
         INSERT INTO requests (kind, scope, reason)
         SELECT $1::text, scope, 'rollout ' || ($2::jsonb ->> 'rollout') || ' aborted version ' || ($2::jsonb ->> 'hash')
           FROM asked
          WHERE NOT EXISTS (SELECT FROM requests AS q WHERE q.kind = $1::text AND q.scope -> 'abort' = $2::jsonb)
         RETURNING id, kind, scope, reason
       )
       INSERT INTO audit (installation, actor, action, reason, request_id, scope)
       SELECT $6::text, 'exporter', kind || ' requested', reason, id, scope FROM made`,
      [kind, JSON.stringify(noted.abort), noted.from, to ?? null, byHash, installation],
    );
    return made === 1;
  });

interface ProgressRow {
  readonly now: string;
  readonly replay: RequestRow | null;
  readonly verify: RequestRow | null;
  readonly suspected: number;
  readonly open: number;
  readonly parked: number;
  readonly verified_through: boolean;
  readonly at_work: boolean;
  readonly last_resolved_at: string | null;
}

interface RequestRow {
  readonly status: RequestProgress['status'];
  readonly requested_at: string;
  readonly finished_at: string | null;
}

export interface ReadProgress extends RepairProgress {
  /** The range of the replay, as text in UTC; the verification takes the same. */
  readonly from: string | undefined;
  readonly to: string | undefined;
}

/** All that tells where the repair stands; nothing but counts. Index discrepancies_unsettled. */
export const readProgress = async (
  database: Database,
  installation: string,
  { abort }: NotedAbort,
): Promise<ReadProgress> =>
  await database.read(async (transaction) => {
    const [row] = await transaction.query<
      ProgressRow & { readonly from: string | null; readonly to: string | null }
    >(
      `-- exporter: readProgress
       WITH asked AS MATERIALIZED (
         SELECT id, kind, status, requested_at, finished_at, (scope ->> 'from')::timestamptz AS from_at,
                (scope ->> 'to')::timestamptz AS to_at, scope ->> 'published_hash' AS hash,
                scope ->> 'from' AS from_text, scope ->> 'to' AS to_text
           FROM requests WHERE kind IN ('replay', 'verify') AND scope -> 'abort' = $1::jsonb
       ), own AS (
         SELECT min(from_at) AS from_at, max(to_at) AS to_at, max(hash) AS hash FROM asked
       ), standing AS (
         SELECT count(*) FILTER (WHERE d.status = 'suspected')::integer AS suspected,
                count(*) FILTER (WHERE d.status <> 'suspected')::integer AS open
           FROM own, discrepancies AS d JOIN checks AS c ON c.name = d.check_name
          WHERE c.installation = $2::text AND d.status IN ('suspected', 'open', 'acknowledged')
            AND d.fact_at >= own.from_at AND d.fact_at < own.to_at
            -- A bill whose event was never written is nobody's: it counts for whoever was there.
            AND (own.hash IS NULL OR d.published_hash IS NULL OR d.published_hash = own.hash)
       )
       SELECT clock_timestamp() AS now,
              (SELECT jsonb_build_object('status', status, 'requested_at', requested_at, 'finished_at', finished_at)
                 FROM asked WHERE kind = 'replay' ORDER BY id LIMIT 1) AS replay,
              (SELECT jsonb_build_object('status', status, 'requested_at', requested_at, 'finished_at', finished_at)
                 FROM asked WHERE kind = 'verify' ORDER BY id LIMIT 1) AS verify,
              (SELECT from_text FROM asked WHERE kind = 'replay' ORDER BY id LIMIT 1) AS "from",
              (SELECT to_text FROM asked WHERE kind = 'replay' ORDER BY id LIMIT 1) AS "to",
              s.suspected, s.open,
              -- Resolved findings pile up and have no index: they are only read when nothing stands any more.
              CASE WHEN s.suspected + s.open = 0 AND EXISTS (SELECT FROM asked WHERE kind = 'verify' AND status = 'done')
                   THEN (SELECT max(d.resolved_at) FROM own, discrepancies AS d JOIN checks AS c ON c.name = d.check_name
                          WHERE c.installation = $2::text AND d.status = 'resolved'
                            AND d.fact_at >= own.from_at AND d.fact_at < own.to_at
                            AND (own.hash IS NULL OR d.published_hash IS NULL OR d.published_hash = own.hash))
                   END AS last_resolved_at,
              (SELECT count(*) FROM asked AS q JOIN replay_events AS r ON r.request_id = q.id
                WHERE r.status = 'parked')::integer AS parked,
              coalesce((SELECT bool_and(coalesce(c.verified_through >= own.to_at, false))
                          FROM own, checks AS c WHERE c.installation = $2::text), false) AS verified_through,
              EXISTS (SELECT FROM requests AS q
                       WHERE q.kind IN ('replay', 'rebuild') AND q.status IN ('open', 'taken')) AS at_work
         FROM standing AS s`,
      [JSON.stringify(abort), installation],
    );
    if (row === undefined) throw new Error('an aggregate gives a row');
    return {
      now: Date.parse(row.now),
      replay: progressOf(row.replay),
      verify: progressOf(row.verify),
      from: row.from ?? undefined,
      to: row.to ?? undefined,
      suspected: row.suspected,
      open: row.open,
      parked: row.parked,
      verifiedThrough: row.verified_through,
      atWork: row.at_work,
      lastResolvedAt: row.last_resolved_at === null ? undefined : Date.parse(row.last_resolved_at),
    };
  });

const progressOf = (row: RequestRow | null): RequestProgress | undefined =>
  row === null
    ? undefined
    : {
        status: row.status,
        requestedAt: Date.parse(row.requested_at),
        finishedAt: row.finished_at === null ? undefined : Date.parse(row.finished_at),
      };
