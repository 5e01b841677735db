/**
 * The tables that bench:reconciliation compares: a year of completed sessions and their bills, in the tables and with the
 * indices that ship. Most bills stand within half a minute, some within the hour, a few come days later; one fact in some
 * thousand is billed wrongly in each of the four ways, and which ones is known beforehand.
 */
import { readFileSync } from 'node:fs';
import { Client } from 'pg';
import { Database } from '../jobs/runtime/database.ts';
import { createLogger } from '../jobs/runtime/logger.ts';
import { migrate } from '../jobs/schema/migrate.ts';

export const JOBS_ROLE = 'counterfoil_jobs';
const ROLE_PASSWORD = 'only-in-benches';
/** Rows that one statement writes. */
const CHUNK = 500_000;
/** Of a hundred thousand facts, ten are duplicated, ten are wrong, twenty have no bill, and there are ten bills too many. */
const ONE_DISCREPANT_IN = 10_000;
/** Facts of the last day at the most: as many whatever the size of the table, so that its size alone is compared. */
const MOST_RECENT = 100_000;

/** How many facts there are, and how many of them lie in the last 24 hours. */
export interface FactCounts {
  readonly older: number;
  readonly recent: number;
}

/** The facts of one bench: a tenth of them in the last 24 hours, or 100,000 where that is less. */
export function factCounts(facts: number): FactCounts {
  const recent = Math.min(MOST_RECENT, Math.floor(facts / 10));
  return { older: facts - recent, recent };
}

/** The same last 24 hours, after a tenth of the older facts. */
export const tenthOf = ({ older, recent }: FactCounts): FactCounts => ({
  older: Math.ceil(older / 10),
  recent,
});

/** Of each kind, how many discrepancies the data holds. */
export interface Expected {
  readonly missing: number;
  readonly orphan: number;
  readonly duplicate: number;
  readonly amount: number;
}

/** From how many facts on the pattern of discrepancies repeats; a small table has four times each of them. */
const strideOf = ({ older, recent }: FactCounts): number =>
  Math.min(ONE_DISCREPANT_IN, Math.floor((older + recent) / 4));

/** Facts number 1 and 2 of each stride have no bill, 3 has two, 4 a wrong one, and beside 5 stands a bill of nothing. */
export function expectedOf(counts: FactCounts): Expected {
  const stride = strideOf(counts);
  const facts = counts.older + counts.recent;
  const times = (position: number) => Math.floor((facts - position) / stride) + 1;
  return { missing: times(1) + times(2), duplicate: times(3), amount: times(4), orphan: times(5) };
}

export interface FactsDatabase {
  /** Superuser. */
  readonly url: string;
  /** As the jobs, with exactly their grants, and pg_read_all_stats: with it the horizon is exact, as is advised. */
  readonly jobsUrl: string;
  /** Superuser. */
  readonly client: Client;
  readonly counts: FactCounts;
}

const read = (path: string) => readFileSync(new URL(`../${path}`, import.meta.url), 'utf8');

/** A new database with the service's tables as they ship, filled, and our schema, empty. */
export async function makeFactsDatabase(
  serverUrl: string,
  name: string,
  counts: FactCounts,
  report: (share: number) => void,
): Promise<FactsDatabase> {
  const server = new Client({ connectionString: serverUrl });
  await server.connect();
  await server.query(`CREATE DATABASE ${name}`);
  await server.end();
  const url = new URL(serverUrl);
  url.pathname = `/${name}`;
  const client = new Client({ connectionString: url.href });
  await client.connect();
  for (const path of [
    'reference-service/sql/schema.sql',
    'nestjs/sql/event_backups.sql',
    'jobs/schema/roles.sql',
  ])
    await client.query(read(path));
  await client.query(`GRANT pg_read_all_stats TO ${JOBS_ROLE}`);
  await client.query(`ALTER ROLE ${JOBS_ROLE} PASSWORD '${ROLE_PASSWORD}'`);
  await migrateSchema(url.href);
  await fill(client, counts, report);
  const jobsUrl = new URL(url.href);
  jobsUrl.username = JOBS_ROLE;
  jobsUrl.password = ROLE_PASSWORD;
  return { url: url.href, jobsUrl: jobsUrl.href, client, counts };
}

async function migrateSchema(url: string): Promise<void> {
  const logger = createLogger({ job: 'bench', level: 'error', installation: 'bench' });
  const database = new Database(
    {
      url,
      applicationName: 'bench',
      schema: 'counterfoil',
      poolSize: 2,
      connectTimeoutMs: 5_000,
      lockTimeoutMs: 1_000,
      retryMs: 0,
    },
    logger,
  );
  await migrate(database, logger, 'counterfoil');
  await database.close();
}

/** When fact number n was completed: over a year until 25 hours ago, then from 20 hours to a quarter of an hour ago. */
const completedAt = `CASE WHEN n <= $3::bigint
       THEN $5::timestamptz - interval '25 hours' - ($3::bigint - n) / $3::double precision * interval '364 days'
       ELSE $5::timestamptz - interval '20 hours'
            + (n - $3::bigint) / $4::double precision * (interval '20 hours' - interval '15 minutes') END`;

/** From 0 to below 1, the same for the same number and salt. */
const chance = (salt: number) => `((hashint8extended(n, ${salt}) & 1048575) / 1048576.0::double precision)`;

/** In 99 of 100 within half a minute, mostly at once; in one within the hour; in one of a thousand days later. */
const billLag = `CASE WHEN n % 1000 = 10 THEN ${chance(1)} * interval '3 days'
                     WHEN n % 100 = 11 THEN ${chance(1)} * interval '50 minutes'
                     ELSE ${chance(1)} * ${chance(2)} * interval '30 seconds' END`;

/** Rows first, keys and indices after: the same trees, in a fraction of the time. */
async function fill(client: Client, counts: FactCounts, report: (share: number) => void): Promise<void> {
  const { older, recent } = counts;
  const facts = older + recent;
  const stride = strideOf(counts);
  const definitions = await dropKeysAndIndices(client);
  const [clock] = (await client.query<{ now: Date }>('SELECT now()')).rows;
  for (let first = 1; first <= facts; first += CHUNK) {
    const values = [first, Math.min(facts, first + CHUNK - 1), older, recent, clock?.now];
    // A row lies where it was created, up to a day before it was completed; one in five never is.
    await client.query(
      `INSERT INTO sessions (id, contract_id, mentor_id, amount_minor, currency, created_at, completed_at)
       SELECT id, 'contract-' || n % 1000, 'mentor-' || n % 100, 1000 + n % 9000, currency, created_at, completed_at
         FROM (SELECT n, md5('s' || n)::uuid AS id, CASE WHEN n % 3 = 0 THEN 'USD' ELSE 'EUR' END AS currency,
                      at - ${chance(3)} * interval '1 day' AS created_at, at AS completed_at
                 FROM generate_series($1::bigint, $2::bigint) AS n CROSS JOIN LATERAL (SELECT ${completedAt} AS at) AS made
               UNION ALL
               SELECT n, md5('u' || n)::uuid, 'EUR', at - ${chance(4)} * interval '1 day', NULL
                 FROM generate_series($1::bigint, $2::bigint) AS n CROSS JOIN LATERAL (SELECT ${completedAt} AS at) AS made
                WHERE n % 4 = 0) AS made
        ORDER BY created_at`,
      values,
    );
    // The last bills are older than the grace, like all that is judged.
    await client.query(
      `INSERT INTO mentor_payable_ledgers (session_id, mentor_id, amount_minor, currency, idempotency_key, created_at)
       SELECT session_id, 'mentor-' || n % 100, amount, currency, 'session:' || session_id || ':' || number,
              least(at, $5::timestamptz - interval '14 minutes')
         FROM (SELECT n, md5('s' || n)::uuid AS session_id, number, CASE WHEN n % 3 = 0 THEN 'USD' ELSE 'EUR' END AS currency,
                      1000 + n % 9000 + CASE WHEN n % $6::bigint = 4 THEN 1 ELSE 0 END AS amount,
                      at + ${billLag} AS at
                 FROM generate_series($1::bigint, $2::bigint) AS n
                CROSS JOIN LATERAL (SELECT ${completedAt} AS at) AS made
                CROSS JOIN LATERAL generate_series(1, CASE WHEN n % $6::bigint IN (1, 2) THEN 0
                                                           WHEN n % $6::bigint = 3 THEN 2 ELSE 1 END) AS number
               UNION ALL
               SELECT n, md5('o' || n)::uuid, 1, 'EUR', 1000, at
                 FROM generate_series($1::bigint, $2::bigint) AS n CROSS JOIN LATERAL (SELECT ${completedAt} AS at) AS made
                WHERE n % $6::bigint = 5) AS made
        ORDER BY at`,
      [...values, stride],
    );
    report((0.6 * (values[1] as number)) / facts);
  }
  await client.query(`SET maintenance_work_mem = '1GB'`);
  for (const [done, definition] of definitions.entries()) {
    await client.query(definition);
    report(0.6 + (0.3 * done) / definitions.length);
  }
  // Rows that nobody changes any more: what autovacuum would do meanwhile is no cost of any contender.
  for (const table of ['sessions', 'mentor_payable_ledgers'])
    await client.query(`ALTER TABLE ${table} SET (autovacuum_enabled = off)`);
  await client.query('VACUUM ANALYZE sessions, mentor_payable_ledgers, event_backups');
  await client.query('CHECKPOINT');
}

/** Gives the statements that make them again, keys before the foreign keys that need them. */
async function dropKeysAndIndices(client: Client): Promise<readonly string[]> {
  const { rows: constraints } = await client.query<{ relation: string; name: string; definition: string }>(
    `SELECT conrelid::regclass::text AS relation, conname AS name, pg_get_constraintdef(oid) AS definition
       FROM pg_constraint
      WHERE contype IN ('p', 'u', 'f')
        AND (conrelid IN ('sessions'::regclass, 'mentor_payable_ledgers'::regclass)
             OR confrelid IN ('sessions'::regclass, 'mentor_payable_ledgers'::regclass))
      ORDER BY contype = 'f', conname`,
  );
  for (const { relation, name } of constraints.toReversed())
    await client.query(`ALTER TABLE ${relation} DROP CONSTRAINT ${name}`);
  const { rows: indices } = await client.query<{ name: string; definition: string }>(
    `SELECT indexname AS name, indexdef AS definition FROM pg_indexes
      WHERE schemaname = 'public' AND tablename IN ('sessions', 'mentor_payable_ledgers')`,
  );
  for (const { name } of indices) await client.query(`DROP INDEX ${name}`);
  return [
    ...constraints.map(
      ({ relation, name, definition }) => `ALTER TABLE ${relation} ADD CONSTRAINT ${name} ${definition}`,
    ),
    ...indices.map(({ definition }) => definition),
  ];
}

/** Our schema as after its first migration, but for the audit: the next run is the first one of this installation. */
export async function forgetRuns({ client }: FactsDatabase): Promise<void> {
  const { rows } = await client.query<{ name: string }>(
    `SELECT format('counterfoil.%I', tablename) AS name FROM pg_tables
      WHERE schemaname = 'counterfoil' AND tablename NOT IN ('schema_version', 'schema_migrations', 'audit')`,
  );
  await client.query(`TRUNCATE ${rows.map(({ name }) => name).join(', ')} RESTART IDENTITY`);
}

/** Waives, as a person would, what happened before the last 24 hours and a little more. */
export async function waiveOlder({ client }: FactsDatabase): Promise<void> {
  await client.query(
    `SELECT counterfoil.waive('session-billing', jsonb_build_object('to', now() - interval '1465 minutes'),
                              now() + interval '1 day', 'mended long ago')`,
  );
}

/** Adds 5 % of the facts with their bills, all completed within one minute a hundred days ago; gives their number. */
export async function importDensely({ client, counts }: FactsDatabase): Promise<number> {
  const facts = counts.older + counts.recent;
  const imported = Math.floor(facts / 20);
  const made = `generate_series($1::bigint, $2::bigint) AS n
    CROSS JOIN LATERAL (SELECT now() - interval '100 days' + ${chance(5)} * interval '1 minute' AS at) AS made`;
  const range = [facts + 1, facts + imported];
  await client.query(
    `INSERT INTO sessions (id, contract_id, mentor_id, amount_minor, currency, created_at, completed_at)
     SELECT md5('s' || n)::uuid, 'import', 'mentor-' || n % 100, 1000, 'EUR', at - interval '1 hour', at FROM ${made}`,
    range,
  );
  await client.query(
    `INSERT INTO mentor_payable_ledgers (session_id, mentor_id, amount_minor, currency, idempotency_key, created_at)
     SELECT md5('s' || n)::uuid, 'mentor-' || n % 100, 1000, 'EUR', 'session:' || md5('s' || n)::uuid || ':1',
            at + ${billLag} FROM ${made}`,
    range,
  );
  return imported;
}

/** Takes the bills of every tenth fact away, of at most 100,000, and leaves their events pending; gives their number. */
export async function loseBills({ client, counts }: FactsDatabase): Promise<number> {
  const facts = counts.older + counts.recent;
  const range = [Math.min(facts, 1_000_000)];
  const lost = `SELECT md5('s' || n)::uuid AS id FROM generate_series(10, $1::bigint, 10) AS n`;
  const { rowCount } = await client.query(
    `DELETE FROM mentor_payable_ledgers WHERE session_id IN (${lost})`,
    range,
  );
  await client.query(
    `INSERT INTO event_backups (event_id, event_name, payload, created_at)
     SELECT 'event-' || id, 'services.session.completed.v1', jsonb_build_object('sessionId', id),
            s.completed_at AT TIME ZONE 'UTC'
       FROM (${lost}) AS lost JOIN sessions AS s USING (id)`,
    range,
  );
  await client.query('VACUUM ANALYZE mentor_payable_ledgers, event_backups');
  return rowCount ?? 0;
}
