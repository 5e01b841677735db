/** `npm run test:cluster`: says in one line what is missing, else runs the tests that need a real cluster. */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { table } from './figures.ts';

function missing(): string | undefined {
  if ((process.env.KUBECONFIG ?? '') === '')
    return 'KUBECONFIG names no cluster: make one (CONTRIBUTING.md, "A cluster"), then KUBECONFIG=… npm run test:cluster';
  const kubectl = (...args: string[]) => spawnSync('kubectl', args, { encoding: 'utf8', timeout: 20_000 });
  if (kubectl('version', '--client').error !== undefined) return 'kubectl is not on the PATH: install it';
  if (kubectl('get', '--raw', '/readyz').status !== 0)
    return 'the cluster that KUBECONFIG names does not answer: is it up, and can it be reached from here?';
  const unfit = kubectl(
    ...['get', 'nodes', '-o'],
    'jsonpath={range .items[*]}{range .spec.taints[*]}{.key} {end}{end}',
  ).stdout.match(/node\.kubernetes\.io\/[\w-]+/)?.[0];
  if (unfit !== undefined)
    return `a node of the cluster takes no pods or throws them out (${unfit}): kubectl describe nodes says why`;
  if (kubectl('get', 'crd', 'rollouts.argoproj.io').status !== 0)
    return 'the cluster has no Argo Rollouts: install it (CONTRIBUTING.md, "A cluster")';
  if (kubectl('argo', 'rollouts', 'version').status !== 0)
    return 'kubectl has no plugin argo rollouts: put kubectl-argo-rollouts on the PATH';
  if (kubectl('get', 'crd', 'traefikservices.traefik.io').status !== 0)
    return 'the cluster has no Traefik: install it (CONTRIBUTING.md, "A cluster")';
  const images = ['jobs', 'reference-service'].map(
    (name) => `counterfoil/${name}:${process.env.CLUSTER_IMAGE_TAG ?? 'cluster-test'}`,
  );
  // What is not put into the nodes they pull.
  if (
    (process.env.IMAGE_LOAD_COMMAND ?? '') !== '' &&
    spawnSync('docker', ['image', 'inspect', ...images]).status !== 0
  )
    return `Docker has no ${images.join(' and ')}: npm run images -- --tag cluster-test`;
  return undefined;
}

/**
 * One vitest per lane, side by side: journeys that wait most of the time, and those whose customers keep a core busy, one at
 * a time. The lines of each begin with its name.
 */
const lanes: Readonly<Record<string, readonly string[]>> = {
  cluster: ['--maxWorkers=2'],
  'cluster-load': ['--maxWorkers=1'],
};

/**
 * What `.ci/run` runs of them, since a cold machine has little more than half an hour for it: at least one journey for each way
 * of use. The others are run by `npm run test:cluster` before a release, and docs/benchmarks.md has their last result.
 */
const brief: Readonly<Record<string, readonly string[]>> = {
  cluster: [
    ...['alertmanager-config', 'exporter', 'monitoring', 'plain-rollout', 'runbooks'],
    ...['install', 'live-rollout', 'uninstall', 'schedule', 'on-call-view'],
    ...[
      'release-that-crashes',
      'release-that-cannot-start',
      'release-while-prometheus-is-away',
      'rolling-restart',
    ],
  ].map((name) => `test/cluster/${name}.test.ts`),
  'cluster-load': ['good-release', 'release-that-loses', 'release-that-bills-wrong'].map(
    (name) => `test/cluster/load/${name}.test.ts`,
  ),
};

const results = fileURLToPath(new URL('../../coverage/cluster', import.meta.url));

async function run(projects: readonly string[], args: readonly string[], prefix = ''): Promise<number> {
  const vitest = fileURLToPath(new URL('../../node_modules/vitest/vitest.mjs', import.meta.url));
  const child = spawn(
    process.execPath,
    [vitest, 'run', ...projects.flatMap((project) => ['--project', project]), ...args],
    { stdio: prefix === '' ? 'inherit' : ['ignore', 'pipe', 'pipe'] },
  );
  const print = async (lines: NodeJS.ReadableStream | null, to: NodeJS.WritableStream) => {
    if (lines !== null)
      for await (const line of createInterface({ input: lines })) to.write(`${prefix}${line}\n`);
  };
  const printed = Promise.all([print(child.stdout, process.stdout), print(child.stderr, process.stderr)]);
  const [code] = (await once(child, 'close')) as [number | null];
  await printed;
  return code ?? 1;
}

const problem = missing();
if (problem !== undefined) {
  process.stderr.write(`${problem}\n`);
  process.exitCode = 1;
} else {
  const { values, positionals } = parseArgs({
    options: { lane: { type: 'string' }, brief: { type: 'boolean', default: false } },
    allowPositionals: true,
  });
  const lane = values.lane;
  // Of a part alone nothing is thrown away: others may be at work.
  if (positionals.length === 0) rmSync(results, { recursive: true, force: true });
  const wanted = lane === undefined ? Object.keys(lanes) : [lane];
  const report = (name: string) => [
    ...['--reporter=default', '--reporter=json', `--outputFile.json=${results}/${name}.json`],
  ];
  const codes =
    // Files by name, for whoever works on them, run one after the other.
    positionals.length > 0
      ? [await run(wanted, [...positionals, '--maxWorkers=1'])]
      : await Promise.all(
          wanted.map((name) =>
            run(
              [name],
              [...((values.brief && brief[name]) || []), ...report(name), ...(lanes[name] ?? [])],
              `${name}: `,
            ),
          ),
        );
  process.stdout.write(`\n${table()}`);
  process.exitCode = Math.max(...codes);
}
