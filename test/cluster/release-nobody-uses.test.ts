/** Releases of a service that hardly anybody uses: what says nothing of a version never lets it pass, and never condemns it. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { eventually } from './cluster.ts';
import { figure } from './figures.ts';
import { type Abort, Shop } from './shop.ts';

const JOURNEY = 'hardly any traffic';
const MINUTES = { timeout: 900_000 };
const rollout = {
  steps: [
    { weight: 1, pause: '20s', gates: ['sample', 'errors', 'probe'] },
    { weight: 100, pause: '85s', gates: ['sample', 'errors', 'probe'] },
  ],
};
const probed = { rollout: { ...rollout, gates: { quiet: 'probe' } } };

let shop: Shop;

beforeAll(async () => {
  shop = await Shop.open({ sessions: 1_000, values: { rollout } });
  await shop.service.open(0.2, 1_000);
}, 900_000);
afterAll(async () => {
  await shop?.close();
});

/** The gates of the step at which a version is, with the phases of their looks. */
async function gatesOf(hash: string): Promise<Record<string, { phase: string; looks: string[] }>> {
  const step = (await shop.analysisRuns(hash)).find(({ metadata: { labels } }) => 'step-index' in labels);
  return Object.fromEntries(
    (step?.status?.metricResults ?? []).map(({ name, phase, measurements = [] }) => [
      name,
      { phase, looks: measurements.map((look) => look.phase) },
    ]),
  );
}

describe('as the chart has it', () => {
  it(
    'the gate holds it at 1 %: ten looks at too small a sample neither pass nor abort it',
    MINUTES,
    async () => {
      await shop.service.deploy({ version: 'v2' });
      const { canary } = await shop.atWeight(1);
      const gates = await eventually('the gate has looked ten times', 300, async () => {
        const seen = await gatesOf(canary);
        if ((seen.sample?.looks.length ?? 0) < 10) throw new Error(JSON.stringify(seen));
        return seen;
      });
      // The probe has walked through it and was billed rightly; that alone is not enough.
      expect(gates.probe?.phase).toBe('Successful');
      expect(gates.sample?.phase).toBe('Running');
      expect(gates.sample?.looks).not.toContain('Successful');
      const { weight } = await shop.versions();
      expect({ weight, aborted: (await shop.rollout()).status?.abort === true }).toEqual({
        ...{ weight: 1, aborted: false },
      });
    },
  );
});

describe('where the probe decides', () => {
  let abort: Abort;

  it('a good one is promoted', MINUTES, async () => {
    await shop.service.deploy({ version: 'v1' });
    await shop.inPhase('Healthy', 180);
    await shop.upgrade(probed);
    const deployedAt = Date.now();
    await shop.service.deploy({ version: 'v3' });
    const { canary } = await shop.atWeight(1);
    expect(await shop.ended(600)).toBe('promoted');
    figure(JOURNEY, 'good: deployed to promoted', (Date.now() - deployedAt) / 1_000, 's');
    expect((await shop.versions()).stable).toBe(canary);
  });

  it(
    'one that bills wrongly is aborted at 1 % by the probe, though no customer has met it',
    MINUTES,
    async () => {
      const deployedAt = Date.now();
      await shop.service.deploy({ version: 'v4', faults: { bill_wrong: 1 } });
      abort = await shop.aborted(600);
      figure(JOURNEY, 'bills wrongly: deployed to weight 0', (abort.weightZeroAt - deployedAt) / 1_000, 's');
      expect(abort.by).toEqual(['probe']);
      expect(abort.heaviest).toBe(1);
    },
  );
});
