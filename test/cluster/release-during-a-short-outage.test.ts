/** Prometheus goes away for less time than a release may be blind, as it does when it is restarted: the release goes on. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { allBilled } from './bad-release.ts';
import { figure } from './figures.ts';
import { OwnPrometheus } from './own-prometheus.ts';
import { Shop } from './shop.ts';

const JOURNEY = 'Prometheus away for a moment';
const MINUTES = { timeout: 900_000 };

let shop: Shop;
let canary: string;

beforeAll(async () => {
  shop = await Shop.open({
    values: (namespace: string) => ({
      metrics: { prometheusUrl: OwnPrometheus.url(namespace) },
      rollout: {
        prometheus: { unreachableSeconds: 120, timeoutSeconds: 5 },
        steps: [
          { weight: 1, pause: '30s', gates: ['sample', 'errors', 'probe'] },
          { weight: 100, pause: '85s', gates: ['sample', 'errors', 'probe', 'reconciliation'] },
        ],
        // So little traffic is no sample at 1 %.
        gates: { quiet: 'probe' },
      },
    }),
  });
  await shop.service.open(15, 9_000);
}, 900_000);
afterAll(async () => {
  await shop?.close();
});

it('goes on blind, is seen again, and is promoted', MINUTES, async () => {
  const prometheus = new OwnPrometheus(shop.namespace);
  await prometheus.back();
  const deployedAt = Date.now();
  await shop.service.deploy({ version: 'v2' });
  ({ canary } = await shop.atWeight(1));
  await shop.measured(canary, 'loss', 'Successful');
  await prometheus.away();
  const awayAt = Date.now();
  // Each repeats its look every ten seconds; the third that fails in a row is well below the limit.
  await shop.measured(canary, 'loss', 'Error', 3);
  await prometheus.back();
  figure(JOURNEY, 'away for', (Date.now() - awayAt) / 1_000, 's');
  expect(await shop.ended(600)).toBe('promoted');
  figure(JOURNEY, 'deployed to promoted', (Date.now() - deployedAt) / 1_000, 's');
  expect((await shop.versions()).stable).toBe(canary);
});

it('had every condition looked at again, and none found it bad', async () => {
  const results = (await shop.analysisRuns(canary)).flatMap(({ status }) => status?.metricResults ?? []);
  const loss = results.find(({ name }) => name === 'loss')?.measurements ?? [];
  expect(loss.at(-1)?.phase).toBe('Successful');
  expect(results.filter(({ phase }) => phase === 'Failed' || phase === 'Error')).toEqual([]);
});

it('leaves nobody unbilled', MINUTES, async () => {
  await allBilled(shop, JOURNEY);
});
