/** The canary that the chart makes of rollouts/ and the values. */
import { afterAll, describe, expect, inject, test } from 'vitest';
import { AnalysisVerdict, type Answer } from '../rollouts/analysis-verdict.ts';
import { metricProblems } from '../rollouts/metric-rules.ts';
import {
  type AnalysisTemplate,
  type Metric,
  readRollout,
  readServices,
  readTemplate,
  templateNames,
  withRouter,
} from '../rollouts/rollout-files.ts';
import { type KubernetesObject, type Rendered, render, required, type Values } from './render.ts';

const owning: Values = {
  ...required,
  service: { name: 'billing', podLabels: { app: 'billing' } },
  database: { existingSecret: 'counterfoil-database' },
  complaints: { query: 'sum(complaints)' },
  metrics: { service: { enabled: true } },
  rollout: {
    enabled: true,
    replicas: 2,
    router: { type: 'traefik', create: true },
    // biome-ignore lint/suspicious/noExplicitAny: whatever the plain file has
    ...(({ selector, template }: any) => ({ selector, template }))(readRollout('rollout').spec),
  },
};
const adopting: Values = {
  ...owning,
  rollout: { enabled: true, replicas: 2, router: { type: 'traefik', create: true }, deployment: 'billing' },
};
const rollout = (values: Values): Values => ({ rollout: values });
const canaryOf = (rendered: Rendered) => rendered.get('Rollout', 'billing').spec.strategy.canary;
const metricOf = (rendered: Rendered, name: string) =>
  (rendered.get('AnalysisTemplate', `guard-counterfoil-${name}`) as unknown as AnalysisTemplate).spec
    .metrics[0] as Metric;

describe.skipIf(inject('chartTools') === undefined)('the canary', () => {
  describe.each([
    ['rollout', owning],
    ['rollout-adopting', adopting],
  ] as const)('of an installation called counterfoil, %s', (form, values) => {
    const names = { release: 'counterfoil', namespace: 'counterfoil' };
    const [plain, traefikService] = withRouter(readRollout(form), 'traefik');
    const originals = [
      plain,
      traefikService as KubernetesObject,
      ...readServices(),
      ...templateNames.map(readTemplate),
    ];

    test.each(originals.map((original) => [original.kind, original.metadata.name, original] as const))(
      'is what rollouts/ holds: %s %s',
      async (kind, name, original) => {
        const made = (await render(values, names)).get(kind, name);
        expect(withoutMarks(made)).toEqual(withoutMarks(original));
      },
    );

    test('and nothing more', async () => {
      const rendered = await render(values, names);
      for (const kind of ['Rollout', 'AnalysisTemplate', 'TraefikService'])
        expect(rendered.all(kind)).toHaveLength(originals.filter((one) => one.kind === kind).length);
    });
  });

  test('is off by default, and then nothing of Argo is rendered', async () => {
    expect((await render(required)).text).not.toContain('argoproj.io/v1alpha1');
  });

  test('of another release says its own names, in queries, too', async () => {
    const rendered = await render(owning);
    const metric = metricOf(rendered, 'loss');
    expect(metric.provider.prometheus?.query).toContain(
      'namespace="shop",installation="guard-counterfoil",alertname="CounterfoilVersionLosesEvents"',
    );
    expect(metricOf(rendered, 'sample').provider.web?.url).toBe(
      'http://guard-counterfoil-exporter.shop:9464/gate?hash={{args.published-hash}}',
    );
    for (const template of rendered.all('AnalysisTemplate'))
      expect(JSON.stringify(template)).not.toContain('=\\"counterfoil');
  });

  test('stays when the release goes: pods of the service belong to it', async () => {
    const rendered = await render(owning);
    for (const object of [
      ...rendered.all('Rollout'),
      ...rendered.all('AnalysisTemplate'),
      rendered.get('Service', 'billing-stable'),
      rendered.get('Service', 'billing-canary'),
    ])
      expect(object.metadata.annotations?.['helm.sh/resource-policy']).toBe('keep');
    expect(rendered.get('Service', 'guard-counterfoil-exporter').metadata.annotations).toBeUndefined();
  });

  test('leaves to the controller what it writes: selectors, weights, and the replicas where they are scaled', async () => {
    const rendered = await render([owning, rollout({ autoscaled: true })]);
    expect(rendered.get('Service', 'billing-stable').spec).not.toHaveProperty('selector');
    expect(rendered.get('Rollout', 'billing').spec).not.toHaveProperty('replicas');
    expect(rendered.get('TraefikService', 'billing').metadata.annotations).toEqual({
      'helm.sh/hook': 'post-install,post-upgrade',
    });
    const own = await render([owning, rollout({ router: { create: false } })]);
    expect(own.all('TraefikService')).toEqual([]);
  });

  test('may be promoted unjudged by no window for rollbacks, and is aborted when it does not come up', async () => {
    const { spec } = (await render(owning)).get('Rollout', 'billing');
    expect(spec).not.toHaveProperty('rollbackWindow');
    expect(spec).toMatchObject({
      progressDeadlineAbort: true,
      strategy: { canary: { dynamicStableScale: false } },
    });
  });

  test('without a router has no stable Service, out of which the controller would take its pods', async () => {
    const rendered = await render([
      owning,
      rollout({ router: { type: 'none', create: false }, replicas: 100 }),
    ]);
    expect(canaryOf(rendered)).not.toHaveProperty('stableService');
    expect(canaryOf(rendered)).not.toHaveProperty('trafficRouting');
    expect(rendered.has('Service', 'billing-stable')).toBe(false);
    expect(rendered.has('Service', 'billing-canary')).toBe(true);
  });

  test('of a service whose events name no version is judged as the whole service, and by no sample', async () => {
    const canary = canaryOf(await render([owning, { service: { versions: false } }]));
    expect(canary.analysis.args).toContainEqual({ name: 'published-hash', value: 'unknown' });
    expect(canary.analysis.args).toContainEqual({
      name: 'canary-hash',
      valueFrom: { podTemplateHashValue: 'Latest' },
    });
    expect(JSON.stringify(canary.steps)).not.toContain('-sample');
    expect(JSON.stringify(canaryOf(await render(owning)).steps)).toContain('-sample');
  });

  describe('a condition', () => {
    const names = (canary: { analysis: { templates: { templateName: string }[] } }) =>
      canary.analysis.templates.map(({ templateName }) => templateName.replace('guard-counterfoil-', ''));

    test('is watched all the time, or only shown, or left out', async () => {
      const canary = canaryOf(
        await render([
          owning,
          rollout({ conditions: { loss: { mode: 'observe' }, crashes: { mode: 'ignore' } } }),
        ]),
      );
      expect(names(canary)).toEqual([
        'billing',
        'complaints',
        'loss',
        'service-metrics',
        'telemetry',
        'verdict',
      ]);
      expect(canary.analysis.dryRun).toEqual([{ metricName: '^loss$' }]);
    });

    test('that holds is a gate of each step, and not watched', async () => {
      const rendered = await render([owning, rollout({ conditions: { telemetry: { mode: 'hold' } } })]);
      const canary = canaryOf(rendered);
      expect(names(canary)).not.toContain('telemetry');
      expect(JSON.stringify(canary.steps).match(/guard-counterfoil-telemetry-hold/g)).toHaveLength(4);
      const metric = metricOf(rendered, 'telemetry-hold');
      expect(metricProblems(metric, true)).toEqual([]);
      expect(metric).toMatchObject({ count: 2_880, failureLimit: -1, consecutiveSuccessLimit: 3 });
      expect(metric).not.toHaveProperty('initialDelay');
    });

    test('on complaints is there with a source of them alone', async () => {
      expect(names(canaryOf(await render([owning, { complaints: { query: '' } }])))).not.toContain(
        'complaints',
      );
    });
  });

  test('asks Prometheus with a token and headers, of a Secret and never of a value', async () => {
    const rendered = await render([
      owning,
      rollout({
        prometheus: { token: { existingSecret: 'prometheus' }, headers: { 'X-Scope-OrgID': 'shop' } },
      }),
    ]);
    const template = rendered.get('AnalysisTemplate', 'guard-counterfoil-loss');
    expect(template.spec.metrics[0].provider.prometheus.headers).toEqual([
      { key: 'X-Scope-OrgID', value: 'shop' },
      { key: 'Authorization', value: 'Bearer {{args.prometheus-token}}' },
    ]);
    expect(template.spec.args).toContainEqual({
      name: 'prometheus-token',
      valueFrom: { secretKeyRef: { name: 'prometheus', key: 'token' } },
    });
  });

  test('looks back over the step and as long as it may be held', async () => {
    const steps = [
      { weight: 1, pause: '5m', gates: ['reconciliation'] },
      { weight: 100, pause: '2h', gates: ['reconciliation'] },
    ];
    const since = async (hold: string | null) => {
      const canary = canaryOf(
        await render([owning, rollout({ steps, gates: { reconciliation: { hold } } })]),
      );
      return canary.steps.flatMap((step: { analysis?: { args: { name: string; value?: string }[] } }) =>
        (step.analysis?.args ?? []).filter(({ name }) => name === 'since').map(({ value }) => value),
      );
    };
    expect(await since(null)).toEqual(['1445m', '1560m']);
    expect(await since('5m')).toEqual(['10m', '125m']);
  });

  describe('by the controller', () => {
    const verdict = new AnalysisVerdict(inject('chartTools')?.['analysis-verdict'] ?? 'true');
    afterAll(async () => await verdict.stop());

    const host = { host: 'billing.example.org', gateway: 'edge' };
    const modes = ['ignore', 'observe', 'hold', 'abort'];
    test.each<[string, Values]>([
      ...['nginx', 'traefik', 'istio', 'alb', 'gatewayAPI'].map((type): [string, Values] => [
        `router ${type}`,
        { router: { type, ...host } },
      ]),
      ['no router', { router: { type: 'none', create: false }, replicas: 100 }],
      ...modes.map((mode): [string, Values] => [
        `every condition in mode ${mode}`,
        {
          conditions: Object.fromEntries(
            ['loss', 'billing', 'crashes', 'complaints', 'verdict', 'telemetry'].map((name) => [
              name,
              { mode },
            ]),
          ),
        },
      ]),
      ...['hold', 'probe', 'fail'].map((quiet): [string, Values] => [
        `quiet: ${quiet}`,
        { gates: { quiet } },
      ]),
      ['gates that are observed', { gates: { observe: ['sample', 'errors', 'probe', 'reconciliation'] } }],
      ['windows of their own', { gates: { errors: { window: '30m' }, latency: { window: '2h' } } }],
      ['a token', { prometheus: { token: { existingSecret: 'prometheus' } } }],
    ])('is taken with %s, and no metric of it can be inconclusive', async (_what, values) => {
      const rendered = await render([owning, rollout(values)]);
      expect(await verdict.validate(rendered.objects)).toEqual([]);
      const watching = JSON.stringify(canaryOf(rendered).analysis ?? {});
      for (const template of rendered.all('AnalysisTemplate')) {
        const [metric] = template.spec.metrics as Metric[];
        const finite = !watching.includes(`"${template.metadata.name}"`);
        expect(metricProblems(metric as Metric, finite)).toEqual([]);
      }
    });

    const nothing = { suspected: 0, open: 0 };
    const right = { missing: 0, duplicate: 0, amount: null };
    const quiet = (change: object = {}, bill: object = {}): Answer => ({
      status: 200,
      body: {
        verdict: 'not_enough_data',
        notMeasured: [],
        events: { lost: 0 },
        billing: [{ findings: nothing, discrepancies: right, ...bill }],
        ...change,
      },
    });
    test.each<[string, Answer, 'Successful' | 'Failed']>([
      ['nothing bad', quiet(), 'Successful'],
      ['no bill yet', quiet({ billing: [] }), 'Successful'],
      ['enough', quiet({ verdict: 'pass' }), 'Successful'],
      ['one lost event', quiet({ events: { lost: 1 } }), 'Failed'],
      ['one wrong amount', quiet({}, { discrepancies: { ...right, amount: 1 } }), 'Failed'],
      ['one suspected finding', quiet({}, { findings: { ...nothing, suspected: 1 } }), 'Failed'],
      ['something that is not measured', quiet({ notMeasured: ['amounts'] }), 'Failed'],
      ['a fault', quiet({ verdict: 'fail' }), 'Failed'],
    ])(
      'a quiet canary goes on by the probe alone where nothing at all is bad: %s',
      async (_what, answer, phase) => {
        const loud = metricOf(await render(owning), 'sample');
        const metric = metricOf(await render([owning, rollout({ gates: { quiet: 'probe' } })]), 'sample');
        const args = { 'published-hash': 'a' };
        expect((await verdict.measure(metric, args, answer)).phase).toBe(phase);
        const passed = (answer as { body: { verdict: string } }).body.verdict === 'pass';
        expect((await verdict.measure(loud, args, answer)).phase).toBe(passed ? 'Successful' : 'Failed');
      },
    );

    test.each(['errors', 'latency'])(
      '%s without a result pass a quiet canary, bad ones do not',
      async (name) => {
        const metric = metricOf(await render([owning, rollout({ gates: { quiet: 'probe' } })]), name);
        const args = { 'canary-hash': 'a', 'errors-window': '1h', 'latency-window': '1h' };
        const phases = [];
        for (const vector of [[], ['0'], ['1']])
          phases.push((await verdict.measure(metric, args, { vector })).phase);
        expect(phases).toEqual(['Successful', 'Failed', 'Successful']);
      },
    );
  });
});

/** Without what Helm, the release and the version of the chart add to any object. */
function withoutMarks(object: object): unknown {
  return JSON.parse(JSON.stringify(object), (key, value: unknown) => {
    if (key !== 'labels' && key !== 'annotations' && key !== 'metadata') return value;
    if (typeof value !== 'object' || value === null) return value;
    const kept = Object.entries(value).filter(
      ([name]) => !/^(helm\.sh|app\.kubernetes\.io|checksum)\//.test(name),
    );
    return kept.length === 0 ? undefined : Object.fromEntries(kept);
  });
}
