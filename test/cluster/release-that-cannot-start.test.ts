/** A build that is broken: its process ends as soon as it begins, so no condition has anything to look at. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { backOnStable, mended } from './bad-release.ts';
import { figure } from './figures.ts';
import { type Abort, Shop } from './shop.ts';

const JOURNEY = 'a build that cannot start';
const MINUTES = { timeout: 900_000 };
/** The least that the chart takes. */
const DEADLINE = 60;

let shop: Shop;
let abort: Abort;

beforeAll(async () => {
  shop = await Shop.open({ values: { rollout: { progressDeadlineSeconds: DEADLINE } } });
  await shop.service.open(15, 9_000);
}, 900_000);
afterAll(async () => {
  await shop?.close();
});

it('is aborted by the deadline for its progress, and by no metric', MINUTES, async () => {
  const deployedAt = Date.now();
  await shop.service.deploy({ version: 'v2', command: ['node', 'dist/no-such-file.js'] });
  abort = await shop.aborted(600);
  const taken = (abort.weightZeroAt - deployedAt) / 1_000;
  figure(JOURNEY, 'deployed to abort', taken, 's', DEADLINE + 60);
  expect(abort.by).toEqual([]);
  expect(await shop.cause()).toBe('progress_deadline');
  expect(taken).toBeGreaterThanOrEqual(DEADLINE);
  expect(taken).toBeLessThanOrEqual(DEADLINE + 60);
});

it('is met by no customer: it has had no traffic at all, and nobody was refused', MINUTES, async () => {
  figure(JOURNEY, 'heaviest weight', abort.heaviest, '%', 0);
  expect(abort.heaviest).toBe(0);
  await backOnStable(shop, abort);
  const { completed, refused } = await shop.service.customers();
  figure(JOURNEY, 'requests refused', refused, '', 0);
  expect(completed).toBeGreaterThan(0);
  expect(refused).toBe(0);
});

it('leaves nothing to mend, and that is verified', MINUTES, async () => {
  await mended(shop, abort, JOURNEY);
});
