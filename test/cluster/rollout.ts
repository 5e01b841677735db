/** A guarded service on a real cluster: a Rollout behind a weighted router, judged by a Prometheus query. */
import { eventually, IMAGE, type Namespace } from './cluster.ts';

export const ROLLOUT = 'shop';
/** Of the controller's Prometheus; any that scrapes kube-state-metrics. */
const PROMETHEUS = process.env.CLUSTER_PROMETHEUS_URL ?? 'http://prometheus-operated.monitoring:9090';
/** While a ConfigMap of this name is there, the analysis measures 1, else 0. */
const FAULT = 'fault';

const service = (name: string) => ({
  apiVersion: 'v1',
  kind: 'Service',
  metadata: { name },
  // Without a selector: the controller writes the one of the version.
  spec: { ports: [{ port: 80, targetPort: 8080 }] },
});

export const traefikService = {
  apiVersion: 'traefik.io/v1alpha1',
  kind: 'TraefikService',
  metadata: { name: ROLLOUT },
  spec: {
    weighted: {
      services: [
        { name: `${ROLLOUT}-stable`, port: 80 },
        { name: `${ROLLOUT}-canary`, port: 80 },
      ],
    },
  },
};

const template = (namespace: string) => ({
  apiVersion: 'argoproj.io/v1alpha1',
  kind: 'AnalysisTemplate',
  metadata: { name: ROLLOUT },
  spec: {
    args: [{ name: 'limit', value: '0.5' }],
    metrics: [
      {
        name: 'fault',
        interval: '5s',
        failureLimit: 0,
        failureCondition: 'len(result) > 0 && !isNaN(result[0]) && result[0] > {{args.limit}}',
        provider: {
          prometheus: {
            address: PROMETHEUS,
            query: `count(kube_configmap_info{namespace="${namespace}", configmap="${FAULT}"}) or vector(0)`,
          },
        },
      },
      {
        name: 'beats',
        interval: '5s',
        successCondition: 'result[0] >= 0',
        provider: { prometheus: { address: PROMETHEUS, query: 'vector(42)' } },
      },
    ],
  },
});

export const rollout = (version: string) => ({
  apiVersion: 'argoproj.io/v1alpha1',
  kind: 'Rollout',
  metadata: { name: ROLLOUT },
  spec: {
    replicas: 1,
    selector: { matchLabels: { app: ROLLOUT } },
    template: {
      metadata: { labels: { app: ROLLOUT }, annotations: { 'counterfoil.test/version': version } },
      spec: {
        terminationGracePeriodSeconds: 1,
        enableServiceLinks: false,
        containers: [
          {
            name: 'app',
            image: IMAGE,
            imagePullPolicy: 'IfNotPresent',
            command: ['sh', '-c', 'trap "exit 0" TERM; while true; do sleep 1; done'],
            resources: { requests: { cpu: '5m', memory: '8Mi' } },
          },
        ],
      },
    },
    strategy: {
      canary: {
        canaryService: `${ROLLOUT}-canary`,
        stableService: `${ROLLOUT}-stable`,
        abortScaleDownDelaySeconds: 8,
        trafficRouting: { traefik: { weightedTraefikServiceName: ROLLOUT } },
        steps: [{ setWeight: 1 }, { pause: {} }, { setWeight: 10 }, { pause: {} }],
        analysis: { templates: [{ templateName: ROLLOUT }], startingStep: 1 },
      },
    },
  },
});

export interface RolloutStatus {
  readonly metadata: { readonly uid: string };
  readonly status?: {
    readonly phase?: string;
    readonly abort?: boolean;
    readonly abortedAt?: string;
    readonly message?: string;
    readonly currentPodHash?: string;
    readonly stableRS?: string;
    readonly canary?: { readonly weights?: { readonly canary: { readonly weight: number } } };
  };
}

export class GuardedService {
  readonly #namespace: Namespace;

  constructor(namespace: Namespace) {
    this.#namespace = namespace;
  }

  /** The first version, up and stable. */
  async install(version = 'v1'): Promise<void> {
    await this.#namespace.apply(
      service(`${ROLLOUT}-stable`),
      service(`${ROLLOUT}-canary`),
      traefikService,
      template(this.#namespace.name),
      rollout(version),
    );
    await this.inPhase('Healthy');
  }

  async release(version: string): Promise<void> {
    await this.#namespace.apply(rollout(version));
  }

  async status(): Promise<RolloutStatus> {
    return await this.#namespace.get<RolloutStatus>('rollout', ROLLOUT);
  }

  async inPhase(phase: string): Promise<RolloutStatus> {
    return await eventually(`the rollout is ${phase}`, 120, async () => {
      const now = await this.status();
      return now.status?.phase === phase && now;
    });
  }

  async atWeight(weight: number): Promise<RolloutStatus> {
    return await eventually(`the canary gets ${weight} %`, 90, async () => {
      const now = await this.status();
      const paused = now.status?.phase === 'Paused';
      return paused && now.status?.canary?.weights?.canary.weight === weight && now;
    });
  }

  /** On to the next step, as `kubectl argo rollouts promote` does. */
  async promote(): Promise<void> {
    await this.#patchStatus({ pauseConditions: null });
  }

  /** As `kubectl argo rollouts abort` does. */
  async abort(): Promise<void> {
    await this.#patchStatus({ abort: true });
  }

  async fail(): Promise<void> {
    await this.#namespace.kubectl('create', 'configmap', FAULT);
  }

  async heal(): Promise<void> {
    await this.#namespace.kubectl('delete', 'configmap', FAULT, '--ignore-not-found');
  }

  async #patchStatus(status: object): Promise<void> {
    await this.#namespace.kubectl(
      'patch',
      'rollout',
      ROLLOUT,
      '--subresource=status',
      '--type=merge',
      '-p',
      JSON.stringify({ status }),
    );
  }
}
