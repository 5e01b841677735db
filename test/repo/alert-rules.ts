/** What every rule file, and every alert in it, must have. One sentence for each broken rule. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parse } from 'yaml';
import { askedBy, queriesOf } from '../alerts/promql.ts';
import { type Rule, readAssertions, readRules } from '../alerts/rule-files.ts';

/** Label names by metric. */
export type Declared = ReadonlyMap<string, readonly string[]>;

export interface Known {
  /** Of the exporter: with `installation`. */
  readonly exporter: Declared;
  /** Of the module in the service: without. */
  readonly service: Declared;
  readonly dashboards: ReadonlySet<string>;
}

/** What is asked of others: kube-state-metrics, Prometheus itself, and the query that the user gives. */
const ofOthers: Declared = new Map([
  ['ALERTS', ['installation', 'alertname', 'alertstate', 'published_hash']],
  ['ALERTS_FOR_STATE', ['installation', 'alertname']],
  ['kube_cronjob_info', ['cronjob']],
  ['kube_cronjob_created', ['cronjob']],
  ['kube_cronjob_spec_suspend', ['cronjob']],
  ['kube_cronjob_status_last_schedule_time', ['cronjob']],
]);
const givenByTheUser = 'installation:complaints_per_day:value';

/** Labels that Prometheus adds at the scrape; the last one is the pod's, by the podTargetLabels of its monitor. */
const always = ['namespace', 'pod', 'job', 'container', 'endpoint', 'rollouts_pod_template_hash'];
const severities = ['critical', 'warning', 'info'];
const runbooks = 'https://counterfoil.example/runbooks/';
const boards = 'https://grafana.example/d/';
/** Several installations may share a dashboard. */
const openedOn = 'var-namespace={{ $labels.namespace }}&var-installation={{ $labels.installation }}';

/** The answers of every description, in this order. */
const answers = ['What: ', 'Money at risk: ', 'Since: ', 'The machine: ', 'You: ', 'Version: ', 'Look: '];
/** Answers that are the same in every alert. */
const shared = new Set(['Money at risk: ', 'Version: ', 'Look: ']);

export function ruleProblems(folder: string, known: Known): string[] {
  const rules = readRules(folder);
  const recorded = new Map<string, Rule>();
  for (const rule of rules) if (rule.record !== undefined) recorded.set(rule.record, rule);
  const problems = rules.flatMap((rule) =>
    problemsOf(rule, recorded, known).map(
      (problem) => `${rule.file}: ${rule.alert ?? rule.record}: ${problem}`,
    ),
  );
  const sharedLines = new Map<string, string>();
  for (const { file, alert, annotations } of rules) {
    for (const line of annotations?.description?.split('\n') ?? []) {
      const answer = answers.find((start) => line.startsWith(start));
      if (answer === undefined || !shared.has(answer)) continue;
      // Where the exporter is gone there is no pod to look from.
      if (answer === 'Look: ' && alert === 'CounterfoilExporterDown') continue;
      const first = sharedLines.get(answer) ?? line;
      sharedLines.set(answer, first);
      if (first !== line)
        problems.push(`${file}: ${alert}: "${answer.trim()}" reads otherwise than in other alerts`);
    }
  }
  return [...new Set([...problems, ...testProblems(folder, rules)])].sort();
}

/** What a query asks that nobody declares, or of any namespace. */
function queryProblems(query: string, recorded: ReadonlyMap<string, Rule>, known: Known): string[] {
  const problems: string[] = [];
  const { selectors, labels } = askedBy(query);
  const there = new Set(['__name__', ...always]);
  for (const { metric, matchers } of selectors) {
    if (!matchers.some((m) => m.label === 'namespace' && m.operator === '=' && m.value === 'counterfoil'))
      problems.push(`${metric} without namespace="counterfoil"`);
    const own = labelsOf(metric, recorded, known);
    if (own === undefined) problems.push(`asks ${metric}, which nothing declares`);
    for (const label of own ?? []) there.add(label);
    for (const { label } of matchers)
      if (own !== undefined && ![...always, ...own].includes(label))
        problems.push(`${metric} has no label ${label}`);
  }
  for (const [, made = ''] of query.matchAll(/label_replace\([\s\S]*?,\s*"(\w+)"/g)) there.add(made);
  for (const label of ['counterfoil_job', 'mode']) if (query.includes('label_replace')) there.add(label);
  for (const label of labels) if (!there.has(label)) problems.push(`groups by ${label}, which nothing has`);
  return problems;
}

interface Templates {
  readonly spec?: {
    readonly metrics?: readonly {
      readonly name: string;
      readonly provider: { readonly prometheus?: { readonly query: string } };
    }[];
  };
}

/** The same for every query of the AnalysisTemplates in a folder; and each alert that they ask for is one. */
export function templateProblems(folder: string, rulesIn: string, known: Known): string[] {
  const rules = readRules(rulesIn);
  const recorded = new Map(rules.flatMap((rule) => (rule.record === undefined ? [] : [[rule.record, rule]])));
  const alerts = new Set(rules.flatMap(({ alert }) => alert ?? []));
  return readdirSync(folder)
    .sort()
    .flatMap((file) =>
      ((parse(readFileSync(join(folder, file), 'utf8')) as Templates).spec?.metrics ?? []).flatMap(
        ({ name, provider: { prometheus } }) => {
          const query = prometheus?.query ?? '';
          const strays = askedBy(query)
            .selectors.flatMap(({ matchers }) => matchers)
            .filter(({ label, value }) => label === 'alertname' && !alerts.has(value))
            .map(({ value }) => `asks for the alert ${value}, which is none`);
          return [...queryProblems(query, recorded, known), ...strays].map(
            (problem) => `${file}: ${name}: ${problem}`,
          );
        },
      ),
    );
}

function problemsOf(rule: Rule, recorded: ReadonlyMap<string, Rule>, known: Known): string[] {
  const queries = [rule.expr, ...Object.values(rule.annotations ?? {}).flatMap(queriesOf)];
  const problems = queries.flatMap((query) => queryProblems(query, recorded, known));
  if (rule.record !== undefined && !hasInstallation(rule, known))
    problems.push('recorded without an installation');
  if (rule.record !== undefined && !/^\w+:\w+:\w+$/.test(rule.record))
    problems.push('not named level:metric:operations');
  return rule.alert === undefined ? problems : [...problems, ...alertProblems(rule, known)];
}

function alertProblems({ alert, labels, annotations = {} }: Rule, known: Known): string[] {
  const problems: string[] = [];
  if (!severities.includes(labels?.severity ?? '')) problems.push('no severity');
  const { summary = '', description = '', runbook_url: runbook, dashboard_url: dashboard = '' } = annotations;
  if (summary === '' || summary.includes('{{')) problems.push('its summary is not a fixed sentence');
  const lines = description.split('\n');
  if (lines.length !== answers.length || !answers.every((answer, at) => lines[at]?.startsWith(answer)))
    problems.push(`its description does not answer, in order: ${answers.join('').trim()}`);
  if (runbook !== `${runbooks}${alert}.md`) problems.push('its runbook_url is not its own');
  const [board = '', opened] = dashboard.split('?');
  if (!board.startsWith(boards) || !known.dashboards.has(board.slice(boards.length)))
    problems.push('its dashboard_url leads to no dashboard');
  if (opened !== openedOn) problems.push('its dashboard_url does not open on its installation');
  return problems;
}

function labelsOf(
  metric: string,
  recorded: ReadonlyMap<string, Rule>,
  known: Known,
): readonly string[] | undefined {
  const own = known.exporter.get(metric);
  if (own !== undefined) return ['installation', ...own];
  if (metric === givenByTheUser) return ['installation'];
  const rule = recorded.get(metric);
  if (rule === undefined) return known.service.get(metric) ?? ofOthers.get(metric);
  // What it was made of, and what it was given.
  const { selectors, labels } = askedBy(rule.expr);
  return [
    ...Object.keys(rule.labels ?? {}),
    ...labels,
    ...selectors.flatMap((selector) => labelsOf(selector.metric, recorded, known) ?? []),
    ...(rule.expr.includes('label_replace') ? ['counterfoil_job', 'mode'] : []),
  ];
}

/** By a label of its own; else every grouping keeps it, and all that it asks has it. */
function hasInstallation({ expr, labels }: Rule, known: Known): boolean {
  if (labels?.installation !== undefined) return true;
  const groupings = [...expr.matchAll(/\bby \(([^)]*)\)/g)].map(([, list = '']) => list);
  return (
    groupings.every((list) => list.includes('installation')) &&
    askedBy(expr).selectors.every(
      ({ metric }) => known.exporter.has(metric) || metric.includes(':') || expr.includes('group_left ('),
    )
  );
}

/** Every alert, in each severity, fires in a test, and is silent over a whole one. */
function testProblems(folder: string, rules: readonly Rule[]): string[] {
  const assertions = readAssertions(folder);
  const asserted = (start: string, alert: string, severity: string, samples: boolean) =>
    assertions.some(
      ({ expr, samples: count }) =>
        expr.startsWith(start) &&
        expr.includes(`alertname="${alert}"`) &&
        expr.includes('alertstate="firing"') &&
        (!expr.includes('severity=') || expr.includes(`severity="${severity}"`)) &&
        count > 0 === samples,
    );
  return rules.flatMap(({ file, alert, labels }) => {
    if (alert === undefined) return [];
    const severity = labels?.severity ?? '';
    return [
      ...(asserted('ALERTS{', alert, severity, true)
        ? []
        : [`${file}: ${alert}: no test in which it fires as ${severity}`]),
      ...(asserted('count_over_time(ALERTS{', alert, severity, false)
        ? []
        : [`${file}: ${alert}: no test over which it stays silent as ${severity}`]),
    ];
  });
}

/** Metrics of the module as its source declares them. */
export function declaredByTheModule(source: string): Declared {
  const declared = new Map<string, readonly string[]>();
  for (const [, type = '', name = '', body = ''] of readFileSync(source, 'utf8').matchAll(
    /new (Counter|Gauge|Histogram)\(\{\s*name: '(\w+)',([\s\S]*?)\}\)/g,
  )) {
    const labels = [...(/labelNames: \[([^\]]*)\]/.exec(body)?.[1] ?? '').matchAll(/'(\w+)'/g)].map(
      ([, label = '']) => label,
    );
    if (type !== 'Histogram') declared.set(name, labels);
    else {
      declared.set(`${name}_bucket`, [...labels, 'le']);
      declared.set(`${name}_sum`, labels);
      declared.set(`${name}_count`, labels);
    }
  }
  return declared;
}

/** Every name that rules ask for. */
export const askedByRules = (folder: string): Set<string> =>
  new Set(
    readRules(folder)
      .flatMap(({ expr, annotations }) => [expr, ...Object.values(annotations ?? {}).flatMap(queriesOf)])
      .flatMap((query) => askedBy(query).selectors.map(({ metric }) => metric)),
  );
