/** Values that people set together, by a name that a report can say. Each renders, and is taken by every Kubernetes. */
import { type RenderOptions, required, type Values } from './render.ts';

export interface Combination {
  readonly name: string;
  /** Over the three required ones. */
  readonly values: Values;
  readonly options?: RenderOptions;
}

/** A guarded release, whose Deployment is adopted. */
const guarded = {
  service: { podLabels: { app: 'billing' } },
  metrics: { service: { enabled: true } },
} as const satisfies Values;
const adopted = { enabled: true, deployment: 'billing', replicas: 4 } as const;
const owned = {
  enabled: true,
  replicas: 100,
  selector: { matchLabels: { app: 'billing' } },
  template: {
    metadata: { labels: { app: 'billing' } },
    spec: { containers: [{ name: 'billing', image: 'billing:1', ports: [{ containerPort: 3000 }] }] },
  },
} as const;
const mode = (name: 'ignore' | 'observe' | 'hold') => ({
  loss: { mode: name },
  billing: { mode: name },
  crashes: { mode: name },
  telemetry: { mode: name },
});

const ofRollouts: readonly Combination[] = [
  ...(['nginx', 'traefik', 'istio', 'alb', 'gatewayAPI'] as const).map((type) => ({
    name: `an adopted Deployment behind ${type}, whose object the chart makes`,
    values: {
      ...guarded,
      rollout: { ...adopted, router: { type, create: true, host: 'billing.example.org', gateway: 'edge' } },
    },
  })),
  { name: 'a hundred pods of its own without a router', values: { ...guarded, rollout: owned } },
  {
    name: 'a number of pods that a HorizontalPodAutoscaler sets',
    values: { ...guarded, rollout: { ...owned, autoscaled: true, router: { type: 'istio', name: 'edge' } } },
  },
  {
    name: 'conditions that only show themselves, and gates as well',
    values: {
      ...guarded,
      rollout: {
        ...adopted,
        router: { type: 'nginx' },
        conditions: mode('observe'),
        gates: { observe: ['sample', 'errors', 'latency', 'probe', 'reconciliation'] },
      },
    },
  },
  {
    name: 'conditions that hold, complaints among them, and quiet hours that the probe decides',
    values: {
      ...guarded,
      complaints: { query: 'sum(increase(complaints_total[1d]))' },
      rollout: {
        ...adopted,
        router: { type: 'traefik' },
        conditions: { ...mode('hold'), complaints: { mode: 'hold' } },
        gates: { quiet: 'probe' },
      },
    },
  },
  {
    name: 'no conditions and no gates',
    values: {
      rollout: {
        ...adopted,
        router: { type: 'traefik' },
        conditions: mode('ignore'),
        steps: [
          { weight: 5, pause: '2h' },
          { weight: 100, pause: '1h' },
        ],
      },
    },
  },
  {
    name: 'a canary whose events have no version, and a Prometheus that asks who calls',
    values: {
      service: { ...guarded.service, versions: false },
      metrics: { service: { elsewhere: true }, prometheusUrl: 'https://metrics.example.org' },
      rollout: {
        ...adopted,
        router: { type: 'traefik' },
        prometheus: {
          headers: { 'X-Scope-OrgID': 'shop' },
          token: { existingSecret: 'metrics' },
          timeoutSeconds: 10,
          insecure: true,
        },
      },
    },
  },
];

export const combinations: readonly Combination[] = [
  { name: 'the three required values alone', values: {} },
  {
    name: 'a release called as the chart in a namespace called as the chart',
    values: {},
    options: { release: 'counterfoil', namespace: 'counterfoil' },
  },
  {
    name: 'names as long as Kubernetes takes them',
    values: { installation: 'a'.repeat(40), service: { name: 'b'.repeat(54) } },
    options: { release: 'c'.repeat(53), namespace: 'd'.repeat(63) },
  },
  { name: 'an installation of another name', values: { installation: 'second' } },
  { name: 'values of a parent chart', values: { global: { region: 'x' }, enabled: true } },
  { name: 'a plain schema Job for GitOps', values: { jobs: { schema: { mode: 'job' } } } },
  { name: 'a schema that somebody else migrates', values: { jobs: { schema: { mode: 'none' } } } },
  {
    name: 'every job',
    values: {
      jobs: { flowProbe: { enabled: true }, backupRetention: { enabled: true, days: 400 } },
    },
  },
  {
    name: 'no job but the tail',
    values: {
      jobs: {
        billingReconciliation: { repair: false, incremental: { enabled: false }, full: { enabled: false } },
        eventReplay: { enabled: false },
      },
      exporter: { repairAfterAbort: false },
    },
  },
  { name: 'replay that runs always', values: { jobs: { eventReplay: { mode: 'deployment', replicas: 2 } } } },
  {
    name: 'zeros where zero means something',
    values: {
      jobs: {
        defaults: {
          backoffLimit: 0,
          successfulJobsHistoryLimit: 0,
          failedJobsHistoryLimit: 0,
          ttlSecondsAfterFinished: 0,
        },
        schema: { backoffLimit: 0, ttlSecondsAfterFinished: 0 },
        eventReplay: { graceSeconds: 0 },
      },
    },
  },
  {
    name: 'everything suspended, with other deadlines for one job',
    values: {
      jobs: {
        defaults: { suspend: true },
        eventReplay: { overrides: { suspend: false, backoffLimit: 0, startingDeadlineSeconds: 30 } },
      },
    },
  },
  {
    name: 'a predecessor with an outbox',
    values: { service: { republishFunction: 'billing.republish_to_outbox' }, token: { existingSecret: '' } },
  },
  { name: 'a service whose events have no version', values: { service: { versions: false } } },
  {
    name: 'checks of their own',
    values: {
      checks: [
        {
          name: 'orders',
          facts: { table: 'orders', key: 'id', time: 'completed_at', amount: 'amount_minor' },
          ledger: { table: 'bills', key: 'order_id', amount: 'amount_minor' },
        },
      ],
    },
  },
  {
    name: 'a database behind a certificate of its own',
    values: {
      database: { certificateAuthority: { existingSecret: 'database-ca', key: 'root.crt' }, schema: 'guard' },
    },
  },
  { name: 'no exporter', values: { exporter: { enabled: false } } },
  { name: 'two exporters', values: { exporter: { replicas: 2 } } },
  {
    name: 'a ServiceMonitor instead of a PodMonitor',
    values: { metrics: { podMonitor: { enabled: false }, serviceMonitor: { enabled: true } } },
  },
  {
    name: 'metrics of the guarded service',
    values: {
      service: { podLabels: { app: 'billing' } },
      metrics: { service: { enabled: true, port: 'http', interval: '1m', scrapeTimeout: '20s' } },
    },
  },
  {
    name: 'objects of Prometheus and Grafana in namespaces of their own',
    values: {
      metrics: { podMonitor: { namespace: 'monitoring', labels: { release: 'kube-prometheus-stack' } } },
      prometheusRule: {
        namespace: 'monitoring',
        labels: { release: 'kube-prometheus-stack' },
        alertLabels: { team: 'payments' },
      },
      grafanaDashboards: { namespace: 'grafana', annotations: { grafana_folder: 'Billing' } },
    },
  },
  {
    name: 'the second release of a namespace',
    values: { prometheusRule: { shared: true } },
    options: { release: 'second' },
  },
  {
    name: 'no Prometheus Operator and no Grafana',
    values: {
      metrics: { podMonitor: { enabled: false } },
      prometheusRule: { enabled: false },
      grafanaDashboards: { enabled: false },
    },
  },
  {
    name: 'other alerts than the default',
    values: {
      prometheusRule: {
        disabled: { 'BillingDiscrepancy/warning': true },
        overrides: { EventLossRateHigh: { for: '10m', labels: { team: 'events' } } },
      },
      thresholds: { openFindings: 5, eventLossRatio: 0.02, verifiedThroughAgeSeconds: 86_400 },
    },
  },
  {
    name: 'complaints, and one page per incident',
    values: {
      complaints: { query: 'sum(increase(complaints_total[1d]))' },
      alertmanagerConfig: { enabled: true, labels: { alertmanager: 'main' } },
    },
  },
  {
    name: 'an image by its digest from a registry with a password',
    values: {
      image: {
        repository: 'registry.example/counterfoil/jobs',
        digest: `sha256:${'0'.repeat(64)}`,
        pullPolicy: 'Always',
        pullSecrets: ['registry'],
      },
    },
  },
  {
    name: 'pods as a platform wants them',
    values: {
      pod: {
        labels: { 'cost-centre': '42' },
        annotations: { 'example.com/scan': 'true' },
        nodeSelector: { pool: 'jobs' },
        tolerations: [{ key: 'jobs', operator: 'Exists' }],
        affinity: {
          nodeAffinity: {
            requiredDuringSchedulingIgnoredDuringExecution: {
              nodeSelectorTerms: [{ matchExpressions: [{ key: 'zone', operator: 'In', values: ['a'] }] }],
            },
          },
        },
        priorityClassName: 'low',
        runAsUser: null,
      },
      extraEnv: [{ name: 'TZ', value: 'UTC' }],
      serviceAccount: { annotations: { 'example.com/role': 'jobs' } },
      commonLabels: { team: 'payments' },
    },
  },
  { name: 'no network policies', values: { networkPolicy: { enabled: false } } },
  {
    name: 'narrow network policies',
    values: {
      service: { podLabels: { app: 'billing' } },
      networkPolicy: {
        databaseCidrs: ['10.0.0.0/8', '192.168.1.5/32'],
        metricsNamespaces: [{ 'kubernetes.io/metadata.name': 'monitoring' }],
        extraEgress: [{ ports: [{ port: 4317 }] }],
      },
    },
  },
  {
    name: 'further objects, as a map and as a text',
    values: {
      extraObjects: [
        {
          apiVersion: 'v1',
          kind: 'ConfigMap',
          metadata: { name: 'one' },
          data: { a: '{{ .Release.Name }}' },
        },
        'apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {{ .Release.Name }}-two\n',
      ],
    },
  },
  ...ofRollouts,
];

/** As helm takes them. */
export const layersOf = ({ values }: Combination): readonly Values[] => [required, values];
