/**
 * The service that lives on the same database: pgbench with a fixed number of clients on a schema of its own, half of its
 * transactions those of pgbench, half a queue in which every one takes the oldest row and puts a new one in.
 */
import { execFile } from 'node:child_process';
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { Client } from 'pg';
import type { FactsDatabase } from './bench-reconciliation-data.ts';

const SCHEMA = 'neighbour';
const CLIENTS = 4;
/** 100,000 rows each: all in memory. */
const SCALE = 5;
const QUEUED = 1_000;
const LOOK_EVERY_MS = 250;

const QUEUE_SCRIPT = `
WITH taken AS (DELETE FROM queue WHERE id = (SELECT id FROM queue ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING id)
INSERT INTO queue (payload) SELECT 'after ' || id FROM taken;
`;

export interface NeighbourRun {
  readonly perSecond: number;
  readonly p99Ms: number;
  /** Of the queue table, the mean over the time of the run. */
  readonly deadTuples: number;
}

export interface Neighbour {
  readonly clients: number;
  run(seconds: number): Promise<NeighbourRun>;
}

export async function openNeighbour(facts: FactsDatabase, folder: string): Promise<Neighbour> {
  const { client, url } = facts;
  const { hostname, port, username, password, pathname } = new URL(url);
  const environment = {
    PATH: process.env.PATH,
    PGHOST: hostname,
    PGPORT: port,
    PGUSER: username,
    PGPASSWORD: decodeURIComponent(password),
    PGDATABASE: pathname.slice(1),
    PGOPTIONS: `-c search_path=${SCHEMA}`,
  };
  const pgbench = async (args: readonly string[]) =>
    (await promisify(execFile)('pgbench', [...args], { env: environment, cwd: folder })).stdout;
  await client.query(`CREATE SCHEMA ${SCHEMA}`);
  await client.query(
    `CREATE TABLE ${SCHEMA}.queue (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, payload text NOT NULL)
       WITH (autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0)`,
  );
  await client.query(
    `INSERT INTO ${SCHEMA}.queue (payload) SELECT 'first' FROM generate_series(1, ${QUEUED})`,
  );
  await pgbench(['--initialize', '--quiet', `--scale=${SCALE}`]);
  const script = join(folder, 'queue.sql');
  writeFileSync(script, QUEUE_SCRIPT);
  return {
    clients: CLIENTS,
    async run(seconds) {
      const dead: number[] = [];
      const timer = setInterval(() => {
        client
          .query<{ dead: string }>(
            `SELECT n_dead_tup AS dead FROM pg_stat_user_tables WHERE schemaname = $1::text AND relname = 'queue'`,
            [SCHEMA],
          )
          .then(
            ({ rows }) => dead.push(Number(rows[0]?.dead)),
            () => undefined,
          );
      }, LOOK_EVERY_MS);
      try {
        const stdout = await pgbench([
          '--no-vacuum',
          '--builtin=simple-update@1',
          `--file=${script}@1`,
          `--client=${CLIENTS}`,
          `--jobs=${Math.min(CLIENTS, 2)}`,
          `--time=${seconds}`,
          '--log',
          '--log-prefix=neighbour',
          `--define=scale=${SCALE}`,
        ]);
        const perSecond = Number(/tps = ([\d.]+)/.exec(stdout)?.[1]);
        if (!(perSecond > 0)) throw new Error(`pgbench said nothing that is understood:\n${stdout}`);
        return {
          perSecond,
          p99Ms: p99Of(folder),
          deadTuples: dead.reduce((sum, one) => sum + one, 0) / Math.max(1, dead.length),
        };
      } finally {
        clearInterval(timer);
      }
    },
  };
}

/** So often a migration of the service asks for its lock, and gives it back at once. */
const MIGRATION_EVERY_MS = 500;

export interface Migrations {
  /** Ends them, and gives the longest time that one has waited for its lock, in milliseconds. */
  stop(): Promise<number>;
}

/** Takes the lock that `ALTER TABLE sessions` needs, again and again: whoever reads for long lets it wait, and all behind it. */
export async function startMigrations({ url }: FactsDatabase): Promise<Migrations> {
  const client = new Client({ connectionString: url });
  await client.connect();
  let stopped = false;
  let longestMs = 0;
  const asking = (async () => {
    while (!stopped) {
      const began = performance.now();
      await client.query('BEGIN; LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE; ROLLBACK');
      longestMs = Math.max(longestMs, performance.now() - began);
      await delay(MIGRATION_EVERY_MS);
    }
  })();
  // What fails is heard of by whoever stops it, and not before.
  asking.catch(() => undefined);
  return {
    async stop() {
      stopped = true;
      await asking;
      await client.end();
      return longestMs;
    },
  };
}

/** The third field of each line of pgbench's log is the time of one transaction in microseconds. */
function p99Of(folder: string): number {
  const files = readdirSync(folder).filter((name) => name.startsWith('neighbour.'));
  const times = files.flatMap((name) => {
    const text = readFileSync(join(folder, name), 'utf8');
    rmSync(join(folder, name));
    return text
      .trimEnd()
      .split('\n')
      .map((line) => Number(line.split(' ')[2]));
  });
  const sorted = Float64Array.from(times).sort();
  return (sorted[Math.ceil(sorted.length * 0.99) - 1] ?? Number.NaN) / 1_000;
}
