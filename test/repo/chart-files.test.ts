/** The chart's copies of rules, dashboards and rollouts are those of the repository. */
import { appendFileSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { COPIES, copyAll, differences } from '../../scripts/chart-files.ts';
import { repository } from './files.ts';

const folders: string[] = [];
afterEach(() => {
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true });
});

/** A repository as small as can be. */
function tree(...paths: readonly string[]): string {
  const root = mkdtempSync(join(tmpdir(), 'counterfoil-chart-files-'));
  folders.push(root);
  for (const path of paths) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), `${path}\n`);
  }
  return root;
}

const copiesIn = (root: string) =>
  readdirSync(join(root, COPIES), { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(join(root, COPIES).length + 1))
    .sort();

test('the chart has every rule, dashboard and rollout as it stands, and nothing else', () => {
  expect(differences(repository), 'npm run sync-chart').toEqual([]);
  expect(copiesIn(repository).length).toBeGreaterThan(14);
});

test('a copy that was changed, one that is missing and one without original are each named', () => {
  const root = tree('alerts/jobs.yaml', 'dashboards/built/canary.json', 'rollouts/routers/nginx.yaml');
  expect(differences(root)).toEqual([
    'charts/counterfoil/files/alerts/jobs.yaml is missing: the copy of alerts/jobs.yaml',
    'charts/counterfoil/files/dashboards/canary.json is missing: the copy of dashboards/built/canary.json',
    'charts/counterfoil/files/rollouts/routers/nginx.yaml is missing: the copy of rollouts/routers/nginx.yaml',
  ]);

  expect(copyAll(root)).toBe(3);
  expect(differences(root)).toEqual([]);

  appendFileSync(join(root, COPIES, 'alerts/jobs.yaml'), '\n');
  writeFileSync(join(root, COPIES, 'alerts/gone.yaml'), '');
  expect(differences(root)).toEqual([
    'charts/counterfoil/files/alerts/gone.yaml is the copy of nothing',
    'charts/counterfoil/files/alerts/jobs.yaml differs from alerts/jobs.yaml',
  ]);

  copyAll(root);
  expect(differences(root)).toEqual([]);
  expect(copiesIn(root)).toEqual([
    'alerts/jobs.yaml',
    'dashboards/canary.json',
    'rollouts/routers/nginx.yaml',
  ]);
});

test('tests, pages and the inhibition in the form of Alertmanager itself stay where they are', () => {
  const root = tree(
    'alerts/jobs.yaml',
    'alerts/jobs.test.yaml',
    'alerts/inhibition.yaml',
    'alerts/README.md',
    'rollouts/README.md',
  );
  expect(copyAll(root)).toBe(1);
  expect(copiesIn(root)).toEqual(['alerts/jobs.yaml']);
});
