/** The limit of memory: the chart's is enough for the largest run, and what comes of one that is not. */
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { hurried } from './hurried.ts';
import { bills, emptyTables, plantBilled, plantPending } from './planted.ts';
import { Shop } from './shop.ts';

const FACTS = 100_000;
const EVERY = 100;

let shop: Shop;
beforeAll(async () => {
  shop = await Shop.installed({ values: hurried });
});
afterAll(async () => {
  await shop?.close();
});
beforeEach(async () => {
  await emptyTables(shop);
});

const found = () => shop.value<number>('SELECT count(*)::integer FROM counterfoil.discrepancies');

test('a full reconciliation of 100,000 facts, a thousand of them unbilled, keeps to the limit of the chart', async () => {
  await plantBilled(shop, FACTS, EVERY, 30);
  const { code, outOfMemory, log, text } = await shop.run('CronJob', 'billing-reconciliation-full');
  expect([code, outOfMemory], text).toEqual([0, false]);
  expect(log.at(-1)?.counts).toMatchObject({ facts: FACTS, suspected: FACTS / EVERY });
  expect(await found()).toBe(FACTS / EVERY);
});

test('event-replay of 2,000 events keeps to it as well', async () => {
  await plantPending(shop, 2_000);
  const { code, outOfMemory, text } = await shop.run('CronJob', 'event-replay');
  expect([code, outOfMemory], text).toEqual([0, false]);
  expect(await bills(shop)).toEqual({ none: 0, one: 2_000, several: 0 });
});

test('with a limit far too small it is killed and says so by 137, and the next run with the right one finds all', async () => {
  await plantBilled(shop, FACTS / 10, EVERY, 30);
  const killed = await shop.run('CronJob', 'billing-reconciliation-full', { memoryBytes: 32 * 1024 ** 2 });
  expect([killed.code, killed.outOfMemory], killed.text).toEqual([137, true]);
  expect(await shop.value(`SELECT count(*) FROM counterfoil.job_runs WHERE outcome = 'succeeded'`)).toBe('0');
  expect((await shop.run('CronJob', 'billing-reconciliation-full')).code).toBe(0);
  expect(await found()).toBe(FACTS / 10 / EVERY);
});
