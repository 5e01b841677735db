/**
 * What the job's statements are and cost, by the server's own count of them: how many each claimed batch needs, and how
 * long a claim takes beside many parked events. Apart from the rounds, since counting costs every statement a little.
 */
import type { Client } from 'pg';
import { type Bench, replay } from './bench-replay-rounds.ts';

export interface StatementCost {
  readonly statement: string;
  readonly calls: number;
  readonly rows: number;
  readonly meanMs: number;
  readonly longestMs: number;
}

export interface ClaimsMeasured {
  readonly costs: readonly StatementCost[];
  /** Claims that took something, each with the start of its calls. */
  readonly batches: number;
  /** Statements of the three steps, claim, start and record, for each of those; empty claims and late records too. */
  readonly dataStatementsPerBatch: number;
}

/** Beside the pending events, as long as a service that nobody looks after may leave them. */
export const PARKED = 100_000;

/** Parts of the three steps' texts that no other has: the name in front is taken away, and constants become parameters. */
const steps: Readonly<Record<string, string>> = {
  claim: 'AS must_match',
  start: 'call_started_at = CASE backup_status',
  record: 'array_remove(r.refused_by_digests',
  intake: 'AS taken_in,',
  renew: 'AS renewed',
};

/** One run over fresh events, with every statement of the job's role counted. */
export async function measureClaims(
  bench: Bench,
  order: { readonly handlerMs: number; readonly first?: number },
): Promise<ClaimsMeasured> {
  const { client } = bench.database;
  await client.query('SELECT pg_stat_statements_reset()');
  await client.query(`ALTER ROLE counterfoil_jobs SET pg_stat_statements.track = 'top'`);
  try {
    await replay(bench, order);
  } finally {
    await client.query('ALTER ROLE counterfoil_jobs RESET pg_stat_statements.track');
  }
  const costs = await readCosts(client);
  const calls = (statement: string) => costs.find((cost) => cost.statement === statement)?.calls ?? 0;
  const batches = calls('start');
  if (batches === 0) throw new Error('the server has counted no statement of event-replay');
  return {
    costs,
    batches,
    dataStatementsPerBatch: (calls('claim') + batches + calls('record')) / batches,
  };
}

/** Events that were parked an hour ago and are still pending in the service's table, as they stay for ever. */
export async function addParked({ database: { client } }: Bench): Promise<void> {
  await client.query(
    `WITH event AS (
       INSERT INTO event_backups (event_id, event_name, payload, status, created_at)
       SELECT 'parked-' || n, 'services.session.completed.v1', '{}', 'pending',
              (now() AT TIME ZONE 'UTC') - interval '1 day'
         FROM generate_series(1, $1::integer) AS n
       RETURNING event_id, event_name
     )
     INSERT INTO counterfoil.replay_events
            (event_id, event_name, event_created_at, status, next_attempt_at, handler_attempts, last_attempt_at,
             last_outcome, parked_at, parked_reason)
     SELECT event_id, event_name, now() - interval '1 day', 'parked', now() - interval '1 day', 1,
            now() - interval '1 hour', 'failed', now() - interval '1 hour', 'not_retryable'
       FROM event`,
    [PARKED],
  );
}

async function readCosts(client: Client): Promise<StatementCost[]> {
  const { rows } = await client.query<{
    query: string;
    calls: number;
    rows: number;
    total: number;
    longest: number;
  }>(
    `SELECT s.query, s.calls::integer AS calls, s.rows::integer AS rows, s.total_exec_time AS total,
            s.max_exec_time AS longest
       FROM pg_stat_statements AS s JOIN pg_roles AS r ON r.oid = s.userid
      WHERE r.rolname = 'counterfoil_jobs'`,
  );
  const costs = new Map<string, { calls: number; rows: number; total: number; longest: number }>();
  for (const row of rows) {
    const statement = nameOf(row.query);
    const before = costs.get(statement) ?? { calls: 0, rows: 0, total: 0, longest: 0 };
    costs.set(statement, {
      calls: before.calls + row.calls,
      rows: before.rows + row.rows,
      total: before.total + row.total,
      longest: Math.max(before.longest, row.longest),
    });
  }
  return [...costs]
    .map(([statement, { calls, rows, total, longest }]) => ({
      statement,
      calls,
      rows,
      meanMs: total / calls,
      longestMs: longest,
    }))
    .sort((one, other) => other.meanMs * other.calls - one.meanMs * one.calls);
}

function nameOf(query: string): string {
  for (const [name, part] of Object.entries(steps)) if (query.includes(part)) return name;
  const [word = ''] = query.split(/[\s;]/);
  return /^(BEGIN|SET|COMMIT|ROLLBACK)$/.test(word) ? word : 'others';
}
