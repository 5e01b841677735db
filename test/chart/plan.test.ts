/** What the plan asks of rollout, cadence, rollback and environments, in what the examples render; and the table that says so. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, inject, test } from 'vitest';
import { exporterSettings } from '../../jobs/exporter/env.ts';
import { readSettings } from '../../jobs/runtime/config.ts';
import { runtimeSettings } from '../../jobs/runtime/env.ts';
import { environmentOf } from './pods.ts';
import { chartFolder, type Rendered, render } from './render.ts';

const example = async (name: string) =>
  await render(join(chartFolder, 'examples', `${name}.yaml`), {
    release: 'counterfoil',
    namespace: 'billing',
  });

interface Step {
  readonly setWeight?: number;
  readonly pause?: { readonly duration: string };
  readonly analysis?: { readonly templates: readonly { readonly templateName: string }[] };
}
const canaryOf = (rendered: Rendered) => rendered.get('Rollout', 'billing').spec.strategy.canary;
const namesOf = (analysis: Step['analysis']) =>
  (analysis?.templates ?? []).map(({ templateName }) => templateName.replace('counterfoil-', ''));
/** Weight and time of each step. */
const times = (steps: readonly Step[]) =>
  steps.flatMap(({ setWeight, pause }) => setWeight ?? pause?.duration ?? []);

interface Rule {
  readonly alert?: string;
  readonly record?: string;
  readonly expr: string;
  readonly for?: string;
}
const rulesOf = (rendered: Rendered): Rule[] =>
  rendered
    .all('PrometheusRule')
    .flatMap(({ spec }) => spec.groups.flatMap(({ rules }: { rules: Rule[] }) => rules));
const seconds = (duration: string) => Number.parseInt(duration, 10) * (duration.endsWith('m') ? 60 : 1);

describe.skipIf(inject('chartTools') === undefined)('production', () => {
  test('goes 1 % for 2 h, 10 % for 4 h, 50 % for 8 h, with the checks of the plan at the end of each step', async () => {
    const { steps } = canaryOf(await example('production')) as { steps: Step[] };
    expect(times(steps).slice(0, 6)).toEqual([1, '2h', 10, '4h', 50, '8h']);
    expect(times(steps)[6]).toBe(100);
    const gates = steps.flatMap(({ analysis }) => (analysis === undefined ? [] : [namesOf(analysis)]));
    expect(gates).toHaveLength(4);
    for (const names of gates)
      expect(names).toEqual(expect.arrayContaining(['sample', 'errors', 'probe', 'reconciliation']));
    for (const names of gates.slice(2)) expect(names).toContain('latency');
  });

  test('looks for errors and losses at least every 15 minutes, at bills each hour, and walks the flow every four hours', async () => {
    const rendered = await example('production');
    const { spec } = rendered.get('Deployment', 'counterfoil-exporter');
    const told = environmentOf(spec.template.spec);
    const exporter = readSettings(
      { ...runtimeSettings, ...exporterSettings },
      { ...told, DATABASE_URL: 'postgresql://somebody@database/service', CF_POD_NAME: 'pod' },
    );
    for (const interval of [exporter.CF_EVENTS_INTERVAL_SECONDS, exporter.CF_HOT_CHECK_INTERVAL_SECONDS])
      expect(interval).toBeLessThanOrEqual(900_000);
    for (const { spec: monitor } of rendered.all('PodMonitor'))
      for (const { interval } of monitor.podMetricsEndpoints)
        expect(seconds(interval)).toBeLessThanOrEqual(900);
    const groups = rendered
      .all('PrometheusRule')
      .flatMap((rule) => rule.spec.groups as { name: string; interval?: string }[]);
    for (const name of ['counterfoil-events', 'counterfoil-service'])
      expect(seconds(groups.find((group) => group.name === name)?.interval ?? '1m')).toBeLessThanOrEqual(900);
    const schedule = (job: string) => rendered.get('CronJob', `counterfoil-${job}`).spec.schedule;
    expect(schedule('billing-reconciliation-incremental')).toMatch(/^\d+ \* \* \* \*$/);
    expect(schedule('flow-probe')).toMatch(/^\d+ \*\/4 \* \* \*$/);
  });

  test('rolls back for losses above 0.5 % for 5 min, wrong bills above 1 % for 1 min, more than 10 complaints and 2 crashes a day', async () => {
    const rendered = await example('production');
    const rules = rulesOf(rendered);
    const threshold = (name: string) =>
      rules.find(({ record }) => record === `installation:${name}:threshold`)?.expr;
    expect(threshold('event_loss_ratio')).toBe('vector(0.005)');
    expect(threshold('billing_error_ratio')).toBe('vector(0.01)');
    expect(threshold('complaints_per_day')).toBe('vector(10)');
    expect(threshold('restarts_per_day')).toBe('vector(2)');
    const lasts = (name: string) => rules.find(({ alert }) => alert === name)?.for;
    expect(lasts('CounterfoilVersionLosesEvents')).toBe('5m');
    expect(lasts('CounterfoilVersionBillsWrong')).toBe('1m');
    const { analysis } = canaryOf(rendered);
    expect(namesOf(analysis)).toEqual(expect.arrayContaining(['loss', 'billing', 'complaints', 'crashes']));
    // None of them only shows its verdict.
    expect(analysis).not.toHaveProperty('dryRun');
    for (const name of ['loss', 'billing', 'complaints', 'crashes']) {
      const [metric] = rendered.get('AnalysisTemplate', `counterfoil-${name}`).spec.metrics;
      expect([name, metric.failureLimit ?? 0]).toEqual([name, 0]);
      expect(metric.failureCondition).toBeDefined();
    }
  });

  test('and staging are guarded alike, by times, names of alerts and places of their own', async () => {
    const [staging, production] = await Promise.all([example('staging'), example('production')]);
    const components = (rendered: Rendered) =>
      new Set(rendered.all('NetworkPolicy').map(({ metadata }) => metadata.name));
    for (const component of ['billing-reconciliation', 'event-replay', 'flow-probe', 'exporter'])
      for (const rendered of [staging, production])
        expect(components(rendered).has(`counterfoil-${component}`)).toBe(true);
    expect(namesOf(canaryOf(staging).analysis)).toEqual(
      expect.arrayContaining(['loss', 'billing', 'crashes']),
    );
    const short = times(canaryOf(staging).steps);
    const long = times(canaryOf(production).steps);
    const weights = (all: readonly (number | string)[]) => all.filter((one) => typeof one === 'number');
    expect(weights(short)).toEqual(weights(long));
    expect(short).not.toEqual(long);
    const labels = (rendered: Rendered) =>
      rendered.all('PrometheusRule').find(({ metadata }) => metadata.name === 'counterfoil-billing')?.spec
        .groups;
    expect(JSON.stringify(labels(staging))).toContain('"environment":"staging"');
    expect(JSON.stringify(labels(production))).not.toContain('"environment":"staging"');
  });
});

/** `file` and title of each test that a table of Markdown names. */
function testsNamed(markdown: string): [file: string, title: string][] {
  return [...markdown.matchAll(/`((?:test|jobs)\/[\w./-]+\.test\.ts)`: "([^"]+)"/g)].map(
    ([, file = '', title = '']) => [file, title],
  );
}

describe('the table of what the plan asks', () => {
  const root = fileURLToPath(new URL('../..', import.meta.url));
  const missing = (markdown: string) =>
    testsNamed(markdown).filter(([file, title]) => !readFileSync(join(root, file), 'utf8').includes(title));

  test('names tests that are there', () => {
    const readme = readFileSync(join(chartFolder, 'README.md'), 'utf8');
    const rows = [...readme.matchAll(/^\| (S\d+) \|/gm)].map(([, row]) => row);
    expect(rows).toEqual(['S12', 'S13', 'S14', 'S21']);
    expect(testsNamed(readme).length).toBeGreaterThanOrEqual(rows.length);
    expect(missing(readme)).toEqual([]);
  });

  test('would be wrong with a title that no test has', () => {
    const file = 'test/chart/plan.test.ts';
    expect(missing(`| S12 | x | \`${file}\`: "names tests that are there" |`)).toEqual([]);
    expect(missing(`| S12 | x | \`${file}\`: "${['no such', 'test'].join(' ')}" |`)).toHaveLength(1);
  });
});
