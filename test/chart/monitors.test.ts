/** What is scraped, and that the alerts and the analysis of the canary find it by its labels. */
import { describe, expect, inject, test } from 'vitest';
import { metrics } from '../../jobs/exporter/metrics.ts';
import {
  type KubernetesObject,
  type Rendered,
  render,
  renderFails,
  required,
  type Values,
} from './render.ts';

/** Which pods, or Services, an object selects. */
const selects = (monitor: KubernetesObject, labels: Readonly<Record<string, string>> = {}) =>
  Object.entries(monitor.spec.selector.matchLabels).every(([name, value]) => labels[name] === value);

describe.skipIf(inject('chartTools') === undefined)('the exporter', () => {
  const rendered = async (...layers: Values[]) => await render([required, ...layers]);
  const podsOf = ({ objects }: Rendered) => objects.flatMap(({ spec }) => spec?.template ?? []);

  test('is scraped at its pod, at the port that it listens at, and no other pod is', async () => {
    const found = await rendered();
    const monitor = found.get('PodMonitor', 'guard-counterfoil-exporter');
    expect(monitor.spec.namespaceSelector).toEqual({ matchNames: ['shop'] });
    expect(monitor.spec.podMetricsEndpoints).toEqual([{ port: 'http', path: '/metrics', interval: '15s' }]);

    const pods = podsOf(found);
    const chosen = pods.filter(({ metadata }) => selects(monitor, metadata.labels));
    expect([chosen.length, pods.length > 1]).toEqual([1, true]);
    const ports = chosen[0].spec.containers.flatMap((container: { ports: object[] }) => container.ports);
    expect(ports).toEqual([{ name: 'http', containerPort: 9464 }]);
  });

  test('of another release is another monitor’s', async () => {
    const monitor = (await rendered()).get('PodMonitor', 'guard-counterfoil-exporter');
    const others = podsOf(await render(required, { release: 'second' }));
    expect(others.filter(({ metadata }) => selects(monitor, metadata.labels))).toEqual([]);
  });

  test('is scraped through its Service where a ServiceMonitor is asked for, and then not at its pod', async () => {
    const found = await rendered({
      metrics: {
        podMonitor: { enabled: false },
        serviceMonitor: { enabled: true, interval: '30s', scrapeTimeout: '20s' },
      },
    });
    const monitor = found.get('ServiceMonitor', 'guard-counterfoil-exporter');
    expect(monitor.spec.endpoints).toEqual([
      { port: 'http', path: '/metrics', interval: '30s', scrapeTimeout: '20s' },
    ]);
    const services = found.all('Service').filter(({ metadata }) => selects(monitor, metadata.labels));
    expect(services.map(({ spec }) => spec.ports.map(({ name }: { name: string }) => name))).toEqual([
      ['http'],
    ]);
    expect(found.all('PodMonitor')).toEqual([]);
  });

  test('has labels and annotations of yours on its monitor, and a name of its own in another namespace', async () => {
    const found = await rendered({
      metrics: {
        podMonitor: {
          namespace: 'monitoring',
          labels: { release: 'kube-prometheus-stack' },
          annotations: { note: 'by us' },
        },
      },
    });
    const { metadata, spec } = found.get('PodMonitor', 'shop-guard-counterfoil-exporter');
    expect(metadata.namespace).toBe('monitoring');
    expect(metadata.labels).toMatchObject({ release: 'kube-prometheus-stack' });
    expect(metadata.annotations).toEqual({ note: 'by us' });
    expect(spec.namespaceSelector).toEqual({ matchNames: ['shop'] });
  });

  test('is not scraped where it does not run, nor where somebody else does it', async () => {
    expect((await rendered({ exporter: { enabled: false } })).all('PodMonitor')).toEqual([]);
    expect((await rendered({ metrics: { podMonitor: { enabled: false } } })).all('PodMonitor')).toEqual([]);
  });

  test('has no label that a scrape gives, so that none is renamed and every alert finds its namespace', () => {
    const given = ['namespace', 'pod', 'job', 'container', 'endpoint', 'instance', 'service', 'node'];
    const clashes = (all: Readonly<Record<string, { labels: readonly string[] }>>) =>
      Object.entries(all).flatMap(([name, { labels }]) =>
        labels.some((label) => given.includes(label)) ? [name] : [],
      );
    expect(clashes(metrics)).toEqual([]);
    expect(clashes({ ...metrics, broken: { labels: ['check', 'job'] } })).toEqual(['broken']);
  });
});

describe.skipIf(inject('chartTools') === undefined)('the guarded service', () => {
  const enabled = { metrics: { service: { enabled: true } }, service: { podLabels: { app: 'billing' } } };
  const monitorWith = async (...layers: Values[]) =>
    (await render([required, enabled, ...layers])).get('PodMonitor', 'guard-counterfoil-service');

  test('is scraped at its pods, and each series names the version of its pod', async () => {
    const { spec } = await monitorWith();
    expect(spec).toEqual({
      namespaceSelector: { matchNames: ['shop'] },
      selector: { matchLabels: { app: 'billing' } },
      podTargetLabels: ['rollouts-pod-template-hash'],
      podMetricsEndpoints: [{ portNumber: 3000, path: '/metrics', scheme: 'http', interval: '15s' }],
    });
  });

  test.each<[string, Values, object]>([
    ['a name', { metrics: { service: { port: 'metrics' } } }, { port: 'metrics' }],
    ['a number', { metrics: { service: { port: 9090 } } }, { portNumber: 9090 }],
    ['the name of the service’s own', { service: { targetPort: 'web' } }, { port: 'web' }],
  ])('is scraped at a port by %s', async (_, values, port) => {
    const [endpoint] = (await monitorWith(values)).spec.podMetricsEndpoints;
    expect(endpoint).toEqual({ ...port, path: '/metrics', scheme: 'http', interval: '15s' });
  });

  test('is scraped at the pods that the Rollout owns, where its pods have no other labels', async () => {
    const owned = { rollout: { selector: { matchLabels: { app: 'owned' } } } };
    const { spec } = (await render([required, { metrics: enabled.metrics }, owned])).get(
      'PodMonitor',
      'guard-counterfoil-service',
    );
    expect(spec.selector).toEqual({ matchLabels: { app: 'owned' } });
  });

  const guarded = {
    rollout: { enabled: true, deployment: 'billing', replicas: 4, router: { type: 'traefik' } },
  };
  test('has to be scraped by its versions before a release is guarded, by this monitor or by one of yours', async () => {
    const elsewhere = { metrics: { service: { elsewhere: true } } };
    expect(await renderFails([required, guarded])).toContain(
      'the gates errors and latency of rollout.steps would never see the canary',
    );
    for (const seen of [enabled, elsewhere]) {
      const found = (await render([required, guarded, seen])).all('AnalysisTemplate');
      expect(found.map(({ metadata }) => metadata.name.replace(/^.*-counterfoil-/, ''))).toContain(
        'service-metrics',
      );
    }
    const watched = { rollout: { gates: { observe: ['errors', 'latency'] } } };
    expect((await render([required, guarded, watched])).objects.length).toBeGreaterThan(10);
  });

  test('is left alone by default: something of its own may scrape it already', async () => {
    expect((await render(required)).all('PodMonitor').length).toBe(1);
  });
});

test.skipIf(inject('chartTools') === undefined).each<[string, Values, string]>([
  [
    'two monitors of one exporter',
    { metrics: { serviceMonitor: { enabled: true } } },
    'would be scraped twice',
  ],
  [
    'a timeout above its interval',
    { metrics: { podMonitor: { interval: '15s', scrapeTimeout: '16s' } } },
    'metrics.podMonitor.scrapeTimeout is longer than its interval',
  ],
  [
    'a timeout of minutes',
    { metrics: { podMonitor: { interval: '59s', scrapeTimeout: '1m' } } },
    'metrics.podMonitor.scrapeTimeout is longer than its interval',
  ],
  [
    'an interval that alerts cannot see through',
    { metrics: { podMonitor: { interval: '2m' } } },
    'metrics.podMonitor.interval',
  ],
  [
    'two monitors of one service',
    { metrics: { service: { enabled: true, elsewhere: true } }, service: { podLabels: { app: 'billing' } } },
    'each event count as two',
  ],
  [
    'a service whose pods nobody knows',
    { metrics: { service: { enabled: true } } },
    'metrics.service.enabled needs service.podLabels',
  ],
])('%s is refused', async (_, values, sentence) => {
  const said = await renderFails([required, values]);
  expect(said.replaceAll('/', '.')).toContain(sentence);
});

test.skipIf(inject('chartTools') === undefined)(
  'a timeout as long as the interval is not refused',
  async () => {
    const { objects } = await render([
      required,
      { metrics: { podMonitor: { interval: '60s', scrapeTimeout: '1m' } } },
    ]);
    expect(objects.length).toBeGreaterThan(10);
  },
);
