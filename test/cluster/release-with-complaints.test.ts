/** A release of which no event tells that anything is wrong, but its customers do. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { backOnStable, firstTrue, inTime, mended } from './bad-release.ts';
import { Complaints } from './complaints.ts';
import { type Abort, Shop } from './shop.ts';

const JOURNEY = 'complaints rise';
const MINUTES = { timeout: 900_000 };

let shop: Shop;
let complaints: Complaints;
let deployedAt: number;
let abort: Abort;

beforeAll(async () => {
  shop = await Shop.open({
    values: (namespace: string) => ({
      complaints: { query: Complaints.query(namespace) },
      rollout: { conditions: { complaints: { interval: '5s' } } },
    }),
  });
  complaints = new Complaints(shop.namespace);
  await complaints.open();
  await shop.service.open(15, 9_000);
}, 900_000);
afterAll(async () => {
  await shop?.close();
});

it('goes on while as many complain as may, 10 a day', MINUTES, async () => {
  deployedAt = Date.now();
  await shop.service.deploy({ version: 'v2' });
  const { canary } = await shop.atWeight(1);
  await complaints.are(10);
  // At 5 s each, longer than the alert would wait.
  await shop.measured(canary, 'complaints', 'Successful', 10);
  expect((await shop.rollout()).status?.abort).not.toBe(true);
});

it('is aborted at 1 % once one more complains, and for nothing else', MINUTES, async () => {
  await complaints.are(11);
  abort = await shop.aborted(600);
  expect(abort.by).toEqual(['complaints']);
});

it('loses its traffic in the stated time', async () => {
  const now = `installation:complaints_per_day:value{namespace="${shop.namespace.name}"}`;
  inTime(abort, {
    ...{ journey: JOURNEY, deployedAt },
    conditionAt: await firstTrue(`${now} > 10`),
    lasting: 30,
  });
});

it('leaves the customers on the version before, and nothing unbilled', MINUTES, async () => {
  await backOnStable(shop, abort);
  await mended(shop, abort, JOURNEY);
});
