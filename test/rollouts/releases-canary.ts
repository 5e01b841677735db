/** The canary as `rollouts/` has it: steps, templates, and the queries that they ask. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parse } from 'yaml';

export const rolloutsFolder = fileURLToPath(new URL('../../rollouts', import.meta.url));

export interface Metric {
  readonly name: string;
  readonly interval?: string;
  readonly count?: number;
  readonly provider: {
    readonly prometheus?: { readonly query: string };
    readonly web?: object;
    readonly job?: object;
  };
}

export interface Template {
  readonly metadata: { readonly name: string };
  readonly spec: {
    readonly args?: readonly { readonly name: string; readonly value?: string }[];
    readonly metrics: readonly Metric[];
  };
}

export interface Gate {
  readonly templates: readonly Template[];
  readonly args: Readonly<Record<string, string>>;
  /** How far back its reconciliation looks. */
  readonly sinceSeconds: number;
}

/** A weight, its time, and the gate to the next one. */
export interface Stage {
  readonly weight: number;
  readonly pauseSeconds: number;
  readonly gate: Gate;
}

export interface Canary {
  readonly background: readonly Template[];
  readonly stages: readonly Stage[];
}

type Step =
  | { readonly setWeight: number }
  | { readonly pause: { readonly duration: string | number } }
  | {
      readonly analysis: {
        readonly templates: readonly { readonly templateName: string }[];
        readonly args: readonly Arg[];
      };
    };

interface Arg {
  readonly name: string;
  readonly value?: string;
}

const unitSeconds = { s: 1, m: 60, h: 3_600 } as const;

/** Seconds of a duration as Argo writes it: `2h`, `30m`, 45. */
export function secondsOf(duration: string | number): number {
  if (typeof duration === 'number') return duration;
  const found = /^(\d+)([smh])?$/.exec(duration);
  if (found === null) throw new Error(`no duration: ${duration}`);
  return Number(found[1]) * unitSeconds[(found[2] ?? 's') as keyof typeof unitSeconds];
}

/** @param hash what stands for every argument that Argo fills with the canary's hash */
export function readCanary(hash: string, folder = rolloutsFolder): Canary {
  const templates = new Map(
    readdirSync(join(folder, 'analysis'))
      .filter((file) => file.endsWith('.yaml'))
      .map((file) => parse(readFileSync(join(folder, 'analysis', file), 'utf8')) as Template)
      .map((template) => [template.metadata.name, template]),
  );
  const named = (list: readonly { readonly templateName: string }[]): Template[] =>
    list.map(({ templateName }) => {
      const template = templates.get(templateName);
      if (template === undefined) throw new Error(`no template ${templateName}`);
      return template;
    });
  const { canary } = (
    parse(readFileSync(join(folder, 'rollout.yaml'), 'utf8')) as {
      spec: {
        strategy: {
          canary: {
            steps: readonly Step[];
            analysis: { startingStep: number; templates: readonly { templateName: string }[] };
          };
        };
      };
    }
  ).spec.strategy;
  const stages: Stage[] = [];
  let weight = 0;
  let pauseSeconds = 0;
  for (const step of canary.steps) {
    if ('setWeight' in step) weight = step.setWeight;
    else if ('pause' in step) pauseSeconds = secondsOf(step.pause.duration);
    else {
      const args = Object.fromEntries(step.analysis.args.map(({ name, value }) => [name, value ?? hash]));
      stages.push({
        weight,
        pauseSeconds,
        gate: {
          templates: named(step.analysis.templates),
          args,
          sinceSeconds: secondsOf(args.since ?? '24h'),
        },
      });
      pauseSeconds = 0;
    }
  }
  return { background: named(canary.analysis.templates), stages };
}

/** Every metric of these templates, once. */
export const metricsOf = (templates: readonly Template[]): readonly Metric[] =>
  templates.flatMap(({ spec }) => spec.metrics);

/** The queries to Prometheus by metric, arguments filled in. */
export function queriesOf(
  templates: readonly Template[],
  args: Readonly<Record<string, string>>,
): Record<string, string> {
  const queries: Record<string, string> = {};
  for (const { spec } of templates) {
    const values: Record<string, string> = { ...args };
    for (const { name, value } of spec.args ?? [])
      if (values[name] === undefined && value !== undefined) values[name] = value;
    for (const { name, provider } of spec.metrics) {
      if (provider.prometheus === undefined) continue;
      queries[name] = provider.prometheus.query.replace(/\{\{\s*args\.([\w-]+)\s*\}\}/g, (_, arg: string) => {
        const filled = values[arg];
        if (filled === undefined) throw new Error(`metric ${name} has no value for ${arg}`);
        return filled;
      });
    }
  }
  return queries;
}
