/**
 * What a person would write by hand instead of running billing-reconciliation: one full outer join of everything, four
 * separate queries, and the plan's own query over the last day. Each by one connection without parallel workers, with
 * more memory than our own statements get, and by the same definition of what is wrong.
 */
import { Client } from 'pg';
import type { Expected } from './bench-reconciliation-data.ts';

/** So much that none of them goes to disk for its hash tables up to ten million facts. */
const CONTENDER_WORK_MEM = '1GB';

export type Kind = keyof Expected;

interface Seen {
  readonly kind: Kind;
  readonly key: string;
}

export interface Contended {
  readonly ms: number;
  /** `kind key` of each discrepancy. */
  readonly found: ReadonlySet<string>;
}

/** The ledger grouped by key, joined with all completed sessions. */
const FULL_JOIN = `
  SELECT kind, key FROM (
    SELECT coalesce(s.id, bill.session_id) AS key,
           CASE WHEN bill.session_id IS NULL THEN 'missing'
                WHEN s.id IS NULL THEN 'orphan'
                WHEN bill.rows > 1 THEN 'duplicate'
                WHEN bill.low <> s.amount_minor OR bill.high <> s.amount_minor
                  OR bill.currency_low <> s.currency OR bill.currency_high <> s.currency THEN 'amount' END AS kind
      FROM (SELECT id, amount_minor, currency FROM sessions WHERE completed_at < $1::timestamptz) AS s
      FULL JOIN (SELECT session_id, count(*) AS rows, min(amount_minor) AS low, max(amount_minor) AS high,
                        min(currency) AS currency_low, max(currency) AS currency_high
                   FROM mentor_payable_ledgers GROUP BY session_id) AS bill ON bill.session_id = s.id) AS joined
   WHERE kind IS NOT NULL`;

const FOUR_QUERIES: readonly string[] = [
  `SELECT 'missing' AS kind, s.id AS key
     FROM sessions s LEFT JOIN mentor_payable_ledgers l ON l.session_id = s.id
    WHERE s.completed_at < $1::timestamptz AND l.id IS NULL`,
  `SELECT DISTINCT 'orphan' AS kind, l.session_id AS key
     FROM mentor_payable_ledgers l LEFT JOIN sessions s ON s.id = l.session_id AND s.completed_at < $1::timestamptz
    WHERE s.id IS NULL`,
  `SELECT 'duplicate' AS kind, session_id AS key
     FROM mentor_payable_ledgers GROUP BY session_id HAVING count(*) > 1`,
  `SELECT 'amount' AS kind, s.id AS key
     FROM sessions s JOIN mentor_payable_ledgers l ON l.session_id = s.id
    WHERE s.completed_at < $1::timestamptz AND (l.amount_minor <> s.amount_minor OR l.currency <> s.currency)`,
];

/** As the plan writes it; what it finds is a completed session without a bill. */
const PLAN_QUERY = `
  SELECT 'missing' AS kind, s.id AS key
    FROM sessions s LEFT JOIN mentor_payable_ledgers l ON s.id = l.session_id
   WHERE s.completed_at > now() - interval '24 hours' AND l.id IS NULL`;

export interface Contenders {
  fullJoin(): Promise<Contended>;
  fourQueries(): Promise<Contended>;
  planQuery(): Promise<Contended>;
  close(): Promise<void>;
}

/** @param url of a superuser: the same rows, without a look at rights in between */
export async function openContenders(url: string): Promise<Contenders> {
  const client = new Client({ connectionString: url });
  await client.connect();
  await client.query(
    `SET max_parallel_workers_per_gather = 0; SET jit = off; SET work_mem = '${CONTENDER_WORK_MEM}'`,
  );
  const run = async (statements: readonly string[]): Promise<Contended> => {
    const [clock] = (await client.query<{ now: string }>('SELECT clock_timestamp()::text AS now')).rows;
    const found = new Set<string>();
    const began = performance.now();
    for (const text of statements) {
      const { rows } = await client.query<Seen>(text, text.includes('$1') ? [clock?.now] : []);
      for (const { kind, key } of rows) found.add(`${kind} ${key}`);
    }
    return { ms: performance.now() - began, found };
  };
  return {
    fullJoin: async () => await run([FULL_JOIN]),
    fourQueries: async () => await run(FOUR_QUERIES),
    planQuery: async () => await run([PLAN_QUERY]),
    close: async () => await client.end(),
  };
}

/** A figure of somebody who found something else is worth nothing. */
export function insistOnSame(
  one: string,
  found: ReadonlySet<string>,
  other: string,
  wanted: ReadonlySet<string>,
) {
  const more = [...found].filter((print) => !wanted.has(print));
  const fewer = [...wanted].filter((print) => !found.has(print));
  if (more.length + fewer.length === 0) return;
  throw new Error(
    `${one} found ${found.size} discrepancies and ${other} ${wanted.size}: ${more.length} it alone, ${fewer.length} it not, such as ${more[0] ?? fewer[0]}`,
  );
}
