/** The files of this repository, or of a fixture tree, as the checks of this folder read them. */
import { readdirSync, readFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

export const repository = fileURLToPath(new URL('../..', import.meta.url)).replace(/\/$/, '');
export const fixtures = join(repository, 'test/repo/fixtures');

/** What git does not keep (.gitignore), and the fixtures of these checks, which are wrong on purpose. */
const passedOver = new Set(['node_modules', 'dist', 'coverage', '.git', 'fixtures']);

export interface Entry {
  /** From the root, with `/`. */
  readonly path: string;
  readonly isLink: boolean;
}

export function listEntries(root: string): Entry[] {
  return readdirSync(root, { withFileTypes: true, recursive: false }).flatMap((entry) =>
    walk(root, root, entry),
  );
}

function walk(
  root: string,
  folder: string,
  entry: { name: string; isDirectory(): boolean; isSymbolicLink(): boolean },
): Entry[] {
  const place = join(folder, entry.name);
  if (passedOver.has(entry.name) || /\.(log|tsbuildinfo)$/.test(entry.name)) return [];
  if (!entry.isDirectory()) return [{ path: relative(root, place), isLink: entry.isSymbolicLink() }];
  return readdirSync(place, { withFileTypes: true }).flatMap((child) => walk(root, place, child));
}

/** Paths of the files whose name ends in one of `endings`, in order. */
export function listFiles(root: string, ...endings: readonly string[]): string[] {
  return listEntries(root)
    .filter((entry) => !entry.isLink && endings.some((ending) => entry.path.endsWith(ending)))
    .map((entry) => entry.path)
    .sort();
}

export const readText = (root: string, path: string): string => readFileSync(join(root, path), 'utf8');

/** The code without its comments; line numbers stay as they are. */
export function withoutComments(code: string): string {
  // Strings first, so that a "//" inside one is not taken for a comment.
  return code.replace(
    /('(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"|`(?:\\.|[^`\\])*`)|\/\*[\s\S]*?\*\/|\/\/[^\n]*/g,
    (match, text: string | undefined) => text ?? match.replace(/[^\n]/g, ' '),
  );
}
