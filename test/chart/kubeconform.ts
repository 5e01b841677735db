/** Holds manifests against the schemas of every supported Kubernetes, by kubeconform. */
import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { Schemas } from './schemas.ts';

interface Finding {
  readonly filename: string;
  readonly kind: string;
  readonly name: string;
  readonly status: string;
  readonly msg: string;
}

/**
 * One sentence for each object that a version refuses.
 * @param manifests text by name
 * @throws Error where nothing was looked at
 */
export async function schemaProblems(
  kubeconform: string,
  schemas: Schemas,
  manifests: Readonly<Record<string, string>>,
): Promise<string[]> {
  const folder = await mkdtemp(join(tmpdir(), 'counterfoil-manifests-'));
  try {
    for (const [name, text] of Object.entries(manifests)) await writeFile(join(folder, `${name}.yaml`), text);
    const refusing = new Map<string, string[]>();
    for (const version of schemas.versions) {
      const found = await findings(kubeconform, schemas, version, folder);
      if (found.length === 0) throw new Error('kubeconform has looked at nothing');
      for (const { filename, kind, name, status, msg } of found) {
        if (status === 'statusValid') continue;
        const problem = `${filename.slice(folder.length + 1)}: ${kind} ${name}: ${shortened(msg)}`;
        refusing.set(problem, [...(refusing.get(problem) ?? []), version]);
      }
    }
    return [...refusing]
      .map(([problem, versions]) => `${problem} (Kubernetes ${versions.join(', ')})`)
      .sort();
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** Without the path of the schema, which says nothing to a reader. */
const shortened = (message: string) =>
  message.replace(/^.*jsonschema validation failed with '[^']*'\s*/s, '').replaceAll(/\s*\n\s*/g, ' ');

async function findings(
  kubeconform: string,
  schemas: Schemas,
  version: string,
  folder: string,
): Promise<readonly Finding[]> {
  const given = [
    '-strict',
    '-verbose',
    '-output=json',
    '-n=2',
    `-kubernetes-version=${version}`,
    ...schemas.locations.map((location) => `-schema-location=${location}`),
    folder,
  ];
  const answer = await promisify(execFile)(kubeconform, given, { maxBuffer: 256 * 1024 * 1024 }).catch(
    (error: { code?: unknown; stdout?: string }) => {
      // It ends with 1 for what it refuses, and says it as it says all else.
      if (error.code !== 1 || !error.stdout) throw error;
      return { stdout: error.stdout };
    },
  );
  return (JSON.parse(answer.stdout) as { resources: readonly Finding[] }).resources;
}
