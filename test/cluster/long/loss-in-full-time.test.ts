/** The release that loses two of a hundred events, judged by the windows and the `for` that are shipped. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { mended } from '../bad-release.ts';
import { figure } from '../figures.ts';
import { unhurried } from '../hurried.ts';
import { deployBad, type Stopped, stoppedInTime } from '../load/bad-release-under-load.ts';
import { billedLate, firstLosing, PER_SECOND } from '../load/judged-rows.ts';
import { Shop } from '../shop.ts';

const JOURNEY = 'loses 2 % of events, in full time';
const SESSIONS = 800_000;
const MINUTES = { timeout: 3_600_000 };

let shop: Shop;
let stopped: Stopped;

beforeAll(async () => {
  shop = await Shop.open({ base: unhurried, sessions: SESSIONS });
  await shop.service.open(PER_SECOND, SESSIONS);
}, 900_000);
afterAll(async () => {
  await shop?.close();
});

it('is aborted at 1 % for its losses, and for nothing else', MINUTES, async () => {
  stopped = await deployBad(shop, { version: 'v2', faults: { lose: 0.02 } }, 1_800);
  expect([['loss'], ['verdict'], ['loss', 'verdict']]).toContainEqual(stopped.abort.by);
});

it('in the stated time, and few of its customers have met it', MINUTES, async () => {
  const first = await firstLosing(shop, stopped.abort.canary, 60);
  await stoppedInTime(shop, stopped, { journey: JOURNEY, first, lasting: 300 });
});

it('and what it lost is replayed and billed without a hand on it', MINUTES, async () => {
  // Nothing is verified that is younger than the check's grace of ten minutes: a bill may take so long.
  await mended(shop, stopped.abort, JOURNEY, 900);
  figure(JOURNEY, 'bills more than a minute late', await billedLate(shop));
});
