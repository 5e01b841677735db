/**
 * The parts of bench:reconciliation. In each the contenders take turns, every other round in reverse order, after one
 * round that is not counted; and in each, whoever looked at the same rows must have found the same discrepancies.
 */
import { type Contended, type Contenders, insistOnSame } from './bench-reconciliation-contenders.ts';
import {
  type FactsDatabase,
  forgetRuns,
  importDensely,
  loseBills,
  waiveOlder,
} from './bench-reconciliation-data.ts';
import { type JobRun, type Reconciliation, standingFindings } from './bench-reconciliation-job.ts';
import type { LoggedStatement } from './bench-reconciliation-log.ts';
import { type Neighbour, type NeighbourRun, startMigrations } from './bench-reconciliation-neighbour.ts';
import {
  bestOverBest,
  type Line,
  median,
  type Part,
  quantile,
  ratios,
  round,
  windowTimes,
} from './bench-reconciliation-report.ts';

export interface Bench {
  readonly facts: FactsDatabase;
  readonly contenders: Contenders;
  readonly job: Reconciliation;
  readonly rounds: number;
}

type Report = (share: number) => void;

/** Runs each of `turns` once to warm up, and then in every round; `measure` gets what it gave. */
async function takeTurns<Name extends string, Result>(
  rounds: number,
  turns: Readonly<Record<Name, () => Promise<Result>>>,
  report: Report,
): Promise<Readonly<Record<Name, readonly Result[]>>> {
  const names = Object.keys(turns) as Name[];
  const measured = Object.fromEntries(names.map((name) => [name, [] as Result[]])) as Record<Name, Result[]>;
  for (const name of names) await turns[name]();
  for (let number = 0; number < rounds; number += 1) {
    report((number + 1) / (rounds + 1));
    for (const name of number % 2 === 0 ? names : names.toReversed())
      measured[name].push(await turns[name]());
  }
  return measured;
}

const timesOf = (measured: readonly { readonly ms: number }[]): readonly number[] =>
  measured.map(({ ms }) => ms);

/** Everything, from an empty state, against the queries written by hand; and the same once more, sealed where it can be. */
export async function sweepPart(bench: Bench, report: Report): Promise<Part> {
  const { facts, contenders, job } = bench;
  const ours: { first: JobRun; second: JobRun }[] = [];
  const measured = await takeTurns<'fullJoin' | 'fourQueries' | 'sweep', { ms: number }>(
    bench.rounds,
    {
      fullJoin: async () => await contenders.fullJoin(),
      fourQueries: async () => await contenders.fourQueries(),
      async sweep() {
        await forgetRuns(facts);
        const first = await job.run(facts, 'full');
        ours.push({ first, second: await job.run(facts, 'full') });
        return first;
      },
    },
    report,
  );
  await insistOnAgreement(bench);
  const counted = ours.slice(1);
  const first = counted.map((one) => one.first);
  const second = counted.map((one) => one.second);
  const fullJoin = timesOf(measured.fullJoin);
  const fourQueries = timesOf(measured.fourQueries);
  const sweep = timesOf(first);
  const again = timesOf(second);
  const windows = first.map(({ statements }) => windowTimes(statements));
  const cancelled = first.map(({ statements }) => statements.filter((one) => one.cancelled).length);
  const p95 = windows.map((times) => quantile(times, 0.95));
  return {
    title: `Everything: ${first[0]?.counts.facts} facts, ${first[0]?.counts.ledger_rows} ledger rows`,
    lines: [
      line('one full outer join, written by hand', 'ms', fullJoin),
      line('four queries, written by hand', 'ms', fourQueries),
      line('full, from lease to run record', 'ms', sweep),
      line(
        'full, the whole process',
        'ms',
        first.map(({ wholeMs }) => wholeMs),
      ),
      line('full over the full outer join', '×', ratios(sweep, fullJoin)),
      line('full over the four queries', '×', ratios(sweep, fourQueries)),
      line('full once more, from lease to run record', 'ms', again),
      line('full once more over the full outer join', '×', ratios(again, fullJoin)),
      line('p95 of the statements that read windows', 'ms', p95),
      line('longest statement', 'ms', first.map(longestOf)),
      ...memoryLine('memory of the process', [...first, ...second]),
    ],
    figures: {
      sweepOverFullJoin: round(bestOverBest(sweep, fullJoin), 3),
      sweepOverFourQueries: round(bestOverBest(sweep, fourQueries), 3),
      sealedOverFullJoin: round(bestOverBest(again, fullJoin), 3),
      longestStatementP95Ms: round(Math.min(...p95), 1),
      ...memoryFigure([...first, ...second]),
    },
    remarks: [
      ...remarksOnRun(first),
      `statements that ran into their time limit: ${cancelled.join(' ')}`,
      ...((await sealedWindows(bench)) > 0
        ? []
        : ['no window is sealed: "once more" is a second sweep that reads everything again']),
    ],
  };
}

/** The last 24 hours again, as every hour; what is older was mended long ago, so no finding of it is looked at. */
export async function incrementalPart(bench: Bench, report: Report): Promise<Part> {
  const { facts, contenders, job } = bench;
  await prepareIncremental(bench, facts);
  const measured = await takeTurns<'plan' | 'ours' | 'tail', Contended | JobRun>(
    bench.rounds,
    {
      plan: async () => await contenders.planQuery(),
      ours: async () => await job.run(facts, 'incremental'),
      tail: async () => await job.run(facts, 'tail'),
    },
    report,
  );
  const plan = measured.plan as readonly Contended[];
  const ours = measured.ours as readonly JobRun[];
  const tail = measured.tail as readonly JobRun[];
  const missing = new Set(
    [...(await standingFindings(facts))].filter((print) => print.startsWith('missing ')),
  );
  for (const { found } of plan) insistOnSame("the plan's query", found, 'incremental', missing);
  const planMs = timesOf(plan);
  const oursMs = timesOf(ours);
  return {
    title: `The last 24 hours: ${ours[0]?.counts.facts} facts, ${ours[0]?.counts.looked_again} findings looked at again`,
    lines: [
      line("the plan's query", 'ms', planMs),
      line('incremental, from lease to run record', 'ms', oursMs),
      line(
        'incremental, the whole process',
        'ms',
        ours.map(({ wholeMs }) => wholeMs),
      ),
      line("incremental over the plan's query", '×', ratios(oursMs, planMs)),
      line(
        'tail with nothing new, database time',
        'ms',
        tail.map(({ databaseMs }) => databaseMs),
      ),
    ],
    figures: { incrementalOverPlanQuery: round(bestOverBest(oursMs, planMs), 3) },
    remarks: remarksOnRun(ours),
  };
}

/** @param small the same last 24 hours after a tenth of the older facts */
export async function growthPart(bench: Bench, small: FactsDatabase, report: Report): Promise<Part> {
  const { facts, job } = bench;
  for (const each of [facts, small]) await prepareIncremental(bench, each);
  const measured = await takeTurns(
    bench.rounds,
    {
      small: async () => await job.run(small, 'incremental'),
      large: async () => await job.run(facts, 'incremental'),
    },
    report,
  );
  const large = timesOf(measured.large);
  const fewer = timesOf(measured.small);
  return {
    title: `The same last 24 hours of ${small.counts.older} and of ${facts.counts.older} older facts`,
    lines: [
      line('incremental of the small table', 'ms', fewer),
      line('incremental of the large table', 'ms', large),
      line('large over small', '×', ratios(large, fewer)),
    ],
    figures: { incrementalGrowthOverTable: round(bestOverBest(large, fewer), 3) },
    remarks: [],
  };
}

/** pgbench alone and beside sweeps that follow each other, each of them from an empty state. */
export async function neighbourPart(
  bench: Bench,
  neighbour: Neighbour,
  seconds: number,
  report: Report,
): Promise<Part> {
  const { facts } = bench;
  const sweepMs: number[] = [];
  const waits: number[] = [];
  const { alone, beside } = await takeTurns<'alone' | 'beside', NeighbourRun>(
    bench.rounds,
    {
      alone: async () => await neighbour.run(seconds),
      async beside() {
        const migrations = await startMigrations(facts);
        const sweeping = sweepUntilStopped(bench, sweepMs);
        const run = await neighbour.run(seconds);
        await sweeping.stop();
        waits.push(await migrations.stop());
        return run;
      },
    },
    report,
  );
  const rates = (runs: readonly NeighbourRun[]) => runs.map(({ perSecond }) => perSecond);
  const p99s = (runs: readonly NeighbourRun[]) => runs.map(({ p99Ms }) => p99Ms);
  const dead = (runs: readonly NeighbourRun[]) => runs.map(({ deadTuples }) => deadTuples);
  return {
    title: `A neighbour with ${neighbour.clients} clients for ${seconds} s a round`,
    lines: [
      line('transactions alone', '/s', rates(alone)),
      line('transactions beside full', '/s', rates(beside)),
      line('share of its throughput that it keeps', '×', ratios(rates(beside), rates(alone))),
      line('p99 alone', 'ms', p99s(alone)),
      line('p99 beside full', 'ms', p99s(beside)),
      line('p99 beside over alone', '×', ratios(p99s(beside), p99s(alone))),
      line('dead tuples of its queue alone', 'rows', dead(alone)),
      line('dead tuples of its queue beside full', 'rows', dead(beside)),
      line('dead tuples beside over alone', '×', ratios(dead(beside), dead(alone))),
      line('longest wait of a migration for its lock on sessions', 'ms', waits.slice(1)),
      ...(sweepMs.length === 0 ? [] : [line('each full that came to its end beside it', 'ms', sweepMs)]),
    ],
    figures: { neighbourThroughput: round(Math.max(...rates(beside)) / Math.max(...rates(alone)), 3) },
    remarks: [],
  };
}

/** One `full` after the other, each from an empty state; those that come to their end are timed as whole processes. */
function sweepUntilStopped({ facts, job }: Bench, sweepMs: number[]): { stop(): Promise<void> } {
  let stopped = false;
  let running: ReturnType<Reconciliation['start']> | undefined;
  const sweeping = (async () => {
    while (!stopped) {
      await forgetRuns(facts);
      if (stopped) return;
      const began = performance.now();
      running = job.start(facts);
      await running.ended;
      if (!stopped) sweepMs.push(performance.now() - began);
    }
  })();
  // What fails is heard of by whoever stops it, and not before.
  sweeping.catch(() => undefined);
  return {
    async stop() {
      stopped = true;
      running?.stop();
      await sweeping;
    },
  };
}

/** The statements over a mass import: as many facts as 5 % of all, completed within one minute. */
export async function densePart(bench: Bench, report: Report): Promise<Part> {
  const { facts, job } = bench;
  const imported = await importDensely(facts);
  const runs: JobRun[] = [];
  for (let number = 0; number < bench.rounds; number += 1) {
    report(number / bench.rounds);
    await forgetRuns(facts);
    runs.push(await job.run(facts, 'full'));
  }
  const windows = runs.map(({ statements }) => windowTimes(statements));
  const cancelled = runs.map(({ statements }) => statements.filter((one) => one.cancelled).length);
  return {
    title: `With ${imported} facts more within one minute`,
    lines: [
      line('full, from lease to run record', 'ms', timesOf(runs)),
      line(
        'p95 of the statements that read windows',
        'ms',
        windows.map((times) => quantile(times, 0.95)),
      ),
      line('longest statement', 'ms', runs.map(longestOf)),
    ],
    figures: {},
    remarks: [`statements that ran into their time limit: ${cancelled.join(' ')}`],
  };
}

/** The memory of a run that finds much, and of the next one, which opens it. */
export async function findingsPart(bench: Bench, report: Report): Promise<Part> {
  const { facts, job } = bench;
  const lost = await loseBills(facts);
  await forgetRuns(facts);
  const first = await job.run(facts, 'full');
  report(0.5);
  const second = await job.run(facts, 'full');
  await insistOnAgreement(bench);
  return {
    title: `With ${lost} bills less: ${first.counts.suspected} findings suspected, then ${second.counts.opened} opened`,
    lines: [
      line('full that suspects them, from lease to run record', 'ms', [first.ms]),
      line('full that opens them, from lease to run record', 'ms', [second.ms]),
      ...memoryLine('memory of the run that suspects them', [first]),
      ...memoryLine('memory of the run that opens them', [second]),
    ],
    figures: memoryFigure([first, second]),
    remarks: [...remarksOnRun([first]), ...remarksOnRun([second])],
  };
}

/** The findings that stand are those of the queries written by hand, key by key. */
async function insistOnAgreement({ facts, contenders }: Bench): Promise<void> {
  const standing = await standingFindings(facts);
  insistOnSame('full', standing, 'the full outer join', (await contenders.fullJoin()).found);
  insistOnSame('full', standing, 'the four queries', (await contenders.fourQueries()).found);
}

/** A watermark for `incremental`, and no finding that stands but those of the last 24 hours. */
async function prepareIncremental({ job }: Bench, facts: FactsDatabase): Promise<void> {
  await forgetRuns(facts);
  await job.run(facts, 'full');
  await waiveOlder(facts);
}

async function sealedWindows({ facts }: Bench): Promise<number> {
  const { rows } = await facts.client.query<{ sealed: number }>(
    'SELECT count(*)::integer AS sealed FROM counterfoil.reconciliation_windows WHERE sealed_at IS NOT NULL',
  );
  return rows[0]?.sealed ?? 0;
}

const line = (label: string, unit: Line['unit'], rounds: readonly number[]): Line => ({
  label,
  unit,
  rounds,
});

const longestOf = ({ statements }: JobRun): number => Math.max(...statements.map(({ ms }) => ms));

const peaks = (runs: readonly JobRun[]): readonly number[] =>
  runs.flatMap(({ peakMb }) => (peakMb === undefined ? [] : [peakMb]));

const memoryLine = (label: string, runs: readonly JobRun[]): readonly Line[] =>
  peaks(runs).length === 0 ? [] : [line(label, 'MB', peaks(runs))];

const memoryFigure = (runs: readonly JobRun[]): { rssMb?: number } =>
  peaks(runs).length === 0 ? {} : { rssMb: round(Math.max(...peaks(runs)), 1) };

/** Where the time of the run in the middle went: the statements that took most, and what was no statement. */
function remarksOnRun(runs: readonly JobRun[]): readonly string[] {
  const middle = median(timesOf(runs));
  const [run] = [...runs].sort((one, other) => Math.abs(one.ms - middle) - Math.abs(other.ms - middle));
  if (run === undefined) return [];
  const byName = new Map<string, LoggedStatement[]>();
  for (const one of run.statements) byName.set(one.name, [...(byName.get(one.name) ?? []), one]);
  const sum = (statements: readonly LoggedStatement[]) => statements.reduce((total, { ms }) => total + ms, 0);
  const shares = [...byName]
    .map(([name, statements]) => ({ name, calls: statements.length, ms: sum(statements) }))
    .sort((one, other) => other.ms - one.ms)
    .slice(0, 5)
    .map(({ name, calls, ms }) => `${name} ${calls} × ${(ms / calls).toFixed(2)} ms`);
  const outside = run.ms - sum(run.statements);
  return [`${run.ms} ms were: ${shares.join(', ')}; outside the server ${outside.toFixed(0)} ms`];
}
