/**
 * A forgotten `await` before a query is money lost in silence, so the rule that finds it is itself tested: on our
 * own interface, across files, with the configuration of this repository.
 */
import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { fixtures, readText, repository } from './files.ts';

const folder = mkdtempSync(join(tmpdir(), 'counterfoil-biome-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

interface Report {
  readonly diagnostics: readonly {
    readonly category: string;
    readonly severity: string;
    readonly location: { readonly start: { readonly line: number } };
  }[];
}

test('biome reports each forgotten query() and transaction() as an error, and nothing beside them', () => {
  cpSync(join(repository, 'jobs/runtime'), join(folder, 'jobs/runtime'), { recursive: true });
  mkdirSync(join(folder, 'src'));
  const code = readText(fixtures, 'forgotten-query.ts');
  writeFileSync(join(folder, 'src/forgotten-query.ts'), code);
  // Only what needs a git repository is taken out of the configuration.
  const { vcs, $schema, ...configuration } = JSON.parse(readText(repository, 'biome.json')) as Record<
    string,
    unknown
  >;
  expect([vcs, $schema]).not.toContain(undefined);
  writeFileSync(join(folder, 'biome.json'), JSON.stringify(configuration));
  const { stdout, status } = spawnSync(
    join(repository, 'node_modules/.bin/biome'),
    ['lint', '--reporter=json', 'src/forgotten-query.ts'],
    { cwd: folder, encoding: 'utf8' },
  );
  const { diagnostics } = JSON.parse(stdout) as Report;
  const reported = diagnostics
    .filter((found) => found.category === 'lint/nursery/noFloatingPromises' && found.severity === 'error')
    .map((found) => found.location.start.line);
  const forgotten = code
    .split('\n')
    .flatMap((line, index) => (line.endsWith('// forgotten') ? [index + 1] : []));
  expect(forgotten).toHaveLength(6);
  expect(reported.sort((a, b) => a - b)).toEqual(forgotten);
  expect(diagnostics.map((found) => found.category)).toEqual(
    forgotten.map(() => 'lint/nursery/noFloatingPromises'),
  );
  expect(status).toBe(1);
});
