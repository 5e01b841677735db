/** What bench:reconciliation says at its end: figures from rounds, the table of them, and which goals they meet. */
import type { LoggedStatement } from './bench-reconciliation-log.ts';

/** Best of the rounds; null for what was not run. */
export interface Figures {
  readonly facts: number;
  readonly sweepOverFullJoin: number | null;
  readonly sweepOverFourQueries: number | null;
  readonly incrementalOverPlanQuery: number | null;
  readonly incrementalGrowthOverTable: number | null;
  readonly sealedOverFullJoin: number | null;
  readonly longestStatementP95Ms: number | null;
  readonly neighbourThroughput: number | null;
  readonly rssMb: number | null;
}

export const nothingMeasured: Omit<Figures, 'facts'> = {
  sweepOverFullJoin: null,
  sweepOverFourQueries: null,
  incrementalOverPlanQuery: null,
  incrementalGrowthOverTable: null,
  sealedOverFullJoin: null,
  longestStatementP95Ms: null,
  neighbourThroughput: null,
  rssMb: null,
};

/** One line of the table: what was measured in each round. */
export interface Line {
  readonly label: string;
  readonly unit: 'ms' | 'MB' | '/s' | 'rows' | '×';
  readonly rounds: readonly number[];
}

/** What one part of the bench gives. */
export interface Part {
  readonly title: string;
  readonly lines: readonly Line[];
  readonly figures: Partial<Figures>;
  /** Whole sentences for whoever reads the table. */
  readonly remarks: readonly string[];
}

/** What issue 8 asks for; the incremental run has another goal on a small table, where the plan's query is quick too. */
const goals = (
  facts: number,
): Readonly<Partial<Record<keyof Figures, { least?: number; most?: number }>>> => ({
  sweepOverFullJoin: { most: 1.5 },
  sweepOverFourQueries: { most: 1 },
  incrementalOverPlanQuery: { most: facts >= 10_000_000 ? 0.6 : 1 },
  incrementalGrowthOverTable: { most: 1.3 },
  sealedOverFullJoin: { most: 0.5 },
  longestStatementP95Ms: { most: 500 },
  neighbourThroughput: { least: 0.9 },
  rssMb: { most: 150 },
});

export const round = (value: number, digits: number): number => Number(value.toFixed(digits));

export function quantile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((one, other) => one - other);
  return sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)] ?? Number.NaN;
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((one, other) => one - other);
  const middle = sorted.length / 2;
  return ((sorted[Math.ceil(middle) - 1] ?? Number.NaN) + (sorted[Math.floor(middle)] ?? Number.NaN)) / 2;
}

/** The quietest round of each: what another process took from one of them in between is in neither. */
export const bestOverBest = (ours: readonly number[], theirs: readonly number[]): number =>
  Math.min(...ours) / Math.min(...theirs);

/** Round by round. */
export const ratios = (ours: readonly number[], theirs: readonly number[]): readonly number[] =>
  ours.map((value, index) => value / (theirs[index] ?? Number.NaN));

const WINDOWS = new Set(['compareWindow']);

/** The statements that read windows: the others are short, and would make any share of them look good. */
export const windowTimes = (statements: readonly LoggedStatement[]): readonly number[] =>
  statements.filter(({ name }) => WINDOWS.has(name)).map(({ ms }) => ms);

/** Best and median of the rounds: of a rate the highest is the best, of everything else the lowest. */
export function table(parts: readonly Part[]): string {
  const row = (label: string, ...cells: readonly string[]) =>
    label.padEnd(56) + cells.map((cell) => cell.padStart(10)).join('');
  const shown = (value: number) => value.toFixed(value < 10 ? 3 : value < 100 ? 1 : 0);
  return parts
    .flatMap(({ title, lines, remarks }) => [
      '',
      row(title, 'best', 'median', ''),
      ...lines.map(({ label, unit, rounds }) =>
        row(
          `  ${label}, ${unit}`,
          shown(unit === '/s' ? Math.max(...rounds) : Math.min(...rounds)),
          shown(median(rounds)),
          ` ${rounds.map((value) => shown(value).padStart(7)).join('')}`,
        ),
      ),
      ...remarks.map((text) => `  ${text}`),
    ])
    .concat('')
    .join('\n');
}

/** A sentence for each goal that is missed. */
export function missedGoals(figures: Figures): string[] {
  return Object.entries(goals(figures.facts)).flatMap(([name, { least, most }]) => {
    const value = figures[name as keyof Figures];
    if (value === null) return [];
    if (least !== undefined && value < least)
      return [`${name} is ${value}, and the goal is at least ${least}`];
    if (most !== undefined && value > most) return [`${name} is ${value}, and the goal is at most ${most}`];
    return [];
  });
}

export function verdict(figures: Figures): string {
  const missed = missedGoals(figures);
  const unmeasured = Object.keys(figures).filter((name) => figures[name as keyof Figures] === null);
  return [
    ...(missed.length === 0
      ? ['Every goal that was measured is met.']
      : ['Missed:', ...missed.map((text) => `  ${text}`)]),
    ...(unmeasured.length === 0 ? [] : [`Not measured: ${unmeasured.join(', ')}.`]),
    '',
  ].join('\n');
}
