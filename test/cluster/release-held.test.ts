/** A release that is held at a gate by what another version broke, and goes bad while it waits. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { backOnStable, mended } from './bad-release.ts';
import { eventually } from './cluster.ts';
import { figure } from './figures.ts';
import { type Abort, Shop } from './shop.ts';

const JOURNEY = 'held, then bad';
const MINUTES = { timeout: 900_000 };
const SESSIONS = 10_000;

let shop: Shop;
let canary: string;
let abort: Abort;
/** That no customer completes. */
let next = SESSIONS - 100;

beforeAll(async () => {
  shop = await Shop.open({
    sessions: SESSIONS,
    values: {
      rollout: {
        steps: [
          { weight: 1, pause: '10s', gates: ['probe', 'reconciliation'] },
          { weight: 100, pause: '85s', gates: ['sample', 'probe', 'reconciliation'] },
        ],
      },
    },
  });
  await shop.service.open(15, 9_000);
}, 900_000);
afterAll(async () => {
  await shop?.close();
});

it(
  'is held at 1 % by second bills that the version before has written, and not rolled back for it',
  MINUTES,
  async () => {
    const [pod = ''] = await shop.readyPods((await shop.versions()).stable);
    await shop.service.arm(pod, 'bill_twice', 1);
    await shop.service.complete(pod, next++);
    await shop.service.disarm(pod);
    await eventually('it is a finding', 240, async () => {
      const found = await shop.service.sql(
        `SELECT count(*) FROM counterfoil.discrepancies WHERE kind = 'duplicate' AND status = 'open'`,
      );
      return Number(found) > 0;
    });
    await shop.service.deploy({ version: 'v2' });
    ({ canary } = await shop.atWeight(1));
    await shop.measured(canary, 'reconciliation', 'Failed', 2, 240);
    const { status } = await shop.rollout();
    expect({ abort: status?.abort === true, weight: (await shop.versions()).weight }).toEqual({
      ...{ abort: false, weight: 1 },
    });
  },
);

it('is aborted for its crashes while it is held', MINUTES, async () => {
  const restarts = async () =>
    Number(
      await shop.namespace.kubectl(
        ...['get', 'pods', '-l', `rollouts-pod-template-hash=${canary}`, '-o'],
        'jsonpath={.items[0].status.containerStatuses[0].restartCount}',
      ),
    );
  // A crash takes the fault with it, so each has to be armed anew.
  for (const crash of [1, 2, 3]) {
    const pod = await eventually('it is ready', 120, async () => (await shop.readyPods(canary))[0]);
    await shop.service.arm(pod, 'crash_after_commit', 1);
    await expect(shop.service.complete(pod, next++)).rejects.toThrow();
    await eventually('it was started again', 120, async () => (await restarts()) >= crash);
  }
  const crashedAt = Date.now();
  abort = await shop.aborted(300);
  figure(JOURNEY, 'third crash to weight 0', (abort.weightZeroAt - crashedAt) / 1_000, 's', 66);
  expect(abort.by).toEqual(['crashes']);
  expect(abort.heaviest).toBe(1);
});

it(
  'leaves the customers on the version before, and what it broke is billed without a hand on it',
  MINUTES,
  async () => {
    await backOnStable(shop, abort);
    // Of the version before: a person settles the second bills.
    await shop.service.sql(`INSERT INTO mentor_payable_ledgers
      (session_id, mentor_id, amount_minor, currency, idempotency_key, reverses_id)
    SELECT session_id, mentor_id, -amount_minor, currency, 'reversal:' || id, id FROM mentor_payable_ledgers
     WHERE idempotency_key LIKE 'session:%:2'`);
    await mended(shop, abort, JOURNEY);
  },
);
