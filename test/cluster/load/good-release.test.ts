/** The release that the plan is about: from the predecessor with an outbox to its successor, through 1, 10, 50 and 100 %. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { allBilled } from '../bad-release.ts';
import { predecessor } from '../billing-service.ts';
import { eventually } from '../cluster.ts';
import { figure } from '../figures.ts';
import { query } from '../prometheus.ts';
import { type AnalysisRun, Shop } from '../shop.ts';
import { besidePredecessor, met, PER_SECOND, SESSIONS } from './judged-rows.ts';

const JOURNEY = 'good release';
const MINUTES = { timeout: 1_800_000 };

let shop: Shop;
let before: string;
let canary: string;

beforeAll(async () => {
  shop = await Shop.open({
    sessions: SESSIONS,
    version: predecessor,
    values: besidePredecessor,
  });
  await shop.service.open(PER_SECOND, SESSIONS);
}, 900_000);
afterAll(async () => {
  await shop?.close();
});

it('gets a real 1 % of the customers', MINUTES, async () => {
  before = (await shop.versions()).stable;
  await shop.service.deploy({ version: 'v2' });
  ({ canary } = await shop.atWeight(1, 240));
  const since = await shop.now();
  await eventually('it is past 1 %', 900, async () => {
    const { weight } = await shop.versions();
    if (weight === 1) throw new Error('still at 1 %');
    return true;
  });
  // Two seconds before this was seen it was still so.
  const until = new Date(Date.now() - 5_000).toISOString();
  const { own, all } = await met(shop, canary, since, until);
  const sigma = Math.sqrt(all * 0.01 * 0.99);
  figure(JOURNEY, 'customers at 1 %', all);
  figure(JOURNEY, 'share of the canary at 1 %', (100 * own) / all, '%');
  expect(Math.abs(own - all * 0.01)).toBeLessThan(3 * sigma);
});

it('passes its gates, and is promoted', MINUTES, async () => {
  const from = Date.now();
  expect(await shop.ended(1_200)).toBe('promoted');
  figure(JOURNEY, 'from 10 % to promoted', (Date.now() - from) / 1_000, 's');
  const { stable } = await shop.versions();
  expect(stable).toBe(canary);
  expect(canary).not.toBe(before);
});

/** What a metric of an analysis measured last, without the quotes of JSON; of a Job, nothing. */
const measured = ({ status }: AnalysisRun): Record<string, string> =>
  Object.fromEntries(
    (status?.metricResults ?? []).map(({ name, phase, measurements = [] }) => [
      name,
      `${phase} ${measurements.at(-1)?.value ?? ''}`.replaceAll('"', '').trim(),
    ]),
  );

it('and each gate passed for what it had measured', MINUTES, async () => {
  const runs = await eventually('all of its analysis was good', 60, async () => {
    const found = await shop.analysisRuns(canary);
    const phases = found.map(({ status }) => status?.phase);
    // That of the background, and the gates of four steps.
    if (phases.length !== 5 || phases.some((phase) => phase !== 'Successful')) throw new Error(phases.join());
    return found;
  });
  const [first, second, third, fourth] = runs
    .filter(({ metadata }) => metadata.labels['rollout-type'] === 'Step')
    .sort(
      (one, other) => Number(one.metadata.labels['step-index']) - Number(other.metadata.labels['step-index']),
    )
    .map(measured);
  const passed = 'Successful [1]';
  const early = { sample: 'Successful pass', errors: passed, probe: 'Successful' };
  const late = { ...early, latency: passed };
  expect(first).toEqual({ ...early, reconciliation: 'Successful' });
  expect(second).toEqual(early);
  expect(third).toEqual(late);
  expect(fourth).toEqual({ ...late, reconciliation: 'Successful' });
  const [background] = runs
    .filter(({ metadata }) => metadata.labels['rollout-type'] === 'Background')
    .map(measured);
  const none = 'Successful [0]';
  expect(background).toMatchObject({ loss: none, billing: none, crashes: none, verdict: 'Successful pass' });
  // Enough was judged to find a fault, and none was found.
  const version = `{namespace="${shop.namespace.name}",published_hash="${canary}"}`;
  for (const series of ['version:hot_events:max', 'version:hot_facts:sum']) {
    const [judged] = await query(`${series}${version}`);
    figure(JOURNEY, `judged by ${series}`, Number(judged?.value[1]));
    expect(Number(judged?.value[1])).toBeGreaterThanOrEqual(400);
  }
  for (const series of ['version:event_loss:ratio', 'version:billing_error:ratio']) {
    const [ratio] = await query(`${series}${version}`);
    expect(Number(ratio?.value[1])).toBe(0);
  }
});

it('nobody is unbilled and nobody is billed twice, by either version', MINUTES, async () => {
  await allBilled(shop, JOURNEY);
  const [byOutbox, bySuccessor] = (
    await shop.service.sql(`SELECT (SELECT count(*) FROM domain_events WHERE status = 'published'),
      (SELECT count(*) FROM event_backups WHERE status = 'processed')`)
  ).split('|');
  expect(Number(byOutbox)).toBeGreaterThan(0);
  expect(Number(bySuccessor)).toBeGreaterThan(0);
});
