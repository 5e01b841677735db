/**
 * Statements of backup-retention. Ours run with the state schema as their path; the service's tables come qualified and
 * quoted from tables.ts. What deletes repeats in its WHERE that the row is processed and old enough.
 */
import type { Check } from '../checks/parse.ts';
import { Params, type Statement } from '../checks/sql-parts.ts';
import type { Database, Transaction } from '../runtime/database.ts';
import type { CheckState, OpenRequest, RequestHolds } from './holds.ts';
import type { Walked } from './tables.ts';

export const readClock = async (transaction: Transaction): Promise<string> => {
  const [row] = await transaction.query<{ at: string }>(
    `-- backup-retention: readClock
     SELECT clock_timestamp() AS at`,
  );
  return row?.at ?? '';
};

export const readCheckStates = async (transaction: Transaction): Promise<CheckState[]> =>
  await transaction.query<CheckState>(
    `-- backup-retention: readCheckStates
     SELECT name, definition_hash, verified_through FROM checks`,
  );

export const readOpenRequests = async (transaction: Transaction): Promise<OpenRequest[]> =>
  await transaction.query<OpenRequest>(
    `-- backup-retention: readOpenRequests
     SELECT id, scope FROM requests WHERE status IN ('open', 'taken')`,
  );

export interface NamedFinding {
  readonly check_name: string;
  readonly key: string;
  readonly event_id: string | null;
}

export const readNamedFindings = async (
  transaction: Transaction,
  ids: readonly string[],
): Promise<NamedFinding[]> =>
  await transaction.query<NamedFinding>(
    `-- backup-retention: readNamedFindings
     SELECT check_name, key, event_id FROM discrepancies WHERE id = ANY ($1::bigint[])`,
    [ids],
  );

/** For the rest of this transaction. */
export const limitLockWait = async (transaction: Transaction, ms: number): Promise<void> => {
  await transaction.query(
    `-- backup-retention: limitLockWait
     SELECT set_config('lock_timeout', $1::text, true)`,
    [`${ms}ms`],
  );
};

/** Where a walk stands; nothing: at its beginning. Over blocks, the next block. */
export type Cursor =
  | { readonly by: 'time'; readonly createdAt: string; readonly eventId: string }
  | { readonly by: 'time'; readonly createdAt: undefined }
  | { readonly by: 'block'; readonly block: number };

export interface PortionRequest {
  /** In UTC. */
  readonly limit: string;
  readonly cursor: Cursor;
  /** Rows, or blocks, that the statement looks at. */
  readonly size: number;
  readonly requests: RequestHolds;
  readonly findings: readonly NamedFinding[];
  readonly checks: readonly Check[];
  readonly takes: Takes;
}

/** What a portion takes away: nothing, the events with their deliveries, or their deliveries alone. */
export type Takes = 'nothing' | 'events' | 'deliveries';

/** What one statement met; counts as numbers, since `size` bounds them. */
export interface Portion {
  /** Rows that it looked at. By the clock of the table only those created before the limit are. */
  readonly scanned: number;
  /** Of these, processed and old enough. */
  readonly ripe: number;
  /** Of these, named by something that is open. */
  readonly held: number;
  /** Events that were deleted; of a statement that deletes none, those that would go. */
  readonly gone: number;
  readonly last_created_at: string | null;
  readonly last_event_id: string | null;
}

/** The statement of one portion. By time it needs the index on created_at, by block none. */
export function portion(table: Walked, request: PortionRequest): Statement {
  const params = new Params();
  const { cursor, takes } = request;
  const limit = params.add(request.limit, 'timestamptz');
  const zone = `'${table.timeZone}'`;
  // A name of pg_timezone_names, as env.ts and job.ts have made sure.
  const inType = (type: Walked['createdAtType'], moment: string) =>
    type === 'timestamp' ? `((${moment}) AT TIME ZONE ${zone})` : `(${moment})`;
  const instant =
    table.createdAtType === 'timestamp' ? `(p.created_at AT TIME ZONE ${zone})` : 'p.created_at';
  const created = `b.created_at < ${inType(table.createdAtType, limit)}`;
  const isOld =
    table.processedAtType === undefined
      ? created
      : `(${created} AND (b.processed_at IS NULL OR b.processed_at < ${inType(table.processedAtType, limit)}))`;
  const payloads = table.readsPayload ? request.checks.filter(({ event }) => event !== null) : [];
  const keys = payloads.map(({ event }) => keyText(event?.key ?? []));
  const columns = [
    'b.event_id',
    'b.event_name::text AS event_name',
    'b.created_at',
    `b.status::text = 'processed' AND ${isOld} AS is_ripe`,
    ...(payloads.length === 0 ? [] : ['b.payload']),
  ];
  const page =
    cursor.by === 'block'
      ? `SELECT ${columns.join(', ')} FROM ${table.name} AS b
    WHERE b.ctid >= ${params.add(`(${cursor.block},0)`, 'tid')} AND b.ctid < ${params.add(`(${cursor.block + request.size},0)`, 'tid')}`
      : `SELECT ${columns.join(', ')} FROM ${table.name} AS b
    WHERE ${created} ${table.day === undefined ? '' : within(table.createdAtType, params, table.day)}
      ${cursor.createdAt === undefined ? '' : after(table, params, cursor)}
    ORDER BY b.created_at, b.event_id LIMIT ${params.add(request.size, 'integer')}`;
  const held = [
    // Replay has not come to its end with it, or has done so lately: it may be asked for again. One probe of the key
    // for each: an EXISTS would be free to read the whole table.
    `(SELECT r.status <> 'done' OR r.finished_at >= ${limit}
        FROM replay_events AS r WHERE r.event_id = p.event_id::text) IS TRUE`,
    // By the partial indexes discrepancies_unsettled and discrepancies_waived: resolved ones pile up.
    `p.event_id::text IN (SELECT d.event_id FROM discrepancies AS d
                           WHERE d.status IN ('suspected', 'open', 'acknowledged') AND d.event_id IS NOT NULL
                           UNION ALL
                          SELECT d.event_id FROM discrepancies AS d
                           WHERE d.status = 'waived' AND d.event_id IS NOT NULL)`,
    ...heldByRequests(params, request, instant),
    ...payloads.map((check, n) => heldByKey(params, check, keys[n] ?? '', request.findings)),
  ];
  const lastOf = (column: string) =>
    cursor.by === 'block'
      ? 'NULL::text'
      : `(SELECT ${column}::text FROM page ORDER BY created_at DESC, event_id DESC LIMIT 1)`;
  const deliveriesOf = (ids: string) =>
    table.deliveries === undefined
      ? ''
      : `, gone_deliveries AS (
  DELETE FROM ${table.deliveries.name} AS d
   WHERE d.event_id = ANY (ARRAY(SELECT i.event_id::text::${table.deliveries.idType} FROM ${ids})))`;
  const taken = {
    nothing: () => '',
    events: () => `, gone AS (
  DELETE FROM ${table.name} AS b
   WHERE b.event_id = ANY (ARRAY(SELECT j.event_id FROM judged AS j WHERE NOT j.is_held))
     AND b.status::text = 'processed' AND ${isOld}
  RETURNING b.event_id)${deliveriesOf('gone AS i')}`,
    deliveries: () => deliveriesOf('judged AS i WHERE NOT i.is_held'),
  }[takes]();
  return {
    text: `-- backup-retention: portion (${cursor.by}); index on created_at, or none
WITH page AS MATERIALIZED (
  ${page}
), judged AS MATERIALIZED (
  SELECT p.event_id, (${held.join('\n      OR ')}) AS is_held
    FROM page AS p WHERE p.is_ripe
)${taken}
SELECT (SELECT count(*) FROM page)::integer AS scanned,
       (SELECT count(*) FROM judged)::integer AS ripe,
       (SELECT count(*) FROM judged AS j WHERE j.is_held)::integer AS held,
       ${takes === 'events' ? '(SELECT count(*) FROM gone)' : '(SELECT count(*) FROM judged AS j WHERE NOT j.is_held)'}::integer AS gone,
       ${lastOf('created_at')} AS last_created_at, ${lastOf('event_id')} AS last_event_id`,
    params: params.values,
  };
}

/** One day, by the bounds of its partition: no other one is planned for. */
function within(type: Walked['createdAtType'], params: Params, day: string): string {
  const date = params.add(day, 'date');
  return `AND b.created_at >= ${date}::${type} AND b.created_at < (${date} + 1)::${type}`;
}

function after(
  table: Walked,
  params: Params,
  cursor: { readonly createdAt: string; readonly eventId: string },
): string {
  const at = params.add(cursor.createdAt, table.createdAtType);
  const id = params.add(cursor.eventId, table.idType);
  // The first condition is what the index is searched by.
  return `AND b.created_at >= ${at} AND (b.created_at, b.event_id) > (${at}, ${id})`;
}

/** The key of a fact in the form of `discrepancies.key`, from the payload: names only, which cannot end the literal. */
const keyText = (payloadKeys: readonly string[]): string =>
  `('[' || ${payloadKeys.map((key) => `coalesce(to_json(p.payload ->> '${key}')::text, 'null')`).join(` || ',' || `)} || ']')`;

function heldByRequests(params: Params, { requests, findings }: PortionRequest, instant: string): string[] {
  const ids = [...requests.eventIds, ...findings.flatMap(({ event_id: id }) => (id === null ? [] : [id]))];
  const from = params.add(
    requests.ranges.map((range) => range.from),
    'timestamptz[]',
  );
  const to = params.add(
    requests.ranges.map((range) => range.to),
    'timestamptz[]',
  );
  return [
    `p.event_id::text = ANY (${params.add(ids, 'text[]')})`,
    `EXISTS (SELECT FROM unnest(${from}, ${to}) AS asked (first, last)
              WHERE ${instant} >= asked.first AND ${instant} < asked.last)`,
  ];
}

/** Events of a fact that an unsettled finding, or an open request, is about; by the index of the fingerprint. */
function heldByKey(params: Params, check: Check, key: string, findings: readonly NamedFinding[]): string {
  const name = params.add(check.name, 'text');
  const named = params.add(
    findings.filter((finding) => finding.check_name === check.name).map((finding) => finding.key),
    'text[]',
  );
  return `(p.event_name = ${params.add(check.event?.name ?? '', 'text')}
          AND (${key} = ANY (${named})
               OR (SELECT true FROM discrepancies AS d
                    WHERE d.check_name = ${name} AND d.kind IN ('missing', 'duplicate', 'amount', 'orphan')
                      AND d.key = ${key} AND d.status <> 'resolved' LIMIT 1) IS TRUE))`;
}

/** Calls the owner's function, which looks once more whether every event of that day is processed. */
export const dropDay = async (
  transaction: Transaction,
  dropFunction: string,
  date: string,
): Promise<boolean> => {
  const [row] = await transaction.query<{ dropped: boolean }>(
    `-- backup-retention: dropDay
     SELECT ${dropFunction}($1::date) AS dropped`,
    [date],
  );
  return row?.dropped === true;
};

/** Whether a day was over at that moment, by the clock of the service. */
export const isOver = async (
  transaction: Transaction,
  date: string,
  limit: string,
  timeZone: string,
): Promise<boolean> => {
  const [row] = await transaction.query<{ over: boolean }>(
    `-- backup-retention: isOver
     SELECT $1::date + 1 <= $2::timestamptz AT TIME ZONE $3::text AS over`,
    [date, limit, timeZone],
  );
  return row?.over === true;
};

export interface RunGroup {
  readonly job: string;
  readonly mode: string;
  readonly installation: string;
  readonly succeeded_at: string | null;
}

/** The kinds of runs, each with when the newest that succeeded began: what is newer tells how things stand. */
export const listRunGroups = async (database: Database): Promise<RunGroup[]> =>
  await database.read(
    async (transaction) =>
      await transaction.query<RunGroup>(
        `-- backup-retention: listRunGroups
         SELECT job, mode, installation, max(started_at) FILTER (WHERE outcome = 'succeeded') AS succeeded_at
           FROM job_runs GROUP BY job, mode, installation`,
      ),
  );

/** Old records of runs before the last success; one that is still at work is none, however long ago it began. */
export const purgeRuns = async (
  database: Database,
  group: RunGroup,
  limit: string,
  size: number,
): Promise<number> =>
  await database.transaction(
    { repeatable: true },
    async (transaction) =>
      await transaction.execute(
        `-- backup-retention: purgeRuns; index job_runs_latest
         DELETE FROM job_runs AS r
          WHERE r.run_id = ANY (ARRAY(
                  SELECT o.run_id FROM job_runs AS o
                   WHERE o.job = $1::text AND o.mode = $2::text AND o.installation = $3::text
                     AND o.started_at < least($4::timestamptz, $5::timestamptz)
                     AND (o.outcome <> 'running' OR o.seen_at < $4::timestamptz)
                   ORDER BY o.started_at LIMIT $6::integer))
            AND r.started_at < $4::timestamptz AND (r.outcome <> 'running' OR r.seen_at < $4::timestamptz)`,
        [group.job, group.mode, group.installation, limit, group.succeeded_at, size],
      ),
  );
