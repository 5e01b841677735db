/**
 * A release that loses two of a hundred events, over the predecessor with an outbox: what it lost is given to that outbox,
 * since a version that never had a replay endpoint is what serves after the abort.
 */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { mended } from '../bad-release.ts';
import { predecessor } from '../billing-service.ts';
import { eventually } from '../cluster.ts';
import { figure } from '../figures.ts';
import { Shop } from '../shop.ts';
import { deployBad, type Stopped, stoppedInTime } from './bad-release-under-load.ts';
import { besidePredecessor, billedLate, firstLosing, PER_SECOND, SESSIONS } from './judged-rows.ts';

const JOURNEY = 'loses 2 % of events';
const MINUTES = { timeout: 1_200_000 };

let shop: Shop;
let stopped: Stopped;

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

it('is aborted at 1 % for its losses, and for nothing else', MINUTES, async () => {
  stopped = await deployBad(shop, { version: 'v2', faults: { lose: 0.02 } });
  // Both judge the same losses: of the last minutes, and of the whole release. Whichever looks first aborts.
  expect([['loss'], ['verdict'], ['loss', 'verdict']]).toContainEqual(stopped.abort.by);
});

it('in the stated time, and few of its customers have met it', MINUTES, async () => {
  const first = await firstLosing(shop, stopped.abort.canary);
  // CounterfoilVersionLosesEvents, at a tenth.
  await stoppedInTime(shop, stopped, { journey: JOURNEY, first, lasting: 30 });
});

it(
  'and what it lost goes to the outbox without a hand on it, and is billed there, once each',
  MINUTES,
  async () => {
    await mended(shop, stopped.abort, JOURNEY);
    const lost = await eventually('the outbox has billed each', 240, async () => {
      const [billed, all] = (
        await shop.service.sql(`SELECT count(*) FILTER (WHERE d.status = 'published' AND r.last_outcome = 'billed_by_outbox'),
            count(*) FROM counterfoil.replay_events AS r LEFT JOIN domain_events AS d ON d.id::text = r.event_id
          WHERE r.published_hash = '${stopped.abort.canary}'`)
      ).split('|');
      if (billed !== all) throw new Error(`${billed} of ${all}`);
      return all;
    });
    expect(Number(lost)).toBeGreaterThanOrEqual(3);
    figure(JOURNEY, 'events lost', Number(lost));
    figure(JOURNEY, 'bills more than a minute late', await billedLate(shop));
  },
);
