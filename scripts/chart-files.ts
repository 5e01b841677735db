/**
 * Copies what the chart reads from `alerts/`, `dashboards/built` and `rollouts/` into `charts/counterfoil/files`, byte for
 * byte: a chart cannot read outside its own folder.
 */
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';

/** Where the copies are, from the root of the repository. */
export const COPIES = 'charts/counterfoil/files';

/** What the chart reads: folder, its copy, and which of its files. */
const sources: readonly {
  readonly from: string;
  readonly to: string;
  readonly takes: (path: string) => boolean;
}[] = [
  {
    from: 'alerts',
    to: 'alerts',
    // The inhibition as Alertmanager itself reads it is no object of Kubernetes; its other form is copied.
    takes: (path) => path.endsWith('.yaml') && !path.endsWith('.test.yaml') && path !== 'inhibition.yaml',
  },
  { from: 'dashboards/built', to: 'dashboards', takes: (path) => path.endsWith('.json') },
  { from: 'rollouts', to: 'rollouts', takes: (path) => path.endsWith('.yaml') },
];

/** Original by copy, both from the root of the repository. */
function wanted(root: string): Map<string, string> {
  const originals = new Map<string, string>();
  for (const { from, to, takes } of sources)
    for (const path of filesUnder(join(root, from)))
      if (takes(path)) originals.set(join(COPIES, to, path), join(from, path));
  return originals;
}

function filesUnder(folder: string): string[] {
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(folder, join(entry.parentPath, entry.name)))
    .sort();
}

const leftOver = (root: string, originals: ReadonlyMap<string, string>) =>
  filesUnder(join(root, COPIES))
    .map((path) => join(COPIES, path))
    .filter((copy) => !originals.has(copy));

/** One sentence for each copy that is missing, differs, or has no original any more. */
export function differences(root: string): string[] {
  const originals = wanted(root);
  const problems = leftOver(root, originals).map((copy) => `${copy} is the copy of nothing`);
  for (const [copy, original] of originals) {
    if (!existsSync(join(root, copy))) problems.push(`${copy} is missing: the copy of ${original}`);
    else if (!readFileSync(join(root, copy)).equals(readFileSync(join(root, original))))
      problems.push(`${copy} differs from ${original}`);
  }
  return problems.sort();
}

/** Makes the copies equal to their originals; gives back how many files there are. */
export function copyAll(root: string): number {
  const originals = wanted(root);
  for (const copy of leftOver(root, originals)) rmSync(join(root, copy));
  for (const [copy, original] of originals) {
    mkdirSync(dirname(join(root, copy)), { recursive: true });
    copyFileSync(join(root, original), join(root, copy));
  }
  return originals.size;
}
