import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';
import { type DashboardName, names } from '../../dashboards/frame.ts';
import { type Answer, ask, type BuiltDashboard, type BuiltPanel, readings, shownSeconds } from './ask.ts';
import {
  BLIND,
  firing,
  GOOD_DAY,
  goodDay,
  HERE,
  INCIDENT,
  incident,
  openMetrics,
  WORST,
  worst,
} from './days.ts';
import { type RunningPrometheus, startPrometheus } from './prometheus.ts';

const allNames = Object.keys(names) as DashboardName[];
const built = (name: DashboardName) =>
  JSON.parse(
    readFileSync(new URL(`../../dashboards/built/${name}.json`, import.meta.url), 'utf8'),
  ) as BuiltDashboard;
const seconds = (at: string) => Date.parse(at) / 1000;

/** Its exporter answers, and nobody has loaded the rules. */
const BARE = { namespace: 'counterfoil', installation: 'bare' };
/** Its rules are evaluated, and its exporter is down. */
const SILENT = { namespace: 'counterfoil', installation: 'silent' };
/** On our good day these have the night of the incident: their figures may stand nowhere. */
const NEIGHBOURS = [
  { namespace: 'counterfoil', installation: 'beside' },
  { namespace: 'elsewhere', installation: 'counterfoil' },
];

/** The repair after an abort comes through its other states. */
const WORST_BEFORE = ['2026-11-28T07:30:00Z', '2026-11-28T08:00:00Z'];

const tools = inject('alertTools');
let prometheus: RunningPrometheus;

beforeAll(async () => {
  if (tools === undefined) return;
  const bare = goodDay(BARE, 1);
  for (const key of bare.series.keys()) if (/^(installation:|ALERTS)/.test(key)) bare.series.delete(key);
  const silent = goodDay(SILENT, 1);
  for (const key of silent.series.keys()) if (!key.startsWith('installation:')) silent.series.delete(key);
  firing(silent, 'CounterfoilExporterDown', 'critical', seconds(GOOD_DAY) - 1_800);
  prometheus = await startPrometheus(tools, [
    openMetrics([
      goodDay(HERE, 25),
      bare,
      silent,
      ...NEIGHBOURS.map((place) => incident(place, GOOD_DAY, 1)),
    ]),
    openMetrics([incident()]),
    openMetrics([worst()]),
  ]);
}, 120_000);

afterAll(async () => {
  await prometheus?.stop();
});

/** What the panels of a dashboard say at that time, charts and tables left out. */
async function said(name: DashboardName, at: string, change = (panel: BuiltPanel) => panel) {
  const dashboard = built(name);
  const lines: Record<string, string> = {};
  for (const panel of dashboard.panels.filter(({ type }) => type === 'stat')) {
    const changed = change(panel);
    lines[panel.title] = readings(changed, await ask(prometheus, dashboard, changed, seconds(at))).join(
      ' | ',
    );
  }
  return lines;
}

async function answersOf(
  name: DashboardName,
  title: string,
  at: string,
  change = (panel: BuiltPanel) => panel,
): Promise<Answer[]> {
  const dashboard = built(name);
  const panel = dashboard.panels.find((one) => one.title === title);
  if (panel === undefined) throw new Error(`no panel "${title}"`);
  return await ask(prometheus, dashboard, change(panel), seconds(at));
}

/** The rows of a table: one for each set of labels, with the value of each query. */
function rows(answers: readonly Answer[], ...labels: string[]): Record<string, Record<string, string>> {
  const found: Record<string, Record<string, string>> = {};
  for (const { target, series } of answers)
    for (const { metric, values } of series) {
      const key = labels.map((label) => metric[label]).join(' ');
      found[key] = { ...found[key], [target.refId]: values.at(-1)?.[1] ?? '' };
    }
  return found;
}

describe.skipIf(tools === undefined)('on a real Prometheus', () => {
  describe.each(allNames)('%s', (name) => {
    test('every query answers on one of the days, and every panel in the night of the incident', async () => {
      const dashboard = built(name);
      const silent: string[] = [];
      for (const panel of dashboard.panels) {
        const answered = new Set<string>();
        for (const at of [INCIDENT, GOOD_DAY, ...WORST_BEFORE, WORST, BLIND]) {
          const answers = await ask(prometheus, dashboard, panel, seconds(at));
          for (const { target, series } of answers) if (series.length > 0) answered.add(target.refId);
          if (at === INCIDENT && answers.every(({ series }) => series.length === 0))
            silent.push(`${panel.title} in the incident`);
          if (
            at === INCIDENT &&
            answers.some(({ target, series }) => target.refId === 'unmeasured' && series.length > 0)
          )
            silent.push(`${panel.title} says in the incident that it is not measured`);
        }
        for (const { refId } of panel.targets)
          if (!answered.has(refId)) silent.push(`${panel.title}: ${refId}`);
      }
      expect(silent).toEqual([]);
    });

    test('says that nothing is measured when nothing is, and never that all is well', async () => {
      for (const [title, text] of Object.entries(await said(name, BLIND)))
        expect(text, title).toMatch(/^(?:(?:.* = )?NOT MEASURED|)$/);
      const dashboard = built(name);
      // An hour of `growth` is the longest that a query looks back.
      for (const panel of dashboard.panels.filter(({ type }) => type === 'timeseries'))
        for (const { series } of await ask(prometheus, dashboard, panel, seconds(BLIND)))
          for (const { values } of series)
            expect(
              seconds(BLIND) - (values.findLast(([, value]) => value !== 'NaN')?.[0] ?? 0),
              panel.title,
            ).toBeGreaterThan(3_600);
    });
  });

  test('a good day reads as one, whatever happens to the installation beside ours and in another namespace', async () => {
    expect({ ...(await said('on-call', GOOD_DAY)) }).toEqual({
      Verdict: 'bills = CLEAN',
      'Open discrepancies, by cause': 'open = none',
      'Money at risk': 'at risk = nothing',
      'Wrong since (UTC)': 'wrong = nothing',
      'Verified through: age': 'session-billing = 660',
      'Needs you': 'needs you = nothing',
      'What the machine is doing': 'at work = nothing to do',
      Release: 'Healthy',
      'Traffic by version': 'stable 5c7f9d8b64 = 100',
      'Aborted by': 'aborted = no',
      'Repair after the abort': 'nothing to repair',
    });
    expect(await said('reconciliation', GOOD_DAY)).toEqual({
      'Verified through: age': 'session-billing = 660',
      'Can it look, and may it write?': 'yes',
      'Open, by cause': 'open = none',
      'Unsettled findings, by status': 'unsettled = none',
      'Needs you': 'needs you = nothing',
    });
    expect(await said('replay', GOOD_DAY)).toEqual({
      'Overdue events': 'overdue = 0',
      'Oldest overdue event': 'overdue = none',
      'Parked, by reason': 'parked = none',
      'In the hands of replay': 'in work = none',
      'Open requests': 'open = none',
    });
    expect(await said('canary', GOOD_DAY)).toEqual({
      Release: 'Healthy',
      'Traffic by version': 'stable 5c7f9d8b64 = 100',
      'Step and age': 'step = 7 | of = 7',
      'Aborted by': 'aborted = no',
      'Repair after the abort': 'nothing to repair',
    });
    expect(await said('service', GOOD_DAY)).toMatchObject({
      'Failed to publish': 'in 15 min = 0',
      'Pods, by version': '5c7f9d8b64 = 3',
      'Versions of the service': '4.11.2 = 3',
    });
  });

  test('the night of the incident is told in figures, each counted once though two exporters tell it', async () => {
    expect(await said('on-call', INCIDENT)).toEqual({
      Verdict: 'bills = OPEN',
      'Open discrepancies, by cause':
        'together = 46 | missing: event_pending = 31 | amount = 7 | missing: event_parked = 4 | missing: processed_without_ledger = 3 | duplicate = 1',
      'Money at risk': 'EUR = 2141.3 | JPY = 84000 | unknown amount = 3',
      'Wrong since (UTC)': [
        `oldest open fact = ${Date.parse('2026-11-27T02:41:07Z')}`,
        `oldest overdue event = ${Date.parse('2026-11-27T02:41:04Z')}`,
        `parked longest = ${Date.parse('2026-11-27T03:02:11Z')}`,
      ].join(' | '),
      'Verified through: age': 'session-billing = 660',
      'Needs you': 'findings to decide = 12 | correction: to approve = 1 | parked events = 4',
      'What the machine is doing':
        'replay: claimed = 8 | replay: due = 30 | asked for: replay = 1 | asked for: verify = 1 | at work: event-replay, seen = 4',
      Release: 'Degraded',
      'Traffic by version': 'canary 7d4b9c6f55 = 0 | stable 5c7f9d8b64 = 100',
      'Aborted by': `event-loss = ${Date.parse('2026-11-27T02:49:12Z')}`,
      'Repair after the abort': 'repairing',
    });
  });

  test('alerts that fire are listed once each with since when: those that page first, and of each severity the oldest', async () => {
    const [night] = await answersOf('on-call', 'What to do: alerts that fire', INCIDENT);
    expect(
      night?.series.map(({ metric, values }) => [
        metric.severity,
        metric.alertname,
        new Date(Number(values[0]?.[1])).toISOString(),
      ]),
    ).toEqual([
      ['critical', 'BillingDiscrepancy', '2026-11-27T02:58:15.000Z'],
      ['warning', 'CounterfoilJobFailed', '2026-11-27T01:00:00.000Z'],
      ['warning', 'CounterfoilEventsSlow', '2026-11-27T02:45:45.000Z'],
      ['warning', 'EventPublishError', '2026-11-27T02:48:15.000Z'],
      ['warning', 'CounterfoilRolloutAborted', '2026-11-27T02:49:00.000Z'],
      ['warning', 'CounterfoilOverdueEvents', '2026-11-27T02:51:15.000Z'],
      ['warning', 'CounterfoilParkedEvents', '2026-11-27T03:02:00.000Z'],
      ['info', 'CounterfoilAbortInRepair', '2026-11-27T02:49:00.000Z'],
    ]);
    const [calm] = await answersOf('on-call', 'What to do: alerts that fire', GOOD_DAY);
    expect(calm?.series.map(({ metric }) => [metric.severity, metric.alertname])).toEqual([
      ['none fires', undefined],
    ]);
    const [blind] = await answersOf('on-call', 'What to do: alerts that fire', BLIND);
    expect(blind?.series.map(({ metric }) => [metric.severity, metric.alertname])).toEqual([
      ['NOT MEASURED', undefined],
    ]);
  });

  test('each measurement of the analysis stands beside its limit and its phase', async () => {
    const answers = await answersOf('canary', 'Measurements of the current analysis', INCIDENT);
    expect(rows(answers, 'analysis', 'metric')).toEqual({
      'background event-loss': { stands: '1', value: '0.0241', limit: '0.005' },
      'background billing-errors': { stands: '1', value: '0.0268', limit: '0.01' },
      'background restarts': { stands: '1', value: '1', limit: '2' },
      'background complaints': { stands: '1', value: '0', limit: '10' },
      'step error-rate': { stands: '1', value: '0.0004', limit: '0.001' },
      'step reconciliation-clean': { stands: '1', value: '3', limit: '0' },
    });
    const phases = answers
      .find(({ target }) => target.refId === 'stands')
      ?.series.map(({ metric }) => metric.phase);
    expect([...new Set(phases)].sort()).toEqual(['Failed', 'Running', 'Successful']);
  });

  test('the loss of the bad version stands above its limit, and that of the good one below', async () => {
    const answers = await answersOf('canary', 'Events lost, by version', '2026-11-27T02:49:00Z');
    const newest = rows(answers, 'published_hash');
    const limit = Number(newest['']?.event_loss_ratio);
    expect(limit).toBe(0.005);
    expect(Number(newest['7d4b9c6f55']?.canary)).toBeGreaterThan(limit);
    expect(Number(newest['5c7f9d8b64']?.stable)).toBe(0);
  });

  test('each run of a job stands in one row with its outcome, its age and its limit', async () => {
    const answers = await answersOf('reconciliation', 'Runs of billing-reconciliation', INCIDENT);
    const table = rows(answers, 'mode');
    expect(Object.keys(table).sort()).toEqual(['full', 'incremental', 'tail']);
    expect(table.full).toMatchObject({ ended: '1', since: '1', limit: '180000' });
    const outcomes = answers
      .find(({ target }) => target.refId === 'ended')
      ?.series.map(({ metric }) => `${metric.mode} ${metric.outcome}`);
    expect(outcomes?.sort()).toEqual(['full partial', 'incremental succeeded', 'tail succeeded']);
  });

  test('what is rare has its words: held back, implausible, frozen, never verified, inconclusive, odd currencies', async () => {
    expect(await said('on-call', WORST)).toMatchObject({
      'Money at risk': 'KWD = 1234.5 | CLF = 1 | points (minor units) = 77',
      'Verified through: age':
        'session-billing: too old = 20000 | evaluation-billing: never, declared = 5000',
      'What the machine is doing': 'FROZEN, still for = 1800 | replay: handed_to_outbox = 5',
      Release: 'Paused | inconclusive: decide | router fails',
      'Aborted by': 'unknown cause = yes',
      'Repair after the abort': 'not_clean',
    });
    expect(await said('reconciliation', WORST)).toMatchObject({
      'Can it look, and may it write?': 'session-billing: implausible | session-billing: held back',
      'Unsettled findings, by status': 'acknowledged = 2 | first pages again in = 7200',
    });
  });

  const of = (installation: string) => (panel: BuiltPanel) => ({
    ...panel,
    targets: panel.targets.map((target) => ({
      ...target,
      expr: target.expr.replaceAll('$installation', installation),
    })),
  });

  test('while the exporter is down every panel says so, and the alert for it is listed', async () => {
    for (const [title, text] of Object.entries(await said('on-call', GOOD_DAY, of('silent'))))
      expect(text, title).toContain('NOT MEASURED');
    const [alerts] = await answersOf('on-call', 'What to do: alerts that fire', GOOD_DAY, of('silent'));
    expect(alerts?.series.map(({ metric }) => metric.alertname)).toEqual(['CounterfoilExporterDown']);
  });

  test('without the thresholds nothing is judged: no verdict, and no green age', async () => {
    expect(await said('on-call', GOOD_DAY, of('bare'))).toMatchObject({
      Verdict: 'bills = NOT MEASURED',
      'Open discrepancies, by cause': 'open = none',
      'Verified through: age': '',
    });
  });

  test('complaints that nobody measures have a name in the legend and no line', async () => {
    const answers = await answersOf('canary', 'Complaints in a day', BLIND);
    const unmeasured = answers.find(({ target }) => target.refId === 'unmeasured');
    expect(unmeasured?.series.flatMap(({ values }) => values.map(([, value]) => value))).toContain('NaN');
    expect(new Set(unmeasured?.series.flatMap(({ values }) => values.map(([, value]) => value))).size).toBe(
      1,
    );
  });

  test('each dashboard opens on a range that its samples fill', () => {
    for (const name of allNames) expect(shownSeconds(built(name)), name).toBeLessThanOrEqual(24 * 3_600);
  });
});
