/** What became of the releases, as shares with their bounds, and as tables for the docs. */
import type { Outcome } from './releases-replay.ts';

export interface Share {
  readonly part: number;
  readonly of: number;
  readonly low: number;
  readonly high: number;
}

/** 97.5 % of the normal distribution lie below it: two sides make 95 %. */
const Z = 1.959964;

/** Wilson's bounds, 95 %: they hold for none and for all of a few, too. */
export function shareOf(part: number, of: number): Share {
  if (of === 0) return { part, of, low: 0, high: 1 };
  const share = part / of;
  const base = 1 + Z ** 2 / of;
  const middle = (share + Z ** 2 / (2 * of)) / base;
  const half = (Z / base) * Math.sqrt((share * (1 - share)) / of + Z ** 2 / (4 * of ** 2));
  return { part, of, low: Math.max(0, middle - half), high: Math.min(1, middle + half) };
}

const percent = (share: number): string => {
  const value = share * 100;
  return value > 0 && value < 10 ? value.toFixed(1) : value.toFixed(0);
};

export const shareText = ({ part, of, low, high }: Share): string =>
  `${percent(part / of)} % (${percent(low)}–${percent(high)})`;

const median = (values: readonly number[]): number =>
  [...values].sort((a, b) => a - b)[values.length >> 1] ?? 0;

/** `12 min`, `3.4 h`. */
export const timeText = (minutes: number): string =>
  minutes < 120 ? `${Math.round(minutes)} min` : `${(minutes / 60).toFixed(1)} h`;

/** The commonest of them, and how many. */
function commonest(values: readonly (string | number | undefined)[]): string {
  const counts = new Map<string, number>();
  for (const value of values) counts.set(String(value), (counts.get(String(value)) ?? 0) + 1);
  return [...counts].sort((a, b) => b[1] - a[1])[0]?.[0] ?? '';
}

export interface Cell {
  readonly traffic: string;
  readonly fault: string;
  readonly aborted: Share;
  readonly held: Share;
  readonly promoted: Share;
  /** Of the aborted ones. */
  readonly minutes: number;
  readonly weight: string;
  readonly metric: string;
}

export function cellsOf(outcomes: readonly Outcome[]): Cell[] {
  const groups = new Map<string, Outcome[]>();
  for (const outcome of outcomes) {
    const { traffic, fault } = outcome.release;
    groups.set(`${traffic}|${fault}`, [...(groups.get(`${traffic}|${fault}`) ?? []), outcome]);
  }
  return [...groups.values()].map((group) => {
    const ended = (end: Outcome['end']) => group.filter((one) => one.end === end);
    const stopped = ended('aborted').length > 0 ? ended('aborted') : ended('held');
    const { traffic = '', fault = '' } = group[0]?.release ?? {};
    return {
      traffic,
      fault,
      aborted: shareOf(ended('aborted').length, group.length),
      held: shareOf(ended('held').length, group.length),
      promoted: shareOf(ended('promoted').length, group.length),
      minutes: median(stopped.map(({ minutes }) => minutes)),
      weight: commonest(stopped.map(({ weight }) => weight)),
      metric: commonest(stopped.map(({ metric }) => metric)),
    };
  });
}

export function tableOf(cells: readonly Cell[]): string {
  const lines = [
    '| traffic | fault | releases | aborted | held at a gate | promoted | median, at, by |',
    '|---|---|---|---|---|---|---|',
  ];
  for (const { traffic, fault, aborted, held, promoted, minutes, weight, metric } of cells) {
    const stop = aborted.part + held.part === 0 ? '' : `${timeText(minutes)}, ${weight} %, \`${metric}\``;
    lines.push(
      `| ${traffic} | ${fault} | ${aborted.of} | ${[aborted, held, promoted].map(shareText).join(' | ')} | ${stop} |`,
    );
  }
  return lines.join('\n');
}

/** Rows traffic, columns the share that goes wrong; in each cell what most of the releases came to, and how soon. */
export function matrixOf(cells: readonly Cell[], kind: string, shares: readonly string[]): string {
  const faults = ['none', ...shares.map((share) => `${kind} ${share}`)];
  const rows = [
    ...new Set(cells.filter(({ fault }) => faults.includes(fault)).map(({ traffic }) => traffic)),
  ];
  return [
    `| events of the service | no fault | ${shares.join(' | ')} |`,
    `|---|${faults.map(() => '---|').join('')}`,
    ...rows.map((traffic) => {
      const found = faults.map((fault) =>
        cells.find((one) => one.traffic === traffic && one.fault === fault),
      );
      return `| ${traffic} | ${found.map((cell) => (cell === undefined ? '' : cellText(cell))).join(' | ')} |`;
    }),
  ].join('\n');
}

function cellText({ aborted, held, promoted, minutes, weight }: Cell): string {
  const parts: string[] = [];
  if (aborted.part > 0) parts.push(`aborted ${shareText(aborted)}, ${timeText(minutes)}, at ${weight} %`);
  if (held.part > 0) parts.push(`held ${shareText(held)}${aborted.part > 0 ? '' : `, at ${weight} %`}`);
  if (promoted.part > 0) parts.push(`promoted ${shareText(promoted)}`);
  return parts.join('; ');
}
