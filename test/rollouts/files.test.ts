/** The files of rollouts/, as they stand, and the controller that takes them. */
import { afterAll, describe, expect, inject, test } from 'vitest';
import { AnalysisVerdict } from './analysis-verdict.ts';
import { metricProblems } from './metric-rules.ts';
import {
  type AnalysisTemplate,
  forms,
  type Metric,
  type Rollout,
  readMetric,
  readRollout,
  readServices,
  readTemplate,
  routers,
  templateNames,
  withRouter,
} from './rollout-files.ts';

/** What is different; undefined: left out. */
type Change = { readonly [Field in keyof Metric]?: Metric[Field] | undefined };

const watching = (rollout: Rollout) => namesIn(rollout.spec.strategy.canary.analysis.templates);
const gates = (rollout: Rollout) =>
  rollout.spec.strategy.canary.steps.flatMap(({ analysis }) => namesIn(analysis?.templates ?? []));
const namesIn = (templates: readonly { readonly templateName: string }[]) =>
  templates.map(({ templateName }) => templateName.replace(/^counterfoil-/, ''));

describe('the steps', () => {
  test.each(forms)(
    '%s: 1 % for 2 h, 10 % for 4 h, 50 % for 8 h, and a soak at 100 % that is judged',
    (form) => {
      const { steps } = readRollout(form).spec.strategy.canary;
      expect(steps.flatMap(({ setWeight, pause }) => setWeight ?? pause?.duration ?? [])).toEqual([
        ...[1, '2h', 10, '4h', 50, '8h', 100, '30m'],
      ]);
      const order = steps.map((step) => Object.keys(step)[0]);
      expect(order).toEqual(Array.from({ length: 4 }, () => ['setWeight', 'pause', 'analysis']).flat());
    },
  );

  test('each has its gates, and from 50 % on the latency, too', () => {
    const { steps } = readRollout('rollout').spec.strategy.canary;
    const every = ['sample', 'errors', 'probe', 'reconciliation'];
    const late = ['sample', 'errors', 'latency', 'probe', 'reconciliation'];
    expect(
      steps.flatMap(({ analysis }) => (analysis === undefined ? [] : [namesIn(analysis.templates)])),
    ).toEqual([every, every, late, late]);
  });

  test('both forms are judged alike', () => {
    expect(readRollout('rollout-adopting').spec.strategy).toEqual(readRollout('rollout').spec.strategy);
  });

  test('every template is used, and none is missing', () => {
    const rollout = readRollout('rollout');
    expect([...new Set([...watching(rollout), ...gates(rollout)])].sort()).toEqual(templateNames);
  });
});

describe('each metric', () => {
  const background = new Set(watching(readRollout('rollout')));

  test.each(templateNames)('%s can fail and cannot be inconclusive', (name) => {
    expect(readTemplate(name).metadata.name).toBe(`counterfoil-${name}`);
    expect(readMetric(name).name).toBe(name);
    expect(metricProblems(readMetric(name), !background.has(name))).toEqual([]);
  });

  const sound = readMetric('errors');
  const broken: readonly [string, Change, boolean][] = [
    ['0 conditions', { successCondition: undefined }, true],
    ['2 conditions', { failureCondition: 'len(result) == 0' }, true],
    ['its name is too long', { name: 'errors-of-the-canary-now' }, true],
    ['left to Argo', { consecutiveErrorLimit: undefined }, true],
    ['runs for ever', { count: undefined }, true],
    ['watches no more', {}, false],
    ['can be inconclusive', { failureLimit: 0 }, true],
    ['cannot end', { consecutiveSuccessLimit: undefined }, true],
    ['cannot fail', { failureLimit: 1, count: 1, consecutiveSuccessLimit: undefined }, true],
    ['cannot succeed', { count: 2 }, true],
    ['no interval', { interval: undefined }, true],
    ['tolerates failures', { failureLimit: 2, consecutiveSuccessLimit: undefined }, true],
    ['does not say what becomes of an empty answer', { successCondition: 'result[0] == 1' }, true],
  ];
  test.each(broken)('that is broken is told: %s', (problem, change, finite) => {
    const metric = { ...sound, ...change } as Metric;
    expect(metricProblems(metric, finite).join()).toContain(problem);
  });
});

const tools = inject('rolloutTools');

describe.skipIf(tools === undefined)('the controller', () => {
  const verdict = new AnalysisVerdict(tools?.['analysis-verdict'] ?? 'true');
  afterAll(async () => await verdict.stop());
  const templates = templateNames.map(readTemplate);

  describe.each(forms)('%s', (form) => {
    test.each(routers)('is taken with the router %s', async (router) => {
      const objects = [...withRouter(readRollout(form), router), ...readServices(), ...templates];
      expect(await verdict.validate(objects)).toEqual([]);
    });
  });

  test.each<[string, (template: AnalysisTemplate) => AnalysisTemplate | undefined]>([
    ['which is not there', () => undefined],
    ['unknown field', (template) => withMetric(template, { failureLimits: 1 } as Change)],
    ['runs indefinitely', (template) => withMetric(template, { count: undefined })],
    ['cannot both be disabled', (template) => withMetric(template, { consecutiveSuccessLimit: 0 })],
  ])('is not taken: %s', async (problem, change) => {
    const objects = [
      ...withRouter(readRollout('rollout'), 'traefik'),
      ...readServices(),
      ...templates.flatMap((template) =>
        template.metadata.name === 'counterfoil-errors' ? (change(template) ?? []) : template,
      ),
    ];
    expect((await verdict.validate(objects)).join()).toContain(problem);
  });

  test('is not taken: an Ingress that leads elsewhere', async () => {
    const [rollout, ...objects] = withRouter(readRollout('rollout'), 'nginx');
    const astray = JSON.parse(
      JSON.stringify(objects).replaceAll('billing-stable', 'billing'),
    ) as typeof objects;
    expect((await verdict.validate([rollout, ...astray, ...readServices(), ...templates])).join()).toContain(
      'has no rules using service billing-stable',
    );
  });
});

const withMetric = (template: AnalysisTemplate, change: Change): AnalysisTemplate => ({
  ...template,
  spec: {
    ...template.spec,
    metrics: template.spec.metrics.map((metric) => ({ ...metric, ...change }) as Metric),
  },
});
