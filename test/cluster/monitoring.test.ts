/** What the chart gives to Prometheus and Grafana, on a real Prometheus Operator: it is taken, and finds its pods. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { parseAllDocuments } from 'yaml';
import { findTool } from '../tools/find-tool.ts';
import { eventually, IMAGE, loadImage, Namespace } from './cluster.ts';
import { query, rulesOf } from './prometheus.ts';

interface KubernetesObject {
  readonly kind: string;
  readonly metadata: { readonly name: string; readonly labels: Readonly<Record<string, string>> };
  // biome-ignore lint/suspicious/noExplicitAny: reads the depths of any kind
  readonly [field: string]: any;
}

const INSTALLATION = 'guard';
const HASH = '7d4b9c6f55';
/** The Prometheus of the cluster takes what has this label. */
const taken = { labels: { release: 'kube-prometheus-stack' } };
const values = {
  installation: INSTALLATION,
  service: { name: 'billing', targetPort: 9464, podLabels: { app: 'billing' } },
  database: { existingSecret: 'database' },
  token: { existingSecret: 'token' },
  metrics: { podMonitor: { ...taken, interval: '5s' }, service: { ...taken, enabled: true, interval: '5s' } },
  prometheusRule: taken,
  thresholds: { eventLossRatio: 0.007 },
  complaints: { query: 'vector(4)' },
  alertmanagerConfig: { enabled: true },
};

let namespace: Namespace;
let rendered: KubernetesObject[];

async function render(overlay: object): Promise<KubernetesObject[]> {
  const helm = await findTool('helm');
  const given = Object.entries({ ...values, ...overlay }).flatMap(([name, value]) => [
    '--set-json',
    `${name}=${JSON.stringify(value)}`,
  ]);
  const { stdout } = await promisify(execFile)(
    helm,
    ['template', 'release', 'charts/counterfoil', '--namespace', namespace.name, ...given],
    { maxBuffer: 64 * 1024 * 1024 },
  );
  return parseAllDocuments(stdout).flatMap((document) => (document.toJS() as KubernetesObject | null) ?? []);
}

const MONITORING = ['PrometheusRule', 'PodMonitor', 'AlertmanagerConfig'];
const isMonitoring = ({ kind, metadata }: KubernetesObject) =>
  MONITORING.includes(kind) || metadata.name.includes('-grafana-');

/** Answers a scrape with these lines. The labels and the port are what a monitor finds it by. */
const pod = (name: string, labels: Readonly<Record<string, string>>, lines: readonly string[]) => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { name, labels },
  spec: {
    terminationGracePeriodSeconds: 1,
    containers: [
      {
        name: 'app',
        image: IMAGE,
        imagePullPolicy: 'IfNotPresent',
        command: ['sh', '-c'],
        args: [
          // A folder's page, so that it has an ending: Prometheus takes nothing without a type.
          `mkdir -p /tmp/www/metrics && cd /tmp/www && printf '%s\\n' "$LINES" > metrics/index.txt &&
           echo 'I:index.txt' > /tmp/httpd.conf && exec httpd -f -p 9464 -h /tmp/www -c /tmp/httpd.conf`,
        ],
        env: [{ name: 'LINES', value: lines.join('\n') }],
        ports: [{ name: 'http', containerPort: 9464 }],
        resources: { requests: { cpu: '5m', memory: '8Mi' } },
      },
    ],
  },
});

beforeAll(async () => {
  await loadImage();
  namespace = await Namespace.create();
  rendered = await render({});
  await namespace.apply(...rendered.filter(isMonitoring));
});
afterAll(async () => {
  await namespace?.remove();
});

const find = (kind: string, name: string) => {
  const found = rendered.find((object) => object.kind === kind && object.metadata.name === name);
  if (found === undefined) throw new Error(`no ${kind} ${name} is rendered`);
  return found;
};

test('every rule is loaded and evaluated without an error, and one that Prometheus does not select is not', async () => {
  const names = (objects: readonly KubernetesObject[]) =>
    objects
      .filter(({ kind }) => kind === 'PrometheusRule')
      .flatMap(({ spec }) => spec.groups as { rules: { record?: string; alert?: string }[] }[])
      .flatMap(({ rules }) => rules.map(({ record, alert }) => record ?? alert ?? ''))
      .sort();
  const wanted = names(rendered);
  expect(wanted.length).toBeGreaterThan(100);

  // A second release in the namespace, without the label.
  const unselected = await render({
    installation: 'unselected',
    prometheusRule: { shared: true },
    metrics: { podMonitor: { enabled: false } },
  });
  await namespace.apply(...unselected.filter(({ kind }) => kind === 'PrometheusRule'));

  const loaded = await eventually('all rules to be loaded and evaluated', 180, async () => {
    const rules = await rulesOf(namespace.name);
    return rules.length >= wanted.length && rules.every(({ health }) => health !== 'unknown') && rules;
  });
  expect(loaded.filter(({ health }) => health !== 'ok')).toEqual([]);
  expect(loaded.map(({ name }) => name).sort()).toEqual(wanted);

  const series = await query(`installation:event_loss_ratio:threshold{namespace="${namespace.name}"}`);
  expect(series.map(({ metric: { installation }, value: [, number] }) => [installation, number])).toEqual([
    [INSTALLATION, '0.007'],
  ]);
  expect(await query(`installation:complaints_per_day:value{namespace="${namespace.name}"}`)).toMatchObject([
    { metric: { installation: INSTALLATION }, value: [expect.anything(), '4'] },
  ]);
});

test('the exporter is scraped by the labels of its pod, and the alert on its absence rests', async () => {
  const down = `ALERTS{namespace="${namespace.name}",alertname="CounterfoilExporterDown"}`;
  await eventually('the missing exporter to be seen', 120, async () => (await query(down)).length > 0);

  const { metadata } = find('Deployment', `${INSTALLATION}-exporter`).spec.template;
  await namespace.apply(
    pod('exporter', metadata.labels, [
      `counterfoil_exporter_info{installation="${INSTALLATION}",version="1"} 1`,
    ]),
    pod('neighbour', { ...metadata.labels, 'app.kubernetes.io/instance': 'another' }, [
      'counterfoil_exporter_info{installation="another",version="1"} 1',
    ]),
  );
  const [scraped] = await eventually('the exporter to be scraped', 180, async () => {
    const found = await query(`counterfoil_exporter_info{namespace="${namespace.name}"}`);
    return found.length > 0 && found;
  });
  expect(scraped?.metric).toMatchObject({ installation: INSTALLATION, pod: 'exporter' });
  await eventually('the alert to rest', 60, async () => (await query(down)).length === 0);
  expect(await query(`counterfoil_exporter_info{namespace="${namespace.name}",pod="neighbour"}`)).toEqual([]);
});

test('each series of the service names the version of its pod', async () => {
  const line = 'event_published_total{event_type="services.session.completed.v1",status="committed"} 7';
  await namespace.apply(
    pod('billing-canary', { app: 'billing', 'rollouts-pod-template-hash': HASH }, [line]),
    pod('other', { app: 'other', 'rollouts-pod-template-hash': HASH }, [line]),
  );
  const found = await eventually('the service to be scraped', 120, async () => {
    const series = await query(`event_published_total{namespace="${namespace.name}"}`);
    return series.length > 0 && series;
  });
  expect(found.map(({ metric: { pod: name, rollouts_pod_template_hash: hash } }) => [name, hash])).toEqual([
    ['billing-canary', HASH],
  ]);
});

test('the dashboards stand in ConfigMaps as they were rendered, found by the label of the sidecar', async () => {
  const { items } = await namespace.get<{ items: { data: Record<string, string> }[] }>(
    'configmap',
    '--selector=grafana_dashboard=1',
  );
  const boards = items.flatMap(({ data }) => Object.values(data).map((text) => JSON.parse(text)));
  expect(boards.length).toBe(5);
  for (const { templating } of boards)
    expect(templating.list).toContainEqual(
      expect.objectContaining({
        name: 'namespace',
        current: expect.objectContaining({ value: namespace.name }),
      }),
    );
});
