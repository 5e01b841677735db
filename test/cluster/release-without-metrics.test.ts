/** A release that serves its customers well, and after a while tells nobody any more how it does. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { backOnStable, inTime, mended } from './bad-release.ts';
import { eventually } from './cluster.ts';
import { query } from './prometheus.ts';
import { type Abort, Shop } from './shop.ts';

const JOURNEY = 'stops exporting metrics';
const MINUTES = { timeout: 900_000 };
/** As rollouts/analysis/service-metrics.yaml looks back. */
const WINDOW = 180;

let shop: Shop;
let deployedAt: number;
let silentAt: number;
let abort: Abort;

beforeAll(async () => {
  shop = await Shop.open();
  await shop.service.open(15, 9_000);
}, 900_000);
afterAll(async () => {
  await shop?.close();
});

it('goes on while it is measured', MINUTES, async () => {
  deployedAt = Date.now();
  await shop.service.deploy({ version: 'v2' });
  const { canary } = await shop.atWeight(1);
  await shop.measured(canary, 'service-metrics', 'Successful', 1, 300);
  expect((await shop.rollout()).status?.abort).not.toBe(true);
});

it(
  'is aborted at 1 % when nothing has scraped its pods for three minutes, and for nothing else',
  MINUTES,
  async () => {
    const { canary } = await shop.versions();
    for (const pod of await shop.readyPods(canary)) await shop.service.arm(pod, 'no_metrics', 1);
    silentAt = Date.now();
    const own = `counterfoil_service_info{namespace="${shop.namespace.name}",rollouts_pod_template_hash="${canary}"}`;
    await eventually('its last series is over', 60, async () => (await query(own)).length === 0);
    abort = await shop.aborted(600);
    expect(abort.by).toEqual(['service-metrics']);
  },
);

it('loses its traffic in the stated time', () => {
  inTime(abort, { journey: JOURNEY, deployedAt, conditionAt: silentAt, lasting: WINDOW });
});

it('leaves the customers on the version before, and nothing unbilled', MINUTES, async () => {
  await backOnStable(shop, abort);
  await mended(shop, abort, JOURNEY);
});
