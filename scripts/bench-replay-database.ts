/** The databases of bench:replay: the tables of the service, of the job and of the peers, filled anew for every run. */
import { readFileSync } from 'node:fs';
import { makeWorkerUtils } from 'graphile-worker';
import { Client } from 'pg';
import { PgBoss } from 'pg-boss';
import { Database } from '../jobs/runtime/database.ts';
import { createLogger } from '../jobs/runtime/logger.ts';
import { migrate } from '../jobs/schema/migrate.ts';
import { eventIdInSql, POISON_PREFIX } from './bench-replay-events.ts';
import { graphile, pgBoss } from './bench-replay-settings.ts';

const PASSWORD = 'only-in-benches';
/** How long ago the newest event was written: older than any grace. */
const AGE_MINUTES = 10;

/** A payload is a text of 300 bytes. */
const payloadInSql = (n: string) =>
  `jsonb_build_object('sessionId', ${eventIdInSql(n)}, 'contractId', ${eventIdInSql(n)}, 'amountMinor', 4200, 'currency', 'EUR', 'note', repeat('x', 129))`;

export interface BenchDatabase {
  /** As superuser. */
  readonly url: string;
  /** As `counterfoil_jobs`, as the job runs. */
  readonly jobsUrl: string;
  readonly client: Client;
  close(): Promise<void>;
}

/** Makes the tables of the service and of the job in a database of the server that is empty. */
export async function openDatabase(serverUrl: string, name: string): Promise<BenchDatabase> {
  const url = new URL(serverUrl);
  const maker = new Client({ connectionString: serverUrl });
  await maker.connect();
  await maker.query(`CREATE DATABASE ${name}`);
  await maker.end();
  url.pathname = `/${name}`;
  const client = new Client({ connectionString: url.href });
  await client.connect();
  for (const path of [
    'reference-service/sql/schema.sql',
    'nestjs/sql/event_backups.sql',
    'nestjs/sql/event_deliveries.sql',
    'nestjs/sql/event_backups.extend.sql',
    'jobs/schema/roles.sql',
  ])
    await client.query(readFileSync(new URL(`../${path}`, import.meta.url), 'utf8'));
  const logger = createLogger({ job: 'bench', level: 'error', installation: 'bench' });
  const database = new Database(
    {
      url: url.href,
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
  await client.query(`ALTER ROLE counterfoil_jobs PASSWORD '${PASSWORD}'`);
  const jobsUrl = new URL(url);
  jobsUrl.username = 'counterfoil_jobs';
  jobsUrl.password = PASSWORD;
  return { url: url.href, jobsUrl: jobsUrl.href, client, close: async () => await client.end() };
}

/** Nothing of the job's own but its schema, and no event. */
export async function emptyTables({ client }: BenchDatabase): Promise<void> {
  await client.query(
    `TRUNCATE event_deliveries, event_backups, counterfoil.replay_events, counterfoil.requests,
              counterfoil.request_items, counterfoil.job_runs, counterfoil.job_leases CASCADE`,
  );
}

/** Writes pending events `first` to `last`, one older than the next; and before all of them, poison ones. */
export async function addEvents(
  { client }: BenchDatabase,
  first: number,
  last: number,
  poison = 0,
): Promise<void> {
  await client.query(
    `INSERT INTO event_backups (event_id, event_name, payload, status, created_at)
     SELECT CASE WHEN n < $1::bigint THEN '${POISON_PREFIX}' || n ELSE ${eventIdInSql('n')} END,
            'services.session.completed.v1', ${payloadInSql('n')}, 'pending',
            (now() AT TIME ZONE 'UTC') - interval '${AGE_MINUTES} minutes' - ($2::bigint - n) * interval '1 millisecond'
       FROM generate_series($1::bigint - $3::bigint, $2::bigint) AS n`,
    [first, last, poison],
  );
}

/** As a table that is in use: with statistics, and nothing left to write for the server. */
export async function settle({ client }: BenchDatabase): Promise<void> {
  await client.query('VACUUM ANALYZE');
  await client.query('CHECKPOINT');
}

export interface Peers {
  /** What each needs to send so many events, with the same payloads. Nothing of it is timed. */
  enqueue(peer: 'graphile' | 'pgBoss', events: number): Promise<void>;
  /** Jobs that are not done. */
  left(peer: 'graphile' | 'pgBoss'): Promise<number>;
  close(): Promise<void>;
}

/** Makes the tables of the peers, by their own migrations. */
export async function openPeers({ url, client }: BenchDatabase): Promise<Peers> {
  const utils = await makeWorkerUtils({ connectionString: url });
  await utils.migrate();
  const boss = new PgBoss({ connectionString: url, max: 2, supervise: false, schedule: false });
  boss.on('error', (error) => process.stderr.write(`pg-boss: ${error.message}\n`));
  await boss.start();
  await boss.createQueue(pgBoss.queue);
  const jobs = (extra: string) =>
    `SELECT ${extra} FROM (SELECT ${eventIdInSql('n')} AS id, ${payloadInSql('n')} AS payload
                             FROM generate_series(1, $1::bigint) AS n ORDER BY n) AS e`;
  return {
    async enqueue(peer, events) {
      if (peer === 'graphile') {
        await client.query('TRUNCATE graphile_worker._private_jobs');
        await client.query(
          `SELECT count(*) FROM graphile_worker.add_jobs(ARRAY(
             ${jobs(`json_populate_record(NULL::graphile_worker.job_spec,
                       json_build_object('identifier', '${graphile.task}',
                                         'payload', payload || jsonb_build_object('eventId', id)))`)}))`,
          [events],
        );
      } else {
        await boss.deleteAllJobs(pgBoss.queue);
        const { rows } = await client.query<{ data: object }>(
          jobs(`payload || jsonb_build_object('eventId', id) AS data`),
          [events],
        );
        await boss.insert(pgBoss.queue, rows);
      }
    },
    async left(peer) {
      const { rows } = await client.query<{ left: number }>(
        peer === 'graphile'
          ? 'SELECT count(*)::integer AS left FROM graphile_worker._private_jobs'
          : `SELECT count(*)::integer AS left FROM pgboss.job WHERE state <> 'completed'`,
      );
      return rows[0]?.left ?? Number.NaN;
    },
    async close() {
      await utils.release();
      await boss.stop({ graceful: false });
    },
  };
}
