/**
 * Helm 4 applies server-side, and Argo writes into the same objects: selectors, weights, replicas. In the middle of a canary
 * an upgrade and a rollback of the chart have to leave all of that as it is, and the canary at its step; with a
 * HorizontalPodAutoscaler, which writes replicas as well, and without. There are no metrics of pods: it is moved by its minimum.
 */
import { expect, test } from 'vitest';
import { SERVICE } from './billing-service.ts';
import { eventually, kubectl } from './cluster.ts';
import { figure } from './figures.ts';
import { type Form, FormedService } from './forms.ts';
import type { RolloutStatus } from './rollout.ts';
import { versionsOf } from './shop.ts';

/** They run at once, and most of the time goes by waiting. */
const MINUTES = { timeout: 900_000 };
const PER_SECOND = 10;
const SESSIONS = 20_000;

const steps = [
  { weight: 1, pause: '30m', gates: [] },
  { weight: 10, pause: '30m', gates: [] },
  { weight: 100, pause: '85s', gates: [] },
];
const values = { jobs: { flowProbe: { enabled: false } }, rollout: { steps } };
/** What a team changes on an ordinary day: alerts, thresholds, gates, the exporter. */
const other = {
  thresholds: { parkedEvents: 7 },
  prometheusRule: { alertLabels: { team: 'payments' } },
  rollout: { conditions: { complaints: { interval: '30s' } }, gates: { hold: '20m' } },
  exporter: { settings: { CF_STATE_INTERVAL_SECONDS: '20' } },
};
/** The steps themselves. */
const otherSteps = { rollout: { steps: [{ weight: 2, pause: '30m', gates: [] }, ...steps.slice(1)] } };

interface LiveRollout extends RolloutStatus {
  readonly spec: { readonly replicas?: number };
  readonly status?: RolloutStatus['status'] & {
    readonly currentStepIndex?: number;
    readonly pauseConditions?: readonly { readonly startTime: string }[];
    readonly canary?: {
      readonly weights?: { readonly canary: { readonly weight: number } };
      readonly currentBackgroundAnalysisRunStatus?: { readonly name: string; readonly status: string };
    };
  };
}

interface Listed {
  readonly items: readonly {
    readonly kind: string;
    readonly metadata: { readonly name: string; readonly uid: string };
    readonly spec: {
      readonly replicas?: number;
      readonly selector?: unknown;
      readonly weighted?: unknown;
    };
  }[];
}

const rolloutOf = async ({ namespace }: FormedService) =>
  await namespace.get<LiveRollout>('rollout', SERVICE);

/** All that is Argo's, or the autoscaler's. */
async function written(shop: FormedService) {
  const { spec, status = {} } = await rolloutOf(shop);
  const pods = await shop.namespace.get<Listed>('pods', '-l', `app=${SERVICE}`);
  const routed = await shop.namespace.get<Listed>(
    `service/${SERVICE}-stable`,
    `service/${SERVICE}-canary`,
    `traefikservice/${SERVICE}`,
  );
  const replicaSets = await shop.namespace.get<Listed>('replicasets', '-l', `app=${SERVICE}`);
  const deployments =
    shop.form === 'adopting'
      ? (await shop.namespace.get<Listed>('deployments', '-l', '!helm.sh/chart')).items
      : [];
  return {
    ...versionsOf({ metadata: { uid: '' }, status }),
    replicas: spec.replicas,
    step: status.currentStepIndex,
    phase: status.phase,
    pausedSince: status.pauseConditions?.map(({ startTime }) => startTime),
    background: status.canary?.currentBackgroundAnalysisRunStatus,
    pods: pods.items.map(({ metadata }) => metadata.uid).sort(),
    selectors: routed.items.map(({ spec: { selector } }) => selector),
    weights: routed.items.map(({ spec: { weighted } }) => weighted),
    replicasOf: [...replicaSets.items, ...deployments]
      .map(({ kind, metadata, spec: { replicas } }) => `${kind} ${metadata.name} ${replicas}`)
      .sort(),
  };
}

async function autoscaled(shop: FormedService, minReplicas: number): Promise<void> {
  await shop.namespace.apply({
    apiVersion: 'autoscaling/v2',
    kind: 'HorizontalPodAutoscaler',
    metadata: { name: SERVICE },
    spec: {
      scaleTargetRef: { apiVersion: 'argoproj.io/v1alpha1', kind: 'Rollout', name: SERVICE },
      minReplicas,
      maxReplicas: 6,
    },
  });
  await eventually(`the autoscaler has made it ${minReplicas} pods`, 240, async () => {
    const { spec } = await rolloutOf(shop);
    const ready = await shop.namespace.kubectl(
      ...['get', 'rollout', SERVICE, '-o', 'jsonpath={.status.readyReplicas}'],
    );
    if (spec.replicas !== minReplicas || Number(ready) < minReplicas)
      throw new Error(`${spec.replicas} wanted, ${ready} ready`);
    return true;
  });
}

const atStep = async (shop: FormedService, step: number, weight: number) =>
  await eventually(`the canary is at step ${step} and gets ${weight} %`, 180, async () => {
    const rollout = await rolloutOf(shop);
    const { status } = rollout;
    const is = { step: status?.currentStepIndex, phase: status?.phase, weight: versionsOf(rollout).weight };
    const background = status?.canary?.currentBackgroundAnalysisRunStatus?.status;
    if (is.step !== step || is.phase !== 'Paused' || is.weight !== weight || background !== 'Running')
      throw new Error(JSON.stringify({ ...is, background }));
    return true;
  });

test.concurrent.for<[Form, string, boolean]>([
  ['adopting', 'without an autoscaler', false],
  ['owning', 'with an autoscaler', true],
])(
  'a Rollout %s the template, %s: its canary goes on at its step',
  MINUTES,
  async ([form, , withAutoscaler], { onTestFinished }) => {
    const shop = await FormedService.prepare(form, {
      sessions: SESSIONS,
      values: { ...values, rollout: { ...values.rollout, autoscaled: withAutoscaler } },
    });
    onTestFinished(async () => await shop.namespace.remove());
    await shop.install();
    await eventually(
      'the service is up',
      240,
      async () => (await rolloutOf(shop)).status?.phase === 'Healthy',
    );
    if (withAutoscaler) await autoscaled(shop, 3);
    await shop.service.open(PER_SECOND, SESSIONS);
    await eventually('customers are served', 90, async () => (await shop.service.customers()).completed > 50);
    const refusedAtFirst = (await shop.service.customers()).refused;
    const v2 = { version: 'v2' };
    const since = await shop.service.sql('SELECT clock_timestamp()');
    await shop.next(v2);
    await atStep(shop, 1, 1);

    const before = await written(shop);
    expect(before.replicas).toBe(withAutoscaler ? 3 : 2);
    expect(JSON.stringify(before.weights)).toContain('"weight":1}');
    await shop.upgrade(v2, other);
    expect(await shop.namespace.get<object>('prometheusrules').then(JSON.stringify)).toContain(
      '"team":"payments"',
    );
    expect(await written(shop)).toEqual(before);
    await shop.release.rollback();
    expect(await shop.namespace.get<object>('prometheusrules').then(JSON.stringify)).not.toContain(
      'payments',
    );
    expect(await written(shop)).toEqual(before);

    if (withAutoscaler) {
      // The number of the chart is the least there is; that of the autoscaler stays.
      await autoscaled(shop, 4);
      const scaled = await written(shop);
      expect(scaled.replicas).toBe(4);
      await shop.upgrade(v2, other);
      expect(await written(shop)).toEqual(scaled);
      await shop.release.rollback();
      expect(await written(shop)).toEqual(scaled);
    }

    await kubectl('argo', 'rollouts', 'promote', SERVICE, '-n', shop.namespace.name);
    await atStep(shop, 3, 10);
    const [own, all] = (
      await shop.service.sql(`SELECT count(*) FILTER (WHERE published_hash = '${before.canary}'), count(*)
      FROM event_backups WHERE event_name = 'services.session.completed.v1' AND created_at >= '${since}'`)
    )
      .split('|')
      .map(Number);
    figure(
      `upgrade in mid-canary, ${form}`,
      'share of the canary at 1 %',
      (100 * (own ?? 0)) / (all ?? 0),
      '%',
    );
    // Without weights it would be a third.
    expect((own ?? 0) / (all ?? 0)).toBeLessThan(0.05);

    // Steps are another matter: Argo begins anew with the first.
    await shop.upgrade(v2, otherSteps);
    await atStep(shop, 1, 2);
    const anew = await written(shop);
    expect(anew.canary).toBe(before.canary);
    expect(anew.weights).not.toEqual(before.weights);

    const refused = (await shop.service.customers()).refused - refusedAtFirst;
    figure(`upgrade in mid-canary, ${form}`, 'requests refused', refused, '', 0);
    expect(refused).toBe(0);
  },
);
