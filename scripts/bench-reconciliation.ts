/**
 * What billing-reconciliation costs, beside what a person would write by hand: on one server, in one run, in rounds that
 * take turns, so that a noisy machine is as noisy for all. See docs/benchmarks.md.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { cpus, tmpdir, totalmem } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { openContenders } from './bench-reconciliation-contenders.ts';
import { type FactsDatabase, factCounts, makeFactsDatabase, tenthOf } from './bench-reconciliation-data.ts';
import { openReconciliation } from './bench-reconciliation-job.ts';
import { logSettings, openServerLog } from './bench-reconciliation-log.ts';
import { openNeighbour } from './bench-reconciliation-neighbour.ts';
import {
  type Figures,
  missedGoals,
  nothingMeasured,
  type Part,
  table,
  verdict,
} from './bench-reconciliation-report.ts';
import {
  type Bench,
  densePart,
  findingsPart,
  growthPart,
  incrementalPart,
  neighbourPart,
  sweepPart,
} from './bench-reconciliation-rounds.ts';
import { pgbenchVersion } from './bench-service-contenders.ts';
import { type EmbeddedPostgres, startEmbeddedPostgres } from './embedded-postgres.ts';
import { createProgress, type Progress } from './progress.ts';

const help = `Measures billing-reconciliation against the queries that a person would write by hand.

  npm run bench:reconciliation [-- options]

  --facts N       completed sessions to compare (default 1000000, with --full 10000000; some 1 GB of disk per million)
  --rounds R      rounds of each part (default 5)
  --json          the last line of standard output is the result as one JSON object
  --full          the long form: ten million facts
  --only PARTS    some of sweep, incremental, growth, neighbour, dense, findings; separated by commas
  --seconds N     length of a round of the neighbour (default 10)
  --binaries DIR  the server of another version: a folder with initdb and postgres
  --check         exit code 1 when a goal is missed; without it a bench only reports
  --help
`;

const endSignals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
/** In this order: the last two change the rows. */
const partNames = ['sweep', 'incremental', 'growth', 'neighbour', 'dense', 'findings'] as const;
type PartName = (typeof partNames)[number];

interface Asked {
  readonly facts: number;
  readonly rounds: number;
  readonly seconds: number;
  readonly parts: ReadonlySet<PartName>;
}

async function main(): Promise<number> {
  const options = parseArgs({
    options: {
      facts: { type: 'string' },
      rounds: { type: 'string', default: '5' },
      json: { type: 'boolean', default: false },
      full: { type: 'boolean', default: false },
      only: { type: 'string', default: partNames.join(',') },
      seconds: { type: 'string', default: '10' },
      binaries: { type: 'string' },
      check: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  }).values;
  if (options.help) {
    process.stdout.write(help);
    return 0;
  }
  const asked: Asked = {
    facts: Number(options.facts ?? (options.full ? 10_000_000 : 1_000_000)),
    rounds: Number(options.rounds),
    seconds: Number(options.seconds),
    parts: new Set(options.only.split(',') as PartName[]),
  };
  const problem = problemOf(asked);
  if (problem !== undefined) {
    process.stderr.write(`${problem}\n`);
    return 2;
  }
  // An end by exit() takes the server and the jobs along; one by the signal itself would leave them behind.
  const end = () => process.exit(130);
  for (const signal of endSignals) process.once(signal, end);
  const folder = mkdtempSync(join(tmpdir(), 'counterfoil-bench-'));
  process.once('exit', () => rmSync(folder, { recursive: true, force: true }));
  let server: EmbeddedPostgres | undefined;
  try {
    server = await startEmbeddedPostgres({ binaries: options.binaries, settings: serverSettings });
    const parts = await measure(server.url, folder, asked);
    const figures: Figures = { facts: asked.facts, ...nothingMeasured, ...mergedFigures(parts) };
    process.stdout.write(`${table(parts)}\n${verdict(figures)}`);
    if (options.json) process.stdout.write(`${JSON.stringify(figures)}\n`);
    return options.check && missedGoals(figures).length > 0 ? 1 : 0;
  } finally {
    await server?.stop();
    for (const signal of endSignals) process.off(signal, end);
  }
}

/** A server that waits for its disk, with a quarter of a small machine's memory: tables of a million facts fit in. */
const serverSettings = {
  ...logSettings,
  fsync: 'on',
  shared_buffers: '1GB',
  max_wal_size: '16GB',
  // The tables that are compared are left alone by it; the neighbour's queue is not.
  autovacuum_naptime: '1s',
};

function problemOf({ facts, rounds, seconds, parts }: Asked): string | undefined {
  if (!Number.isInteger(facts) || facts < 1_000) return '--facts must be a whole number of at least 1000';
  if (!Number.isInteger(rounds) || rounds < 1) return '--rounds must be a whole number of at least 1';
  if (!(seconds >= 1 && seconds <= 600)) return '--seconds must lie between 1 and 600';
  if ([...parts].some((name) => !partNames.includes(name))) return `--only takes ${partNames.join(', ')}`;
  return undefined;
}

async function measure(serverUrl: string, folder: string, asked: Asked): Promise<readonly Part[]> {
  const { parts, rounds, seconds } = asked;
  const counts = factCounts(asked.facts);
  const progress = createProgress(1 + parts.size + (parts.has('growth') ? 1 : 0));
  const facts = await progress.step(
    `${asked.facts} facts and their bills`,
    async (report) => await makeFactsDatabase(serverUrl, 'facts', counts, report),
  );
  const contenders = await openContenders(facts.url);
  const opened: FactsDatabase[] = [facts];
  try {
    const job = openReconciliation(folder, await openServerLog(facts.client));
    const bench: Bench = { facts, contenders, job, rounds };
    const pgbench = await pgbenchVersion();
    process.stderr.write(`${await environmentOf(facts, pgbench)}\n`);
    const run: Readonly<Record<PartName, () => Promise<Part | undefined>>> = {
      sweep: async () => await progress.step('everything', async (report) => await sweepPart(bench, report)),
      incremental: async () =>
        await progress.step('the last 24 hours', async (report) => await incrementalPart(bench, report)),
      async growth() {
        const small = await progress.step(
          'the same last 24 hours after fewer older facts',
          async (report) => await makeFactsDatabase(serverUrl, 'fewer_facts', tenthOf(counts), report),
        );
        opened.push(small);
        return await progress.step('both tables', async (report) => await growthPart(bench, small, report));
      },
      neighbour: async () => await neighbourStep(bench, folder, pgbench, seconds, progress),
      dense: async () =>
        await progress.step('a mass import', async (report) => await densePart(bench, report)),
      findings: async () =>
        await progress.step('many findings', async (report) => await findingsPart(bench, report)),
    };
    const measured: Part[] = [];
    for (const name of partNames) {
      const part = parts.has(name) ? await run[name]() : undefined;
      if (part !== undefined) measured.push(part);
    }
    return measured;
  } finally {
    await contenders.close();
    for (const { client } of opened) await client.end();
  }
}

async function neighbourStep(
  bench: Bench,
  folder: string,
  pgbench: string | undefined,
  seconds: number,
  progress: Progress,
): Promise<Part | undefined> {
  if (pgbench === undefined) {
    process.stderr.write(
      'pgbench is not on PATH, so that neighbourThroughput is null: apt-get install postgresql (Debian), brew install libpq (macOS)\n',
    );
    return undefined;
  }
  return await progress.step('a neighbour', async (report) => {
    const neighbour = await openNeighbour(bench.facts, folder);
    return await neighbourPart(bench, neighbour, seconds, report);
  });
}

/** Of two parts that know the memory, the one that needed more of it. */
function mergedFigures(parts: readonly Part[]): Partial<Figures> {
  const memory = parts.flatMap(({ figures }) => figures.rssMb ?? []);
  const all: Partial<Figures> = Object.assign({}, ...parts.map(({ figures }) => figures));
  return memory.length === 0 ? all : { ...all, rssMb: Math.max(...memory) };
}

async function environmentOf({ client }: FactsDatabase, pgbench: string | undefined): Promise<string> {
  const { rows } = await client.query<Record<string, string>>(
    `SELECT current_setting('server_version') AS version, current_setting('shared_buffers') AS buffers,
            current_setting('work_mem') AS work_mem,
            pg_size_pretty(pg_relation_size('sessions') + pg_relation_size('mentor_payable_ledgers')) AS rows,
            pg_size_pretty(pg_indexes_size('sessions') + pg_indexes_size('mentor_payable_ledgers')) AS indices`,
  );
  const [server] = rows;
  return [
    `Node ${process.version}`,
    `Postgres ${server?.version} (shared_buffers ${server?.buffers}, work_mem ${server?.work_mem})`,
    pgbench ?? 'no pgbench',
    `${cpus().length} cores, ${cpus()[0]?.model.trim()}`,
    `${Math.round(totalmem() / 1024 ** 3)} GB`,
    `tables ${server?.rows}, indices ${server?.indices}`,
  ].join(', ');
}

try {
  process.exitCode = await main();
} catch (error) {
  if (String((error as { code?: unknown }).code).startsWith('ERR_PARSE_ARGS')) {
    process.stderr.write(`${(error as Error).message}\n\n${help}`);
    process.exitCode = 2;
  } else {
    process.stderr.write(`the bench could not go on: ${(error as Error).message}\n`);
    process.exitCode = 1;
  }
}
