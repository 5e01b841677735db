/**
 * Two installations of one name, for services of one name, in two namespaces of a cluster: they share Argo, the router and
 * Prometheus, and nothing that befalls the left one may reach the right one, its end included.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { firing } from './alerts.ts';
import { SERVICE } from './billing-service.ts';
import { eventually, kubectl } from './cluster.ts';
import { JobRuns } from './job-runs.ts';
import { query, rulesOf } from './prometheus.ts';
import { INSTALLATION, Shop } from './shop.ts';

const MINUTES = { timeout: 900_000 };

const opening = (tolerated: number) =>
  Shop.open({
    sessions: 100,
    values: { jobs: { flowProbe: { enabled: false } }, thresholds: { openFindings: tolerated } },
  });

let shops: readonly PromiseSettledResult<Shop>[] = [];
let left: Shop;
let right: Shop;

beforeAll(async () => {
  shops = await Promise.allSettled([opening(0), opening(5)]);
  const open = shops.map((shop) => {
    if (shop.status === 'rejected') throw shop.reason;
    return shop.value;
  });
  [left, right] = open as [Shop, Shop];
}, 600_000);
afterAll(async () => {
  for (const shop of shops) if (shop.status === 'fulfilled') await shop.value.close();
});

const runsOf = ({ namespace, service }: Shop) => new JobRuns(namespace, service, INSTALLATION);
const nameOf = ({ namespace }: Shop) => namespace.name;

/** What Argo, the router and the pods of a service are. */
async function guarded({ namespace }: Shop): Promise<unknown> {
  const parts = [
    ['rollout', SERVICE, 'jsonpath={.spec}{.status}'],
    ['service', `${SERVICE}-stable`, 'jsonpath={.spec.selector}'],
    ['service', `${SERVICE}-canary`, 'jsonpath={.spec.selector}'],
    ['traefikservice', SERVICE, 'jsonpath={.spec}'],
    ['pods', '--selector', `app=${SERVICE}`, 'jsonpath={.items[*].metadata.uid}'],
  ];
  return await Promise.all(
    parts.map(async (part) => await namespace.kubectl('get', ...part.slice(0, -1), '-o', part.at(-1) ?? '')),
  );
}

const numberOf = async ({ service }: Shop, table: string) =>
  Number(await service.sql(`SELECT count(*) FROM counterfoil.${table}`));

async function podOf(shop: Shop): Promise<string> {
  const [pod] = await shop.readyPods((await shop.versions()).stable);
  if (pod === undefined) throw new Error('the service has no pod');
  return pod;
}

const BILLED_TWICE = 1;
const LOST = 2;

interface ConfigMap {
  readonly data: Readonly<Record<string, string>>;
}
async function dashboardsOf({ namespace }: Shop): Promise<string[]> {
  const { items } = await namespace.get<{ items: ConfigMap[] }>('configmaps', '-l', 'grafana_dashboard=1');
  return items
    .flatMap(({ data }) => Object.values(data))
    .map((json) => (JSON.parse(json) as { uid: string }).uid);
}

describe('two installations of one name', () => {
  it('have dashboards of their own in one Grafana', async () => {
    const uids = [...(await dashboardsOf(left)), ...(await dashboardsOf(right))];
    expect(uids.length).toBeGreaterThan(5);
    expect(new Set(uids).size).toBe(uids.length);
  });

  it('have rules and thresholds of their own', async () => {
    const rules = await Promise.all([rulesOf(nameOf(left)), rulesOf(nameOf(right))]);
    expect(rules[0].length).toBeGreaterThan(60);
    expect(rules[0].map(({ name }) => name).sort()).toEqual(rules[1].map(({ name }) => name).sort());
    for (const { query: text } of rules[0]) expect(text).not.toContain(nameOf(right));
    const tolerated = await query('installation:open_findings:threshold');
    const of = (shop: Shop) =>
      tolerated
        .filter(({ metric }) => metric.namespace === nameOf(shop))
        .map(({ metric, value }) => [metric.installation, value[1]]);
    expect([of(left), of(right)]).toEqual([[[INSTALLATION, '0']], [[INSTALLATION, '5']]]);
  });

  it(
    'the release of the left one is aborted: Rollout, router and exporter of the right one know nothing of it',
    MINUTES,
    async () => {
      // Found and seen again while the release goes its way.
      const pod = await podOf(left);
      await left.service.arm(pod, 'bill_twice', 1);
      await left.service.complete(pod, BILLED_TWICE);
      await left.service.disarm(pod);

      const before = await guarded(right);
      const beforeLeft = await guarded(left);
      await left.service.deploy({ version: 'v2' });
      await left.atWeight(1);
      await kubectl('argo', 'rollouts', 'abort', SERVICE, '-n', nameOf(left));
      const { canary } = await left.aborted(120);
      const aborts = await eventually('an exporter tells of the abort', 120, async () => {
        const told = await query(`counterfoil_rollout_abort_info{installation="${INSTALLATION}"}`);
        const ours = told.filter(({ metric }) =>
          [nameOf(left), nameOf(right)].includes(metric.namespace ?? ''),
        );
        return ours.length > 0 && ours;
      });
      expect(aborts.map(({ metric }) => [metric.namespace, metric.published_hash])).toEqual([
        [nameOf(left), canary],
      ]);
      expect(await guarded(left)).not.toEqual(beforeLeft);
      expect(await guarded(right)).toEqual(before);
      await left.repaired(canary, 420);
      expect(await numberOf(left, 'requests')).toBeGreaterThan(0);
      expect(await numberOf(right, 'requests')).toBe(0);
    },
  );

  it('a finding of the left one pages for the left one alone', MINUTES, async () => {
    await eventually('the left one pages', 300, async () => {
      const alerts = await firing(nameOf(left), { alertname: 'BillingDiscrepancy' });
      return alerts.length > 0;
    });
    expect(await firing(nameOf(right), { alertname: 'BillingDiscrepancy' })).toEqual([]);
    expect(await numberOf(left, 'discrepancies')).toBe(1);
    expect(await numberOf(right, 'discrepancies')).toBe(0);
    // It is looked at, and says 0.
    const counts = await query(
      `sum by (namespace) (billing_discrepancy_count{installation="${INSTALLATION}"})`,
    );
    const of = (shop: Shop) => counts.find(({ metric }) => metric.namespace === nameOf(shop))?.value[1];
    expect([of(left), of(right)]).toEqual(['1', '0']);
  });

  it('a freeze of the left one stops no run of the right one', MINUTES, async () => {
    await left.service.sql(`SELECT counterfoil.freeze(now() + interval '1 hour', 'side by side')`);
    const job = 'billing-reconciliation-tail';
    const since = { left: await runsOf(left).now(), right: await runsOf(right).now() };
    await Promise.all([
      runsOf(left).wait(job, since.left, 240, ({ outcome }) => outcome === 'skipped'),
      runsOf(right).succeeded(job, since.right, 240),
    ]);
    const later = await runsOf(right).list(job, since.right);
    expect(later.filter(({ outcome }) => outcome === 'skipped')).toEqual([]);
  });

  it(
    'the left one is uninstalled: the right one mends what it loses, is scraped, and judged by its rules',
    MINUTES,
    async () => {
      const before = await guarded(right);
      const rules = (await rulesOf(nameOf(right))).length;
      await left.release.uninstall();
      await eventually('Prometheus has forgotten the left one', 180, async () => {
        const loaded = await rulesOf(nameOf(left));
        return loaded.length === 0;
      });
      expect(await rulesOf(nameOf(right))).toHaveLength(rules);
      expect(await guarded(right)).toEqual(before);

      const pod = await podOf(right);
      await right.service.arm(pod, 'lose', 1);
      await right.service.complete(pod, LOST);
      await right.service.disarm(pod);
      expect(await right.wronglyBilled()).toBe(1);
      await eventually('it is billed', 300, async () => (await right.wronglyBilled()) === 0);
      await right.release.test();
    },
  );
});
