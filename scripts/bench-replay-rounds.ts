/** The contenders of bench:replay, in rounds that take turns: one run of each, on fresh tables, judged by sink and tables. */
import { runContender } from './bench-replay-contender.ts';
import { addEvents, type BenchDatabase, emptyTables, type Peers, settle } from './bench-replay-database.ts';
import { type JobRun, runJob } from './bench-replay-job.ts';
import { job, LANES } from './bench-replay-settings.ts';
import type { Sink } from './bench-replay-sink-process.ts';

export type Contender = 'bare' | 'job' | 'jobInBatches' | 'graphile' | 'pgBoss' | 'rowAtATime';

export interface Bench {
  readonly database: BenchDatabase;
  readonly peers: Peers;
  readonly sink: Sink;
  readonly folder: string;
  readonly events: number;
}

export interface Round {
  readonly perSecond: number;
  /** Events that reached the sink in it, each once. */
  readonly delivered: number;
  /** Of the job alone. */
  readonly run?: JobRun;
}

export type Rounds = ReadonlyMap<Contender, readonly Round[]>;

/** Every other round runs in reverse order: what the one before leaves behind is as often an other's. */
export async function runRounds(
  bench: Bench,
  contenders: readonly Contender[],
  handlerMs: number,
  rounds: number,
  report: (share: number) => void,
): Promise<Rounds> {
  const results = new Map<Contender, Round[]>(contenders.map((name) => [name, []]));
  for (let number = 0; number < rounds; number += 1) {
    for (const name of number % 2 === 0 ? contenders : contenders.toReversed()) {
      results.get(name)?.push(await runOne(bench, name, handlerMs));
    }
    report((number + 1) / rounds);
  }
  return results;
}

async function runOne(bench: Bench, name: Contender, handlerMs: number): Promise<Round> {
  const { database, peers, sink, events } = bench;
  const runScript = async (file: string, left: () => Promise<number>): Promise<Round> => {
    await settle(database);
    const order = { databaseUrl: database.url, sinkUrl: sink.url, lanes: LANES, events };
    const seconds = await runContender(file, order);
    const { distinct } = await sink.confirm(name, events);
    const open = await left();
    if (open > 0) throw new Error(`${name} has left ${open} events. The figures are worth nothing.`);
    return { perSecond: events / seconds, delivered: distinct };
  };
  sink.reset(handlerMs);
  switch (name) {
    case 'bare':
      return await runScript('bench-replay-bare.ts', async () => 0);
    case 'job':
    case 'jobInBatches': {
      const run = await replay(bench, {
        handlerMs,
        eventsPerCall: name === 'job' ? job.batchSize : job.eventsPerCallInBatches,
      });
      return { perSecond: events / run.seconds, delivered: run.processed, run };
    }
    case 'graphile':
      await peers.enqueue('graphile', events);
      return await runScript('bench-replay-graphile.ts', () => peers.left('graphile'));
    case 'pgBoss':
      await peers.enqueue('pgBoss', events);
      return await runScript('bench-replay-pgboss.ts', () => peers.left('pgBoss'));
    case 'rowAtATime':
      await emptyTables(database);
      await addEvents(database, 1, events);
      return await runScript('bench-replay-row.ts', () => pendingEvents(database));
  }
}

/** One run of the job over fresh events. */
export async function replay(
  { database, sink, folder, events }: Omit<Bench, 'peers'>,
  order: {
    readonly handlerMs: number;
    readonly eventsPerCall?: number;
    /** Poison events beside the others and older than all of them. */
    readonly poison?: number;
    /** Number of the first event where the tables keep what they hold; without it they are emptied before. */
    readonly first?: number;
    /** Such as those for a profile. */
    readonly nodeFlags?: readonly string[];
  },
): Promise<JobRun> {
  const { first = 1, poison = 0 } = order;
  sink.reset(order.handlerMs);
  if (order.first === undefined) await emptyTables(database);
  await addEvents(database, first, first + events - 1, poison);
  await settle(database);
  const run = await runJob(database, {
    sinkUrl: sink.url,
    lanes: LANES,
    eventsPerCall: order.eventsPerCall ?? job.batchSize,
    folder,
    nodeFlags: order.nodeFlags ?? [],
  });
  await sink.confirm('event-replay', events + poison);
  if (run.processed !== events || run.parked !== poison || run.open > 0) {
    throw new Error(
      `event-replay should have processed ${events} and parked ${poison}, and its tables say ${run.processed}, ${run.parked} and ${run.open} open. The figures are worth nothing.`,
    );
  }
  return run;
}

async function pendingEvents({ client }: BenchDatabase): Promise<number> {
  const { rows } = await client.query<{ left: number }>(
    `SELECT count(*)::integer AS left FROM event_backups WHERE status <> 'processed'`,
  );
  return rows[0]?.left ?? Number.NaN;
}
