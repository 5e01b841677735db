/** The tables that the bench of the exporter reads: a week of a busy service, with the indices that ship. */
import { readFileSync } from 'node:fs';
import type { Client } from 'pg';
import type { Progress } from './progress.ts';

/** Rows that one statement writes. */
const CHUNK = 500_000;
/** Events lie over so long a time. */
const DAYS = 7;
/** The end of it, in which facts and bills stand as well: more than any window that is judged. */
const HOT_HOURS = 2;
/** One event in so many is pending. */
const ONE_PENDING_IN = 100;
/** One in so many was published by the canary. */
const ONE_CANARY_IN = 10;

const read = (path: string) => readFileSync(new URL(`../${path}`, import.meta.url), 'utf8');

/** The service's own tables, as they ship, empty. */
export async function makeServiceTables(client: Client): Promise<void> {
  for (const path of [
    'reference-service/sql/schema.sql',
    'nestjs/sql/event_backups.sql',
    'nestjs/sql/event_deliveries.sql',
    'nestjs/sql/event_backups.extend.sql',
    'jobs/schema/roles.sql',
  ])
    await client.query(read(path));
}

/**
 * Writes `events` rows of event_backups and their deliveries; a pending one was begun by nobody. Rows first, keys and
 * indices after: the same trees, in a tenth of the time.
 * @param other a second session, so that both tables are filled at once
 */
export async function fillEvents(
  client: Client,
  other: Client,
  events: number,
  progress: Progress,
): Promise<void> {
  const { rows: indices } = await client.query<{ name: string; definition: string }>(
    `SELECT indexname AS name, indexdef AS definition FROM pg_indexes
      WHERE schemaname = 'public' AND tablename = 'event_backups' AND indexname <> 'event_backups_pkey'`,
  );
  for (const { name } of indices) await client.query(`DROP INDEX ${name}`);
  await client.query(
    `ALTER TABLE event_deliveries DROP CONSTRAINT event_deliveries_event_id_fkey, DROP CONSTRAINT event_deliveries_pkey`,
  );
  await client.query('ALTER TABLE event_backups DROP CONSTRAINT event_backups_pkey');
  const secondsPerEvent = (DAYS * 86_400) / events;
  const inChunks = async (write: (first: number, last: number) => Promise<unknown>) => {
    for (let first = 1; first <= events; first += CHUNK)
      await write(first, Math.min(events, first + CHUNK - 1));
  };
  await progress.step(`${events} events and their deliveries`, async (report) => {
    await Promise.all([
      inChunks(async (first, last) => {
        await client.query(
          `INSERT INTO event_backups (event_id, event_name, payload, status, created_at, processed_at, published_by, published_hash)
           SELECT md5('e' || n)::uuid::text, 'services.session.completed.v1',
                  jsonb_build_object('sessionId', md5('s' || n)::uuid, 'contractId', md5('c' || n % 1000)::uuid,
                                     'amountMinor', 1000, 'currency', 'EUR'),
                  CASE WHEN n % ${ONE_PENDING_IN} = 0 THEN 'pending' ELSE 'processed' END, made.at,
                  CASE WHEN n % ${ONE_PENDING_IN} <> 0 THEN made.at + interval '5 milliseconds' END,
                  'billing-' || n % 20, 'stable'
             FROM generate_series($1::bigint, $2::bigint) AS n
            CROSS JOIN LATERAL (
              SELECT localtimestamp - interval '${HOT_HOURS} hours' - ($3::bigint - n) * $4::double precision * interval '1 second' AS at) AS made`,
          [first, last, events, secondsPerEvent],
        );
        report(last / events);
      }),
      inChunks(
        async (first, last) =>
          await other.query(
            `INSERT INTO event_deliveries (event_id, listener, status, attempts)
             SELECT md5('e' || n)::uuid::text, 'billing.session-completed', 'succeeded', 1
               FROM generate_series($1::bigint, $2::bigint) AS n WHERE n % ${ONE_PENDING_IN} <> 0`,
            [first, last],
          ),
      ),
    ]);
  });
  await progress.step('their keys and indices, vacuum and statistics', async () => {
    for (const one of [client, other]) await one.query(`SET maintenance_work_mem = '1GB'`);
    await Promise.all([
      (async () => {
        await client.query('ALTER TABLE event_backups ADD PRIMARY KEY (event_id)');
        for (const { definition } of indices) await client.query(definition);
        await client.query('VACUUM ANALYZE event_backups');
      })(),
      (async () => {
        await other.query('ALTER TABLE event_deliveries ADD PRIMARY KEY (event_id, listener)');
        await other.query('VACUUM ANALYZE event_deliveries');
      })(),
    ]);
    await client.query(
      `ALTER TABLE event_deliveries ADD CONSTRAINT event_deliveries_event_id_fkey
         FOREIGN KEY (event_id) REFERENCES event_backups (event_id) ON DELETE CASCADE NOT VALID`,
    );
  });
}

/**
 * The last hours, with sessions and bills at the same rate, up to some minutes from now: time goes on while the exporter
 * is watched. Their events are written pending and updated, as a service does it. The statistics are those of the first of
 * these hours: in a table of this size the planner never knows of the last minutes.
 */
export async function fillLastHours(client: Client, events: number): Promise<void> {
  const perSecond = events / (DAYS * 86_400);
  const firstHour = Math.floor(perSecond * 3_600);
  await fillPortion(client, perSecond, 1, firstHour);
  await client.query('ANALYZE sessions, mentor_payable_ledgers');
  await fillPortion(client, perSecond, firstHour + 1, Math.floor(perSecond * 3_600 * (HOT_HOURS + 1 / 6)));
}

async function fillPortion(client: Client, perSecond: number, first: number, last: number): Promise<void> {
  await client.query(
    `WITH made AS (
       INSERT INTO sessions (id, contract_id, mentor_id, amount_minor, currency, created_at, completed_at)
       SELECT md5('h' || n)::uuid, 'c' || n % 1000, 'm' || n % 100, 1000, 'EUR', made.at, made.at
         FROM generate_series($2::bigint, $3::bigint) AS n
        CROSS JOIN LATERAL (
          SELECT now() - interval '${HOT_HOURS} hours' + n / $1::double precision * interval '1 second' AS at) AS made
       RETURNING id, contract_id, mentor_id, completed_at
     ), numbered AS (
       SELECT made.*, row_number() OVER (ORDER BY completed_at) AS n FROM made
     ), published AS (
       INSERT INTO event_backups (event_id, event_name, payload, status, created_at, published_by, published_hash)
       SELECT md5('h' || id)::uuid::text, 'services.session.completed.v1',
              jsonb_build_object('sessionId', id, 'contractId', contract_id, 'amountMinor', 1000, 'currency', 'EUR'),
              'pending', completed_at AT TIME ZONE 'UTC', 'billing-1',
              CASE WHEN n % ${ONE_CANARY_IN} = 0 THEN 'canary' ELSE 'stable' END
         FROM numbered
     )
     INSERT INTO mentor_payable_ledgers (session_id, mentor_id, amount_minor, currency, idempotency_key, created_at)
     SELECT id, mentor_id, 1000, 'EUR', 'session:' || id || ':1', completed_at + interval '5 milliseconds'
       FROM numbered WHERE n % ${ONE_PENDING_IN} <> 0`,
    [perSecond, first, last],
  );
  await client.query(
    `UPDATE event_backups AS b SET status = 'processed', processed_at = b.created_at
       FROM mentor_payable_ledgers AS l
      WHERE b.payload ->> 'sessionId' = l.session_id::text AND b.status = 'pending'
        AND b.created_at >= localtimestamp - interval '${HOT_HOURS} hours'`,
  );
}

/** A state as it is in a bad week: findings, replay's own rows, and the runs of months. */
export async function fillState(client: Client): Promise<void> {
  await client.query(
    `INSERT INTO counterfoil.checks (name, installation, definition_hash, definition, verified_through)
     VALUES ('session-billing', 'counterfoil', 'x', '{}', now() - interval '5 minutes')`,
  );
  await client.query(
    `INSERT INTO counterfoil.discrepancies (check_name, kind, key, status, cause, fact_at, ledger_rows, expected_minor,
                                            currency, first_run_id, opened_at)
     SELECT 'session-billing', 'missing', '["' || n || '"]', CASE WHEN n % 10 = 0 THEN 'open' ELSE 'resolved' END,
            'event_pending', now() - interval '1 hour', 0, 1000, 'EUR', gen_random_uuid(), now()
       FROM generate_series(1, 20000) AS n`,
  );
  await client.query(
    `INSERT INTO counterfoil.replay_events (event_id, event_name, event_created_at, status, parked_at, parked_reason, finished_at)
     SELECT 'replayed-' || n, 'e', now(), CASE WHEN n % 100 = 0 THEN 'parked' ELSE 'done' END,
            CASE WHEN n % 100 = 0 THEN now() END, CASE WHEN n % 100 = 0 THEN 'no_listener' END,
            CASE WHEN n % 100 <> 0 THEN now() - interval '1 day' END
       FROM generate_series(1, 100000) AS n`,
  );
  await client.query(
    `INSERT INTO counterfoil.job_runs (run_id, job, mode, installation, outcome, pod, version, started_at, finished_at)
     SELECT gen_random_uuid(), j.job, j.mode, 'counterfoil', 'succeeded', 'p', '1', now() - n * j.every, now() - n * j.every
       FROM (VALUES ('billing-reconciliation', 'tail', interval '1 minute', 100000),
                    ('billing-reconciliation', 'incremental', interval '1 hour', 2000),
                    ('flow-probe', 'probe', interval '4 hours', 500)) AS j (job, mode, every, runs)
      CROSS JOIN LATERAL generate_series(1, j.runs) AS n`,
  );
  await client.query('VACUUM ANALYZE');
}
