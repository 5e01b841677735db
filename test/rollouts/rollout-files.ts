/** The files of `rollouts/` as data. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parse, parseAllDocuments } from 'yaml';

export const rolloutsFolder = fileURLToPath(new URL('../../rollouts', import.meta.url));

export interface KubernetesObject {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: { readonly name: string; readonly namespace?: string };
}

export interface Metric {
  readonly name: string;
  readonly interval?: string;
  readonly initialDelay?: string;
  readonly count?: number;
  readonly failureLimit?: number;
  readonly consecutiveSuccessLimit?: number;
  readonly consecutiveErrorLimit?: number;
  readonly successCondition?: string;
  readonly failureCondition?: string;
  readonly provider: {
    readonly prometheus?: { readonly address: string; readonly query: string };
    readonly web?: { readonly url: string; readonly jsonPath: string };
    readonly job?: {
      readonly spec: { readonly backoffLimit: number; readonly activeDeadlineSeconds: number };
    };
  };
}

export interface AnalysisTemplate extends KubernetesObject {
  readonly spec: {
    readonly args?: readonly { readonly name: string; readonly value?: string }[];
    readonly metrics: readonly Metric[];
  };
}

interface Analysis {
  readonly templates: readonly { readonly templateName: string }[];
  readonly args: readonly { readonly name: string }[];
}

export interface Rollout extends KubernetesObject {
  readonly spec: {
    readonly strategy: {
      readonly canary: {
        readonly analysis: Analysis;
        readonly steps: readonly {
          readonly setWeight?: number;
          readonly pause?: { readonly duration: string };
          readonly analysis?: Analysis;
        }[];
      };
    };
  };
}

/** How a Rollout is written, and the routers that there is an example of. */
export const forms = ['rollout', 'rollout-adopting'] as const;
export const routers = ['none', 'nginx', 'traefik', 'istio', 'alb', 'gateway-api'] as const;

const text = (path: string) => readFileSync(join(rolloutsFolder, path), 'utf8');
const documents = (path: string) =>
  parseAllDocuments(text(path)).map((document) => document.toJS() as KubernetesObject);

export const readRollout = (form: (typeof forms)[number]): Rollout => parse(text(`${form}.yaml`)) as Rollout;

export const readServices = (): KubernetesObject[] => documents('services.yaml');

export const templateNames = readdirSync(join(rolloutsFolder, 'analysis'))
  .filter((name) => name.endsWith('.yaml'))
  .map((name) => name.slice(0, -'.yaml'.length))
  .sort();

export const readTemplate = (name: string): AnalysisTemplate =>
  parse(text(`analysis/${name}.yaml`)) as AnalysisTemplate;

export function readMetric(name: string): Metric {
  const [metric, ...others] = readTemplate(name).spec.metrics;
  if (metric === undefined || others.length > 0)
    throw new Error(`rollouts/analysis/${name}.yaml: one metric`);
  return metric;
}

/** The router's own objects, and the Rollout with its patch. */
export function withRouter(
  rollout: Rollout,
  router: (typeof routers)[number],
): readonly [rollout: Rollout, ...objects: KubernetesObject[]] {
  const patched = mergePatch(rollout, parse(text(`routers/${router}.patch.yaml`)) as object) as Rollout;
  return [patched, ...(router === 'none' ? [] : documents(`routers/${router}.yaml`))];
}

/** As `kubectl patch --type merge`: a null takes away. */
function mergePatch(target: unknown, patch: unknown): unknown {
  if (!isRecord(patch)) return patch;
  const merged: Record<string, unknown> = isRecord(target) ? { ...target } : {};
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) delete merged[key];
    else merged[key] = mergePatch(merged[key], value);
  }
  return merged;
}

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);
