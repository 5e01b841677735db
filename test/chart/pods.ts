/** The pods of a rendering, wherever they stand, and what the process in each is told. */
import type { KubernetesObject, Rendered } from './render.ts';

// biome-ignore lint/suspicious/noExplicitAny: whatever a pod has
export type PodSpec = any;

export interface RenderedPod {
  /** Such as `CronJob guard-counterfoil-event-replay`. */
  readonly owner: string;
  readonly kind: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  /** Of the workload; nothing for those that have none of their own. */
  readonly selector: Readonly<Record<string, string>> | undefined;
  readonly spec: PodSpec;
}

/** Every pod, those of the analysis included. */
export const podsOf = ({ objects }: Rendered): RenderedPod[] =>
  objects.flatMap((object) =>
    templatesOf(object).map(({ metadata = {}, spec }) => ({
      owner: `${object.kind} ${object.metadata.name}`,
      kind: object.kind,
      labels: metadata.labels ?? {},
      annotations: metadata.annotations ?? {},
      selector: object.spec.selector?.matchLabels,
      spec,
    })),
  );

interface PodTemplate {
  readonly metadata?: {
    readonly labels?: Readonly<Record<string, string>>;
    readonly annotations?: Readonly<Record<string, string>>;
  };
  readonly spec: PodSpec;
}

function templatesOf(object: KubernetesObject): PodTemplate[] {
  switch (object.kind) {
    case 'Pod':
      return [{ metadata: object.metadata, spec: object.spec }];
    case 'CronJob':
      return [object.spec.jobTemplate.spec.template];
    case 'Job':
    case 'Deployment':
      return [object.spec.template];
    case 'AnalysisTemplate':
      return object.spec.metrics.flatMap(
        (metric: { provider: { job?: { spec: { template: PodTemplate } } } }) =>
          metric.provider.job === undefined ? [] : [metric.provider.job.spec.template],
      );
    default:
      return [];
  }
}

interface Variable {
  readonly name: string;
  readonly value?: string;
  readonly valueFrom?: {
    readonly secretKeyRef?: { readonly name: string; readonly key: string };
    readonly fieldRef?: { readonly fieldPath: string };
  };
}

/** Which job runs in it, such as `event-replay`. */
export const jobOf = (spec: PodSpec): string =>
  /^jobs\/([\w-]+)\/main\.ts$/.exec(spec.containers[0].args.at(-1))?.[1] ?? 'none';

/** What its process finds in its environment; what comes from elsewhere as `secret/<name>/<key>` and `field/<path>`. */
export function environmentOf(spec: PodSpec): Record<string, string> {
  const variables: Variable[] = spec.containers[0].env;
  const found: Record<string, string> = {};
  for (const { name, value, valueFrom } of variables) {
    if (Object.hasOwn(found, name)) throw new Error(`${name} stands in the environment twice`);
    const { secretKeyRef: secret, fieldRef: field } = valueFrom ?? {};
    if (value !== undefined) found[name] = value;
    else if (secret !== undefined) found[name] = `secret/${secret.name}/${secret.key}`;
    else if (field !== undefined) found[name] = `field/${field.fieldPath}`;
    else throw new Error(`${name} has no value`);
  }
  return found;
}
