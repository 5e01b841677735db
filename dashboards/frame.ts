/** What the five dashboards have alike: uid, variables, time, links to each other. */
import {
  ConstantVariableBuilder,
  type Dashboard,
  DashboardBuilder,
  DashboardCursorSync,
  DashboardLinkBuilder,
  DatasourceVariableBuilder,
  QueryVariableBuilder,
  VariableRefresh,
  VariableSort,
} from '@grafana/grafana-foundation-sdk/dashboard';
import type { PanelOf } from './panels.ts';

/** The end of the uid is the name of the file. Alerts link by it, so it is never changed. */
export const names = {
  'on-call': 'On call',
  reconciliation: 'Reconciliation',
  replay: 'Replay',
  canary: 'Canary',
  service: 'Service',
} as const;

export type DashboardName = keyof typeof names;

export const uidOf = (name: DashboardName) => `counterfoil-${name}`;

/** Where runbooks are read. The chart sets another address. */
export const RUNBOOKS = 'https://counterfoil.example/runbooks';

/** There while the rules are loaded, so that the variables still have their values when the exporter is down. */
const ANYTHING_OF_OURS = '{__name__=~"counterfoil_exporter_info|installation:open_findings:threshold"}';
const DEFAULT = 'counterfoil';

export function frame(
  name: DashboardName,
  options: { readonly description: string; readonly from: string; readonly panels: readonly PanelOf[] },
): Dashboard {
  const builder = new DashboardBuilder(`counterfoil / ${names[name]}`)
    .uid(uidOf(name))
    .description(options.description)
    .tags(['counterfoil'])
    .readonly()
    .timezone('utc')
    .refresh('1m')
    .time({ from: options.from, to: 'now' })
    .tooltip(DashboardCursorSync.Crosshair)
    .withVariable(
      new DatasourceVariableBuilder('datasource')
        .label('Data source')
        .description('The Prometheus that scrapes the exporter and evaluates the rules')
        .type('prometheus'),
    )
    .withVariable(ours('namespace', 'Namespace', `label_values(${ANYTHING_OF_OURS}, namespace)`))
    .withVariable(
      ours(
        'installation',
        'Installation',
        `label_values(${ANYTHING_OF_OURS.replace('}', ',namespace="$namespace"}')}, installation)`,
      ),
    )
    .withVariable(new ConstantVariableBuilder('runbooks').label('Runbooks').value(RUNBOOKS));
  for (const other of Object.keys(names) as DashboardName[]) {
    if (other === name) continue;
    builder.link(
      new DashboardLinkBuilder(names[other])
        .url(`/d/${uidOf(other)}`)
        .tooltip(`The dashboard "${names[other]}", same time and installation`)
        .icon('dashboard')
        .keepTime(true)
        .includeVars(true),
    );
  }
  builder.link(
    new DashboardLinkBuilder('Runbooks')
      .url(`$\{runbooks}/`)
      .tooltip('One page for each alert')
      .icon('doc')
      .targetBlank(true),
  );
  const built = builder.build();
  return {
    ...built,
    panels: options.panels.map((panel, index) => panel(index + 1)),
    annotations: { list: [] },
    // The SDK would put them into a menu, where nobody woken at night looks.
    links: (built.links ?? []).map(({ placement: _menu, ...link }) => link),
  };
}

function ours(name: string, label: string, query: string): QueryVariableBuilder {
  return new QueryVariableBuilder(name)
    .label(label)
    .query(query)
    .datasource({ type: 'prometheus', uid: `$\{datasource}` })
    .current({ selected: true, text: DEFAULT, value: DEFAULT })
    .refresh(VariableRefresh.OnTimeRangeChanged)
    .sort(VariableSort.AlphabeticalAsc)
    .multi(false)
    .includeAll(false);
}
