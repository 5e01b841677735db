/** What the exporter costs: the database, per statement, and its own memory and CPU at rest. See docs/benchmarks.md. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, tmpdir, totalmem } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { Client } from 'pg';
import { Database } from '../jobs/runtime/database.ts';
import { createLogger } from '../jobs/runtime/logger.ts';
import { migrate } from '../jobs/schema/migrate.ts';
import { startQuietApiServer } from './bench-exporter-api.ts';
import { fillEvents, fillLastHours, fillState, makeServiceTables } from './bench-exporter-data.ts';
import { startEmbeddedPostgres } from './embedded-postgres.ts';
import { createProgress } from './progress.ts';

const help = `Measures what the exporter costs the database and the machine, on a large table of events.

  npm run bench:exporter [-- options]

  --json         the last line of standard output is the result as one JSON object
  --events N     rows of event_backups, one in a hundred pending (default 10000000; some 8 GB of disk)
  --amounts      with a check that compares amounts and currencies; the built-in one does not
  --seconds N    how long the exporter is watched at rest (default 60)
  --check        exit code 1 when a goal is missed; without it a bench only reports
  --help
`;

const goals = { databaseMs: 200, residentMb: 160, anonymousMb: 100, cpuShare: 0.02 } as const;
/** The interval of each collection, its default; a scrape comes as often. */
const INTERVAL_MS = 15_000;
const SCHEMA_PASSWORD = 'only-in-benches';

/** For --amounts: the check that the README declares. It costs more than the built-in one, which compares no amounts. */
const checks = `checks:
- name: session-billing
  facts: { table: sessions, key: [id], at: completed_at, amount: amount_minor, currency: currency }
  ledger:
    table: mentor_payable_ledgers
    key: [session_id]
    at: created_at
    amount: amount_minor
    currency: currency
    reverses: { column: reverses_id }
  event: { name: services.session.completed.v1, key: [sessionId] }
`;

/**
 * The statements of each collection, each with a part of its text that no other has: pg_stat_statements takes the comment
 * with the name away, and puts parameters in the place of constants.
 */
const collections: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  state: {
    readChecks: 'AS held_back',
    readFindings: 'AS unknown_amounts',
    readTotals: 'AS resolved',
    readForAPerson: 'AS finding_id',
    readJobs: 'WITH RECURSIVE pair',
    readReplay: 'AS oldest_handed',
    readParked: 'parked_reason AS reason',
    countReplayed: 'statement_timestamp() AS now',
    readRequests: 'AS needs_approval',
    readFrozenUntil: 'max(frozen_until)',
  },
  events: {
    countPending: 'AS pending,',
    readOverdue: 'AS looked_up',
    countParked: 'AS parked',
    readNewestEvent: 'AS at\n       FROM "public"."event_backups"',
  },
  hot_check: { hotFacts: 'FROM judged', readVersionEvents: 'FROM recent' },
};

interface StatementCost {
  readonly statement: string;
  readonly calls: number;
  readonly totalMs: number;
  readonly longestMs: number;
}

async function main(): Promise<number> {
  const options = parseArgs({
    options: {
      json: { type: 'boolean', default: false },
      events: { type: 'string', default: '10000000' },
      amounts: { type: 'boolean', default: false },
      seconds: { type: 'string', default: '60' },
      check: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  }).values;
  if (options.help) {
    process.stdout.write(help);
    return 0;
  }
  const events = Number(options.events);
  const seconds = Number(options.seconds);
  if (!Number.isInteger(events) || events < 10_000 || !(seconds >= 30 && seconds <= 3_600)) {
    process.stderr.write(
      '--events must be a whole number of at least 10000, --seconds between 30 and 3600\n',
    );
    return 2;
  }
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
    process.once(signal, () => process.exit(130));
  const progress = createProgress(5);
  const server = await startEmbeddedPostgres({
    // Statistics of statements, planning included: the database's own timing, and nobody else's.
    settings: {
      shared_preload_libraries: 'pg_stat_statements',
      'pg_stat_statements.track_planning': 'on',
      max_wal_size: '16GB',
      // What it would do between the rounds is no cost of the exporter; what is written is vacuumed before.
      autovacuum: 'off',
    },
  });
  const client = new Client({ connectionString: server.url });
  try {
    await client.connect();
    await makeServiceTables(client);
    await migrateSchema(server.url);
    await client.query(`CREATE EXTENSION pg_stat_statements`);
    await client.query(`GRANT SELECT ON ALL TABLES IN SCHEMA public TO counterfoil_exporter`);
    await client.query(`ALTER ROLE counterfoil_exporter PASSWORD '${SCHEMA_PASSWORD}'`);
    const other = new Client({ connectionString: server.url });
    await other.connect();
    await fillEvents(client, other, events, progress);
    await other.end();
    await progress.step('the state, and the last hours', async () => {
      await fillState(client);
      await fillLastHours(client, events);
    });
    const url = new URL(server.url);
    url.username = 'counterfoil_exporter';
    url.password = SCHEMA_PASSWORD;
    return await measure(
      client,
      url.href,
      { events, seconds, amounts: options.amounts, json: options.json, check: options.check },
      progress,
    );
  } finally {
    await client.end();
    await server.stop();
  }
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

async function measure(
  client: Client,
  databaseUrl: string,
  options: {
    readonly events: number;
    readonly seconds: number;
    readonly amounts: boolean;
    readonly json: boolean;
    readonly check: boolean;
  },
  progress: ReturnType<typeof createProgress>,
): Promise<number> {
  const api = await startQuietApiServer();
  const exporter = await startExporter(databaseUrl, api.kubeconfig, options.amounts);
  try {
    const first = await progress.step('the first collections, and one more of each', async () => {
      await exporter.collected(1);
      const costs = await readCosts(client);
      await exporter.collected(2);
      return costs;
    });
    await client.query('SELECT pg_stat_statements_reset()');
    const cpuBefore = cpuSeconds(exporter.pid);
    const began = performance.now();
    await progress.step(
      `${options.seconds} s at rest, scraped every ${INTERVAL_MS / 1000} s`,
      async (report) => {
        while (performance.now() - began < options.seconds * 1_000) {
          await exporter.scrape();
          await delay(Math.min(INTERVAL_MS, options.seconds * 1_000 - (performance.now() - began)));
          report((performance.now() - began) / (options.seconds * 1_000));
        }
      },
    );
    const cpuShare = (cpuSeconds(exporter.pid) - cpuBefore) / ((performance.now() - began) / 1_000);
    const costs = await readCosts(client);
    const memory = memoryOf(exporter.pid);
    const text = await exporter.scrape();
    const sample = (name: string) =>
      Number(new RegExp(`^${name}\\{[^}]*\\} (\\S+)$`, 'm').exec(text)?.[1] ?? Number.NaN);
    const gateMs = await exporter.timeOfGate();
    const rounds = callsOf(costs, 'countPending');
    const byCollection = Object.fromEntries(
      Object.entries(collections).map(([name, statements]) => [
        name,
        round(
          Object.keys(statements).reduce((sum, statement) => sum + meanOf(costs, statement), 0),
          1,
        ),
      ]),
    );
    const result = {
      // All that the role cost, transactions and looks at the catalogs included, per round of all collections.
      databaseMs: round(costs.reduce((sum, { totalMs }) => sum + totalMs, 0) / rounds, 1),
      byCollection,
      firstDatabaseMs: round(
        first.reduce((sum, { totalMs }) => sum + totalMs, 0),
        1,
      ),
      residentMb: round(memory.residentMb, 1),
      anonymousMb: round(memory.anonymousMb, 1),
      cpuShare: round(cpuShare, 4),
      gateMs: round(gateMs, 1),
      events: options.events,
      pending: sample('counterfoil_pending_events'),
      overdue: sample('counterfoil_overdue_events'),
      hotFacts: [...text.matchAll(/^counterfoil_hot_facts\{[^}]*\} (\S+)$/gm)].reduce(
        (sum, [, value]) => sum + Number(value),
        0,
      ),
      rounds,
    };
    show(result, costs);
    const missed = Object.entries(goals).filter(
      ([name, goal]) => !(result[name as keyof typeof goals] <= goal),
    );
    for (const [name, goal] of missed) process.stdout.write(`missed: ${name} is above its goal of ${goal}\n`);
    if (options.json) process.stdout.write(`${JSON.stringify(result)}\n`);
    return options.check && missed.length > 0 ? 1 : 0;
  } finally {
    await exporter.stop();
    await api.stop();
  }
}

interface MeasuredExporter {
  readonly pid: number;
  scrape(): Promise<string>;
  /** Waits until each collection has succeeded so often. */
  collected(times: number): Promise<void>;
  /** How long the first answer of /gate for the canary takes, in milliseconds. */
  timeOfGate(): Promise<number>;
  stop(): Promise<void>;
}

/** Those of `npm run exporter`, which is how it is meant to be started. */
function nodeFlags(): readonly string[] {
  const manifest = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as {
    readonly scripts: Readonly<Record<string, string>>;
  };
  return manifest.scripts.exporter?.split(' ').filter((word) => word.startsWith('--')) ?? [];
}

async function startExporter(
  databaseUrl: string,
  kubeconfig: string,
  amounts: boolean,
): Promise<MeasuredExporter> {
  const folder = mkdtempSync(join(tmpdir(), 'counterfoil-bench-'));
  process.once('exit', () => rmSync(folder, { recursive: true, force: true }));
  const checksFile = join(folder, 'checks.yaml');
  writeFileSync(checksFile, checks);
  const child: ChildProcess = spawn(
    process.execPath,
    [...nodeFlags(), fileURLToPath(new URL('../jobs/exporter/main.ts', import.meta.url))],
    {
      env: {
        PATH: process.env.PATH ?? '',
        DATABASE_URL: databaseUrl,
        KUBECONFIG: kubeconfig,
        CF_LISTEN_ADDRESS: '127.0.0.1',
        CF_LISTEN_PORT: '0',
        CF_ROLLOUT_NAME: 'billing',
        ...(amounts ? { CF_CHECKS_FILE: checksFile } : {}),
      },
      stdio: ['ignore', 'pipe', 'inherit'],
    },
  );
  process.once('exit', () => child.kill('SIGKILL'));
  let log = '';
  child.stdout?.on('data', (chunk: Buffer) => {
    log += chunk.toString();
  });
  const deadline = Date.now() + 30_000;
  const portOf = () => /"port":(\d+)/.exec(log)?.[1];
  while (portOf() === undefined) {
    if (Date.now() > deadline || child.exitCode !== null)
      throw new Error(`the exporter did not start: ${log}`);
    await delay(50);
  }
  const url = `http://127.0.0.1:${portOf()}`;
  const scrape = async () => await (await fetch(`${url}/metrics`)).text();
  const seen = new Map<string, Set<string>>();
  return {
    pid: child.pid ?? 0,
    scrape,
    async collected(times) {
      const until = Date.now() + 120_000;
      const wanted = Object.keys(collections);
      for (;;) {
        for (const [, name = '', at = ''] of (await scrape()).matchAll(
          /^counterfoil_collection_timestamp_seconds\{collection="(\w+)"[^}]*\} (\S+)$/gm,
        )) {
          if (at !== '0') seen.set(name, (seen.get(name) ?? new Set()).add(at));
        }
        if (wanted.every((name) => (seen.get(name)?.size ?? 0) >= times)) return;
        if (Date.now() > until) throw new Error(`the collections do not succeed: ${log}`);
        await delay(250);
      }
    },
    async timeOfGate() {
      const began = performance.now();
      const response = await fetch(`${url}/gate?hash=canary`);
      await response.text();
      if (response.status !== 200) throw new Error(`/gate answered ${response.status}: ${log}`);
      return performance.now() - began;
    },
    async stop() {
      const gone = new Promise((resolve) => child.once('exit', resolve));
      if (child.exitCode === null && child.kill('SIGTERM')) await gone;
    },
  };
}

/** What the statements of the exporter's role have cost since the last reset. */
async function readCosts(client: Client): Promise<readonly StatementCost[]> {
  const { rows } = await client.query<{ query: string; calls: string; total: number; longest: number }>(
    `SELECT query, calls, total_exec_time + total_plan_time AS total, max_exec_time + max_plan_time AS longest
       FROM pg_stat_statements AS s JOIN pg_roles AS r ON r.oid = s.userid
      WHERE r.rolname = 'counterfoil_exporter'`,
  );
  return rows.map(({ query, calls, total, longest }) => ({
    statement: nameOf(query),
    calls: Number(calls),
    totalMs: total,
    longestMs: longest,
  }));
}

function nameOf(query: string): string {
  for (const statements of Object.values(collections))
    for (const [name, part] of Object.entries(statements)) if (query.includes(part)) return name;
  return /^(BEGIN|COMMIT|ROLLBACK|SET)/.test(query) ? 'transaction control' : 'looks at the catalogs';
}

const matching = (costs: readonly StatementCost[], statement: string) =>
  costs.filter((cost) => cost.statement === statement);

const callsOf = (costs: readonly StatementCost[], statement: string): number =>
  matching(costs, statement).reduce((sum, { calls }) => sum + calls, 0);

function meanOf(costs: readonly StatementCost[], statement: string): number {
  const calls = callsOf(costs, statement);
  if (calls === 0) return 0;
  return matching(costs, statement).reduce((sum, { totalMs }) => sum + totalMs, 0) / calls;
}

/** CPU time of a process so far, user and system. */
function cpuSeconds(pid: number): number {
  // Fields 14 and 15, counted behind the name, which may hold spaces.
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
    .replace(/^.*\) /, '')
    .split(' ');
  return (Number(fields[11]) + Number(fields[12])) / ticksPerSecond();
}

let ticks: number | undefined;
function ticksPerSecond(): number {
  ticks ??= Number(execFileSync('getconf', ['CLK_TCK'], { encoding: 'utf8' }));
  return ticks;
}

function memoryOf(pid: number): { readonly residentMb: number; readonly anonymousMb: number } {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  const megabytes = (name: string) =>
    Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(status)?.[1]) / 1024;
  return { residentMb: megabytes('VmRSS'), anonymousMb: megabytes('RssAnon') };
}

const round = (value: number, digits: number) => Number(value.toFixed(digits));

function show(result: Readonly<Record<string, unknown>>, costs: readonly StatementCost[]): void {
  const [cpu] = cpus();
  process.stdout.write(
    `Node ${process.version}, ${cpus().length} cores, ${cpu?.model.trim()}, ${Math.round(totalmem() / 2 ** 30)} GB\n\n`,
  );
  const listed = Object.entries(collections).map(
    ([name, statements]) => [name, Object.keys(statements)] as const,
  );
  for (const [name, statements] of [...listed, ['other', otherThanCollections(costs)] as const]) {
    process.stdout.write(`${name}\n`);
    for (const statement of statements) {
      const longest = Math.max(0, ...matching(costs, statement).map(({ longestMs }) => longestMs));
      process.stdout.write(
        `  ${statement.padEnd(22)} ${callsOf(costs, statement)} × ${meanOf(costs, statement).toFixed(2)} ms, longest ${longest.toFixed(1)} ms\n`,
      );
    }
  }
  process.stdout.write('\n');
  for (const [name, value] of Object.entries(result))
    process.stdout.write(`${name}: ${typeof value === 'object' ? JSON.stringify(value) : String(value)}\n`);
}

function otherThanCollections(costs: readonly StatementCost[]): readonly string[] {
  const known = Object.values(collections).flatMap((statements) => Object.keys(statements));
  return [...new Set(costs.map(({ statement }) => statement))].filter((one) => !known.includes(one)).sort();
}

process.exitCode = await main();
