/**
 * What the reference service can do, beside the same writes without it: on one server, in one run, in rounds that
 * take turns, so that a noisy machine is as noisy for all. See docs/benchmarks.md.
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { cpus, tmpdir, totalmem } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { Client } from 'pg';
import {
  type NodeContender,
  pgbenchVersion,
  runPgbench,
  startContender,
} from './bench-service-contenders.ts';
import { type PacedResult, WARM_UP_SECONDS } from './bench-service-load.ts';
import { measurePredecessor, predecessorSessions } from './bench-service-predecessor.ts';
import { summarizeProfile } from './bench-service-profile.ts';
import { type EmbeddedPostgres, startEmbeddedPostgres } from './embedded-postgres.ts';
import { createProgress } from './progress.ts';

const help = `Measures completeSession of the built reference service against pgbench and a bare loop on node-postgres.

  npm run bench:service [-- options]

  --json          the last line of standard output is the result as one JSON object
  --rounds N      rounds at full speed; at 500 events a second there are twice as many (default 5)
  --seconds N     length of a round (default 5)
  --full          and ten minutes at 500 events a second, for the memory
  --check         exit code 1 when a goal is missed; without it a bench only reports
  --profile DIR   only the service, at full speed and paced, with a CPU profile written to DIR and summed up
  --fsync off     a server that does not wait for its disk: for looking at CPU alone, never for figures
  --help
`;

const endSignals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
const PACE = 500;
const FULL_SECONDS = 600;
/** Three commits one after the other take a few ms; a machine where half of them take longer cannot keep this pace. */
const SLOW_BARE_MS = 25;
const CALIBRATION_SECONDS = 2;
/** More than any contender reaches here: a round never runs out of sessions. */
const MOST_PER_SECOND = 6_000;
const FIRST_SESSION = 100_000_000_000;
const CLIENT_CHOICES = [4, 8, 16, 32, 64];
/** Connections of the service and of the bare loops, so that the number of clients decides. */
const POOL_SIZE = 20;
/** Events under way in the service at full speed; at most MAX_IN_FLIGHT, so that none is left for a replay. */
const MAX_IN_FLIGHT = 150;
const IN_FLIGHT_CHOICES = [32, 64, 128];

interface BenchResult {
  readonly eventsPerSecond: number;
  readonly overPgbench: number | null;
  readonly publishOverBareP99: number;
  readonly publishToProcessedOverBareP99: number;
  readonly publishP99Ms: number;
  readonly publishToProcessedP99Ms: number;
  readonly cpuShareAt500: number;
  readonly rssMb: number;
  readonly predecessorPublishToProcessedP50Ms: number;
}

const goals: Readonly<Partial<Record<keyof BenchResult, { least?: number; most?: number }>>> = {
  overPgbench: { least: 0.7 },
  publishOverBareP99: { most: 3 },
  publishToProcessedOverBareP99: { most: 3 },
  publishP99Ms: { most: 100 },
  publishToProcessedP99Ms: { most: 500 },
  cpuShareAt500: { most: 0.5 },
  rssMb: { most: 200 },
};

const path = (name: string) => fileURLToPath(new URL(`../${name}`, import.meta.url));
const median = (values: readonly number[]) => {
  const sorted = [...values].sort((one, other) => one - other);
  const middle = sorted.length / 2;
  return sorted.length % 2 === 1
    ? (sorted[Math.floor(middle)] ?? Number.NaN)
    : ((sorted[middle - 1] ?? Number.NaN) + (sorted[middle] ?? Number.NaN)) / 2;
};
const round = (value: number, digits: number) => Number(value.toFixed(digits));

async function main(): Promise<number> {
  const options = parseArgs({
    options: {
      json: { type: 'boolean', default: false },
      rounds: { type: 'string', default: '5' },
      seconds: { type: 'string', default: '5' },
      full: { type: 'boolean', default: false },
      check: { type: 'boolean', default: false },
      profile: { type: 'string' },
      fsync: { type: 'string', default: 'on' },
      help: { type: 'boolean', default: false },
    },
  }).values;
  if (options.help) {
    process.stdout.write(help);
    return 0;
  }
  const rounds = Number(options.rounds);
  const seconds = Number(options.seconds);
  if (!Number.isInteger(rounds) || rounds < 1 || !(seconds >= 1 && seconds <= 600)) {
    process.stderr.write('--rounds must be a whole number of at least 1, --seconds between 1 and 600\n');
    return 2;
  }
  if (!['on', 'off'].includes(options.fsync)) {
    process.stderr.write('--fsync is on or off\n');
    return 2;
  }
  // An end by exit() takes the server and the contenders along; one by the signal itself would leave them behind.
  const end = () => process.exit(130);
  for (const signal of endSignals) process.once(signal, end);
  const folder = mkdtempSync(join(tmpdir(), 'counterfoil-bench-'));
  process.once('exit', () => rmSync(folder, { recursive: true, force: true }));
  let server: EmbeddedPostgres | undefined;
  let bench: Bench | undefined;
  try {
    server = await startEmbeddedPostgres({ settings: { fsync: options.fsync } });
    bench = await openBench(server.url, folder, options.profile);
    const result =
      options.profile === undefined
        ? await measure(bench, rounds, seconds, options.full)
        : await profile(bench, seconds, options.profile);
    if (result === undefined) return 0;
    const missed = judge(result.figures);
    missed.push(...result.problems);
    process.stdout.write(verdict(result.figures, missed));
    if (options.json) process.stdout.write(`${JSON.stringify(result.figures)}\n`);
    return options.check && missed.length > 0 ? 1 : 0;
  } finally {
    await bench?.close();
    await server?.stop();
    if (bench !== undefined && options.profile !== undefined)
      process.stdout.write(summarizeProfile(options.profile));
    for (const signal of endSignals) process.off(signal, end);
  }
}

interface Bench {
  readonly url: string;
  readonly folder: string;
  readonly client: Client;
  /** Another process after `restartService`. */
  readonly service: NodeContender;
  readonly bareOne: NodeContender;
  readonly bareThree: NodeContender;
  /** A process that has not run at full speed: Node keeps the memory that it once took. */
  restartService(): Promise<void>;
  close(): Promise<void>;
}

async function openBench(url: string, folder: string, profileFolder: string | undefined): Promise<Bench> {
  const client = new Client({ connectionString: url });
  await client.connect();
  for (const name of [
    'reference-service/sql/schema.sql',
    'nestjs/sql/event_backups.sql',
    'nestjs/sql/event_deliveries.sql',
  ]) {
    await client.query(readFileSync(path(name), 'utf8'));
  }
  const environment = {
    DATABASE_URL: url,
    POOL_SIZE: String(POOL_SIZE),
    MAX_IN_FLIGHT: String(MAX_IN_FLIGHT),
  };
  const startService = () =>
    startContender('bench-service-worker.ts', folder, environment, [
      ...flagsOfService(),
      ...(profileFolder === undefined ? [] : ['--cpu-prof', `--cpu-prof-dir=${profileFolder}`]),
    ]);
  const contenders = await Promise.all([
    startService(),
    startContender('bench-service-bare.ts', folder, { ...environment, BENCH_COMMITS: '1' }),
    startContender('bench-service-bare.ts', folder, { ...environment, BENCH_COMMITS: '3' }),
  ]);
  let [service] = contenders;
  const [, bareOne, bareThree] = contenders;
  return {
    url,
    folder,
    client,
    get service() {
      return service;
    },
    bareOne,
    bareThree,
    async restartService() {
      await service.end();
      service = await startService();
    },
    async close() {
      await Promise.all([service, bareOne, bareThree].map((contender) => contender.end()));
      await client.end();
    },
  };
}

/** The flags that the service is started with, such as those for its memory. */
function flagsOfService(): string[] {
  const { scripts } = JSON.parse(readFileSync(path('reference-service/package.json'), 'utf8')) as {
    scripts: Record<string, string>;
  };
  return (scripts.start ?? '').split(/\s+/).filter((word) => word.startsWith('--'));
}

/** Every round begins with the same rows: sessions that are not completed, and nothing else. */
async function freshSessions({ client }: Bench, count: number): Promise<{ first: number; count: number }> {
  await client.query('truncate sessions, mentor_payable_ledgers, event_deliveries, event_backups cascade');
  await client.query(
    `insert into sessions (id, contract_id, mentor_id, amount_minor, currency)
     select ('00000000-0000-4000-8000-' || n)::uuid, 'contract-1', 'mentor-1', 4200, 'EUR'
       from generate_series($1::bigint, $1::bigint + $2::bigint - 1) as n`,
    [FIRST_SESSION, count],
  );
  await client.query('vacuum analyze sessions, mentor_payable_ledgers, event_deliveries, event_backups');
  await client.query('checkpoint');
  return { first: FIRST_SESSION, count };
}

/** Counted in the tables, whatever a contender says: each event has written all its rows once. */
async function confirm({ client }: Bench, contender: string, events: number, leftPending = 0): Promise<void> {
  const { rows } = await client.query<Record<string, number>>(
    `select (select count(*) from sessions where completed_at is not null)::integer as completed,
            (select count(*) from event_backups where status = 'processed')::integer as processed,
            (select count(*) from event_backups where status = 'pending')::integer as pending,
            (select count(*) from event_deliveries where status = 'succeeded')::integer as delivered,
            (select count(*) from mentor_payable_ledgers)::integer as billed`,
  );
  const { completed, processed, pending, delivered, billed } = rows[0] ?? {};
  const done = [processed, delivered, billed].every((count) => count === events - leftPending);
  if (!done || completed !== events || pending !== leftPending) {
    throw new Error(
      `${contender} said ${events} events, and the tables say: ${JSON.stringify(rows[0])}. The figures are worth nothing.`,
    );
  }
}

interface Closed {
  readonly perSecond: number;
  /** CPU time of the contender's own process for one event; pgbench does not tell. */
  readonly cpuMs: number | undefined;
}
type RunClosed = (clients: number, seconds: number) => Promise<Closed>;

/** The contenders at full speed: each gives events per second. */
function closedContenders(
  bench: Bench,
): Record<'pgbench' | 'pgbenchThree' | 'service' | 'bareOne', RunClosed> {
  const byNode =
    (name: string, contender: NodeContender): RunClosed =>
    async (clients, seconds) => {
      const sessions = await freshSessions(bench, Math.ceil((WARM_UP_SECONDS + seconds) * MOST_PER_SECOND));
      const ran = await contender.closed({ sessions, clients, seconds });
      const { events, seconds: took, cpuShare } = ran;
      await confirm(bench, name, events + ran.warmUpEvents);
      return { perSecond: events / took, cpuMs: (cpuShare * took * 1_000) / events };
    };
  const byPgbench =
    (commits: 1 | 3): RunClosed =>
    async (clients, seconds) => {
      // pgbench cannot hand out numbers across clients: each has twice its even share.
      const perClient = Math.ceil((seconds * MOST_PER_SECOND * 2) / clients);
      const { first } = await freshSessions(bench, perClient * clients);
      const { url, folder } = bench;
      const ran = await runPgbench({
        url,
        folder,
        commits,
        clients,
        seconds,
        perClient,
        firstNumber: first - 1,
      });
      await confirm(bench, 'pgbench', ran.events);
      return { perSecond: ran.perSecond, cpuMs: undefined };
    };
  return {
    pgbench: byPgbench(1),
    pgbenchThree: byPgbench(3),
    service: byNode('the service', bench.service),
    bareOne: byNode('the bare loop', bench.bareOne),
  };
}

interface Measured {
  readonly figures: BenchResult;
  /** What makes the run bad beside its figures, or its figures worth little. */
  readonly problems: readonly string[];
}

async function measure(bench: Bench, rounds: number, seconds: number, full: boolean): Promise<Measured> {
  const version = await pgbenchVersion();
  if (version === undefined) {
    process.stderr.write(
      'pgbench is not on PATH, so that overPgbench is null: apt-get install postgresql (Debian), brew install libpq (macOS)\n',
    );
  }
  process.stderr.write(`${await environmentOf(bench.client, version)}\n`);
  const run = closedContenders(bench);
  const names = (Object.keys(run) as (keyof typeof run)[]).filter(
    (name) => version !== undefined || !name.startsWith('pgbench'),
  );
  const progress = createProgress(full ? 5 : 4);
  const clients = await progress.step('finding the best number of clients for each', async (report) => {
    const best = new Map<keyof typeof run, { clients: number; perSecond: number }>();
    for (const [index, name] of names.entries()) {
      for (const choice of name === 'service' ? IN_FLIGHT_CHOICES : CLIENT_CHOICES) {
        const { perSecond } = await run[name](choice, CALIBRATION_SECONDS);
        if (perSecond > (best.get(name)?.perSecond ?? 0)) best.set(name, { clients: choice, perSecond });
      }
      report((index + 1) / names.length);
    }
    return best;
  });
  const fullSpeed = new Map<keyof typeof run, Closed[]>(names.map((name) => [name, []]));
  await progress.step(`${rounds} rounds at full speed`, async (report) => {
    for (let number = 0; number < rounds; number += 1) {
      for (const name of number % 2 === 0 ? names : names.toReversed()) {
        fullSpeed.get(name)?.push(await run[name](clients.get(name)?.clients ?? 0, seconds));
      }
      report((number + 1) / rounds);
    }
  });
  const pacedRounds = rounds * 2;
  const paced = await progress.step(`${pacedRounds} rounds at ${PACE} events a second`, async (report) => {
    const results: Record<'service' | 'bare', PacedResult[]> = { service: [], bare: [] };
    await bench.restartService();
    // Neither process has run before: its first events would be those of a cold one.
    for (const name of ['bare', 'service'] as const) await runPacedRound(bench, name, CALIBRATION_SECONDS);
    for (let number = 0; number < pacedRounds; number += 1) {
      for (const name of number % 2 === 0 ? (['bare', 'service'] as const) : (['service', 'bare'] as const)) {
        results[name].push(await runPacedRound(bench, name, seconds));
      }
      report((number + 1) / pacedRounds);
    }
    return results;
  });
  const long = full
    ? await progress.step(`ten minutes at ${PACE} events a second`, () =>
        runPacedRound(bench, 'service', FULL_SECONDS),
      )
    : undefined;
  const predecessor = await progress.step('the predecessor, which polls every 30 s', async (report) => {
    const { first } = await freshSessions(bench, predecessorSessions);
    return await measurePredecessor(bench.url, bench.client, first, report);
  });
  process.stdout.write(tables(fullSpeed, clients, paced, long));
  process.stdout.write(
    `The predecessor, publish to processed: p50 ${Math.round(predecessor.p50)} ms, p99 ${Math.round(predecessor.p99)} ms.\n`,
  );
  const ofService = (get: (result: PacedResult) => number) => median(paced.service.map(get));
  // Medians first: a stall of the disk hits one round of one contender, and would make a ratio of two rounds anything.
  const overBare = (get: (result: PacedResult) => number) => ofService(get) / median(paced.bare.map(get));
  const rates = (name: keyof typeof run) => fullSpeed.get(name)?.map(({ perSecond }) => perSecond);
  const service = rates('service') ?? [];
  const pgbench = rates('pgbench');
  const figures = {
    eventsPerSecond: Math.round(median(service)),
    overPgbench:
      pgbench === undefined
        ? null
        : round(median(service.map((perSecond, index) => perSecond / (pgbench[index] ?? 0))), 3),
    publishOverBareP99: round(
      overBare(({ publishMs }) => publishMs.p99),
      2,
    ),
    publishToProcessedOverBareP99: round(
      overBare(({ processedMs }) => processedMs.p99),
      2,
    ),
    publishP99Ms: round(
      ofService(({ publishMs }) => publishMs.p99),
      2,
    ),
    publishToProcessedP99Ms: round(
      ofService(({ processedMs }) => processedMs.p99),
      2,
    ),
    cpuShareAt500: round(
      ofService(({ cpuShare }) => cpuShare),
      3,
    ),
    rssMb: Math.round((long ?? (paced.service.at(-1) as PacedResult)).lastRssMb),
    predecessorPublishToProcessedP50Ms: Math.round(predecessor.p50),
  };
  const left = [...paced.service, ...(long === undefined ? [] : [long])].reduce(
    (total, { leftPending }) => total + leftPending,
    0,
  );
  const bareP50 = median(paced.bare.map(({ processedMs }) => processedMs.p50));
  return {
    figures,
    problems: [
      ...(left === 0 ? [] : [`${left} events were left for a replay at ${PACE} a second`]),
      ...(bareP50 <= SLOW_BARE_MS
        ? []
        : [
            `the bare commits alone took ${bareP50.toFixed(0)} ms at ${PACE} a second: something else keeps this machine busy, and the figures are worth little`,
          ]),
    ],
  };
}

async function runPacedRound(bench: Bench, name: 'service' | 'bare', seconds: number): Promise<PacedResult> {
  const sessions = await freshSessions(bench, Math.ceil((WARM_UP_SECONDS + seconds) * PACE));
  const contender = name === 'service' ? bench.service : bench.bareThree;
  const result = await contender.paced({ sessions, perSecond: PACE, seconds });
  await confirm(bench, name, result.events + result.warmUpEvents, result.leftPending);
  return result;
}

async function environmentOf(client: Client, pgbench: string | undefined): Promise<string> {
  const { rows } = await client.query<Record<string, string>>(
    `select current_setting('server_version') as version, current_setting('fsync') as fsync,
            current_setting('synchronous_commit') as synchronous_commit`,
  );
  const [settings] = rows;
  return [
    `Node ${process.version}`,
    `Postgres ${settings?.version} (fsync ${settings?.fsync}, synchronous_commit ${settings?.synchronous_commit})`,
    pgbench ?? 'no pgbench',
    `${cpus().length} cores, ${cpus()[0]?.model.trim()}`,
    `${Math.round(totalmem() / 1024 ** 3)} GB`,
  ].join(', ');
}

const labels = {
  pgbench: 'pgbench, one commit per event',
  pgbenchThree: 'pgbench, three commits',
  service: 'completeSession of the service',
  bareOne: 'bare node-postgres, one commit',
} as const;

function tables(
  fullSpeed: ReadonlyMap<keyof typeof labels, Closed[]>,
  clients: ReadonlyMap<keyof typeof labels, { clients: number }>,
  paced: Readonly<Record<'service' | 'bare', PacedResult[]>>,
  long: PacedResult | undefined,
): string {
  const line = (label: string, ...cells: (string | number)[]) =>
    label.padEnd(44) + cells.map((cell) => String(cell).padStart(10)).join('');
  const lines = ['', line('At full speed, events a second', 'clients', 'median', 'best', 'CPU ms', 'rounds')];
  for (const [name, closed] of fullSpeed) {
    const rates = closed.map(({ perSecond }) => perSecond);
    const cpu = closed.flatMap(({ cpuMs }) => cpuMs ?? []);
    lines.push(
      line(
        labels[name],
        clients.get(name)?.clients ?? '',
        Math.round(median(rates)),
        Math.round(Math.max(...rates)),
        cpu.length === 0 ? '' : median(cpu).toFixed(2),
        '',
      ) + rates.map((rate) => String(Math.round(rate)).padStart(6)).join(''),
    );
  }
  lines.push('', line(`At ${PACE} events a second, ms`, 'p50', 'p99', 'best p99', 'rounds'));
  for (const [name, label] of [
    ['service', 'service'],
    ['bare', 'bare'],
  ] as const) {
    for (const [measure, what] of [
      ['publishMs', 'call to commit'],
      ['processedMs', 'call to processed'],
    ] as const) {
      const p99s = paced[name].map((result) => result[measure].p99);
      lines.push(
        line(
          `${label}: ${what}`,
          median(paced[name].map((result) => result[measure].p50)).toFixed(2),
          median(p99s).toFixed(2),
          Math.min(...p99s).toFixed(2),
          '',
        ) + p99s.map((p99) => p99.toFixed(1).padStart(6)).join(''),
      );
    }
    const shares = paced[name].map((result) => result.cpuShare);
    lines.push(
      line(`${label}: share of one core`, '', median(shares).toFixed(2), Math.min(...shares).toFixed(2), '') +
        shares.map((share) => share.toFixed(2).padStart(6)).join(''),
    );
  }
  const leftPending = paced.service.map((result) => result.leftPending);
  lines.push(
    line('service: left for a replay, events', '', Math.max(...leftPending), Math.min(...leftPending)),
  );
  const memory = long ?? paced.service.at(-1);
  const first = (long ?? paced.service[0])?.firstRssMb ?? Number.NaN;
  lines.push(
    '',
    `Memory of the service: ${first.toFixed(0)} MB at first, ${memory?.lastRssMb.toFixed(0)} MB at last${
      long === undefined
        ? ''
        : ` after ten minutes, in which p99 was ${long.publishMs.p99.toFixed(1)} and ${long.processedMs.p99.toFixed(1)} ms`
    }.`,
    '',
  );
  return lines.join('\n');
}

function judge(result: BenchResult): string[] {
  return Object.entries(goals).flatMap(([name, { least, most }]) => {
    const value = result[name as keyof BenchResult];
    if (value === null) return [];
    if (least !== undefined && value < least)
      return [`${name} is ${value}, and the goal is at least ${least}`];
    if (most !== undefined && value > most) return [`${name} is ${value}, and the goal is at most ${most}`];
    return [];
  });
}

function verdict(result: BenchResult, missed: readonly string[]): string {
  const unmeasured = Object.keys(result).filter((name) => result[name as keyof BenchResult] === null);
  return [
    '',
    ...(missed.length === 0
      ? ['Every goal that was measured is met.']
      : ['Missed:', ...missed.map((text) => `  ${text}`)]),
    ...(unmeasured.length === 0 ? [] : [`Not measured: ${unmeasured.join(', ')}.`]),
    '',
  ].join('\n');
}

async function profile(bench: Bench, seconds: number, folder: string): Promise<undefined> {
  const run = closedContenders(bench);
  await run.service(32, CALIBRATION_SECONDS);
  const { perSecond } = await run.service(32, seconds);
  const paced = await runPacedRound(bench, 'service', seconds * 2);
  process.stdout.write(
    `${Math.round(perSecond)} events a second, p99 at ${PACE}/s: ${paced.publishMs.p99.toFixed(2)} ms publish, ${paced.processedMs.p99.toFixed(2)} ms to processed; ${paced.leftPending} left pending; with profiling on, so no figures.\nThe profile is in ${folder}.\n`,
  );
  return undefined;
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
