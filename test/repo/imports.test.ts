import { join } from 'node:path';
import { expect, test } from 'vitest';
import { fixtures, listFiles, readText, repository } from './files.ts';
import { importProblems, importsOf } from './imports.ts';
import { manifest } from './manifest.ts';

const dependencies = Object.keys(manifest('package.json').dependencies ?? {});

test('every import goes the way that docs/architecture.md says', () => {
  expect(importProblems(repository, dependencies)).toEqual([]);
});

test('each import that goes the wrong way is named, and its nearest right form is not', () => {
  expect(importProblems(join(fixtures, 'imports'), dependencies)).toEqual([
    'jobs/billing-reconciliation/queries.ts imports pg: only jobs/runtime/database.ts does, behind methods without overloads',
    'jobs/billing-reconciliation/reconcile.test.ts imports jobs/event-replay/decide.ts: jobs/billing-reconciliation must not use jobs/event-replay',
    'jobs/billing-reconciliation/reconcile.ts imports @counterfoil/nestjs: not in "dependencies", so it is not in the image of the jobs',
    'jobs/billing-reconciliation/reconcile.ts imports @counterfoil/nestjs: only a service imports the module',
    'jobs/billing-reconciliation/reconcile.ts imports by a computed name: nobody can follow it',
    'jobs/billing-reconciliation/reconcile.ts imports fast-check: not in "dependencies", so it is not in the image of the jobs',
    'jobs/billing-reconciliation/reconcile.ts imports fs: write node:fs',
    'jobs/billing-reconciliation/reconcile.ts imports jobs/event-replay/decide.ts: jobs/billing-reconciliation must not use jobs/event-replay',
    'jobs/billing-reconciliation/reconcile.ts imports jobs/schema/migrate.ts: jobs/billing-reconciliation must not use jobs/schema',
    'jobs/billing-reconciliation/reconcile.ts imports nestjs/src/driver.ts: jobs/billing-reconciliation must not use nestjs',
    'jobs/checks/parse.ts imports jobs/event-replay/decide.ts: jobs/checks must not use jobs/event-replay',
    'jobs/event-replay/decide.ts imports @kubernetes/client-node: only jobs/exporter does, it costs memory that no other job has to pay',
    'jobs/runtime/config.ts imports jobs/checks/parse.ts: jobs/runtime must not use jobs/checks',
    'nestjs/src/driver.ts imports jobs/runtime/database.ts: nestjs must not use jobs/runtime',
  ]);
});

test('type imports, re-exports, imports for effect and dynamic imports are seen; comments and strings are not', () => {
  expect(
    importsOf(`
      import type { A } from './type.ts';
      import { b,
        c } from './multi-line.ts';
      export * from './re-export.ts';
      export { d } from './named-export.ts';
      import './effect.ts';
      const e = await import('./dynamic.ts');
      // import './comment.ts';
      /* import { f } from './block.ts'; */
      const g = "import './string.ts'";
      export const from = 'not-a-module';
    `).sort(),
  ).toEqual([
    './dynamic.ts',
    './effect.ts',
    './multi-line.ts',
    './named-export.ts',
    './re-export.ts',
    './type.ts',
  ]);
});

test('the code of the jobs does not name the reference service', () => {
  const jobs = join(repository, 'jobs');
  const namers = listFiles(jobs, '.ts', '.sql')
    .filter((path) => !path.endsWith('.test.ts'))
    .filter((path) => /reference[-_ ]service/i.test(readText(jobs, path)));
  expect(namers).toEqual([]);
});
