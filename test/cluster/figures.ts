/** What the journeys measure: kept line by line in one file, of which `npm run test:cluster` prints a table at the end. */
import { appendFileSync, existsSync, mkdirSync, readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';

const file = fileURLToPath(new URL('../../coverage/cluster/figures.jsonl', import.meta.url));

interface Figure {
  readonly journey: string;
  readonly name: string;
  readonly value: number;
  /** `s`, `%`, `MB`, `m CPU`, or empty for a count. */
  readonly unit: string;
  /** What it must not exceed, where something is said of that. */
  readonly limit?: number;
}

/** Notes a figure, with at most three digits after the point. */
export function figure(journey: string, name: string, value: number, unit = '', limit?: number): void {
  mkdirSync(dirname(file), { recursive: true });
  const noted: Figure = {
    ...{ journey, name, unit },
    value: Math.round(value * 1_000) / 1_000,
    ...(limit === undefined ? {} : { limit }),
  };
  appendFileSync(file, `${JSON.stringify(noted)}\n`);
}

/** The figures as a table in Markdown, or an empty text where there are none. */
export function table(): string {
  if (!existsSync(file)) return '';
  const figures = readFileSync(file, 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Figure);
  const rows = figures.map(({ journey, name, value, unit, limit }) => [
    journey,
    name,
    `${value.toLocaleString('en')}${unit === '' ? '' : ` ${unit}`}`,
    limit === undefined ? '' : `at most ${limit.toLocaleString('en')}`,
  ]);
  const head = ['journey', 'figure', 'measured', 'stated'];
  const lines = [head, head.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`);
  return `${lines.join('\n')}\n`;
}
