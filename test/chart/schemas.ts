/**
 * The schemas of Kubernetes and of the custom resources that the chart renders, out of the Go modules that publish them
 * (`tools/schemas/modules.json`): made once, and kept in `tools/schemas/dist` for as long as list and conversion stay the same.
 */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, globSync, readFileSync } from 'node:fs';
import { mkdir, rename, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { parseAllDocuments } from 'yaml';
import { findGo } from '../tools/find-tool.ts';
import { type Kind, kindsOfDefinition, kindsOfKubernetes } from './strict-schema.ts';

const folder = fileURLToPath(new URL('../../tools/schemas', import.meta.url));

interface Module {
  readonly module: string;
  readonly version: string;
  /** As go.sum has it: what the registry gives must be what was looked at. */
  readonly sum: string;
  /** The file of Kubernetes' own kinds. */
  readonly swagger?: string;
  /** Files with CustomResourceDefinitions. */
  readonly definitions?: string;
}

export interface Schemas {
  /** For `-schema-location`. */
  readonly locations: readonly string[];
  /** Of Kubernetes, oldest first, without `v`. */
  readonly versions: readonly string[];
}

/** @throws Error with one line that says what is missing */
export async function findSchemas(modules = readModules(), into = join(folder, 'dist')): Promise<Schemas> {
  const kept = join(into, fingerprint(modules));
  if (!existsSync(kept)) await make(modules, kept);
  const of = (part: string) => join(kept, part, '{{.Group}}/{{.ResourceKind}}_{{.ResourceAPIVersion}}.json');
  return {
    locations: [of('{{.NormalizedKubernetesVersion}}'), of('definitions')],
    versions: modules.filter(({ swagger }) => swagger !== undefined).map(({ version }) => version.slice(1)),
  };
}

export const readModules = () =>
  JSON.parse(readFileSync(join(folder, 'modules.json'), 'utf8')) as readonly Module[];

function fingerprint(modules: readonly Module[]): string {
  const hash = createHash('sha256').update(JSON.stringify(modules));
  for (const name of ['schemas.ts', 'strict-schema.ts'])
    hash.update(readFileSync(new URL(name, import.meta.url)));
  return hash.digest('hex').slice(0, 16);
}

async function make(modules: readonly Module[], kept: string): Promise<void> {
  const go = findGo();
  // Under another name until it is whole: two test runs may make them at once.
  const unfinished = `${kept}.${process.pid}`;
  let newest: Parameters<typeof kindsOfKubernetes>[0] | undefined;
  for (const module of modules) {
    const source = await download(go, module);
    if (module.swagger !== undefined) {
      newest = JSON.parse(readFileSync(join(source, module.swagger), 'utf8')) as NonNullable<typeof newest>;
      await write(join(unfinished, module.version), kindsOfKubernetes(newest));
    } else if (module.definitions !== undefined && newest !== undefined) {
      const files = globSync(module.definitions, { cwd: source });
      if (files.length === 0)
        throw new Error(`${module.module} ${module.version} has no ${module.definitions}`);
      for (const file of files)
        for (const document of parseAllDocuments(readFileSync(join(source, file), 'utf8'))) {
          const object = document.toJS() as { kind?: string } | null;
          if (object?.kind === 'CustomResourceDefinition')
            await write(join(unfinished, 'definitions'), kindsOfDefinition(object, newest));
        }
    }
  }
  await rm(kept, { recursive: true, force: true });
  await rename(unfinished, kept);
}

/** Where the module's files are. */
async function download(go: string, { module, version, sum }: Module): Promise<string> {
  const { stdout } = await promisify(execFile)(go, ['mod', 'download', '-json', `${module}@${version}`], {
    // Outside any module: what is only read is in nobody's go.mod.
    cwd: dirname(folder),
    maxBuffer: 16 * 1024 * 1024,
  });
  const { Sum, Dir } = JSON.parse(stdout) as { Sum: string; Dir: string };
  if (Sum !== sum)
    throw new Error(`${module} ${version} has the sum ${Sum}, not that of tools/schemas/modules.json`);
  return Dir;
}

async function write(place: string, kinds: readonly Kind[]): Promise<void> {
  for (const { group, version, kind, schema } of kinds) {
    // kubeconform calls the group of the core by its version.
    const file = join(place, group === '' ? version : group, `${kind.toLowerCase()}_${version}.json`);
    await mkdir(dirname(file), { recursive: true });
    await writeFile(file, JSON.stringify(schema));
  }
}
