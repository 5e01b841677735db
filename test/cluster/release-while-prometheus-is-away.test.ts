/** Prometheus goes away for longer than a release may be blind: it is rolled back, although nothing is wrong with it. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { backOnStable, mended } from './bad-release.ts';
import { figure } from './figures.ts';
import { OwnPrometheus } from './own-prometheus.ts';
import { type Abort, Shop } from './shop.ts';

const JOURNEY = 'Prometheus away for too long';
const MINUTES = { timeout: 900_000 };
/** Six looks of ten seconds each, as Argo repeats one that could not be made. */
const UNREACHABLE = 60;
/** All that ask Prometheus all the time; `verdict` asks the exporter. */
const BLIND = ['billing', 'crashes', 'loss', 'service-metrics', 'telemetry'];

let shop: Shop;
let abort: Abort;

beforeAll(async () => {
  shop = await Shop.open({
    values: (namespace: string) => ({
      metrics: { prometheusUrl: OwnPrometheus.url(namespace) },
      rollout: { prometheus: { unreachableSeconds: UNREACHABLE, timeoutSeconds: 5 } },
    }),
  });
  await shop.service.open(15, 9_000);
}, 900_000);
afterAll(async () => {
  await shop?.close();
});

it('is rolled back once nobody could look for the stated time, and not before', MINUTES, async () => {
  const prometheus = new OwnPrometheus(shop.namespace);
  await prometheus.back();
  await shop.service.deploy({ version: 'v2' });
  const { canary } = await shop.atWeight(1);
  await shop.measured(canary, 'loss', 'Successful');
  await prometheus.away();
  const awayAt = Date.now();
  abort = await shop.aborted(600);
  const taken = (abort.weightZeroAt - awayAt) / 1_000;
  figure(JOURNEY, 'away to weight 0', taken, 's', UNREACHABLE + 60);
  figure(JOURNEY, 'heaviest weight', abort.heaviest, '%', 1);
  expect(taken).toBeGreaterThanOrEqual(UNREACHABLE - 10);
  expect(taken).toBeLessThanOrEqual(UNREACHABLE + 60);
  expect(abort.heaviest).toBe(1);
});

it('is rolled back because it could not be measured, and not because it was found to be bad', async () => {
  const ended = (await shop.analysisRuns(abort.canary)).flatMap(({ status }) => status?.metricResults ?? []);
  expect(ended.filter(({ phase }) => phase === 'Failed')).toEqual([]);
  expect(abort.by.length).toBeGreaterThan(0);
  expect(BLIND).toEqual(expect.arrayContaining([...abort.by]));
});

it('leaves the customers on the version before, and nothing unbilled', MINUTES, async () => {
  await backOnStable(shop, abort);
  await mended(shop, abort, JOURNEY);
});
