/** The tables of values in the chart's README, one per section. */
import type { Documented, Group, Setting } from './chart-values-comments.ts';

const begin = '<!-- From here on written by `npm run chart-values` from values.yaml. -->';
const end = '<!-- Up to here. -->';

/** The README with its tables replaced. */
export function withTables(readme: string, documented: Documented): string {
  const [before, , after] = parts(readme);
  return `${before}${begin}\n${tablesOf(documented)}${end}${after}`;
}

function parts(readme: string): [before: string, between: string, after: string] {
  const [before, rest, ...more] = readme.split(begin);
  const [between, after, ...others] = rest?.split(end) ?? [];
  if (before === undefined || between === undefined || after === undefined || more.length + others.length > 0)
    throw new Error(`the README of the chart has to hold, each once:\n${begin}\n${end}`);
  return [before, between, after];
}

function tablesOf({ sections }: Documented): string {
  return sections
    .map(({ title, intro, children }) =>
      [
        `### ${title}`,
        ...(intro === '' ? [] : [intro, '']),
        '| value | what it is | default |',
        '|---|---|---|',
        ...children.flatMap(rowsOf),
        '',
      ].join('\n'),
    )
    .join('\n');
}

function rowsOf(entry: Setting | Group): string[] {
  if (entry.is === 'setting')
    return [row(entry.path, [entry.description, ...rulesOf(entry)].join(' '), codeOf(entry.default))];
  const own = entry.description === '' ? [] : [row(entry.path, entry.description, '')];
  return [...own, ...entry.children.flatMap(rowsOf)];
}

const row = (path: string, text: string, value: string) => `| \`${path}\` | ${cell(text)} | ${cell(value)} |`;

const cell = (text: string) => text.replaceAll('|', '\\|');

const codeOf = (value: unknown) => `\`${JSON.stringify(value)}\``;

/** What the schema holds beside the type, in words. */
function rulesOf({ enum: words, min, max }: Setting): string[] {
  const rules: string[] = [];
  if (words !== undefined) rules.push(`One of ${words.map((word) => `\`${word}\``).join(', ')}.`);
  if (min !== undefined && max !== undefined) rules.push(`From ${min} to ${max}.`);
  else if (min !== undefined) rules.push(`At least ${min}.`);
  else if (max !== undefined) rules.push(`At most ${max}.`);
  return rules;
}
