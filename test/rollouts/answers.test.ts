/**
 * What the conditions make of the answers of a real Prometheus, measured by Argo's own provider: healthy, sick, and all the
 * ways in which there is nothing to see. Each scene is an installation with a namespace of its own.
 */
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';
import { AnalysisVerdict, type Phase } from './analysis-verdict.ts';
import { type RunningPrometheus, type Series, startPrometheusWith } from './prometheus-with.ts';
import { type Metric, readMetric, readTemplate } from './rollout-files.ts';

const CANARY = '6d5f7c9b8';
const OTHER = 'stable999';
const always = (value: number) => () => value;
/** As long as it was there until so many seconds ago. */
const until = (secondsAgo: number, value: number) => (ago: number) => (ago >= secondsAgo ? value : undefined);
/** A counter that goes up by so much in the last half hour. */
const risingBy = (total: number) => (ago: number) =>
  1_000 + (total * Math.max(0, 1_800 - Math.max(ago, 0))) / 1_800;

interface Scene {
  readonly template: string;
  readonly seen: string;
  readonly phase: Phase;
  readonly series: readonly (readonly [metric: string, labels: Labels, valueAt: Series[1]])[];
}
type Labels = Readonly<Record<string, string>>;

const firing = (alertname: string, labels: Labels = { published_hash: CANARY }, alertstate = 'firing') =>
  ['ALERTS', { alertname, alertstate, ...labels }, always(1)] as const;

const alerts: readonly Scene[] = [
  ['loss', 'CounterfoilVersionLosesEvents'],
  ['billing', 'CounterfoilVersionBillsWrong'],
  ['crashes', 'CounterfoilVersionCrashes'],
].flatMap(([template = '', alert = '']): Scene[] => [
  { template, seen: 'nothing at all: telemetry has to tell', phase: 'Successful', series: [] },
  { template, seen: 'its alert fires', phase: 'Failed', series: [firing(alert)] },
  {
    template,
    seen: 'its alert fires twice, at two severities',
    phase: 'Failed',
    series: [
      firing(alert, { published_hash: CANARY, severity: 'warning' }),
      firing(alert, { published_hash: CANARY, severity: 'critical' }),
    ],
  },
  {
    template,
    seen: 'its alert is only pending',
    phase: 'Successful',
    series: [firing(alert, { published_hash: CANARY }, 'pending')],
  },
  {
    template,
    seen: 'its alert fires for another version',
    phase: 'Successful',
    series: [firing(alert, { published_hash: OTHER })],
  },
  { template, seen: 'another alert fires', phase: 'Successful', series: [firing('EventLossRateHigh')] },
  {
    template,
    seen: 'its alert of another installation fires',
    phase: 'Successful',
    series: [firing(alert, { published_hash: CANARY, installation: 'next-door' })],
  },
  {
    template,
    seen: 'its alert fired until ten minutes ago',
    phase: 'Successful',
    series: [['ALERTS', { alertname: alert, alertstate: 'firing', published_hash: CANARY }, until(600, 1)]],
  },
]);

const measured = ['installation:complaints_per_day:value', {}, always(2)] as const;
const complaints: readonly Scene[] = [
  { seen: 'nobody measures them', phase: 'Successful' as const, series: [] },
  { seen: 'few', phase: 'Successful' as const, series: [measured] },
  {
    seen: 'the value is NaN',
    phase: 'Successful' as const,
    series: [[measured[0], {}, always(Number.NaN)] as const],
  },
  { seen: 'many', phase: 'Failed' as const, series: [measured, firing('CounterfoilComplaints', {})] },
  {
    seen: 'many, and the source has gone',
    phase: 'Failed' as const,
    series: [firing('CounterfoilComplaints', {})],
  },
].map((scene) => ({ template: 'complaints', ...scene }));

/** Not from 270 s ago until now. */
const away = (valueAt: Series[1]) => (ago: number) =>
  ago > 270 || ago < -AWAY_ENDS ? valueAt(ago) : undefined;
/** The tests end before it is back: what they see is the hole. */
const AWAY_ENDS = 600;

const seconds = (ago: number) => Math.floor(Date.now() / 1000) - ago;
const presence = {
  facts: ['version:hot_facts:sum', { published_hash: 'unknown' }, always(0)],
  events: ['version:hot_events:max', { published_hash: 'unknown' }, always(0)],
  restarts: ['version:application_restarts:max', { published_hash: CANARY }, always(0)],
  loss: ['installation:event_loss_ratio:threshold', {}, always(0.005)],
  billing: ['installation:billing_error_ratio:threshold', {}, always(0.01)],
  bad: ['installation:ratio_bad_minimum:threshold', {}, always(3)],
  judged: ['installation:ratio_judged_minimum:threshold', {}, always(400)],
  day: ['installation:restarts_per_day:threshold', {}, always(2)],
  age: ['installation:collection_age_seconds:threshold', {}, always(180)],
  measured: ['counterfoil_hot_versions_measured', {}, always(1)],
  collected: ['counterfoil_collection_timestamp_seconds', { collection: 'hot_check' }, seconds],
} as const satisfies Readonly<Record<string, Scene['series'][number]>>;
const whole = Object.entries(presence);
const gone = (name: string) => whole.filter(([key]) => key !== name).map(([, series]) => series);

const telemetry: readonly Scene[] = [
  { seen: 'all is there', phase: 'Successful' as const, series: gone('nothing') },
  { seen: 'nothing at all', phase: 'Failed' as const, series: [] },
  ...whole.map(([name, [metric]]) => ({
    seen: `no ${metric}`,
    phase: 'Failed' as const,
    series: gone(name),
  })),
  {
    seen: 'events that name no version',
    phase: 'Failed' as const,
    series: [...gone('measured'), ['counterfoil_hot_versions_measured', {}, always(0)] as const],
  },
  {
    seen: 'a Prometheus that was away for four minutes and is back for ten seconds',
    phase: 'Successful' as const,
    series: whole.map(([, [metric, labels, valueAt]]) => [metric, labels, away(valueAt)] as const),
  },
  {
    seen: 'an exporter that was away as long, and a Prometheus that was not',
    phase: 'Failed' as const,
    series: [
      ...gone('collected'),
      [
        'counterfoil_collection_timestamp_seconds',
        { collection: 'hot_check' },
        until(270, seconds(270)),
      ] as const,
    ],
  },
  {
    seen: 'rules that have been gone for a quarter of an hour',
    phase: 'Failed' as const,
    series: whole.map(
      ([, [metric, labels, valueAt]]) =>
        [metric, labels, (ago: number) => (ago > 900 ? valueAt(ago) : undefined)] as const,
    ),
  },
  {
    seen: 'the rules stopped four minutes ago',
    phase: 'Failed' as const,
    series: [
      ...gone('facts'),
      ['version:hot_facts:sum', { published_hash: 'unknown' }, until(240, 0)] as const,
    ],
  },
  {
    seen: 'a scrape was missed a minute ago',
    phase: 'Successful' as const,
    series: [
      ...gone('facts'),
      [
        'version:hot_facts:sum',
        { published_hash: 'unknown' },
        (ago: number) => (ago > 60 ? 0 : undefined),
      ] as const,
    ],
  },
  {
    seen: 'the hot check does not come round',
    phase: 'Failed' as const,
    series: [
      ...gone('collected'),
      [
        'counterfoil_collection_timestamp_seconds',
        { collection: 'hot_check' },
        always(seconds(600)),
      ] as const,
    ],
  },
  {
    seen: 'the pods of another version alone',
    phase: 'Failed' as const,
    series: [
      ...gone('restarts'),
      ['version:application_restarts:max', { published_hash: OTHER }, always(0)] as const,
    ],
  },
  {
    seen: 'two exporters, one of which hangs',
    phase: 'Successful' as const,
    series: [
      ...gone('nothing'),
      [
        'counterfoil_collection_timestamp_seconds',
        { collection: 'hot_check', pod: 'hangs' },
        always(seconds(600)),
      ] as const,
    ],
  },
].map((scene) => ({ template: 'telemetry', ...scene }));

const info = (labels: Labels, valueAt: Series[1] = always(1)) =>
  ['counterfoil_service_info', labels, valueAt] as const;
const serviceMetrics: readonly Scene[] = [
  { seen: 'nothing at all', phase: 'Failed' as const, series: [] },
  {
    seen: 'two pods',
    phase: 'Successful' as const,
    series: [
      info({ pod: 'a', rollouts_pod_template_hash: CANARY }),
      info({ pod: 'b', rollouts_pod_template_hash: CANARY }),
    ],
  },
  {
    seen: 'pods of the stable version alone',
    phase: 'Failed' as const,
    series: [info({ pod: 'a', rollouts_pod_template_hash: OTHER })],
  },
  { seen: 'pods without the label of their version', phase: 'Failed' as const, series: [info({ pod: 'a' })] },
  {
    seen: 'a pod until four minutes ago',
    phase: 'Failed' as const,
    series: [info({ pod: 'a', rollouts_pod_template_hash: CANARY }, until(240, 1))],
  },
].map((scene) => ({ template: 'service-metrics', ...scene }));

const limits = [
  presence.bad,
  ['installation:event_loss_accepted_ratio:threshold', {}, always(0.001)] as const,
  ['installation:event_duration_seconds:threshold', {}, always(0.5)] as const,
];
const ofPod = { rollouts_pod_template_hash: CANARY, pod: 'a' };
const runs = (succeeded: number, failed: number, publish = 0): Scene['series'] => [
  ['counterfoil_listener_runs_total', { ...ofPod, outcome: 'succeeded' }, risingBy(succeeded)],
  ['counterfoil_listener_runs_total', { ...ofPod, outcome: 'failed' }, risingBy(failed)],
  ['event_publish_error_total', ofPod, risingBy(publish)],
];
const errors: readonly Scene[] = [
  { seen: 'nothing at all', phase: 'Failed' as const, series: [] },
  { seen: 'no traffic: 0/0', phase: 'Failed' as const, series: [...limits, ...runs(0, 0)] },
  { seen: 'none of 2,000 fails', phase: 'Successful' as const, series: [...limits, ...runs(2_000, 0)] },
  {
    seen: '2 of 100 fail: too few to be a share',
    phase: 'Successful' as const,
    series: [...limits, ...runs(98, 2)],
  },
  { seen: '3 of 100 fail', phase: 'Failed' as const, series: [...limits, ...runs(97, 3)] },
  {
    seen: '5 of 10,000 fail: within what is accepted',
    phase: 'Successful' as const,
    series: [...limits, ...runs(9_995, 5)],
  },
  { seen: '20 of 10,000 fail', phase: 'Failed' as const, series: [...limits, ...runs(9_980, 20)] },
  {
    seen: 'publishing fails 20 times',
    phase: 'Failed' as const,
    series: [...limits, ...runs(10_000, 0, 20)],
  },
  { seen: 'no thresholds', phase: 'Failed' as const, series: runs(2_000, 0) },
  { seen: 'one threshold of two', phase: 'Failed' as const, series: [presence.bad, ...runs(2_000, 0)] },
  {
    seen: 'only the stable version works',
    phase: 'Failed' as const,
    series: [
      ...limits,
      [
        'counterfoil_listener_runs_total',
        { pod: 'b', outcome: 'succeeded', rollouts_pod_template_hash: OTHER },
        risingBy(2_000),
      ] as const,
    ],
  },
].map((scene) => ({ template: 'errors', ...scene }));

const durations = (fast: number, slow: number): Scene['series'] => [
  ...(['0.1', '0.5'] as const).map(
    (le) => ['event_duration_seconds_bucket', { ...ofPod, le }, risingBy(fast)] as const,
  ),
  ...(['1', '+Inf'] as const).map(
    (le) => ['event_duration_seconds_bucket', { ...ofPod, le }, risingBy(fast + slow)] as const,
  ),
  ['event_duration_seconds_count', ofPod, risingBy(fast + slow)],
];
const latency: readonly Scene[] = [
  { seen: 'nothing at all', phase: 'Failed' as const, series: [] },
  { seen: 'no traffic: NaN', phase: 'Failed' as const, series: [...limits, ...durations(0, 0)] },
  {
    seen: '96 of 100 within the threshold',
    phase: 'Successful' as const,
    series: [...limits, ...durations(960, 40)],
  },
  {
    seen: '90 of 100 within the threshold',
    phase: 'Failed' as const,
    series: [...limits, ...durations(900, 100)],
  },
  { seen: 'no threshold', phase: 'Failed' as const, series: durations(960, 40) },
].map((scene) => ({ template: 'latency', ...scene }));

const scenes = [...alerts, ...complaints, ...telemetry, ...serviceMetrics, ...errors, ...latency];
const namespaceOf = (scene: Scene) => `scene-${scenes.indexOf(scene)}`;

const tools = inject('rolloutTools');

describe.skipIf(tools === undefined)('of a real Prometheus', () => {
  let prometheus: RunningPrometheus;
  const verdict = new AnalysisVerdict(tools?.['analysis-verdict'] ?? 'true');
  beforeAll(async () => {
    if (tools === undefined) return;
    prometheus = await startPrometheusWith(
      tools,
      scenes.flatMap((scene) =>
        scene.series.map(([metric, labels, valueAt]): Series => {
          const all: Labels = { namespace: namespaceOf(scene), ...installed(metric), ...labels };
          const text = Object.entries(all).map(([name, value]) => `${name}="${value}"`);
          return [`${metric}{${text.join(',')}}`, valueAt];
        }),
      ),
    );
  });
  afterAll(async () => {
    await verdict.stop();
    await prometheus?.stop();
  });

  test.each(scenes)('$template, $seen: $phase', async (scene) => {
    const { phase, message, value } = await verdict.measure(
      asked(scene.template, prometheus.url, namespaceOf(scene)),
      argumentsOf(scene.template),
    );
    expect({ phase, message, value }).toEqual({ phase: scene.phase, message: '', value });
  });

  test('a query that is wrong is an error, and no verdict', async () => {
    const metric = asked('loss', prometheus.url, 'counterfoil');
    const broken = { ...metric, provider: { prometheus: { address: prometheus.url, query: 'count(' } } };
    expect(await verdict.measure(broken, argumentsOf('loss'))).toMatchObject({ phase: 'Error' });
  });

  test('and none of one that is away', async () => {
    const metric = asked('loss', 'http://127.0.0.1:1', 'counterfoil');
    expect(await verdict.measure(metric, argumentsOf('loss'))).toMatchObject({ phase: 'Error' });
  });
});

/** The service's own metrics carry no installation. */
const installed = (metric: string): Labels =>
  /^(event_|counterfoil_(listener|service)_)/.test(metric) ? {} : { installation: 'counterfoil' };

const argumentsOf = (template: string): Labels => ({
  ...Object.fromEntries(
    (readTemplate(template).spec.args ?? []).map(({ name, value = CANARY }) => [name, value]),
  ),
});

/** As the chart does it: the address and the literal namespace are another one. */
function asked(template: string, address: string, namespace: string): Metric {
  const metric = readMetric(template);
  const query = metric.provider.prometheus?.query.replaceAll(
    'namespace="counterfoil"',
    `namespace="${namespace}"`,
  );
  return { ...metric, provider: { prometheus: { address, query: query ?? '' } } };
}
