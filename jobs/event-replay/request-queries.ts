/** Statements on what people, scripts and reconciliation asked for, and on the audit. */
import type { Database } from '../runtime/database.ts';
import type { RunCounts } from '../runtime/run-record.ts';

/** What people and reconciliation may ask of this job. */
export type RequestKind = 'replay' | 'rebuild' | 'correction';

export interface OpenRequest {
  readonly id: string;
  readonly scope: unknown;
  readonly reason: string;
}

/** The next request, in the order of ids, whose events have not been taken in. */
export const findOpenRequest = async (database: Database, after: string): Promise<OpenRequest | undefined> =>
  await database.read(async (transaction) => {
    const [row] = await transaction.query<OpenRequest>(
      `-- event-replay: findOpenRequest
       SELECT id, scope, reason FROM requests
        WHERE kind = 'replay' AND status = 'open' AND id > $1::bigint ORDER BY id LIMIT 1`,
      [after],
    );
    return row;
  });

/** All its events are in: from here on any run can finish it. */
export const markRequestTaken = async (
  database: Database,
  requestId: string,
  runId: string,
  result: Readonly<Record<string, unknown>>,
): Promise<number> =>
  await database.transaction(
    { repeatable: true },
    async (transaction) =>
      await transaction.execute(
        `-- event-replay: markRequestTaken
       UPDATE requests SET status = 'taken', run_id = $2::uuid, result = $3::jsonb
        WHERE id = $1::bigint AND kind = 'replay' AND status = 'open'`,
        [requestId, runId, JSON.stringify(result)],
      ),
  );

/** A request that cannot be understood: said once, to whoever asked, instead of tried for ever. */
export const refuseRequest = async (
  database: Database,
  installation: string,
  requestId: string,
  runId: string,
  problem: string,
): Promise<number> =>
  await database.transaction(
    { repeatable: true },
    async (transaction) =>
      await transaction.execute(
        `-- event-replay: refuseRequest
       WITH refused AS (
         UPDATE requests SET status = 'refused', run_id = $3::uuid, finished_at = clock_timestamp(),
                             result = jsonb_build_object('problem', $4::text)
          WHERE id = $2::bigint AND status = 'open'
         RETURNING id, kind, reason
       )
       INSERT INTO audit (installation, actor, action, reason, run_id, request_id)
       SELECT $1::text, session_user, kind || ' request refused', reason, $3::uuid, id FROM refused`,
        [installation, requestId, runId, problem],
      ),
  );

/** The counts, which read all events of a request, are made for those alone that end. */
export const finishRequestsText = `-- event-replay: finishRequests
       WITH ended AS (
         UPDATE requests AS q
            SET status = 'done', finished_at = clock_timestamp(),
                result = coalesce(q.result, '{}') || jsonb_build_object(
                  'done', (SELECT count(*) FROM replay_events AS r WHERE r.request_id = q.id AND r.status = 'done'),
                  'parked', (SELECT count(*) FROM replay_events AS r WHERE r.request_id = q.id AND r.status = 'parked'))
          WHERE q.kind = 'replay' AND q.status = 'taken'
            -- One probe of the index replay_events_request_open for each: an anti-join would read all that is due.
            AND (SELECT true FROM replay_events AS r
                  WHERE r.request_id = q.id AND r.status IN ('due', 'claimed') LIMIT 1) IS NULL
         RETURNING q.id, q.scope, q.reason, q.result
       )
       INSERT INTO audit (installation, actor, action, reason, run_id, request_id, scope, counts)
       SELECT $1::text, session_user, 'replay request', reason, $2::uuid, id, scope, result FROM ended`;

/** Ends the requests none of whose events is open any more, with what became of them, and audits each. */
export const finishRequests = async (
  database: Database,
  installation: string,
  runId: string,
): Promise<number> =>
  await database.transaction(
    { repeatable: true },
    async (transaction) => await transaction.execute(finishRequestsText, [installation, runId]),
  );

export const auditRun = async (
  database: Database,
  run: {
    readonly installation: string;
    readonly runId: string;
    readonly reason: string | null;
    readonly scope: Readonly<Record<string, unknown>>;
    readonly counts: RunCounts;
  },
): Promise<number> =>
  await database.transaction(
    {},
    async (transaction) =>
      await transaction.execute(
        `-- event-replay: auditRun
       INSERT INTO audit (installation, actor, action, reason, run_id, scope, counts)
       VALUES ($1::text, session_user, 'replay', $2::text, $3::uuid, $4::jsonb, $5::jsonb)`,
        [run.installation, run.reason, run.runId, JSON.stringify(run.scope), JSON.stringify(run.counts)],
      ),
  );
