/** What bench:replay has measured, for people and as one JSON object, and whether it is what it should be. */
import { type ClaimsMeasured, PARKED } from './bench-replay-claims.ts';
import type { Contender, Round, Rounds } from './bench-replay-rounds.ts';
import type { SnapshotMeasured } from './bench-replay-snapshot.ts';

/** Ratios of the best rounds of both sides; null for what was not run. */
export interface Figures {
  readonly events: number;
  readonly overBarePost20ms: number | null;
  readonly overBarePostNoop: number | null;
  readonly overGraphileWorker: number | null;
  readonly overPgBoss: number | null;
  readonly overRowAtATime: number | null;
  /** Healthy events a second behind poison ones, over the same without them. */
  readonly poisonHead: number | null;
  /** Events a second beside a transaction that was open for three minutes, over the same without it. */
  readonly oldSnapshot: number | null;
  readonly rssMb: number | null;
}

export interface Measured {
  readonly events: number;
  readonly handler?: Rounds;
  readonly noop?: Rounds;
  readonly poison?: { readonly with: readonly Round[]; readonly without: readonly Round[] };
  readonly claims?: {
    readonly handler: ClaimsMeasured;
    readonly noop: ClaimsMeasured;
    readonly besideParked: ClaimsMeasured;
  };
  readonly snapshot?: SnapshotMeasured & { readonly isFull: boolean };
}

export const goals: Readonly<Partial<Record<keyof Figures, { least: number } | { most: number }>>> = {
  overBarePost20ms: { least: 0.92 },
  overBarePostNoop: { least: 0.55 },
  overGraphileWorker: { least: 1.5 },
  overPgBoss: { least: 3 },
  overRowAtATime: { least: 4 },
  poisonHead: { least: 0.9 },
  oldSnapshot: { least: 0.8 },
};
/** Beside the figures: statements of the three steps for a claimed batch, and a claim beside many parked events. */
const MOST_STATEMENTS_PER_BATCH = 3;
const LONGEST_CLAIM_MS = 10;

const labels: Readonly<Record<Contender, string>> = {
  bare: 'bare POST loop, no database',
  job: 'event-replay',
  jobInBatches: 'event-replay, 25 events in a POST',
  graphile: 'graphile-worker',
  pgBoss: 'pg-boss',
  rowAtATime: 'row at a time',
};

const best = (rounds: readonly Round[]) => Math.max(...rounds.map(({ perSecond }) => perSecond));

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((one, other) => one - other);
  const middle = sorted.length / 2;
  return sorted.length % 2 === 1
    ? (sorted[Math.floor(middle)] ?? Number.NaN)
    : ((sorted[middle - 1] ?? Number.NaN) + (sorted[middle] ?? Number.NaN)) / 2;
}

const round = (value: number, digits: number) => Number(value.toFixed(digits));
const sum = (values: readonly number[]) => values.reduce((total, value) => total + value, 0);

/** Best round over best round: noise only ever slows down, and seldom both sides of one round alike. */
function overBest(ours: readonly Round[] | undefined, theirs: readonly Round[] | undefined): number | null {
  return ours === undefined || theirs === undefined ? null : round(best(ours) / best(theirs), 3);
}

const overMedian = (ours: readonly Round[], theirs: readonly Round[]) =>
  median(ours.map(({ perSecond }, index) => perSecond / (theirs[index]?.perSecond ?? Number.NaN)));

/** Turns of a side are of equal size, so its mean rate is the harmonic one. */
const overall = (rates: readonly number[]) => rates.length / sum(rates.map((rate) => 1 / rate));

export function figuresOf({ events, handler, noop, poison, snapshot }: Measured): Figures {
  const runs = [handler?.get('job'), noop?.get('job'), poison?.with, poison?.without].flatMap((rounds) =>
    (rounds ?? []).flatMap(({ run }) => run?.rssMb ?? []),
  );
  const job = noop?.get('job');
  return {
    events,
    overBarePost20ms: overBest(handler?.get('job'), handler?.get('bare')),
    overBarePostNoop: overBest(job, noop?.get('bare')),
    overGraphileWorker: overBest(job, noop?.get('graphile')),
    overPgBoss: overBest(job, noop?.get('pgBoss')),
    overRowAtATime: overBest(job, noop?.get('rowAtATime')),
    poisonHead: overBest(poison?.with, poison?.without),
    oldSnapshot: snapshot?.isFull === true ? round(overall(snapshot.held) / overall(snapshot.free), 3) : null,
    rssMb: runs.length === 0 ? null : Math.round(Math.max(...runs)),
  };
}

const line = (label: string, ...cells: (string | number)[]) =>
  label.padEnd(40) + cells.map((cell) => String(cell).padStart(10)).join('');

export function tables({ handler, noop, poison, claims, snapshot }: Measured): string {
  const lines: string[] = [];
  const addRounds = (
    title: string,
    rounds: Iterable<readonly [string, readonly Round[]]>,
    ours: readonly Round[],
  ) => {
    lines.push('', `${line(title, 'median', 'best', 'ours: med', 'best', 'delivered')}   rounds`);
    for (const [label, results] of rounds) {
      const rates = results.map(({ perSecond }) => perSecond);
      const ratios =
        results === ours
          ? ['', '']
          : [overMedian(ours, results).toFixed(2), overBest(ours, results)?.toFixed(2) ?? ''];
      lines.push(
        line(
          label,
          Math.round(median(rates)),
          Math.round(Math.max(...rates)),
          ...ratios,
          median(results.map(({ delivered }) => delivered)),
        ) + rates.map((rate) => String(Math.round(rate)).padStart(7)).join(''),
      );
    }
  };
  const named = (rounds: Rounds) => [...rounds].map(([name, results]) => [labels[name], results] as const);
  if (handler !== undefined)
    addRounds('A handler of 20 ms, events a second', named(handler), handler.get('job') ?? []);
  if (noop !== undefined) addRounds('No handler, events a second', named(noop), noop.get('job') ?? []);
  if (poison !== undefined)
    addRounds(
      'Healthy events a second, no handler',
      [
        ['behind poison ones, a tenth as many', poison.with],
        ['without them', poison.without],
      ],
      poison.with,
    );
  if (claims !== undefined)
    for (const [title, measured] of [
      ['Statements, no handler', claims.noop],
      ['Statements, a handler of 20 ms', claims.handler],
      [`Statements beside ${PARKED} parked events`, claims.besideParked],
    ] as const) {
      lines.push('', line(title, 'calls', 'per batch', 'rows', 'mean ms', 'longest'));
      for (const { statement, calls, rows, meanMs, longestMs } of measured.costs)
        lines.push(
          line(
            `  ${statement}`,
            calls,
            (calls / measured.batches).toFixed(2),
            rows,
            meanMs.toFixed(3),
            longestMs.toFixed(2),
          ),
        );
    }
  if (snapshot !== undefined) {
    const { held, free, heldSeconds, deadRows, isFull } = snapshot;
    const last = (rates: readonly number[]) => rates.slice(-Math.max(1, Math.floor(rates.length / 4)));
    lines.push(
      '',
      `A transaction open for ${Math.round(heldSeconds)} s${isFull ? '' : ' (short: no figure, see --full)'}: ` +
        `${Math.round(overall(held))} events a second beside it, ${Math.round(overall(free))} without, ` +
        `${(overall(held) / overall(free)).toFixed(2)}; in the last quarter ${(overall(last(held)) / overall(last(free))).toFixed(2)}; ` +
        `dead rows of replay_events at the end ${deadRows.held} and ${deadRows.free}.`,
    );
  }
  lines.push('');
  return lines.join('\n');
}

/** What falls short, a sentence for each. */
export function missedGoals(figures: Figures, { claims }: Measured): string[] {
  const missed = Object.entries(goals).flatMap(([name, goal]) => {
    const value = figures[name as keyof Figures];
    if (value === null) return [];
    if ('least' in goal)
      return value >= goal.least ? [] : [`${name} is ${value}, and the goal is at least ${goal.least}`];
    return value <= goal.most ? [] : [`${name} is ${value}, and the goal is at most ${goal.most}`];
  });
  if (claims === undefined) return missed;
  for (const [title, { dataStatementsPerBatch }] of [
    ['no handler', claims.noop],
    ['a handler of 20 ms', claims.handler],
  ] as const)
    if (dataStatementsPerBatch > MOST_STATEMENTS_PER_BATCH)
      missed.push(
        `a claimed batch takes ${dataStatementsPerBatch.toFixed(2)} data statements with ${title}, and the goal is at most ${MOST_STATEMENTS_PER_BATCH}`,
      );
  const claim = claims.besideParked.costs.find(({ statement }) => statement === 'claim');
  if (claim !== undefined && claim.meanMs > LONGEST_CLAIM_MS)
    missed.push(
      `a claim beside ${PARKED} parked events takes ${claim.meanMs.toFixed(1)} ms, and the goal is at most ${LONGEST_CLAIM_MS}`,
    );
  return missed;
}

export function verdict(figures: Figures, missed: readonly string[]): string {
  const unmeasured = Object.entries(figures).flatMap(([name, value]) => (value === null ? [name] : []));
  return [
    '',
    ...(missed.length === 0
      ? ['Every goal that was measured is met.']
      : ['Missed:', ...missed.map((text) => `  ${text}`)]),
    ...(unmeasured.length === 0 ? [] : [`Not measured: ${unmeasured.join(', ')}.`]),
    '',
  ].join('\n');
}
