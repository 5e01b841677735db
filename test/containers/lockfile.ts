/** What package-lock.json says that an image must hold: what is needed at run time, found as Node would find it. */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

interface Locked {
  readonly version?: string;
  readonly link?: boolean;
  readonly resolved?: string;
  readonly optional?: boolean;
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly peerDependencies?: Readonly<Record<string, string>>;
  readonly peerDependenciesMeta?: Readonly<Record<string, { readonly optional?: boolean }>>;
}

const { packages } = JSON.parse(
  readFileSync(fileURLToPath(new URL('../../package-lock.json', import.meta.url)), 'utf8'),
) as { packages: Readonly<Record<string, Locked>> };

/** Where a package is found from a place: beside it, or above. */
function placeOf(name: string, from: string): string | undefined {
  for (let at = from; ; at = at.slice(0, Math.max(0, at.lastIndexOf('/node_modules/')))) {
    const path = `${at === '' ? '' : `${at}/`}node_modules/${name}`;
    if (packages[path] !== undefined) return path;
    if (at === '') return undefined;
  }
}

export const lockedVersion = (name: string): string | undefined => packages[`node_modules/${name}`]?.version;

/** `name@version` of all that the package at `start` ("" is the root) needs to run. */
export function neededAtRunTime(start: string): Set<string> {
  const seen = new Set<string>();
  const needed = new Set<string>();
  const visit = (path: string) => {
    if (seen.has(path)) return;
    seen.add(path);
    const entry = packages[path];
    if (entry === undefined) throw new Error(`package-lock.json has no ${path}`);
    if (entry.link === true) {
      const target = entry.resolved ?? '';
      needed.add(`${path.replace(/^.*node_modules\//, '')}@${packages[target]?.version}`);
      visit(target);
      return;
    }
    if (path.includes('node_modules/'))
      needed.add(`${path.replace(/^.*node_modules\//, '')}@${entry.version}`);
    const peers = Object.keys(entry.peerDependencies ?? {}).filter(
      (name) => entry.peerDependenciesMeta?.[name]?.optional !== true,
    );
    for (const name of [...Object.keys(entry.dependencies ?? {}), ...peers]) {
      const found = placeOf(name, path);
      if (found !== undefined) visit(found);
      else if (!peers.includes(name)) throw new Error(`package-lock.json has no ${name} for ${path}`);
    }
  };
  visit(start);
  return needed;
}
