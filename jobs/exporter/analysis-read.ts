/** What is kept of an AnalysisRun: of each metric its phase, its newest value and its limit. */
import { z } from 'zod';
import { limitOf, withArguments } from './analysis-limit.ts';
import { lenient, type ObjectHead, objectHead, time } from './kubernetes-object.ts';
import { hashLabel } from './rollout-read.ts';

export const analysisPhases = [
  'Pending',
  'Running',
  'Successful',
  'Failed',
  'Error',
  'Inconclusive',
] as const;
export type AnalysisPhase = (typeof analysisPhases)[number];

export interface AnalysisMetric {
  readonly name: string;
  readonly phase: AnalysisPhase;
  /** Only watched: its failure aborts nothing. */
  readonly dryRun: boolean;
  /** The newest measurement, where it is a number. */
  readonly value: number | undefined;
  readonly limit: number | undefined;
}

export interface AnalysisRun extends ObjectHead {
  readonly hash: string;
  readonly kind: 'background' | 'step';
  readonly phase: AnalysisPhase;
  readonly completedAt: number | undefined;
  readonly metrics: readonly AnalysisMetric[];
}

/** More metrics than anybody declares: what is exported has to be bounded. */
const MOST_METRICS = 50;

const phase = z.enum(analysisPhases);
const text = lenient(z.string());
const shape = z.object({
  metadata: z.object({
    labels: z.object({ [hashLabel]: z.string().min(1), 'rollout-type': z.enum(['Background', 'Step']) }),
  }),
  spec: lenient(
    z.object({
      args: lenient(z.array(z.object({ name: z.string(), value: text }))),
      metrics: lenient(
        z.array(z.object({ name: z.string().min(1), failureCondition: text, successCondition: text })),
      ),
    }),
  ),
  status: lenient(
    z.object({
      phase: lenient(phase),
      completedAt: lenient(time),
      metricResults: lenient(
        z.array(
          z.object({
            name: z.string().min(1),
            phase: lenient(phase),
            dryRun: lenient(z.boolean()),
            measurements: lenient(z.array(z.object({ value: text, startedAt: lenient(time) }))),
          }),
        ),
      ),
    }),
  ),
});

/** A background or step run of a Rollout; nothing for any other one. */
export function readAnalysisRun(object: unknown): AnalysisRun | undefined {
  const head = objectHead(object);
  const parsed = shape.safeParse(object);
  if (head?.owner === undefined || !parsed.success) return undefined;
  const { metadata, spec, status } = parsed.data;
  const args = new Map<string, string>();
  for (const { name, value } of spec?.args ?? []) if (value !== undefined) args.set(name, value);
  const declared = new Map((spec?.metrics ?? []).map((metric) => [metric.name, metric]));
  const results = new Map((status?.metricResults ?? []).map((result) => [result.name, result]));
  const names = [...new Set([...declared.keys(), ...results.keys()])].slice(0, MOST_METRICS);
  return {
    ...head,
    hash: metadata.labels[hashLabel],
    kind: metadata.labels['rollout-type'] === 'Step' ? 'step' : 'background',
    phase: status?.phase ?? 'Pending',
    completedAt: status?.completedAt,
    metrics: names.map((name) => {
      const result = results.get(name);
      const { failureCondition, successCondition } = declared.get(name) ?? {};
      const newest = result?.measurements?.toSorted(
        (one, other) => (one.startedAt ?? 0) - (other.startedAt ?? 0),
      );
      return {
        name,
        phase: result?.phase ?? 'Pending',
        dryRun: result?.dryRun === true,
        value: numberOf(newest?.at(-1)?.value),
        limit: limitIn(failureCondition, args) ?? limitIn(successCondition, args),
      };
    }),
  };
}

function limitIn(condition: string | undefined, args: ReadonlyMap<string, string>): number | undefined {
  const complete = condition === undefined ? undefined : withArguments(condition, args);
  return complete === undefined ? undefined : limitOf(complete);
}

/** Of `[0.003]`, as of `0.003`, the number; nothing of an empty vector, NaN, or words. */
function numberOf(value: string | undefined): number | undefined {
  const first = value?.trim().replace(/^\[/, '').split(/[,\]]/)[0]?.trim() ?? '';
  const number = first === '' ? Number.NaN : Number(first);
  return Number.isFinite(number) ? number : undefined;
}
