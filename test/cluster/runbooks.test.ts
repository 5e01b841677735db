/**
 * Every kubectl command of every runbook, run on a real cluster as a person would, among objects of the names that the
 * chart gives. What `kubectl exec` starts in the pod is run by test/docs/runbooks.test.ts; here it is shown to get there.
 */
import { execFile } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { blocksOf } from '../docs/runbook-blocks.ts';
import { eventually, IMAGE, loadImage, Namespace } from './cluster.ts';

const folder = fileURLToPath(new URL('../../docs/runbooks/', import.meta.url));
const commands = [
  ...new Set(
    readdirSync(folder)
      .flatMap((name) => blocksOf(readFileSync(`${folder}${name}`, 'utf8')))
      .filter(({ language }) => language === 'sh')
      .flatMap(({ text }) => text.split('\n'))
      .filter((line) => line.startsWith('kubectl ')),
  ),
];
/** Those that only look; each of the others has a test of its own below. */
const looks = commands.filter((line) =>
  /^kubectl (?:get|describe|logs|top|exec|argo rollouts get) /.test(line),
);
const acts = commands.filter((line) => !looks.includes(line));

const container = (command: string) => ({
  name: 'main',
  image: IMAGE,
  imagePullPolicy: 'IfNotPresent',
  command: ['sh', '-c', command],
  resources: { requests: { cpu: '5m', memory: '8Mi' } },
});
const waiting = 'trap "exit 0" TERM; echo up; while true; do sleep 1; done';

/** The exporter’s pod, with a `node` that says what it was asked to run. */
const exporter = {
  apiVersion: 'apps/v1',
  kind: 'Deployment',
  metadata: { name: 'counterfoil-exporter' },
  spec: {
    selector: { matchLabels: { app: 'exporter' } },
    template: {
      metadata: { labels: { app: 'exporter' } },
      spec: {
        terminationGracePeriodSeconds: 1,
        containers: [
          {
            ...container(
              `printf '#!/bin/sh\\necho "asked for $*"\\n' >/usr/local/bin/node; chmod +x /usr/local/bin/node; ${waiting}`,
            ),
            volumeMounts: [{ name: 'bin', mountPath: '/usr/local/bin' }],
          },
        ],
        volumes: [{ name: 'bin', emptyDir: {} }],
      },
    },
  },
};

const cronJob = (job: string) => ({
  apiVersion: 'batch/v1',
  kind: 'CronJob',
  metadata: { name: `counterfoil-${job}` },
  spec: {
    schedule: '0 0 1 1 *',
    suspend: true,
    jobTemplate: {
      spec: { template: { spec: { restartPolicy: 'Never', containers: [container('echo done')] } } },
    },
  },
});

const billing = (version: string) => ({
  apiVersion: 'argoproj.io/v1alpha1',
  kind: 'Rollout',
  metadata: { name: 'billing' },
  spec: {
    replicas: 1,
    selector: { matchLabels: { 'app.kubernetes.io/name': 'billing' } },
    template: {
      metadata: {
        labels: { 'app.kubernetes.io/name': 'billing' },
        annotations: { 'counterfoil.test/version': version },
      },
      spec: { terminationGracePeriodSeconds: 1, containers: [container(waiting)] },
    },
    strategy: { canary: { steps: [{ setWeight: 50 }, { pause: {} }] } },
  },
});

interface Billing {
  readonly spec: {
    readonly template: { readonly metadata: { readonly annotations: Record<string, string> } };
  };
  readonly status?: { readonly phase?: string; readonly abort?: boolean };
}

let namespace: Namespace;

beforeAll(async () => {
  await loadImage();
  namespace = await Namespace.create();
  await namespace.apply(
    exporter,
    cronJob('event-replay'),
    cronJob('billing-reconciliation-incremental'),
    billing('v1'),
  );
  await namespace.kubectl('rollout', 'status', 'deploy/counterfoil-exporter', '--timeout=120s');
  await inPhase('Healthy');
  await namespace.apply(billing('v2'));
  await inPhase('Paused');
});
afterAll(async () => {
  await namespace?.remove();
});

const rollout = () => namespace.get<Billing>('rollout', 'billing');

const inPhase = (phase: string): Promise<Billing> =>
  eventually(`the rollout is ${phase}`, 120, async () => {
    const now = await rollout();
    return now.status?.phase === phase && now;
  });

/** The line as it stands in the runbook, in the namespace of this test. */
async function runLine(line: string): Promise<{ readonly output: string; readonly failed: boolean }> {
  const here = line.replace('-n counterfoil', `-n ${namespace.name}`);
  expect(here, 'names its namespace').not.toBe(line);
  try {
    const { stdout, stderr } = await promisify(execFile)('sh', ['-c', here]);
    return { output: stdout + stderr, failed: false };
  } catch (error) {
    const { stdout = '', stderr = '' } = error as { stdout?: string; stderr?: string };
    return { output: stdout + stderr, failed: true };
  }
}

test('there are commands, and the tests below run those that act', () => {
  expect(looks.length).toBeGreaterThan(5);
  expect(acts.sort()).toEqual(
    [
      'kubectl argo rollouts abort billing -n counterfoil',
      'kubectl argo rollouts promote billing -n counterfoil',
      'kubectl argo rollouts undo billing -n counterfoil',
      'kubectl create job -n counterfoil --from=cronjob/counterfoil-billing-reconciliation-incremental reconcile-now',
      'kubectl create job -n counterfoil --from=cronjob/counterfoil-event-replay replay-now',
      `kubectl patch cronjob counterfoil-event-replay -n counterfoil -p '{"spec":{"suspend":false}}'`,
      'kubectl rollout restart -n counterfoil deploy/counterfoil-exporter',
    ].sort(),
  );
});

test.each(looks)('%s', async (line) => {
  const { output, failed } = await runLine(line);
  if (line.startsWith('kubectl top ') && failed) {
    // A cluster without a metrics server is one too; then that is the answer.
    expect(output).toContain('Metrics API not available');
    return;
  }
  expect(failed, output).toBe(false);
  const inner = / -- node (.*)$/.exec(line)?.[1];
  expect(output.trim()).toContain(inner === undefined ? '' : `asked for ${inner}`);
  // None of the objects is missing but the analyses: without them there is nothing to see.
  if (!line.includes('analysisruns')) expect(output).not.toContain('No resources found');
});

test.each([
  ['event-replay', 'replay-now'],
  ['billing-reconciliation-incremental', 'reconcile-now'],
])('%s is started at once by a Job from its CronJob, suspended or not', async (job, name) => {
  const { output, failed } = await runLine(
    `kubectl create job -n counterfoil --from=cronjob/counterfoil-${job} ${name}`,
  );
  expect(failed, output).toBe(false);
  await eventually('the Job has succeeded', 90, async () => {
    const { status } = await namespace.get<{ status: { succeeded?: number } }>('job', name);
    return status.succeeded === 1;
  });
});

test('a suspended CronJob is taken up again', async () => {
  const suspended = async () =>
    (await namespace.get<{ spec: { suspend: boolean } }>('cronjob', 'counterfoil-event-replay')).spec.suspend;
  expect(await suspended()).toBe(true);
  const { output, failed } = await runLine(
    `kubectl patch cronjob counterfoil-event-replay -n counterfoil -p '{"spec":{"suspend":false}}'`,
  );
  expect(failed, output).toBe(false);
  expect(await suspended()).toBe(false);
});

test('the exporter is started anew', async () => {
  const pods = async () =>
    (await namespace.kubectl('get', 'pods', '-l', 'app=exporter', '-o', 'name')).trim();
  const before = await pods();
  const { output, failed } = await runLine(
    'kubectl rollout restart -n counterfoil deploy/counterfoil-exporter',
  );
  expect(failed, output).toBe(false);
  await namespace.kubectl('rollout', 'status', 'deploy/counterfoil-exporter', '--timeout=120s');
  await eventually('another pod', 60, async () => {
    const now = await pods();
    return now !== '' && now !== before && !now.includes('\n');
  });
});

test('a paused rollout goes on, another is aborted, and the version before it comes back', async () => {
  const promoted = await runLine('kubectl argo rollouts promote billing -n counterfoil');
  expect(promoted.failed, promoted.output).toBe(false);
  await inPhase('Healthy');
  await namespace.apply(billing('v3'));
  await inPhase('Paused');
  const aborted = await runLine('kubectl argo rollouts abort billing -n counterfoil');
  expect(aborted.failed, aborted.output).toBe(false);
  expect((await inPhase('Degraded')).status?.abort).toBe(true);
  const undone = await runLine('kubectl argo rollouts undo billing -n counterfoil');
  expect(undone.failed, undone.output).toBe(false);
  const { spec } = await inPhase('Healthy');
  expect(spec.template.metadata.annotations['counterfoil.test/version']).toBe('v2');
});
