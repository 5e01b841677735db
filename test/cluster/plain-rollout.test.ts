/** The files of rollouts/, applied as they stand: only the namespace and the image are others. */
import { beforeAll, expect, test } from 'vitest';
import {
  forms,
  type KubernetesObject,
  readRollout,
  readServices,
  readTemplate,
  templateNames,
  withRouter,
} from '../rollouts/rollout-files.ts';
import { eventually, IMAGE, loadImage, Namespace } from './cluster.ts';

interface RolloutStatus {
  readonly status?: {
    readonly phase?: string;
    readonly message?: string;
    readonly abort?: boolean;
    readonly canary?: {
      readonly weights?: { readonly canary: { readonly weight: number } };
      readonly currentBackgroundAnalysisRunStatus?: { readonly name: string; readonly status: string };
    };
    readonly conditions?: readonly { readonly type: string; readonly message?: string }[];
  };
}

const pod = (version: string) => ({
  metadata: { labels: { app: 'billing' }, annotations: { 'counterfoil.test/version': version } },
  spec: {
    terminationGracePeriodSeconds: 1,
    containers: [
      {
        name: 'billing',
        image: IMAGE,
        imagePullPolicy: 'IfNotPresent',
        command: ['sh', '-c', 'trap "exit 0" TERM; while true; do sleep 1; done'],
        resources: { requests: { cpu: '5m', memory: '8Mi' } },
      },
    ],
  },
});

beforeAll(async () => await loadImage());

const IT_IS =
  'is taken by the controller, judges the second version at 1 %, and aborts it where nobody can see it';

// At once: most of the time goes by waiting.
test.concurrent.for(forms)(`%s ${IT_IS}`, { timeout: 600_000 }, async (form, { onTestFinished }) => {
  const namespace = await Namespace.create();
  onTestFinished(async () => await namespace.remove());

  const here = (object: KubernetesObject): KubernetesObject =>
    JSON.parse(
      JSON.stringify(object)
        .replaceAll('"namespace":"counterfoil"', `"namespace":"${namespace.name}"`)
        .replaceAll('namespace=\\"counterfoil\\"', `namespace=\\"${namespace.name}\\"`),
    ) as KubernetesObject;
  const deployment = (version: string) => ({
    apiVersion: 'apps/v1',
    kind: 'Deployment',
    metadata: { name: 'billing' },
    spec: { replicas: 0, selector: { matchLabels: { app: 'billing' } }, template: pod(version) },
  });
  /** The next version, where this form has its template. */
  async function release(version: string): Promise<void> {
    const [rollout] = withRouter(readRollout(form), 'traefik');
    const spec = form === 'rollout' ? { ...rollout.spec, template: pod(version) } : rollout.spec;
    if (form === 'rollout-adopting') await namespace.apply(deployment(version));
    await namespace.apply(here({ ...rollout, spec: { ...spec, replicas: 1 } } as KubernetesObject));
  }
  const seen = async (): Promise<NonNullable<RolloutStatus['status']>> =>
    (await namespace.get<RolloutStatus>('rollout', 'billing')).status ?? {};

  const [, ...router] = withRouter(readRollout(form), 'traefik');
  await namespace.apply(...[...readServices(), ...router, ...templateNames.map(readTemplate)].map(here));
  await release('one');
  await eventually('the first version is healthy', 90, async () => (await seen()).phase === 'Healthy');
  expect(JSON.stringify((await seen()).conditions)).not.toContain('InvalidSpec');

  await release('two');
  const paused = await eventually('the canary gets 1 % and is watched', 90, async () => {
    const now = await seen();
    const watched = now.canary?.currentBackgroundAnalysisRunStatus?.status === 'Running';
    return now.phase === 'Paused' && now.canary?.weights?.canary.weight === 1 && watched && now;
  });
  expect(paused.abort ?? false).toBe(false);

  // Neither an exporter nor the module's metrics are here: after two minutes that is no young pod any more.
  const aborted = await eventually('it is aborted', 200, async () => {
    const now = await seen();
    return now.abort === true && now.phase === 'Degraded' && now;
  });
  expect(aborted.message).toMatch(/Metric "(telemetry|service-metrics)" assessed Failed/);
  await eventually('the stable version has all of the traffic', 60, async () => {
    const now = await seen();
    return (now.canary?.weights?.canary.weight ?? 0) === 0;
  });
});
