/**
 * Which file may import which: jobs/runtime nothing of ours, jobs/checks only the runtime, a job the runtime, the
 * checks and itself. The image of the jobs holds the root's dependencies alone, so nothing else may be imported
 * there. Tests may use the test folder, the scripts and the migrations as well.
 */
import { builtinModules } from 'node:module';
import { dirname, join } from 'node:path';
import { listFiles, readText, withoutComments } from './files.ts';

const specifierPatterns = [
  /(?:^|[\n;}])\s*(?:import|export)\b[^'"`;]*?\bfrom\s*(['"])([^'"\n]+)\1/g,
  /(?:^|[\n;}])\s*import\s*(['"])([^'"\n]+)\1/g,
  /\bimport\s*\(\s*(['"`])([^'"`\n]+)\1/g,
  /\brequire\s*\(\s*(['"`])([^'"`\n]+)\1/g,
];

/** What a file imports, types included; of an import whose name is computed, `(computed)`. */
export function importsOf(code: string): string[] {
  const bare = withoutComments(code);
  const found = specifierPatterns.flatMap((pattern) =>
    [...bare.matchAll(pattern)].map((match) => match[2] ?? ''),
  );
  if (/\b(?:import|require)\s*\(\s*[^\s'"`)]/.test(bare)) found.push('(computed)');
  return [...new Set(found)];
}

const isTest = (path: string) =>
  path.endsWith('.test.ts') || path.startsWith('test/') || path.includes('/testing/');

/** The unit a path belongs to: `jobs/event-replay`, `nestjs`, `test`. */
function unitOf(path: string): string {
  const [top = '', second = ''] = path.split('/');
  return top === 'jobs' ? `jobs/${second}` : top;
}

function mayImportUnit(from: string, to: string, path: string, target: string): boolean {
  if (from === to) return true;
  if (to === 'nestjs' || to === 'reference-service') return from === 'test';
  if (from === 'nestjs' || from === 'reference-service')
    return isTest(path) && (to === 'test' || to === 'scripts');
  if (from === 'test' || from === 'tools') return true;
  if (from === 'scripts') return to !== 'test';
  // From here on `from` is a folder of jobs/.
  if (isTest(path) && (to === 'test' || to === 'scripts' || target === 'jobs/schema/migrate.ts')) return true;
  switch (from) {
    case 'jobs/runtime':
      return false;
    case 'jobs/checks':
      return to === 'jobs/runtime';
    default:
      return to === 'jobs/runtime' || to === 'jobs/checks';
  }
}

function packageOf(specifier: string): string {
  return specifier
    .split('/')
    .slice(0, specifier.startsWith('@') ? 2 : 1)
    .join('/');
}

/** One sentence for each import that goes the wrong way, in the tree under `root`. */
export function importProblems(root: string, dependencies: readonly string[]): string[] {
  const problems: string[] = [];
  for (const path of listFiles(root, '.ts', '.mts', '.js', '.mjs')) {
    const from = unitOf(path);
    const inJobs = from.startsWith('jobs/');
    for (const specifier of importsOf(readText(root, path))) {
      if (specifier.startsWith('.')) {
        const target = join(dirname(path), specifier);
        if (!mayImportUnit(from, unitOf(target), path, target))
          problems.push(`${path} imports ${target}: ${from} must not use ${unitOf(target)}`);
        continue;
      }
      if (specifier.startsWith('node:')) continue;
      if (builtinModules.includes(specifier)) {
        problems.push(`${path} imports ${specifier}: write node:${specifier}`);
        continue;
      }
      const name = packageOf(specifier);
      if (name === '@counterfoil/nestjs' && from !== 'reference-service' && from !== 'nestjs')
        problems.push(`${path} imports ${name}: only a service imports the module`);
      if (name === '@kubernetes/client-node' && !path.startsWith('jobs/exporter/'))
        problems.push(
          `${path} imports ${name}: only jobs/exporter does, it costs memory that no other job has to pay`,
        );
      if (!inJobs) continue;
      // A test may hold a connection of its own: what it forgets to await costs nobody money.
      if (isTest(path)) continue;
      if (name === 'pg' && path !== 'jobs/runtime/database.ts')
        problems.push(
          `${path} imports pg: only jobs/runtime/database.ts does, behind methods without overloads`,
        );
      if (specifier === '(computed)')
        problems.push(`${path} imports by a computed name: nobody can follow it`);
      else if (!dependencies.includes(name))
        problems.push(
          `${path} imports ${name}: not in "dependencies", so it is not in the image of the jobs`,
        );
    }
  }
  return problems.sort();
}
