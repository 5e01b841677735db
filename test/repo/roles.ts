/**
 * What the Roles that we ship may not do: make, change or remove anything that runs. A component that asks for work
 * writes a row; none needs the right to start a pod.
 */
import { parseAllDocuments } from 'yaml';
import { z } from 'zod';
import { listFiles, readText } from './files.ts';

const running = [
  'pods',
  'jobs',
  'cronjobs',
  'deployments',
  'replicasets',
  'statefulsets',
  'daemonsets',
  'replicationcontrollers',
  'rollouts',
];
const changing = ['create', 'update', 'patch', 'delete', 'deletecollection'];

const texts = z.array(z.string()).default([]);
const role = z.looseObject({
  kind: z.enum(['Role', 'ClusterRole']),
  metadata: z.looseObject({ name: z.string() }),
  rules: z.array(z.looseObject({ verbs: texts, resources: texts })).default([]),
});

/** What Helm has still to render is no YAML; test/chart/rbac.test.ts looks at the Roles that come of it. */
const isTemplate = (path: string) => /^charts\/[^/]+\/templates\//.test(path);

/** One sentence for each right that goes too far, in the YAML files under `root`. */
export function roleProblems(root: string): string[] {
  const problems: string[] = [];
  for (const path of listFiles(root, '.yaml', '.yml')) {
    if (isTemplate(path)) continue;
    const text = readText(root, path);
    if (!/^\s*-?\s*kind:\s*["']?(Cluster)?Role["']?\s*(#.*)?$/m.test(text)) continue;
    for (const document of parseAllDocuments(text)) {
      if (!('errors' in document) || document.errors.length > 0) {
        problems.push(`${path}: holds a Role and cannot be read`);
        continue;
      }
      for (const object of objectsIn(document.toJS())) problems.push(...problemsOf(path, object));
    }
  }
  return problems.sort();
}

/** An object itself, or those of a List. */
function objectsIn(value: unknown): unknown[] {
  const items = (value as { items?: unknown } | null)?.items;
  return Array.isArray(items) ? items.flatMap(objectsIn) : [value];
}

/** The same of one object. */
export function problemsOf(path: string, object: unknown): string[] {
  const parsed = role.safeParse(object);
  if (!parsed.success) {
    const { kind } = (object ?? {}) as { kind?: unknown };
    return kind === 'Role' || kind === 'ClusterRole' ? [`${path}: a Role cannot be read`] : [];
  }
  const { metadata, rules } = parsed.data;
  return rules.flatMap(({ verbs, resources }) =>
    resources.flatMap((resource) =>
      verbs
        .filter((verb) => goesTooFar(verb, resource))
        .map((verb) => `${path}: ${metadata.name} may ${verb} ${resource}`),
    ),
  );
}

function goesTooFar(verb: string, resource: string): boolean {
  const [main = ''] = resource.split('/');
  return (verb === '*' || changing.includes(verb)) && (main === '*' || running.includes(main));
}
