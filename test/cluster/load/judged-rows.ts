/** What a release has done, from the rows of the service itself: the measure of what the machine says of it. */
import type { Shop } from '../shop.ts';

/** A second: at 1 % of it 400 events come in less than three minutes; it takes one core, with all that it goes through. */
export const PER_SECOND = 250;
export const SESSIONS = 400_000;

/** Values where the predecessor serves: it bills through its outbox, and has none of the contracts that the plan's flow begins with. */
export const besidePredecessor = {
  service: { republishFunction: 'republish_to_outbox' },
  jobs: { flowProbe: { schedule: '0 4 1 1 *' } },
} as const;

const EVENT = 'services.session.completed.v1';
/** Sessions of load.mjs, which all go through the router; those of the flow probe do not. */
const CUSTOMERS = '00000000-0000-4000-8000-%';
/** As the hot check sets it. */
const BILL_DELAY = '20 seconds';

/** When something came true in the data, by the clock of the database, in milliseconds. */
export interface FirstTrue {
  readonly firstBadAt: number;
  readonly conditionAt: number;
  readonly judged: number;
  readonly bad: number;
}

/** @param rows of `at`, when each could be judged first, `since`, when it was made, and `bad` */
async function firstTrue(shop: Shop, rows: string, share: number): Promise<FirstTrue> {
  const found = await shop.service.sql(`WITH judged AS (
      SELECT at, count(*) OVER so_far AS judged, count(*) FILTER (WHERE bad) OVER so_far AS bad,
             min(since) FILTER (WHERE bad) OVER so_far AS first_bad
        FROM (${rows}) AS rows WINDOW so_far AS (ORDER BY at))
    SELECT extract(epoch FROM first_bad) * 1000, extract(epoch FROM at) * 1000, judged, bad FROM judged
     WHERE judged >= 400 AND bad >= 3 AND bad > judged * ${share}
     ORDER BY at LIMIT 1`);
  const [firstBadAt, conditionAt, judged, bad] = found.split('|').map(Number);
  if (firstBadAt === undefined || conditionAt === undefined || judged === undefined || bad === undefined)
    throw new Error('the condition was never true');
  return { firstBadAt, conditionAt, judged, bad };
}

/**
 * Of 400 events of a version that are old enough, 3 and more than 0.5 % were not processed by then.
 * @param delay how old, in seconds; as `hurried` sets it
 */
export const firstLosing = async (shop: Shop, hash: string, delay = 15): Promise<FirstTrue> =>
  await firstTrue(
    shop,
    `SELECT created_at AS since, created_at + interval '${delay} seconds' AS at,
            processed_at IS NULL OR processed_at > created_at + interval '${delay} seconds' AS bad
       FROM event_backups WHERE published_hash = '${hash}' AND event_name = '${EVENT}'`,
    0.005,
  );

/** Of 400 sessions of a version that are old enough, 3 and more than 1 % were billed wrongly, twice or not at all. */
export const firstBillingWrong = async (shop: Shop, hash: string): Promise<FirstTrue> =>
  await firstTrue(
    shop,
    `SELECT s.completed_at AS since, s.completed_at + interval '${BILL_DELAY}' AS at,
            billed.bills IS DISTINCT FROM 1 OR billed.amount <> s.amount_minor AS bad
       FROM event_backups AS e
       JOIN sessions AS s ON s.id::text = e.payload ->> 'sessionId'
       LEFT JOIN (SELECT session_id, count(*) AS bills, sum(amount_minor) AS amount FROM mentor_payable_ledgers
                   WHERE reverses_id IS NULL GROUP BY session_id) AS billed ON billed.session_id = s.id
      WHERE e.published_hash = '${hash}' AND e.event_name = '${EVENT}'`,
    0.01,
  );

/** Requests of customers that met a version, and all of them, from a moment of the database to another. */
export async function met(
  shop: Shop,
  hash: string,
  since: string,
  until: string,
): Promise<{ own: number; all: number }> {
  const within = `s.id::text LIKE '${CUSTOMERS}' AND s.completed_at >= '${since}' AND s.completed_at < '${until}'`;
  const [own = 0, all = 0] = (
    await shop.service.sql(`SELECT
      (SELECT count(*) FROM event_backups AS e JOIN sessions AS s ON s.id::text = e.payload ->> 'sessionId'
        WHERE e.published_hash = '${hash}' AND e.event_name = '${EVENT}' AND ${within}),
      (SELECT count(*) FROM sessions AS s WHERE ${within})`)
  )
    .split('|')
    .map(Number);
  return { own, all };
}

/** Sessions whose first bill came more than a minute after they were completed. */
export const billedLate = async (shop: Shop): Promise<number> =>
  Number(
    await shop.service.sql(`SELECT count(*) FROM sessions AS s
      JOIN (SELECT session_id, min(created_at) AS at FROM mentor_payable_ledgers GROUP BY session_id) AS billed
        ON billed.session_id = s.id
     WHERE billed.at > s.completed_at + interval '1 minute'`),
  );
