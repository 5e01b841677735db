/** From series to pages: which alerts fire in an incident (promtool), and how many of them wake somebody (Alertmanager). */
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterEach, describe, expect, inject, test } from 'vitest';
import { type Labels, type RunningAlertmanager, startAlertmanager } from './alertmanager.ts';
import { type Firing, type Incident, incidents } from './incidents.ts';
import { alertmanagerConfig, inhibitRules, matches } from './inhibition.ts';
import { PASSED } from './passed.ts';
import { promtoolTest } from './promtool.ts';
import { readRules, ruleFiles, rulesFolder } from './rule-files.ts';

const tools = inject('alertTools');
const rules = ruleFiles().map((file) => join(rulesFolder, file));

const labelsOf = ([alertname, severity]: Firing, installation = 'counterfoil'): Labels => ({
  alertname,
  severity,
  namespace: 'counterfoil',
  installation,
});

test('no two alerts inhibit each other, in however many steps', () => {
  const alerts = readRules().flatMap(({ alert, labels }) =>
    alert === undefined ? [] : [{ alertname: alert, severity: labels?.severity ?? '' }],
  );
  expect(cyclesOf(alerts, inhibitRules())).toEqual([]);
  const mutual = [
    { source_matchers: ['alertname = A'], target_matchers: ['alertname = B'], equal: [] },
    { source_matchers: ['alertname = B'], target_matchers: ['alertname = A'], equal: [] },
  ];
  expect(cyclesOf([{ alertname: 'A' }, { alertname: 'B' }], mutual)).not.toEqual([]);
});

test('every alert that an inhibition rule names is there', () => {
  const there = new Set(readRules().map(({ alert }) => alert ?? ''));
  const named = inhibitRules()
    .flatMap(({ source_matchers: source, target_matchers: target }) => [...source, ...target])
    .flatMap((matcher) => [
      ...matcher.matchAll(/\b((?:Counterfoil|Billing|Event|Application)\w+)(?![\w.*])/g),
    ])
    .map(([name]) => name);
  expect(named.length).toBeGreaterThan(20);
  expect(named.filter((name) => !there.has(name))).toEqual([]);
});

test('the object for the operator says the same', async () => {
  await expect(alertmanagerConfig(inhibitRules())).toMatchFileSnapshot(
    join(rulesFolder, 'inhibition.alertmanagerconfig.yaml'),
  );
});

describe.skipIf(tools === undefined)('in an incident', () => {
  test('exactly the alerts fire that are expected', async () => {
    const answer = await promtoolTest(
      tools?.promtool ?? '',
      rules,
      incidents.map(({ name, series, stages }) => ({
        name,
        interval: '15s',
        input_series: Object.entries(series).map(([key, values]) => ({ series: key, values })),
        promql_expr_test: stages.map(({ at, firing }) => ({
          expr: 'count by (alertname, severity) (ALERTS{alertstate="firing"}) > bool 0',
          eval_time: at,
          exp_samples: firing.map(([alertname, severity]) => ({
            labels: `{alertname="${alertname}",severity="${severity}"}`,
            value: 1,
          })),
        })),
      })),
    );
    expect(answer).toEqual(PASSED);
  });

  let alertmanager: RunningAlertmanager;
  afterEach(async () => {
    await alertmanager?.stop();
  });

  /** Long enough for group_wait and a flush; what comes later would be a second page. */
  const settle = async () => await delay(3_500);

  test.each(incidents)('$name', async ({ stages, pages }: Incident) => {
    alertmanager = await startAlertmanager(tools?.alertmanager ?? '', inhibitRules());
    for (const { firing } of stages) {
      await alertmanager.fire(firing.map((one) => labelsOf(one)));
      await settle();
    }
    expect(alertmanager.pages.map(({ alertname }) => alertname)).toEqual(pages);
    expect(alertmanager.pages.length).toBeLessThanOrEqual(1);
  });

  test('without the inhibition rules the same incident pages again and again', async () => {
    const bad = incidents.find(({ name }) => name.startsWith('a bad version is in production'));
    alertmanager = await startAlertmanager(tools?.alertmanager ?? '', []);
    for (const { firing } of bad?.stages ?? []) {
      await alertmanager.fire(firing.map((one) => labelsOf(one)));
      await settle();
    }
    expect(alertmanager.pages.length).toBe(5);
  });

  test('an incident of one installation keeps no other one quiet', async () => {
    alertmanager = await startAlertmanager(tools?.alertmanager ?? '', inhibitRules());
    await alertmanager.fire([
      labelsOf(['CounterfoilExporterDown', 'critical']),
      labelsOf(['BillingDiscrepancy', 'critical']),
      labelsOf(['BillingDiscrepancy', 'critical'], 'other'),
    ]);
    await settle();
    expect(
      alertmanager.pages.map(({ alertname, installation }) => `${alertname} of ${installation}`).sort(),
    ).toEqual(['BillingDiscrepancy of other', 'CounterfoilExporterDown of counterfoil']);
  });
});

/** Alerts that reach themselves over the inhibition rules. */
function cyclesOf(alerts: readonly Labels[], rules: ReturnType<typeof inhibitRules>): Labels[] {
  const inhibitedBy = (source: Labels) =>
    alerts.filter((target) =>
      rules.some(
        (rule) =>
          rule.source_matchers.every((matcher) => matches(matcher, source)) &&
          rule.target_matchers.every((matcher) => matches(matcher, target)) &&
          rule.equal.every((label) => source[label] === target[label]),
      ),
    );
  return alerts.filter((start) => {
    const reached = new Set<Labels>();
    const next = inhibitedBy(start);
    for (let alert = next.pop(); alert !== undefined; alert = next.pop()) {
      if (alert === start) return true;
      if (!reached.has(alert)) next.push(...inhibitedBy(alert));
      reached.add(alert);
    }
    return false;
  });
}
