import { existsSync, readFileSync } from 'node:fs';
import { expect, test } from 'vitest';

/** What the plan asks of this service and its module; the rest of its list is asked of the jobs and the chart. */
const ASKED = ['S1', 'S2', 'S3', 'S4', 'S5', 'S6', 'S7', 'S10', 'S16', 'S17', 'S18'];

const service = new URL('../', import.meta.url);
const root = new URL('../../', import.meta.url);

interface Row {
  asked: string;
  shownBy: string;
}

function rowsOf(readme: string): Row[] {
  return [...readme.matchAll(/^\| (S\d+) \|(?:[^|]*)\|(.*)\|$/gm)].map(([, asked = '', shownBy = '']) => ({
    asked,
    shownBy,
  }));
}

/** What is wrong with a row: a file, a title or a script that is not there, or a file without a title. */
function problemsOf({ asked, shownBy }: Row): string[] {
  const scripts = JSON.parse(readFileSync(new URL('package.json', root), 'utf8')).scripts;
  const problems: string[] = [];
  let shown = 0;
  for (const [, name = ''] of shownBy.matchAll(/`npm (?:run )?([\w:]+)`/g)) {
    shown += 1;
    if (scripts[name] === undefined) problems.push(`${asked}: there is no script ${name}`);
  }
  // A file, and the titles up to the next one.
  for (const [, path = '', rest = ''] of shownBy.matchAll(/`([\w./-]+\.test\.ts)`([^`]*)/g)) {
    const file = new URL(path, /^(nestjs|test)\//.test(path) ? root : service);
    if (!existsSync(file)) {
      problems.push(`${asked}: there is no ${path}`);
      continue;
    }
    const text = readFileSync(file, 'utf8');
    const titles = [...rest.matchAll(/"([^"]+)"/g)].map(([, title]) => title as string);
    if (titles.length === 0) problems.push(`${asked}: no test of ${path} is named`);
    for (const title of titles) {
      shown += 1;
      if (!text.includes(title)) problems.push(`${asked}: ${path} has no test "${title}"`);
    }
  }
  if (shown === 0) problems.push(`${asked}: nothing shows it`);
  return problems;
}

const readme = readFileSync(new URL('README.md', service), 'utf8');

test('the README names for each thing asked a test or a bench that is there', () => {
  const rows = rowsOf(readme);
  expect(rows.map(({ asked }) => asked)).toEqual(ASKED);
  expect(rows.flatMap(problemsOf)).toEqual([]);
});

test.each([
  ['a file that is not there', '`src/no-such.test.ts` "a title"', 'S1: there is no src/no-such.test.ts'],
  ['a title that is not there', '`src/settings.test.ts` "no such title"', 'no test "no such title"'],
  ['a file without a title', '`src/settings.test.ts`', 'no test of src/settings.test.ts is named'],
  ['a script that is not there', '`npm run no:such`', 'there is no script no:such'],
  ['words alone', 'somebody has looked', 'nothing shows it'],
])('%s would be seen', (_title, shownBy, problem) => {
  expect(problemsOf({ asked: 'S1', shownBy }).join('\n')).toContain(problem);
});
