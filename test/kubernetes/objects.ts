/** Objects of a guarded Rollout `shop` in the namespace `shop`, as an API server gives them; a test states what matters. */
import type { ApiObject, TestApiServer } from './api-server.ts';

export const NAMESPACE = 'shop';
export const ROLLOUT = 'shop';
const ROLLOUT_UID = 'a0000000-0000-0000-0000-000000000001';

export const paths = {
  rollouts: `/apis/argoproj.io/v1alpha1/namespaces/${NAMESPACE}/rollouts`,
  runs: `/apis/argoproj.io/v1alpha1/namespaces/${NAMESPACE}/analysisruns`,
  replicaSets: `/apis/apps/v1/namespaces/${NAMESPACE}/replicasets`,
  pods: `/api/v1/namespaces/${NAMESPACE}/pods`,
  events: `/api/v1/namespaces/${NAMESPACE}/events`,
} as const;

const owner = [
  { apiVersion: 'argoproj.io/v1alpha1', kind: 'Rollout', name: ROLLOUT, uid: ROLLOUT_UID, controller: true },
];
export const kubeTime = (at: number | Date): string => new Date(at).toISOString().replace(/\.\d+Z$/, 'Z');

export interface RolloutOptions {
  readonly uid?: string;
  readonly status?: Readonly<Record<string, unknown>>;
  readonly spec?: Readonly<Record<string, unknown>>;
}

/** A healthy canary of version `bad` at its first step, over the stable version `good`. */
export const rolloutObject = ({
  uid = ROLLOUT_UID,
  status = {},
  spec = {},
}: RolloutOptions = {}): ApiObject => ({
  apiVersion: 'argoproj.io/v1alpha1',
  kind: 'Rollout',
  metadata: {
    name: ROLLOUT,
    namespace: NAMESPACE,
    uid,
    generation: 3,
    creationTimestamp: '2026-11-01T00:00:00Z',
    managedFields: [{ manager: 'rollouts-controller', operation: 'Update' }],
  },
  spec: {
    selector: { matchLabels: { app: 'shop' } },
    strategy: {
      canary: {
        steps: [{ setWeight: 1 }, { pause: { duration: '2h' } }, { setWeight: 10 }, { pause: {} }],
        trafficRouting: { traefik: { weightedTraefikServiceName: 'shop' } },
      },
    },
    ...spec,
  },
  status: {
    phase: 'Paused',
    observedGeneration: '3',
    currentPodHash: 'bad',
    stableRS: 'good',
    currentStepIndex: 1,
    controllerPause: true,
    selector: 'app=shop',
    pauseConditions: [{ reason: 'CanaryPauseStep', startTime: '2026-11-27T10:00:00Z' }],
    conditions: [],
    canary: {
      weights: { canary: { weight: 1, podTemplateHash: 'bad' }, stable: { weight: 99 } },
    },
    ...status,
  },
});

/** What the controller writes when it aborts. */
export const abortedStatus = (at: number): Readonly<Record<string, unknown>> => ({
  phase: 'Degraded',
  abort: true,
  abortedAt: kubeTime(at),
  currentStepIndex: 0,
  controllerPause: false,
  pauseConditions: [],
  canary: { weights: { canary: { weight: 0, podTemplateHash: 'bad' }, stable: { weight: 100 } } },
});

export const replicaSetObject = (hash: string, createdAt: number, replicas = 1): ApiObject => ({
  apiVersion: 'apps/v1',
  kind: 'ReplicaSet',
  metadata: {
    name: `shop-${hash}`,
    namespace: NAMESPACE,
    uid: `replicaset-${hash}`,
    creationTimestamp: kubeTime(createdAt),
    labels: { app: 'shop', 'rollouts-pod-template-hash': hash },
    ownerReferences: owner,
  },
  status: { replicas },
});

export const podObject = (
  name: string,
  hash: string,
  more: {
    readonly restarts?: number;
    readonly ready?: boolean;
    readonly createdAt?: number;
    readonly phase?: string;
  } = {},
): ApiObject => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: {
    name,
    namespace: NAMESPACE,
    uid: `pod-${name}`,
    creationTimestamp: kubeTime(more.createdAt ?? Date.now()),
    labels: { app: 'shop', 'rollouts-pod-template-hash': hash },
  },
  status: {
    phase: more.phase ?? 'Running',
    conditions: [{ type: 'Ready', status: more.ready === false ? 'False' : 'True' }],
    containerStatuses: [{ name: 'app', restartCount: more.restarts ?? 0 }],
  },
});

interface RunOptions {
  readonly owner?: string;
  readonly createdAt?: number;
  readonly phase?: string;
  readonly completedAt?: number;
  readonly args?: Readonly<Record<string, string>>;
  readonly metrics: Readonly<
    Record<
      string,
      {
        readonly failureCondition?: string;
        readonly successCondition?: string;
        readonly phase?: string;
        readonly dryRun?: boolean;
        /** Oldest first. */
        readonly values: readonly string[];
      }
    >
  >;
}

/** A background analysis run. */
export const runObject = (name: string, hash: string, options: RunOptions): ApiObject => ({
  apiVersion: 'argoproj.io/v1alpha1',
  kind: 'AnalysisRun',
  metadata: {
    name,
    namespace: NAMESPACE,
    uid: `run-${name}`,
    creationTimestamp: kubeTime(options.createdAt ?? Date.now() - 60_000),
    labels: { app: 'shop', 'rollouts-pod-template-hash': hash, 'rollout-type': 'Background' },
    ownerReferences: owner.map((one) => ({ ...one, uid: options.owner ?? one.uid })),
  },
  spec: {
    args: Object.entries(options.args ?? {}).map(([argument, value]) => ({ name: argument, value })),
    metrics: Object.entries(options.metrics).map(([metric, { failureCondition, successCondition }]) => ({
      name: metric,
      interval: '5s',
      ...(failureCondition === undefined ? {} : { failureCondition }),
      ...(successCondition === undefined ? {} : { successCondition }),
      provider: { prometheus: { query: 'vector(1)' } },
    })),
  },
  status: {
    phase: options.phase ?? 'Running',
    ...(options.completedAt === undefined ? {} : { completedAt: kubeTime(options.completedAt) }),
    metricResults: Object.entries(options.metrics).map(([metric, { phase, dryRun, values }]) => ({
      name: metric,
      phase: phase ?? 'Running',
      ...(dryRun === true ? { dryRun } : {}),
      measurements: values.map((value, index) => ({
        phase: 'Successful',
        value,
        startedAt: kubeTime(Date.now() - 60_000 + index * 5_000),
      })),
    })),
  },
});

/** The good version alone and healthy, then a canary of the bad one with a pod. */
export function putCanary(server: TestApiServer, since: number): void {
  server.put(paths.replicaSets, replicaSetObject('good', since - 86_400_000));
  server.put(paths.replicaSets, replicaSetObject('bad', since));
  server.put(paths.pods, podObject('good-1', 'good', { createdAt: since - 86_400_000 }));
  server.put(paths.pods, podObject('bad-1', 'bad', { createdAt: since }));
  server.put(paths.rollouts, rolloutObject());
}

/** The last pod of the bad version goes. */
export function removeCanaryPods(server: TestApiServer, since: number): void {
  server.put(paths.replicaSets, replicaSetObject('bad', since, 0));
  server.remove(paths.pods, 'pod-bad-1');
}
