import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { metrics } from '../../jobs/exporter/metrics.ts';
import { askedBy } from '../alerts/promql.ts';
import { readRules } from '../alerts/rule-files.ts';
import {
  askedByRules,
  type Declared,
  declaredByTheModule,
  type Known,
  ruleProblems,
  templateProblems,
} from './alert-rules.ts';
import { fixtures, repository } from './files.ts';
import { headingsOf } from './markdown.ts';

const alertsFolder = join(repository, 'alerts');
const boards = readdirSync(join(repository, 'dashboards/built'))
  .filter((name) => name.endsWith('.json'))
  .map((name) => JSON.parse(readFileSync(join(repository, 'dashboards/built', name), 'utf8')));

const exporter: Declared = new Map(Object.entries(metrics).map(([name, { labels }]) => [name, labels]));
const known: Known = {
  exporter,
  service: declaredByTheModule(join(repository, 'nestjs/src/prom-client-metrics.ts')),
  dashboards: new Set(boards.map(({ uid }) => uid as string)),
};

test('every rule selects its namespace, asks what is declared, tells its installation, and is tested both ways', () => {
  expect(ruleProblems(alertsFolder, known)).toEqual([]);
});

test('a rule that does not is named', () => {
  expect(ruleProblems(join(fixtures, 'alerts'), known)).toEqual([
    'broken.yaml: Mislabelled: counterfoil_overdue_events has no label flavour',
    'broken.yaml: Mislabelled: counterfoil_overdue_events without namespace="counterfoil"',
    'broken.yaml: Mislabelled: groups by colour, which nothing has',
    'broken.yaml: Mislabelled: no test over which it stays silent as warning',
    'broken.yaml: Undeclared: asks counterfoil_flibber, which nothing declares',
    'broken.yaml: Undeclared: its dashboard_url does not open on its installation',
    'broken.yaml: Undeclared: its dashboard_url leads to no dashboard',
    'broken.yaml: Undeclared: its description does not answer, in order: What: Money at risk: Since: The machine: You: Version: Look:',
    'broken.yaml: Undeclared: its runbook_url is not its own',
    'broken.yaml: Undeclared: its summary is not a fixed sentence',
    'broken.yaml: Undeclared: no severity',
    'broken.yaml: Undeclared: no test in which it fires as loud',
    'broken.yaml: Undeclared: no test over which it stays silent as loud',
    'broken.yaml: installation:everywhere:sum: counterfoil_overdue_events without namespace="counterfoil"',
    'broken.yaml: installation:lost:sum: recorded without an installation',
    'broken.yaml: unnamed: not named level:metric:operations',
  ]);
});

test('every AnalysisTemplate asks what is declared, of its namespace, and for alerts that there are', () => {
  expect(templateProblems(join(repository, 'rollouts/analysis'), alertsFolder, known)).toEqual([]);
});

test('an AnalysisTemplate that does not is named', () => {
  expect(templateProblems(join(fixtures, 'analysis'), alertsFolder, known)).toEqual([
    'broken.yaml: stray: asks for the alert CounterfoilFlibber, which is none',
    'broken.yaml: undeclared: counterfoil_hot_events without namespace="counterfoil"',
    'broken.yaml: undeclared: counterfoil_hot_events has no label flavour',
    'broken.yaml: undeclared: asks counterfoil_flibber, which nothing declares',
  ]);
});

test('the metrics of the module are read from its source', () => {
  expect(known.service.get('event_published_total')).toEqual(['event_type', 'status']);
  expect(known.service.get('event_duration_seconds_bucket')).toEqual(['event_type', 'le']);
});

/** Names that neither a rule nor a panel asks for. */
const unused = (declared: Iterable<string>, asked: ReadonlySet<string>) =>
  [...declared].filter((name) => !asked.has(name));

test('every metric of the exporter and of the module, and every threshold, is asked for by an alert or a panel', () => {
  const asked = new Set([...askedByRules(alertsFolder), ...askedByPanels()]);
  const thresholds = readRules(alertsFolder)
    .map(({ record }) => record ?? '')
    .filter((name) => name.endsWith(':threshold'));
  // A histogram is asked for by its buckets.
  const ofTheModule = [...known.service.keys()].filter((name) => !/_(sum|count)$/.test(name));
  expect(ofTheModule.length).toBeGreaterThan(5);
  expect(unused([...exporter.keys(), ...ofTheModule, ...thresholds], asked)).toEqual([]);
  expect(unused(['counterfoil_overdue_events', 'counterfoil_flibber'], asked)).toEqual([
    'counterfoil_flibber',
  ]);
});

function askedByPanels(): string[] {
  return boards
    .flatMap(({ panels }) => panels as { targets?: { expr: string }[] }[])
    .flatMap(({ targets = [] }) => targets)
    .flatMap(({ expr }) => askedBy(expr).selectors.map(({ metric }) => metric));
}

const sections = ['Meaning', 'Impact', 'First look', 'Fix', 'Verify', 'Afterwards'];

/** One sentence for each alert without its runbook, runbook without its alert, and runbook of another form. */
function runbookProblems(alerts: ReadonlySet<string>, pages: ReadonlyMap<string, string>): string[] {
  return [
    ...[...alerts].filter((name) => !pages.has(name)).map((name) => `${name} has no runbook`),
    ...[...pages.keys()]
      .filter((name) => !alerts.has(name))
      .map((name) => `${name} is the runbook of no alert`),
    ...[...pages]
      .filter(([name, text]) => headingsOf(text).join() !== [name, ...sections].join())
      .map(([name]) => `${name}: its headings are not ${sections.join(', ')}`),
  ];
}

test('every alert has its runbook, every runbook its alert, and all have one form', () => {
  const folder = join(repository, 'docs/runbooks');
  const pages = new Map(
    readdirSync(folder)
      .filter((name) => name !== 'README.md')
      .map((name) => [name.replace(/\.md$/, ''), readFileSync(join(folder, name), 'utf8')]),
  );
  const alerts = new Set(readRules(alertsFolder).flatMap(({ alert }) => alert ?? []));
  expect(runbookProblems(alerts, pages)).toEqual([]);
  expect(runbookProblems(new Set(['Loud']), new Map([['Mute', '# Mute\n\n## Meaning\n']]))).toEqual([
    'Loud has no runbook',
    'Mute is the runbook of no alert',
    'Mute: its headings are not Meaning, Impact, First look, Fix, Verify, Afterwards',
  ]);
});
