import { join } from 'node:path';
import { expect, test } from 'vitest';
import { fixtures, repository } from './files.ts';
import { manifest } from './manifest.ts';
import { markdownProblems } from './markdown.ts';

test('every path, link, heading and npm script that Markdown names is there', () => {
  expect(markdownProblems(repository, manifest('package.json').scripts)).toEqual([]);
});

test('what is not there is named, and its nearest right form is not', () => {
  expect(markdownProblems(join(fixtures, 'markdown'), { demo: 'node demo.ts' })).toEqual([
    'README.md links #use-it: no such heading',
    'README.md links docs/guide.md#no-such-part: no such heading',
    'README.md links docs/missing.md: not there',
    'README.md names docs/gone.md: not there',
    'README.md names docs/missing.md: not there',
    'README.md names jobs/*/gone.ts: not there',
    'README.md names jobs/gone/main.ts: not there',
    'README.md names other.ts: not beside it, so write the whole path',
    'README.md says npm run gone: no such script',
  ]);
});
