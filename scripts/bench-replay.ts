/**
 * What event-replay can do, beside the same POSTs without it and beside other queues: on one server, in one run, in
 * rounds that take turns, so that a noisy machine is as noisy for all. See docs/benchmarks.md.
 *
 * Each contender sends one event per POST, to one sink, on as many lanes. It is timed from when its process begins to
 * work, with its modules loaded, to when the last event is recorded as done in the database. Of the job that is the
 * time from its row in `job_runs` to the commit of its last outcome, so that its intake counts; the peers are given
 * their jobs and their connections before.
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { cpus, tmpdir, totalmem } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import type { Client } from 'pg';
import { addParked, measureClaims } from './bench-replay-claims.ts';
import { openDatabase, openPeers } from './bench-replay-database.ts';
import { figuresOf, type Measured, missedGoals, tables, verdict } from './bench-replay-report.ts';
import { type Bench, type Contender, type Round, replay, runRounds } from './bench-replay-rounds.ts';
import { graphile, HANDLER_MS, job, LANES, pgBoss } from './bench-replay-settings.ts';
import { startSink } from './bench-replay-sink-process.ts';
import { measureSnapshot } from './bench-replay-snapshot.ts';
import { summarizeProfile } from './bench-service-profile.ts';
import { type EmbeddedPostgres, startEmbeddedPostgres } from './embedded-postgres.ts';
import { createProgress, type Progress } from './progress.ts';

const parts = ['handler', 'noop', 'poison', 'claims', 'snapshot'] as const;
type Part = (typeof parts)[number];

const help = `Measures event-replay against a bare POST loop, graphile-worker, pg-boss and a loop that takes row by row.

  npm run bench:replay [-- options]

  --json         the last line of standard output is the result as one JSON object
  --events N     events of each run, with payloads of 300 bytes (default 20000)
  --rounds R     runs of each contender, in turns (default 5)
  --full         the old snapshot for three minutes instead of 20 s, and the peers with a handler of 20 ms as well
  --only PARTS   of ${parts.join(', ')}, with commas between them; what was not run is null
  --profile DIR  only the job, without a handler, with a CPU profile written to DIR and summed up
  --check        exit code 1 when a goal is missed; without it a bench only reports
  --help
`;

const endSignals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
const FULL_SNAPSHOT_SECONDS = 180;
const SHORT_SNAPSHOT_SECONDS = 20;
/** One poison event for so many healthy ones. */
const ONE_POISON_IN = 10;
/** The fewest of which each part can tell anything: some of them poison, and more than one claim. */
const FEWEST_EVENTS = 100;

interface Options {
  readonly events: number;
  readonly rounds: number;
  readonly full: boolean;
  readonly wanted: readonly Part[];
}

async function main(): Promise<number> {
  const options = parseArgs({
    options: {
      json: { type: 'boolean', default: false },
      events: { type: 'string', default: '20000' },
      rounds: { type: 'string', default: '5' },
      full: { type: 'boolean', default: false },
      only: { type: 'string' },
      profile: { type: 'string' },
      check: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  }).values;
  if (options.help) {
    process.stdout.write(help);
    return 0;
  }
  const events = Number(options.events);
  const rounds = Number(options.rounds);
  const asked = options.only?.split(',') ?? parts;
  if (!Number.isInteger(events) || events < FEWEST_EVENTS || !Number.isInteger(rounds) || rounds < 1) {
    process.stderr.write(
      `--events must be a whole number of at least ${FEWEST_EVENTS}, --rounds of at least 1\n`,
    );
    return 2;
  }
  if (!asked.every((name) => parts.some((part) => part === name))) {
    process.stderr.write(`--only names some of: ${parts.join(', ')}\n`);
    return 2;
  }
  const wanted = parts.filter((part) => asked.includes(part));
  // An end by exit() takes the server and the contenders along; one by the signal itself would leave them behind.
  const end = () => process.exit(130);
  for (const signal of endSignals) process.once(signal, end);
  const folder = mkdtempSync(join(tmpdir(), 'counterfoil-bench-'));
  process.once('exit', () => rmSync(folder, { recursive: true, force: true }));
  let server: EmbeddedPostgres | undefined;
  try {
    server = await startEmbeddedPostgres({
      settings: {
        fsync: 'on',
        // When each outcome was committed, which no column tells.
        track_commit_timestamp: 'on',
        shared_preload_libraries: 'pg_stat_statements',
        // Counts nothing until a part asks for it.
        'pg_stat_statements.track': 'none',
      },
    });
    if (options.profile !== undefined) {
      await profile(server.url, folder, events, options.profile);
      return 0;
    }
    const measured = await measure(server.url, folder, { events, rounds, full: options.full, wanted });
    const figures = figuresOf(measured);
    const missed = missedGoals(figures, measured);
    process.stdout.write(tables(measured));
    process.stdout.write(verdict(figures, missed));
    if (options.json) process.stdout.write(`${JSON.stringify(figures)}\n`);
    return options.check && missed.length > 0 ? 1 : 0;
  } finally {
    await server?.stop();
    for (const signal of endSignals) process.off(signal, end);
  }
}

/** One run to look into: the profiler slows it down, so its rate is no figure. */
async function profile(serverUrl: string, folder: string, events: number, into: string): Promise<void> {
  const database = await openDatabase(serverUrl, 'bench');
  const sink = await startSink();
  try {
    const nodeFlags = ['--cpu-prof', `--cpu-prof-dir=${into}`];
    const { seconds } = await replay({ database, sink, folder, events }, { handlerMs: 0, nodeFlags });
    process.stdout.write(
      `${Math.round(events / seconds)} events a second, with profiling on, so no figure.\nThe profile is in ${into}.\n`,
    );
    process.stdout.write(summarizeProfile(into));
  } finally {
    await sink.end();
    await database.close();
  }
}

async function measure(serverUrl: string, folder: string, options: Options): Promise<Measured> {
  const { events, wanted } = options;
  const database = await openDatabase(serverUrl, 'bench');
  await database.client.query('CREATE EXTENSION pg_stat_statements');
  const peers = await openPeers(database);
  const sink = await startSink();
  const bench: Bench = { database, peers, sink, folder, events };
  try {
    process.stderr.write(`${await environmentOf(database.client)}\n${settingsOf()}\n`);
    const progress = createProgress(wanted.length);
    let measured: Measured = { events };
    for (const part of wanted)
      measured = { ...measured, ...(await measurePart(part, bench, serverUrl, options, progress)) };
    return measured;
  } finally {
    await sink.end();
    await peers.close();
    await database.close();
  }
}

async function measurePart(
  part: Part,
  bench: Bench,
  serverUrl: string,
  { rounds, full }: Options,
  progress: Progress,
): Promise<Partial<Measured>> {
  switch (part) {
    case 'handler':
    case 'noop': {
      const peers: Contender[] = ['graphile', 'pgBoss', 'rowAtATime'];
      const [contenders, handlerMs]: [Contender[], number] =
        part === 'noop'
          ? [['bare', 'job', ...peers, 'jobInBatches'], 0]
          : [['bare', 'job', ...(full ? peers : [])], HANDLER_MS];
      const title = `${rounds} rounds ${part === 'noop' ? 'without a handler' : `with a handler of ${HANDLER_MS} ms`}`;
      return {
        [part]: await progress.step(title, (report) =>
          runRounds(bench, contenders, handlerMs, rounds, report),
        ),
      };
    }
    case 'poison':
      return {
        poison: await progress.step(`${rounds} rounds behind poison events`, (report) =>
          measurePoison(bench, rounds, report),
        ),
      };
    case 'claims':
      return {
        claims: await progress.step('the statements of a run, and beside parked events', async () => {
          const noop = await measureClaims(bench, { handlerMs: 0 });
          const handler = await measureClaims(bench, { handlerMs: HANDLER_MS });
          await addParked(bench);
          const besideParked = await measureClaims(bench, { handlerMs: 0, first: bench.events + 1 });
          return { noop, handler, besideParked };
        }),
      };
    case 'snapshot': {
      const seconds = full ? FULL_SNAPSHOT_SECONDS : SHORT_SNAPSHOT_SECONDS;
      const held = await openDatabase(serverUrl, 'held');
      const free = await openDatabase(serverUrl, 'free');
      try {
        const snapshot = await progress.step(`${seconds} s beside an old snapshot`, (report) =>
          measureSnapshot(bench, { held, free }, seconds, report),
        );
        return { snapshot: { ...snapshot, isFull: full } };
      } finally {
        await held.close();
        await free.close();
      }
    }
  }
}

/** The rate of the healthy events alone: from the begin of the run to the commit of the last of them. */
async function measurePoison(
  bench: Bench,
  rounds: number,
  report: (share: number) => void,
): Promise<{ readonly with: readonly Round[]; readonly without: readonly Round[] }> {
  const results: Record<'with' | 'without', Round[]> = { with: [], without: [] };
  const poison = Math.ceil(bench.events / ONE_POISON_IN);
  for (let number = 0; number < rounds; number += 1) {
    for (const side of number % 2 === 0 ? (['with', 'without'] as const) : (['without', 'with'] as const)) {
      const run = await replay(bench, { handlerMs: 0, ...(side === 'with' ? { poison } : {}) });
      results[side].push({
        perSecond: bench.events / run.secondsToProcessed,
        delivered: run.processed + run.parked,
        run,
      });
    }
    report((number + 1) / rounds);
  }
  return results;
}

async function environmentOf(client: Client): Promise<string> {
  const { rows } = await client.query<Record<string, string>>(
    `SELECT current_setting('server_version') AS version, current_setting('fsync') AS fsync,
            current_setting('synchronous_commit') AS synchronous_commit`,
  );
  const [settings] = rows;
  return [
    `Node ${process.version}`,
    `Postgres ${settings?.version} (fsync ${settings?.fsync}, synchronous_commit ${settings?.synchronous_commit})`,
    `${cpus().length} cores, ${cpus()[0]?.model.trim()}`,
    `${Math.round(totalmem() / 1024 ** 3)} GB`,
  ].join(', ');
}

function settingsOf(): string {
  const version = (name: string) =>
    (
      JSON.parse(readFileSync(new URL(`../node_modules/${name}/package.json`, import.meta.url), 'utf8')) as {
        version: string;
      }
    ).version;
  return [
    `${LANES} lanes each, one event in a POST, by undici ${version('undici')}`,
    `event-replay: claims of ${job.claimSize}, otherwise its defaults, one line of its log for each event`,
    `graphile-worker ${version('graphile-worker')}: localQueue of ${graphile.queueSize}, completeJobBatchDelay ${graphile.completeJobBatchDelayMs}, no line for what went well`,
    `pg-boss ${version('pg-boss')}: fetch and complete of ${pgBoss.batchSize}, ${pgBoss.loops} loops with a share of the lanes each`,
    'row at a time: SELECT … FOR UPDATE SKIP LOCKED LIMIT 1, POST, UPDATE, on a connection for each lane',
  ].join('\n');
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
