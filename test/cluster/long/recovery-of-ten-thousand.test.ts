/**
 * Half of the customers meet a release that loses each of its events, until 10,000 sessions have no bill and a person takes
 * it away. Nothing aborts it before, since nothing is judged: what is measured is the repair, not the rollback.
 */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { allBilled } from '../bad-release.ts';
import { SERVICE } from '../billing-service.ts';
import { eventually, kubectl } from '../cluster.ts';
import { figure } from '../figures.ts';
import { PER_SECOND, SESSIONS } from '../load/judged-rows.ts';
import { Shop } from '../shop.ts';

const JOURNEY = 'recovery of 10,000 sessions';
const DAMAGED = 10_000;
const MINUTES = { timeout: 1_800_000 };
const OBSERVED = { mode: 'observe' } as const;

let shop: Shop;

beforeAll(async () => {
  shop = await Shop.open({
    sessions: SESSIONS,
    values: {
      rollout: {
        steps: [
          { weight: 50, pause: '30m', gates: ['probe'] },
          { weight: 100, pause: '85s', gates: ['probe'] },
        ],
        conditions: { loss: OBSERVED, billing: OBSERVED, verdict: OBSERVED },
      },
    },
  });
  await shop.service.open(PER_SECOND, SESSIONS);
}, 900_000);
afterAll(async () => {
  await shop?.close();
});

it('all are repaired and verified within five minutes of the abort', MINUTES, async () => {
  await shop.service.deploy({ version: 'v2', faults: { lose: 1 } });
  const { canary } = await shop.atWeight(50, 240);
  const lost = `SELECT count(*) FROM event_backups WHERE published_hash = '${canary}'`;
  await eventually('10,000 sessions are damaged', 600, async () => {
    const now = Number(await shop.service.sql(lost));
    if (now < DAMAGED) throw new Error(`${now} are`);
    return true;
  });
  // A plugin wants its flags behind its name.
  await kubectl('argo', 'rollouts', 'abort', SERVICE, '-n', shop.namespace.name);
  const abort = await shop.aborted(120);
  expect(await shop.repaired(canary, 1_200)).toBe('clean');
  const taken = (Date.now() - abort.seenAt) / 1_000;
  const damaged = Number(await shop.service.sql(lost));
  figure(JOURNEY, 'damaged sessions', damaged);
  figure(JOURNEY, 'abort to repaired and verified', taken, 's', 300);
  await allBilled(shop, JOURNEY);
  expect(damaged).toBeGreaterThanOrEqual(DAMAGED);
  expect(taken).toBeLessThanOrEqual(300);
});
