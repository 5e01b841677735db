/** What every dashboard must have, and what its queries may ask. One sentence for each broken rule. */
import type { BuiltDashboard, BuiltPanel, Target } from './ask.ts';

/** Labels of each metric that a panel may ask, beside those that every series of its kind has. */
export interface Declared {
  /** With `namespace` and `installation`: of the exporter, recorded by rules, and the alerts themselves. */
  readonly own: ReadonlyMap<string, readonly string[]>;
  /** With `namespace` alone: of the module in the service. */
  readonly service: ReadonlyMap<string, readonly string[]>;
  readonly alerts: ReadonlySet<string>;
  readonly uids: ReadonlySet<string>;
}

const COLUMNS = 24;
const selector = /([a-zA-Z_:][\w:]*)\{([^}]*)\}/g;
/** `max by (…) (metric{`, `sum by (…) (rate(metric{`: the labels are those of that metric. */
const grouped = /by \(([^)]*)\) \((?:rate\(|increase\()?([a-zA-Z_:][\w:]*)\{/g;
const words = new Set(['and', 'or', 'unless', 'bool', 'NaN', 'offset']);

export function dashboardProblems(dashboard: BuiltDashboard, declared: Declared): string[] {
  const problems: string[] = [];
  const report = (problem: string) => problems.push(`${dashboard.uid}: ${problem}`);
  if (!declared.uids.has(dashboard.uid)) report('its uid is not one that alerts link');
  if (dashboard.editable) report('editable: what is changed by hand is lost');
  if (dashboard.timezone !== 'utc') report('not in UTC, as alerts and logs are');
  if (dashboard.refresh !== '1m') report('does not refresh every minute');
  if (dashboard.schemaVersion < 39 || dashboard.schemaVersion > 42) report('no classic schema');
  if (!(dashboard.description.length > 0)) report('no description');
  const variables = dashboard.templating.list.map(({ name }) => name);
  if (variables.join() !== 'datasource,namespace,installation,runbooks')
    report(`variables ${variables.join()}: an instance is nobody’s question at night`);
  for (const { name, current } of dashboard.templating.list)
    if (['namespace', 'installation'].includes(name) && current?.value !== 'counterfoil')
      report(`variable ${name} does not begin with counterfoil`);
  for (const { title, url, keepTime } of dashboard.links) {
    const uid = /^\/d\/([\w-]+)$/.exec(url)?.[1];
    if (uid !== undefined && !declared.uids.has(uid))
      report(`link "${title}" leads to ${uid}: no such dashboard`);
    if (uid !== undefined && !keepTime) report(`link "${title}" forgets the time`);
  }
  const linked = dashboard.links.map(({ url }) => url.replace('/d/', ''));
  for (const uid of declared.uids)
    if (uid !== dashboard.uid && !linked.includes(uid)) report(`no link to ${uid}`);
  const ids = dashboard.panels.map(({ id }) => id);
  if (new Set(ids).size !== ids.length || ids.some((id) => !(id > 0))) report('panel ids are not a set');
  for (const [index, panel] of dashboard.panels.entries()) {
    const at = `panel "${panel.title}"`;
    for (const problem of panelProblems(panel, declared)) report(`${at}: ${problem}`);
    for (const other of dashboard.panels.slice(index + 1))
      if (overlap(panel, other)) report(`${at} lies over "${other.title}"`);
  }
  return problems;
}

function panelProblems(panel: BuiltPanel, declared: Declared): string[] {
  const problems: string[] = [];
  const { defaults } = panel.fieldConfig;
  if (!(panel.title.length > 0)) problems.push('no title');
  if (!(panel.description.length > 20)) problems.push('no description');
  if (defaults.unit === undefined) problems.push('no unit');
  if (defaults.noValue !== 'NOT MEASURED') problems.push('says nothing of its own where nothing answers');
  if (panel.gridPos.x + panel.gridPos.w > COLUMNS) problems.push('wider than the grid');
  if (panel.type === 'timeseries' && panel.options.legend?.showLegend !== true)
    problems.push('its legend is hidden');
  if (panel.targets.length === 0) problems.push('no query');
  const refIds = panel.targets.map(({ refId }) => refId);
  if (new Set(refIds).size !== refIds.length || refIds.some((id) => !id))
    problems.push('refIds are not a set');
  for (const source of [panel.datasource, ...panel.targets.map(({ datasource }) => datasource)])
    if (source?.uid !== `$\{datasource}`) problems.push('its data source is not the variable');
  const limits = panel.fieldConfig.overrides.filter(({ properties }) =>
    properties.some(({ id }) => id === 'custom.lineStyle'),
  );
  if (limits.length > 0 && !refIds.includes('unmeasured'))
    problems.push('shows its limit alone where nothing is measured, which looks like all is well');
  for (const { url } of panel.links ?? []) {
    const alert = /^\$\{runbooks\}\/(\w+)\.md$/.exec(url)?.[1];
    if (alert === undefined || !declared.alerts.has(alert))
      problems.push(`links ${url}: the runbook of no alert`);
  }
  for (const { matcher } of panel.fieldConfig.overrides)
    if (matcher.id === 'byFrameRefID' && !refIds.includes(matcher.options))
      problems.push(`an override for ${matcher.options}, which is no query`);
  for (const target of panel.targets)
    for (const problem of queryProblems(panel, target, declared))
      problems.push(`${target.refId}: ${problem}`);
  return problems;
}

function queryProblems(panel: BuiltPanel, { expr, range, instant }: Target, declared: Declared): string[] {
  const problems: string[] = [];
  if (range === instant) problems.push('neither over time nor of now');
  if (range !== (panel.type === 'timeseries')) problems.push('only a chart asks over time');
  for (const [, metric = '', matchers = ''] of expr.matchAll(selector)) {
    const own = declared.own.get(metric);
    const labels = own ?? declared.service.get(metric);
    if (labels === undefined) {
      problems.push(`asks ${metric}, which nothing declares`);
      continue;
    }
    if (!matchers.includes('namespace="$namespace"')) problems.push(`${metric} of any namespace`);
    if (own !== undefined && !matchers.includes('installation="$installation"'))
      problems.push(`${metric} of any installation`);
    for (const [, label = ''] of matchers.matchAll(/(\w+)\s*(?:=~|!~|!=|=)/g))
      if (!['namespace', 'installation', ...labels].includes(label))
        problems.push(`${metric} has no label ${label}`);
  }
  for (const [, by = '', metric = ''] of expr.matchAll(grouped)) {
    const labels = declared.own.get(metric) ?? declared.service.get(metric) ?? [];
    for (const label of by.split(',').map((name) => name.trim()))
      if (!['installation', ...labels].includes(label)) problems.push(`${metric} has no label ${label}`);
  }
  for (const bare of bareNames(expr)) problems.push(`${bare} without a selector`);
  for (const [, span = ''] of expr.matchAll(/rate\([^[]*\[([^\]]+)\]/g))
    if (range && span !== '$__rate_interval') problems.push(`a rate over ${span}, whatever the resolution`);
  return problems;
}

/** Names in an expression that are no function, keyword or label, and have no selector. */
function bareNames(expr: string): string[] {
  const rest = expr
    .replaceAll(/"[^"]*"/g, ' ')
    .replaceAll(selector, ' ')
    .replaceAll(/\b(?:by|on|ignoring|without|group_left|group_right)\s*\([^)]*\)/g, ' ')
    .replaceAll(/\[[^\]]*\]|\boffset \w+/g, ' ');
  return [...rest.matchAll(/[a-zA-Z_:][\w:]*(?!\w)(?!\s*\()/g)]
    .map(([name]) => name)
    .filter((name) => !words.has(name));
}

function overlap({ gridPos: a }: BuiltPanel, { gridPos: b }: BuiltPanel): boolean {
  return a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h;
}
