/**
 * One chaos run: the service is disturbed again and again under load while the jobs do their work, and at the end the
 * service's own tables say whether a bill is missing or came twice.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { type ChaosDatabase, startChaosDatabase } from './chaos-database.ts';
import { type JobsOptions, reconcile, scheduleReconciliation, startReplay } from './chaos-jobs.ts';
import { type Load, startLoad } from './chaos-load.ts';
import { type HalfOpenProxy, startHalfOpenProxy } from './chaos-proxy.ts';
import { type ServiceUnderTrial, slowListeners, startServiceUnderTrial } from './chaos-service.ts';
import { countForgotten, judge, type Verdict } from './chaos-verdict.ts';

/**
 * `sigkill`: the service dies. `clock`: it dies too, and each life has a clock an hour ahead or behind, and another
 * time zone. `postgres`: the server crashes and recovers. `half-open`: every open connection of the service to
 * Postgres goes silent, and nobody is told.
 */
export const disturbances = ['sigkill', 'clock', 'postgres', 'half-open'] as const;
export type Disturbance = (typeof disturbances)[number];

export interface ChaosOptions {
  readonly disturbance: Disturbance;
  readonly times: number;
  readonly seed: number;
  /** Only to show that the verdict can be bad. */
  readonly withoutJobs?: boolean;
  /** Called after each disturbance. */
  onStrike?(strike: Strike, number: number): void;
  /** Called when the load has ended, with what was broken then. */
  onLoadEnd?(verdict: Verdict): void;
}

/** What one disturbance found. */
export interface Strike {
  /** Events committed by then and not processed. */
  readonly pending: number;
  /** Listeners that were at work, or had been cut off at work. */
  readonly listenersAtWork: number;
  /** Requests without an answer. */
  readonly requestsOpen: number;
}

export interface ChaosResult {
  readonly kills: number;
  readonly seed: number;
  readonly completed: number;
  readonly lost: number;
  readonly billedTwice: number;
  readonly killsWithPending: number;
  /** Events that were pending at a kill and are processed and billed in the end. */
  readonly recovered: number;
  readonly secondsToRecoverP99: number | null;
}

export interface ChaosReport {
  readonly result: ChaosResult;
  readonly stillPending: number;
  readonly openDiscrepancies: number | null;
  readonly requestsFailed: number;
  readonly secondsToRecoverP50: number | null;
  readonly problems: readonly string[];
}

const CALLERS = 8;
/** Three in ten listeners take a quarter of a second: at the rate of these callers several are always at work. */
const SLOW = { rate: 0.3, ms: 250 };
const LEASE_SECONDS = 2;
const TOKEN = 'only-in-chaos';
const HOUR_MS = 3_600_000;
/** The moment of a disturbance after the first completion that was answered. */
const MOMENT_MS = { least: 150, most: 2_000 };
const LEAST_SHARE_WITH_PENDING = 0.8;
const RECONCILE_EVERY_MS = 20_000;
const CLEAN_WITHIN_MS = 180_000;

/** mulberry32: the same numbers from the same seed, on any machine. */
export function randomOf(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

interface Trial {
  readonly options: ChaosOptions;
  readonly database: ChaosDatabase;
  readonly proxy: HalfOpenProxy | undefined;
  readonly load: Load;
  readonly random: () => number;
  start(life: number): Promise<ServiceUnderTrial>;
}

/** When an event was found pending: by event id, the first time. */
type Found = Map<string, { readonly strike: number; readonly at: Date }>;

export async function runChaos(options: ChaosOptions): Promise<ChaosReport> {
  const database = await startChaosDatabase();
  const closing: (() => Promise<unknown>)[] = [() => database.server.stop()];
  try {
    const proxy =
      options.disturbance === 'half-open' ? await startHalfOpenProxy(database.server.url) : undefined;
    if (proxy !== undefined) closing.push(() => proxy.close());
    const compileCache = mkdtempSync(join(tmpdir(), 'counterfoil-chaos-'));
    closing.push(async () => rmSync(compileCache, { recursive: true, force: true }));
    const port = await freePort();
    const serviceUrl = `http://127.0.0.1:${port}`;
    const jobs: JobsOptions = { databaseUrl: database.jobsUrl, serviceUrl, token: TOKEN };
    const random = randomOf(options.seed);
    let current: ServiceUnderTrial | undefined;
    closing.push(async () => current?.kill());
    const start = async (life: number) => {
      const wrongClock = options.disturbance === 'clock';
      const service = startServiceUnderTrial({
        databaseUrl: proxy?.url ?? database.server.url,
        port,
        token: TOKEN,
        podName: podName(life),
        leaseSeconds: LEASE_SECONDS,
        clockShiftMs: wrongClock ? (life % 2 === 0 ? HOUR_MS : -HOUR_MS) : 0,
        compileCache,
        timeZone: wrongClock ? (life % 2 === 0 ? 'Asia/Kathmandu' : 'America/St_Johns') : 'UTC',
      });
      current = service;
      await service.ready;
      await slowListeners(port, TOKEN, SLOW);
      return service;
    };
    const first = await start(1);
    const replay = options.withoutJobs === true ? undefined : startReplay(jobs);
    const schedule =
      options.withoutJobs === true ? undefined : scheduleReconciliation(jobs, RECONCILE_EVERY_MS);
    const load = startLoad(serviceUrl, CALLERS, randomOf(options.seed + 1));
    const found: Found = new Map();
    const strikes: Strike[] = [];
    try {
      await strikeAgainAndAgain({ options, database, proxy, load, random, start }, first, found, strikes);
    } finally {
      await load.stop();
    }
    options.onLoadEnd?.(await judge(database.query));
    await schedule?.stop();
    const open = replay === undefined ? null : await untilClean(database, jobs);
    await replay?.stop();
    return await report(options, database, load, strikes, found, open);
  } finally {
    for (const close of closing.reverse()) await close();
  }
}

const podName = (life: number) => `chaos-${life}`;

async function strikeAgainAndAgain(
  trial: Trial,
  first: ServiceUnderTrial,
  found: Found,
  strikes: Strike[],
): Promise<void> {
  const { options, load, random } = trial;
  let service = first;
  for (let number = 1; number <= options.times; number += 1) {
    await load.after(1);
    await delay(MOMENT_MS.least + random() * (MOMENT_MS.most - MOMENT_MS.least));
    const requestsOpen = load.open();
    let next: Promise<ServiceUnderTrial> | undefined;
    switch (options.disturbance) {
      case 'sigkill':
      case 'clock':
        await service.kill();
        // Started at once, as a kubelet would; what was left is counted while it comes up.
        next = trial.start(number + 1);
        next.catch(() => undefined);
        break;
      case 'postgres':
        await trial.database.server.restart('SIGQUIT');
        break;
      case 'half-open':
        trial.proxy?.cutOpenConnections();
        break;
    }
    const strike = { ...(await countLeft(trial, service, number, found)), requestsOpen };
    strikes.push(strike);
    options.onStrike?.(strike, number);
    service = (await next) ?? service;
  }
}

async function countLeft(
  { database, options }: Trial,
  service: ServiceUnderTrial,
  strike: number,
  found: Found,
): Promise<{ pending: number; listenersAtWork: number }> {
  const died = options.disturbance === 'sigkill' || options.disturbance === 'clock';
  if (died) await untilGone(database, service.podName);
  const rows = await database.query<{ id: string; at: Date; at_work: boolean }>(
    `select b.event_id as id, clock_timestamp() as at,
            exists (select from event_deliveries d where d.event_id = b.event_id and d.status = 'running') as at_work
       from event_backups b where b.status = 'pending' and b.published_by = $1`,
    [service.podName],
  );
  for (const { id, at } of rows) if (!found.has(id)) found.set(id, { strike, at });
  return { pending: rows.length, listenersAtWork: rows.filter((row) => row.at_work).length };
}

/** A commit that was under way may still be carried out: the server notices the death when it writes an answer. */
async function untilGone({ query }: ChaosDatabase, podName: string): Promise<void> {
  const deadline = Date.now() + 10_000;
  for (;;) {
    const [row] = await query<{ left: number }>(
      'select count(*)::integer as left from pg_stat_activity where application_name = $1',
      [`reference-service ${podName}`],
    );
    if (row?.left === 0) return;
    if (Date.now() > deadline) throw new Error(`connections of ${podName} outlived it by ten seconds`);
    await delay(5);
  }
}

/** The jobs go on until nothing is pending and no discrepancy is open; gives the number of those still open. */
async function untilClean({ query }: ChaosDatabase, jobs: JobsOptions): Promise<number> {
  const deadline = Date.now() + CLEAN_WITHIN_MS;
  for (let run = 0; ; run += 1) {
    // The check's grace of one second, so that what was completed last has settled.
    await delay(1_500);
    await reconcile(jobs, run === 0 ? 'full' : 'tail');
    const [row] = await query<{ open: number; pending: number }>(
      `select (select count(*) from counterfoil.discrepancies where status in ('suspected', 'open'))::integer as open,
              (select count(*) from event_backups where status = 'pending')::integer as pending`,
    );
    if ((row?.open === 0 && row.pending === 0 && run > 0) || Date.now() > deadline) return row?.open ?? -1;
  }
}

async function report(
  { disturbance, times, seed }: ChaosOptions,
  { query }: ChaosDatabase,
  load: Load,
  strikes: readonly Strike[],
  found: Found,
  openDiscrepancies: number | null,
): Promise<ChaosReport> {
  const verdict = await judge(query);
  const forgotten = await countForgotten(query, load.completed());
  const rows = await query<{ id: string; processed_at: Date }>(
    `select b.event_id as id, b.processed_at at time zone 'UTC' as processed_at
       from event_backups b
      where b.event_id = any ($1::text[]) and b.status = 'processed'
        and exists (select from mentor_payable_ledgers l where l.session_id = (b.payload ->> 'sessionId')::uuid)`,
    [[...found.keys()]],
  );
  // A kill is recovered from when the last of its events is processed.
  const secondsByStrike = new Map<number, number>();
  for (const { id, processed_at } of rows) {
    const { strike, at } = found.get(id) ?? { strike: 0, at: processed_at };
    const seconds = Math.max(0, (processed_at.getTime() - at.getTime()) / 1_000);
    secondsByStrike.set(strike, Math.max(secondsByStrike.get(strike) ?? 0, seconds));
  }
  const seconds = [...secondsByStrike.values()].sort((one, other) => one - other);
  const killsWithPending = strikes.filter(({ pending }) => pending > 0).length;
  const problems = [
    ...(verdict.lost === 0 ? [] : [`${verdict.lost} completed sessions have no bill`]),
    ...(forgotten === 0 ? [] : [`${forgotten} sessions were answered as completed and are not`]),
    ...(verdict.billedTwice === 0 ? [] : [`${verdict.billedTwice} sessions have more than one live bill`]),
    ...(verdict.stillPending === 0 ? [] : [`${verdict.stillPending} events are still pending`]),
    ...(openDiscrepancies === 0 || openDiscrepancies === null
      ? []
      : [`${openDiscrepancies} discrepancies are still open`]),
    ...(killsWithPending >= LEAST_SHARE_WITH_PENDING * strikes.length
      ? []
      : [
          `only ${killsWithPending} of ${strikes.length} times (${disturbance}) was anything pending: this proves nothing`,
        ]),
    ...(verdict.completed > 0 ? [] : ['no session was completed: this proves nothing']),
  ];
  return {
    result: {
      kills: times,
      seed,
      completed: verdict.completed,
      lost: verdict.lost,
      billedTwice: verdict.billedTwice,
      killsWithPending,
      recovered: rows.length,
      secondsToRecoverP99: quantile(seconds, 0.99),
    },
    stillPending: verdict.stillPending,
    openDiscrepancies,
    requestsFailed: load.failed(),
    secondsToRecoverP50: quantile(seconds, 0.5),
    problems,
  };
}

function quantile(sorted: readonly number[], share: number): number | null {
  const value = sorted[Math.min(sorted.length - 1, Math.ceil(sorted.length * share) - 1)];
  return value === undefined ? null : Math.round(value * 100) / 100;
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === 'string') throw new Error('no free port on loopback');
  return address.port;
}
