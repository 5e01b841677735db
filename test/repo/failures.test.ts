import { expect, test } from 'vitest';
import { failureCatalogue } from '../../jobs/runtime/failures.ts';
import { readText, repository } from './files.ts';

interface DocumentedFailure {
  readonly id: string;
  readonly exitCode: number;
  readonly summary: string;
  readonly advice: string;
}

/** `## id`, then `Exit code N: summary.`, then what to do. */
function documented(markdown: string): DocumentedFailure[] {
  return markdown
    .split(/^## /m)
    .slice(1)
    .map((section) => {
      const [id = '', first = '', ...rest] = section.split('\n');
      const [, exitCode = '', summary = ''] = /^Exit code (\d): (.+)\.$/.exec(first) ?? [];
      return { id, exitCode: Number(exitCode), summary, advice: rest.join('\n').trim() };
    });
}

test('every failure has one heading with its exit code and summary, and no heading is left over', () => {
  const docs = documented(readText(repository, 'docs/failures.md'));
  expect(docs.map(({ id, exitCode, summary }) => ({ id, exitCode, summary }))).toEqual(
    Object.entries(failureCatalogue).map(([id, kind]) => ({ id, ...kind })),
  );
  for (const { id, advice } of docs) expect([id, advice.length > 20]).toEqual([id, true]);
});

test('a section without its first line is not taken for one', () => {
  expect(documented('# F\n## lost\nSomething else.\n\nDo it.')).toEqual([
    { id: 'lost', exitCode: 0, summary: '', advice: 'Do it.' },
  ]);
});
