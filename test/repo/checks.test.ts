import { expect, test } from 'vitest';
import { parse as parseYaml } from 'yaml';
import { parseChecks, readChecks } from '../../jobs/checks/parse.ts';
import { listFiles, readText, repository } from './files.ts';

/** Every YAML block of Markdown that declares checks, without its indentation. */
function declaredChecks(markdown: string): unknown[] {
  return [...markdown.matchAll(/^( *)```yaml\n([\s\S]*?)^ *```/gm)]
    .map(([, indent = '', body = '']) => body.replaceAll(new RegExp(`^${indent}`, 'gm'), ''))
    .filter((body) => body.startsWith('checks:'))
    .map((body) => parseYaml(body) as unknown);
}

const documents = listFiles(repository, '.md').map((path): [string, unknown[]] => [
  path,
  declaredChecks(readText(repository, path)),
]);

test.each(documents.filter(([, checks]) => checks.length > 0))(
  'the checks of %s can be used',
  (_, checks) => {
    for (const declared of checks) expect(parseChecks(declared)).toHaveLength(1);
  },
);

test('the README of the checks shows the built-in check with every default written out', () => {
  const [shown] = declaredChecks(readText(repository, 'jobs/checks/README.md'));
  expect(parseChecks(shown)).toEqual(readChecks(undefined));
});

test('a block that cannot be used would be noticed', () => {
  const [shown] = declaredChecks('  ```yaml\n  checks:\n  - name: x\n    facts: {}\n  ```\n');
  expect(() => parseChecks(shown)).toThrow('the checks cannot be used');
});
