/** The rules of `alerts/` as the chart has to render them, made from the files without the chart. */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parse } from 'yaml';
import { ruleFiles, rulesFolder } from '../alerts/rule-files.ts';
import type { Rendered, Values } from './render.ts';

export interface Rule {
  readonly record?: string;
  readonly alert?: string;
  readonly expr: string;
  readonly for?: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly annotations?: Readonly<Record<string, string>>;
}

export interface Group {
  readonly name: string;
  readonly interval: string;
  readonly rules: readonly Rule[];
}

/** Every job that an alert knows, but for event-replay in its other mode. */
export const allJobs: Values = {
  jobs: { flowProbe: { enabled: true }, backupRetention: { enabled: true, days: 30 } },
};

export interface Whose {
  readonly namespace: string;
  readonly installation: string;
  /** Beginning of the uids of the dashboards. */
  readonly uids: string;
}

/** The release of the tests, whose names are none of the literals that the chart replaces. */
export const guard: Whose = {
  namespace: 'shop',
  installation: 'guard-counterfoil',
  uids: `counterfoil-${createHash('sha256').update('shop/guard-counterfoil').digest('hex').slice(0, 8)}`,
};

/** A text of `alerts/` for another release; tests of rules as well. */
export const textFor = (text: string, { namespace, installation, uids }: Whose): string =>
  text
    .replaceAll('namespace="counterfoil"', `namespace="${namespace}"`)
    .replaceAll('installation="counterfoil"', `installation="${installation}"`)
    .replaceAll(/^( +)namespace: counterfoil$/gm, `$1namespace: ${namespace}`)
    .replaceAll(/^( +)installation: counterfoil$/gm, `$1installation: ${installation}`)
    .replaceAll('grafana.example/d/counterfoil-', `grafana.example/d/${uids}-`)
    .replaceAll(
      'var-namespace=counterfoil&var-installation=counterfoil',
      `var-namespace=${namespace}&var-installation=${installation}`,
    )
    .replaceAll('-n counterfoil deploy/counterfoil-', `-n ${namespace} deploy/${installation}-`)
    .replaceAll(/-n counterfoil$/gm, `-n ${namespace}`);

/** Groups by the name of their file. */
export function shippedGroups(whose: Whose): Map<string, Group[]> {
  return new Map(
    ruleFiles().map((file) => {
      const text = textFor(readFileSync(join(rulesFolder, file), 'utf8'), whose);
      const { groups } = parse(text) as { groups: Group[] };
      return [file.replace('.yaml', ''), groups.map(withoutContinuousReplay)];
    }),
  );
}

function withoutContinuousReplay(group: Group): Group {
  return { ...group, rules: group.rules.filter(({ labels }) => labels?.mode !== 'continuous') };
}

/** Groups by the end of the object's name. */
export const renderedGroups = (rendered: Rendered): Map<string, Group[]> =>
  new Map(
    rendered
      .all('PrometheusRule')
      .map(({ metadata, spec }) => [metadata.name.replace(/^.*-/, ''), spec.groups as Group[]]),
  );

export const rulesOf = (groups: ReadonlyMap<string, readonly Group[]>): Rule[] =>
  [...groups.values()].flat().flatMap(({ rules }) => rules);

/** Numbers by the name of the recorded series, those of jobs by job and mode. */
export const thresholdsOf = (rules: readonly Rule[]): Map<string, number> =>
  new Map(
    rules.flatMap(({ record, expr, labels }) => {
      const name = /^installation:(\w+):threshold$/.exec(record ?? '')?.[1];
      if (name === undefined) return [];
      const job = labels?.counterfoil_job === undefined ? '' : ` ${labels.counterfoil_job} ${labels.mode}`;
      return [[`${name}${job}`, Number(/^vector\(([\d.e+-]+)\)$/.exec(expr)?.[1])] as const];
    }),
  );
