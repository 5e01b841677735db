/** What people apply without Helm is taken by every supported Kubernetes as it stands. */
import { globSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, inject, test } from 'vitest';
import { schemaProblems } from './kubeconform.ts';

const tools = inject('chartTools');
const schemas = inject('chartSchemas');
const repository = fileURLToPath(new URL('../..', import.meta.url));

// A patch of a router is a part of a Rollout: test/rollouts holds it in its place.
const files = globSync(
  [
    'rollouts/*.yaml',
    'rollouts/analysis/*.yaml',
    'rollouts/routers/!(*.patch).yaml',
    'alerts/*.alertmanagerconfig.yaml',
    'jobs/exporter/rbac.yaml',
  ],
  { cwd: repository },
);

describe.skipIf(tools === undefined || schemas === undefined)('every Kubernetes', () => {
  test('takes the plain manifests', async () => {
    expect(files.length).toBeGreaterThan(15);
    const manifests = Object.fromEntries(
      files.map((file) => [
        file.replaceAll('/', ' ').replace('.yaml', ''),
        readFileSync(`${repository}${file}`, 'utf8'),
      ]),
    );
    if (tools === undefined || schemas === undefined) throw new Error('the tools are missing');
    expect(await schemaProblems(tools.kubeconform, schemas, manifests)).toEqual([]);
  });
});
