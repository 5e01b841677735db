/**
 * What becomes of the service when the chart is taken away under load, in either form of the Rollout: at rest, and in the
 * middle of a release. And how it is given back to a Deployment, by the very commands of rollouts/README.md.
 */
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect, type TestContext, test } from 'vitest';
import { SERVICE } from './billing-service.ts';
import { eventually, kubectl } from './cluster.ts';
import { figure } from './figures.ts';
import { type Form, FormedService } from './forms.ts';
import { rulesOf } from './prometheus.ts';
import type { RolloutStatus } from './rollout.ts';
import { versionsOf } from './shop.ts';

const run = promisify(execFile);
/** They run at once, and most of the time goes by waiting. */
const MINUTES = { timeout: 900_000 };

const PER_SECOND = 20;
const SESSIONS = 40_000;

/** A release that stays at 1 % until it is seen there; and Argo gives up what it cannot measure in half a minute. */
const values = {
  jobs: { flowProbe: { enabled: false } },
  rollout: {
    steps: [
      { weight: 1, pause: '20m', gates: [] },
      { weight: 100, pause: '85s', gates: [] },
    ],
    prometheus: { unreachableSeconds: 30 },
  },
};

interface Object {
  readonly kind: string;
  readonly metadata: {
    readonly name: string;
    readonly labels?: Readonly<Record<string, string>>;
    readonly ownerReferences?: readonly object[];
  };
}

async function listed(...args: readonly string[]): Promise<Object[]> {
  const kinds = (await kubectl('api-resources', '--verbs=list', '--output=name', ...args.slice(0, 1)))
    .trim()
    .split('\n')
    .filter((kind) => !/^(?:events|componentstatuses|endpoints|endpointslices)(?:\.|$)/.test(kind));
  const { items } = JSON.parse(await kubectl('get', kinds.join(), ...args.slice(1), '--output=json')) as {
    items: Object[];
  };
  return items;
}
const named = ({ kind, metadata }: Object) => `${kind} ${metadata.name}`;

/** Cluster-wide objects that speak of a namespace; the address of each Service is one that comes and goes with it. */
const clusterScopedOf = async (namespace: string): Promise<string[]> =>
  (await listed('--namespaced=false'))
    .filter(
      (object) =>
        !['Namespace', 'IPAddress'].includes(object.kind) && JSON.stringify(object).includes(namespace),
    )
    .map(named);

/** What is left of the release, without what belongs to something else and goes with it. */
const leftOf = async (namespace: string, release: string): Promise<string[]> =>
  (await listed('--namespaced=true', '--namespace', namespace, '-l', `app.kubernetes.io/instance=${release}`))
    .filter(({ metadata }) => metadata.ownerReferences === undefined)
    .map(named)
    .sort();

/** The blocks of commands under a heading of rollouts/README.md, for this namespace and release. */
function commandsOf(heading: string, namespace: string, release: string): string[] {
  const text = readFileSync(fileURLToPath(new URL('../../rollouts/README.md', import.meta.url)), 'utf8');
  const section = text.split(/^## /m).find((part) => part.startsWith(`${heading}\n`));
  if (section === undefined) throw new Error(`rollouts/README.md has no "${heading}"`);
  return section
    .replaceAll('-n counterfoil', `-n ${namespace}`)
    .replaceAll('instance=counterfoil', `instance=${release}`)
    .split('\n\n')
    .filter((block) => block.startsWith('    '));
}

/** @param context of the test, since several run at once */
async function underLoad(form: Form, { onTestFinished }: TestContext): Promise<FormedService> {
  const shop = await FormedService.prepare(form, { sessions: SESSIONS, values });
  onTestFinished(async () => await shop.namespace.remove());
  await shop.install();
  await eventually('the service is up', 240, async () => (await rolloutOf(shop)).status?.phase === 'Healthy');
  await shop.service.open(PER_SECOND, SESSIONS);
  await eventually('customers are served', 90, async () => (await shop.service.customers()).completed > 100);
  // The router takes some seconds to hear of a new service.
  refusedAtFirst.set(shop, (await shop.service.customers()).refused);
  return shop;
}

const refusedAtFirst = new WeakMap<FormedService, number>();

/** Since it is served at all. */
const refusals = async (shop: FormedService) =>
  (await shop.service.customers()).refused - (refusedAtFirst.get(shop) ?? 0);

const rolloutOf = async ({ namespace }: FormedService) =>
  await namespace.get<RolloutStatus>('rollout', SERVICE);

/** So many more sessions are completed, and none was ever refused. */
async function served(shop: FormedService, seconds: number): Promise<void> {
  const before = (await shop.service.customers()).completed;
  const more = seconds * PER_SECOND;
  await eventually(`${more} more sessions`, 180, async () => {
    const { completed } = await shop.service.customers();
    return completed > before + more;
  });
  expect(await refusals(shop)).toBe(0);
}

async function podsOf({ namespace }: FormedService): Promise<string[]> {
  const { items } = await namespace.get<{ items: { metadata: { uid: string } }[] }>(
    ...['pods', '-l', `app=${SERVICE}`],
  );
  return items.map(({ metadata }) => metadata.uid).sort();
}

/** What NOTES says is kept. */
function expectKept(left: readonly string[]): void {
  expect(new Set(left.map((name) => name.split(' ')[0]))).toEqual(
    new Set(['AnalysisTemplate', 'Rollout', 'Service', 'TraefikService']),
  );
  expect(left.filter((name) => !name.startsWith('AnalysisTemplate'))).toEqual([
    `Rollout ${SERVICE}`,
    `Service ${SERVICE}-canary`,
    `Service ${SERVICE}-stable`,
    `TraefikService ${SERVICE}`,
  ]);
}

async function uninstalled(shop: FormedService): Promise<void> {
  const { namespace, release } = shop;
  expect(await leftOf(namespace.name, release.name)).toContain('Deployment guard-counterfoil-exporter');
  await release.uninstall();
  await eventually('what it does not keep is gone', 90, async () => {
    const left = await leftOf(namespace.name, release.name);
    if (left.some((name) => !/^(?:AnalysisTemplate|Rollout|Service|TraefikService) /.test(name)))
      throw new Error(left.join());
    return true;
  });
  expectKept(await leftOf(namespace.name, release.name));
  expect(await clusterScopedOf(namespace.name)).toEqual([]);
  await eventually('Prometheus has forgotten its rules', 180, async () => {
    const rules = await rulesOf(namespace.name);
    if (rules.length > 0) throw new Error(`${rules.length} rules`);
    return true;
  });
}

async function gaveBack(shop: FormedService): Promise<void> {
  const { namespace, release, service } = shop;
  const [letGo = '', goBack = ''] = commandsOf('To give the service back', namespace.name, release.name);
  expect([letGo, goBack].join()).toMatch(/scaleDown.*delete rollout/s);
  for (const commands of shop.form === 'adopting' ? [letGo, goBack] : [goBack])
    await run('sh', ['-euxc', commands], { timeout: 400_000 });
  await eventually('only the pods of the Deployment are left', 120, async () => {
    const { items } = await namespace.get<{ items: { metadata: { labels: Record<string, string> } }[] }>(
      ...['pods', '-l', `app=${SERVICE}`],
    );
    return (
      items.length === 2 &&
      items.every(({ metadata }) => metadata.labels['rollouts-pod-template-hash'] === undefined)
    );
  });
  await served(shop, 10);
  expect(await leftOf(namespace.name, release.name)).toEqual([]);
  const refused = await refusals(shop);
  figure(`uninstall, ${shop.form}`, 'sessions completed', (await service.customers()).completed);
  figure(`uninstall, ${shop.form}`, 'requests refused', refused, '', 0);
  expect(refused).toBe(0);
}

test.concurrent(
  'an adopted Deployment: at rest nothing changes for customers, and it gets its pods back',
  MINUTES,
  async (context) => {
    const shop = await underLoad('adopting', context);
    const before = await podsOf(shop);
    await uninstalled(shop);
    await served(shop, 15);
    expect(await podsOf(shop)).toEqual(before);
    await gaveBack(shop);
  },
);

test.concurrent(
  'a template that the Rollout owns: in mid-release the canary that nobody can judge any more goes, and no request is lost',
  MINUTES,
  async (context) => {
    const shop = await underLoad('owning', context);
    await shop.next({ version: 'v2' });
    const { canary, stable } = await eventually('the canary is judged at 1 %', 120, async () => {
      const rollout = await rolloutOf(shop);
      return rollout.status?.phase === 'Paused' && versionsOf(rollout).weight === 1 && versionsOf(rollout);
    });
    await uninstalled(shop);
    await eventually('it is rolled back', 400, async () => {
      const rollout = await rolloutOf(shop);
      const { weight } = versionsOf(rollout);
      if (rollout.status?.abort !== true || weight !== 0) throw new Error(`weight ${weight}`);
      return true;
    });
    expect(versionsOf(await rolloutOf(shop))).toEqual({ canary, stable, weight: 0 });
    await served(shop, 15);

    // Its own chart has the template again.
    await shop.namespace.apply({
      apiVersion: 'apps/v1',
      kind: 'Deployment',
      metadata: { name: SERVICE },
      spec: {
        replicas: 0,
        selector: { matchLabels: { app: SERVICE } },
        template: shop.service.template({ version: 'v1' }),
      },
    });
    await gaveBack(shop);
  },
);

test('what is left in the whole cluster would be seen', async () => {
  const name = `counterfoil-test-rest-${process.pid}`;
  await kubectl('create', 'clusterrole', name, '--verb=get', '--resource=pods');
  try {
    expect(await clusterScopedOf(name)).toEqual([`ClusterRole ${name}`]);
  } finally {
    await kubectl('delete', 'clusterrole', name);
  }
  expect(await clusterScopedOf(name)).toEqual([]);
});
