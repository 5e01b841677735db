/** The schemas that everything rendered is held against: what they take, and what they refuse. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, inject, test } from 'vitest';
import { stringify } from 'yaml';
import { schemaProblems } from './kubeconform.ts';
import { findSchemas, readModules } from './schemas.ts';

const tools = inject('chartTools');
const schemas = inject('chartSchemas');
const folder = await mkdtemp(join(tmpdir(), 'counterfoil-schemas-'));
afterAll(() => rm(folder, { recursive: true, force: true }));

const cronJob = {
  apiVersion: 'batch/v1',
  kind: 'CronJob',
  metadata: { name: 'nightly', labels: { tier: 'one' } },
  spec: {
    schedule: '0 3 * * *',
    startingDeadlineSeconds: 0,
    jobTemplate: {
      spec: {
        template: {
          spec: {
            restartPolicy: 'Never',
            containers: [{ name: 'job', image: 'a', resources: { limits: { memory: '64Mi', cpu: 1 } } }],
          },
        },
      },
    },
  },
};
const rollout = {
  apiVersion: 'argoproj.io/v1alpha1',
  kind: 'Rollout',
  metadata: { name: 'billing', labels: { tier: 'one' } },
  spec: {
    replicas: 2,
    workloadRef: { apiVersion: 'apps/v1', kind: 'Deployment', name: 'billing' },
    strategy: { canary: { steps: [{ setWeight: 1 }, { pause: { duration: '2h' } }] } },
  },
};

describe.skipIf(tools === undefined || schemas === undefined)('the schemas', () => {
  const problems = async (...objects: readonly object[]) =>
    await schemaProblems(tools?.kubeconform ?? '', schemas ?? { locations: [], versions: [] }, {
      made: objects.map((object) => stringify(object)).join('---\n'),
    });

  test('are there for four versions of Kubernetes, and take what those take', async () => {
    expect(schemas?.versions.map((version) => version.split('.').slice(0, 2).join('.'))).toEqual([
      '1.31',
      '1.32',
      '1.33',
      '1.34',
    ]);
    expect(await problems(cronJob, rollout)).toEqual([]);
  });

  test.each([
    [
      'an unknown field',
      { ...cronJob, spec: { ...cronJob.spec, shedule: '* * * * *' } },
      "'shedule' not allowed",
    ],
    ['a missing field', { ...cronJob, spec: { schedule: '* * * * *' } }, "missing property 'jobTemplate'"],
    [
      'a text for a number',
      { ...cronJob, spec: { ...cronJob.spec, startingDeadlineSeconds: '9' } },
      'want integer',
    ],
    ['a null', { ...cronJob, spec: { ...cronJob.spec, suspend: null } }, 'got null, want boolean'],
    [
      'a number as a label',
      { ...cronJob, metadata: { name: 'a', labels: { tier: 1 } } },
      'got number, want string',
    ],
    [
      'a label that is a number on a custom resource',
      { ...rollout, metadata: { name: 'a', labels: { tier: 1 } } },
      'want string',
    ],
    ['an unknown kind', { ...cronJob, kind: 'CronJobb' }, 'could not find schema'],
    [
      'a version that is no longer served',
      { ...cronJob, apiVersion: 'batch/v1beta1' },
      'could not find schema',
    ],
    [
      'an unknown field of a Rollout',
      { ...rollout, spec: { ...rollout.spec, progressDeadlineAborts: true } },
      "'progressDeadlineAborts' not allowed",
    ],
    [
      'an unknown field of an AnalysisTemplate',
      {
        apiVersion: 'argoproj.io/v1alpha1',
        kind: 'AnalysisTemplate',
        metadata: { name: 'loss' },
        spec: { metrics: [{ name: 'loss', failurelimit: 0, provider: { prometheus: { query: '1' } } }] },
      },
      "'failurelimit' not allowed",
    ],
    [
      'a wrong duration of an alert',
      {
        apiVersion: 'monitoring.coreos.com/v1',
        kind: 'PrometheusRule',
        metadata: { name: 'rules' },
        spec: { groups: [{ name: 'a', rules: [{ alert: 'A', expr: '1', for: '5 minutes' }] }] },
      },
      'does not match pattern',
    ],
  ])('refuse %s', async (_, object, sentence) => {
    expect(await problems(object)).toEqual([expect.stringContaining(sentence)]);
  });

  test('refuse a key that stands twice', async () => {
    const text = 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {}\ndata: {}\n';
    expect(
      await schemaProblems(tools?.kubeconform ?? '', schemas ?? { locations: [], versions: [] }, {
        made: text,
      }),
    ).toEqual([expect.stringContaining('already set')]);
  });

  test('are not made of a module that is another than was looked at', async () => {
    const [module] = readModules();
    if (module === undefined) throw new Error('there are no modules');
    await expect(findSchemas([{ ...module, sum: 'h1:another' }], folder)).rejects.toThrow(
      /^k8s\.io\/kubernetes v1\.31\.\d+ has the sum h1:.*, not that of tools\/schemas\/modules\.json$/,
    );
  });
});
