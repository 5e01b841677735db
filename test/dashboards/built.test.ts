import { readdirSync, readFileSync } from 'node:fs';
import { Registry } from 'prom-client';
import { expect, test } from 'vitest';
import { parse as parseYaml } from 'yaml';
import { dashboards, textOf } from '../../dashboards/all.ts';
import { names, uidOf } from '../../dashboards/frame.ts';
import { digitsOfCurrency } from '../../dashboards/money.ts';
import { metrics } from '../../jobs/exporter/metrics.ts';
import type { BuiltDashboard, BuiltPanel } from './ask.ts';
import { type Day, goodDay, incident, worst } from './days.ts';
import { type Declared, dashboardProblems } from './rules.ts';

const file = (path: string) => readFileSync(new URL(`../../${path}`, import.meta.url), 'utf8');
const built = (name: string) => JSON.parse(file(`dashboards/built/${name}.json`)) as BuiltDashboard;
const allNames = Object.keys(names) as (keyof typeof names)[];

interface Rule {
  readonly record?: string;
  readonly alert?: string;
  readonly labels?: Readonly<Record<string, string>>;
}
const rules = readdirSync(new URL('../../alerts', import.meta.url))
  .filter((name) => name.endsWith('.yaml') && !name.endsWith('.test.yaml'))
  .flatMap((name) => (parseYaml(file(`alerts/${name}`)) as { groups?: { rules: Rule[] }[] }).groups ?? [])
  .flatMap((group) => group.rules);

function declared(): Declared {
  const own = new Map<string, readonly string[]>(
    Object.entries(metrics).map(([name, { labels }]) => [name, labels]),
  );
  for (const { record, labels } of rules)
    if (record?.endsWith(':threshold'))
      own.set(record, [...(own.get(record) ?? []), ...Object.keys(labels ?? {})]);
  own.set('ALERTS', ['alertname', 'alertstate', 'severity']);
  own.set('ALERTS_FOR_STATE', ['alertname', 'severity']);
  // What the query of the user records; there may be none.
  own.set('installation:complaints_per_day:value', []);
  return {
    own,
    service: serviceMetrics(),
    alerts: new Set(rules.flatMap(({ alert }) => alert ?? [])),
    uids: new Set(allNames.map(uidOf)),
  };
}

// By a path in a variable: the types of the module are checked by its own tsc.
const moduleMetrics = '../../nestjs/src/prom-client-metrics.ts';
const { promClientMetrics } = (await import(moduleMetrics)) as {
  promClientMetrics(registry: Registry): unknown;
};

/** As the module registers them. */
function serviceMetrics(): Map<string, readonly string[]> {
  const registry = new Registry();
  promClientMetrics(registry);
  const found = new Map<string, readonly string[]>();
  for (const metric of registry.getMetricsAsArray() as unknown as {
    name: string;
    labelNames: string[];
    buckets?: number[];
  }[]) {
    if (metric.buckets === undefined) found.set(metric.name, metric.labelNames);
    else found.set(`${metric.name}_bucket`, [...metric.labelNames, 'le']);
  }
  return found;
}

test.each(allNames)('what Grafana reads of %s is what the code builds', (name) => {
  expect(file(`dashboards/built/${name}.json`), 'npm run dashboards').toBe(textOf(dashboards[name]()));
});

test('no dashboard is left over that no code builds', () => {
  expect(readdirSync(new URL('../../dashboards/built', import.meta.url)).sort()).toEqual(
    allNames.map((name) => `${name}.json`).sort(),
  );
});

test.each(allNames)('%s is complete, and asks only what somebody declares, of one installation', (name) => {
  expect(dashboardProblems(built(name), declared())).toEqual([]);
});

test('each broken rule is named', () => {
  const good = built('on-call');
  const [verdict, ...others] = good.panels as [BuiltPanel, ...BuiltPanel[]];
  const chart = others.find(({ type }) => type === 'timeseries') as BuiltPanel;
  const query = (panel: BuiltPanel, expr: string): BuiltPanel => ({
    ...panel,
    targets: panel.targets.slice(0, 1).map((target) => ({ ...target, expr })),
    fieldConfig: { ...panel.fieldConfig, overrides: [] },
  });
  const broken = (change: Partial<BuiltDashboard>) => dashboardProblems({ ...good, ...change }, declared());
  const panel = (change: Partial<BuiltPanel>) => broken({ panels: [{ ...verdict, ...change }] });
  const asked = (expr: string, of = verdict) => broken({ panels: [query(of, expr)] });
  const mine = 'namespace="$namespace",installation="$installation"';
  const cases: [string, string[], string][] = [
    ['an unknown uid', broken({ uid: 'mine' }), 'not one that alerts link'],
    ['editable', broken({ editable: true }), 'changed by hand'],
    ['local time', broken({ timezone: 'browser' }), 'not in UTC'],
    ['no refresh', broken({ refresh: '' }), 'every minute'],
    ['schema v2', broken({ schemaVersion: 2 }), 'no classic schema'],
    ['no word about it', broken({ description: '' }), 'no description'],
    [
      'an instance variable',
      broken({
        templating: { list: [...good.templating.list, { name: 'instance', type: 'query', query: '' }] },
      }),
      'an instance is nobody’s question',
    ],
    [
      'another default',
      broken({
        templating: {
          list: good.templating.list.map((variable) => ({ ...variable, current: { value: 'default' } })),
        },
      }),
      'does not begin with counterfoil',
    ],
    ['a dead link', broken({ links: [{ title: 'x', url: '/d/x', keepTime: true }] }), 'no such dashboard'],
    [
      'a forgetful link',
      broken({ links: [{ title: 'x', url: '/d/counterfoil-replay', keepTime: false }] }),
      'forgets the time',
    ],
    ['no way to another', broken({ links: [] }), 'no link to counterfoil-replay'],
    ['one id twice', broken({ panels: [verdict, { ...chart, id: verdict.id }] }), 'not a set'],
    ['one over another', broken({ panels: [verdict, { ...chart, gridPos: verdict.gridPos }] }), 'lies over'],
    ['no title', panel({ title: '' }), 'no title'],
    ['no description', panel({ description: 'Verdict' }), 'no description'],
    ['no unit', panel({ fieldConfig: { defaults: { noValue: 'NOT MEASURED' }, overrides: [] } }), 'no unit'],
    [
      'green without data',
      panel({ fieldConfig: { defaults: { unit: 's' }, overrides: [] } }),
      'says nothing',
    ],
    ['too wide', panel({ gridPos: { x: 20, y: 0, w: 5, h: 5 } }), 'wider'],
    [
      'a hidden legend',
      broken({ panels: [{ ...chart, options: { legend: { showLegend: false } } }] }),
      'legend is hidden',
    ],
    ['no query', panel({ targets: [] }), 'no query'],
    ['no refId', panel({ targets: verdict.targets.map((target) => ({ ...target, refId: '' })) }), 'refIds'],
    ['a fixed data source', panel({ datasource: { type: 'prometheus', uid: 'abc' } }), 'not the variable'],
    [
      'no such runbook',
      panel({ links: [{ title: 'x', url: `$\{runbooks}/Nothing.md` }] }),
      'runbook of no alert',
    ],
    [
      'a limit alone',
      broken({
        panels: [{ ...chart, targets: chart.targets.filter(({ refId }) => refId !== 'unmeasured') }],
      }),
      'looks like all is well',
    ],
    [
      'a stray override',
      panel({ targets: chart.targets.map((target) => ({ ...target, range: false, instant: true })) }),
      'which is no query',
    ],
    ['a stat over time', broken({ panels: [{ ...verdict, targets: chart.targets }] }), 'only a chart asks'],
    ['an undeclared metric', asked(`sum(counterfoil_nothing{${mine}})`), 'which nothing declares'],
    [
      'any namespace',
      asked(
        'up_to{installation="$installation"} or counterfoil_overdue_events{installation="$installation"}',
      ),
      'any namespace',
    ],
    ['any installation', asked('counterfoil_overdue_events{namespace="$namespace"}'), 'any installation'],
    ['an undeclared label', asked(`counterfoil_overdue_events{${mine},tenant="x"}`), 'no label tenant'],
    ['grouped by one', asked(`max by (tenant) (counterfoil_overdue_events{${mine}})`), 'no label tenant'],
    [
      'no selector',
      asked('sum(counterfoil_overdue_events) > 0'),
      'counterfoil_overdue_events without a selector',
    ],
    [
      'a fixed rate',
      asked('sum(rate(event_published_total{namespace="$namespace"}[1m]))', chart),
      'a rate over 1m',
    ],
  ];
  for (const [title, problems, expected] of cases) expect(problems.join('\n'), title).toContain(expected);
});

test('the days of the tests hold only what the module counts, and alerts that we ship', () => {
  const known = serviceMetrics();
  const severities = new Set(rules.map(({ alert, labels }) => `${alert} ${labels?.severity}`));
  const keys = [goodDay(), incident(), worst()].flatMap((day: Day) => [...day.series.keys()]);
  const strays = keys.filter((key) => {
    const [, name = '', inner = ''] = /^([\w:]+)\{(.*)\}$/.exec(key) ?? [];
    const labels = Object.fromEntries(
      [...inner.matchAll(/(\w+)="([^"]*)"/g)].map(([, label, value]) => [label, value]),
    );
    if (name.startsWith('ALERTS')) return !severities.has(`${labels.alertname} ${labels.severity}`);
    if (labels.installation !== undefined) return false; // by its types a metric of metrics.ts, or recorded
    const { namespace: _n, pod: _p, ...others } = labels;
    return Object.keys(others).sort().join() !== [...(known.get(name) ?? ['?'])].sort().join();
  });
  expect(strays).toEqual([]);
  expect(keys.length).toBeGreaterThan(500);
});

/** Nobody uses their smaller unit any more, so that Node prints none; in minor units they still have it. */
const WITHOUT_COINS = 'AFN ALL COP HUF IDR IQD IRR KPW LAK LBP MGA MMK PKR SLL SOS SYP YER'.split(' ');

test('currencies have the digits that ISO 4217 gives them', () => {
  const digits = (currency: string) =>
    new Intl.NumberFormat('en', { style: 'currency', currency }).resolvedOptions().maximumFractionDigits ?? 2;
  const listed = new Map(
    Object.entries(digitsOfCurrency).flatMap(([count, codes]) =>
      codes.map((code) => [code, Number(count)] as const),
    ),
  );
  const others = [...new Set([...Intl.supportedValuesOf('currency'), ...listed.keys()])].filter(
    (code) => (listed.get(code) ?? 2) !== digits(code),
  );
  expect(others.sort()).toEqual(WITHOUT_COINS);
});
