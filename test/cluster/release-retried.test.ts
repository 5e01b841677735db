/** The same version once more after it was aborted: it is judged again, by what is so now. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { rests } from './alerts.ts';
import { allBilled } from './bad-release.ts';
import { Complaints } from './complaints.ts';
import { figure } from './figures.ts';
import { type Abort, Shop } from './shop.ts';

const JOURNEY = 'an aborted version once more';
const MINUTES = { timeout: 900_000 };
const stable = { version: 'v1' };
const bad = { version: 'v2', faults: { crash_after_commit: 1 } };
const blamed = { version: 'v3' };

let shop: Shop;
let complaints: Complaints;

beforeAll(async () => {
  shop = await Shop.open({
    version: stable,
    values: (namespace: string) => ({
      complaints: { query: Complaints.query(namespace) },
      rollout: {
        conditions: { complaints: { interval: '5s' } },
        steps: [
          // Three crashes, with the pauses between them, take more than a minute: the probe would be first to find them.
          { weight: 1, pause: '120s', gates: ['sample', 'probe'] },
          { weight: 100, pause: '85s', gates: ['sample', 'probe'] },
        ],
        gates: { quiet: 'probe' },
      },
    }),
  });
  complaints = new Complaints(shop.namespace);
  await complaints.open();
  await shop.service.open(15, 9_900);
}, 900_000);
afterAll(async () => {
  await shop?.close();
});

const analysesOf = async (hash: string) =>
  (await shop.analysisRuns(hash)).map(({ metadata }) => metadata.name).sort();

async function backToStable(): Promise<void> {
  await shop.service.deploy(stable);
  await shop.inPhase('Healthy', 180);
}

describe('one that crashes still', () => {
  let first: Abort;
  let judged: readonly string[];

  it('is aborted the first time', MINUTES, async () => {
    await shop.service.deploy(bad);
    first = await shop.aborted(600);
    expect(first.by).toEqual(['crashes']);
    judged = await analysesOf(first.canary);
  });

  it('is aborted again, at 1 % at most, by an analysis of its own', MINUTES, async () => {
    await backToStable();
    const deployedAt = Date.now();
    await shop.service.deploy(bad);
    const again = await shop.aborted(600);
    figure(JOURNEY, 'crashes still: deployed to weight 0', (again.weightZeroAt - deployedAt) / 1_000, 's');
    expect({ canary: again.canary, by: again.by }).toEqual({ canary: first.canary, by: ['crashes'] });
    expect(again.heaviest).toBeLessThanOrEqual(1);
    const since = (await analysesOf(first.canary)).filter((name) => !judged.includes(name));
    expect(since.length).toBeGreaterThan(0);
  });
});

describe('one of which customers have complained', () => {
  let first: Abort;

  it('is aborted while they do', MINUTES, async () => {
    await backToStable();
    await shop.service.deploy(blamed);
    const { canary } = await shop.atWeight(1);
    await shop.measured(canary, 'complaints', 'Successful');
    await complaints.are(11);
    first = await shop.aborted(300);
    expect(first.by).toEqual(['complaints']);
  });

  it('is judged anew and promoted once they do so no more', MINUTES, async () => {
    await backToStable();
    await complaints.are(0);
    // Whoever releases it again looks at the alert first: as long as it fires, so long it aborts.
    await rests(shop.namespace.name, 'CounterfoilComplaints', {}, 120);
    const deployedAt = Date.now();
    await shop.service.deploy(blamed);
    const { canary } = await shop.atWeight(1);
    expect(canary).toBe(first.canary);
    expect(await shop.ended(600)).toBe('promoted');
    figure(JOURNEY, 'good by now: deployed to promoted', (Date.now() - deployedAt) / 1_000, 's');
    expect((await shop.versions()).stable).toBe(first.canary);
  });
});

it('leaves nobody unbilled', MINUTES, async () => {
  await allBilled(shop, JOURNEY);
});
