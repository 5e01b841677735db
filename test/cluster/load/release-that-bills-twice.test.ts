/** A release that bills two of a hundred sessions twice. A machine may stop it, and list them; what is owed instead is for two people to say. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { Shop } from '../shop.ts';
import { billedRightly, listed, settled } from './approved-correction.ts';
import { deployBad, type Stopped, stoppedInTime } from './bad-release-under-load.ts';
import { firstBillingWrong, PER_SECOND, SESSIONS } from './judged-rows.ts';

const JOURNEY = 'bills twice';
const MINUTES = { timeout: 1_200_000 };

let shop: Shop;
let stopped: Stopped;
let findings: readonly number[];

beforeAll(async () => {
  shop = await Shop.open({ sessions: SESSIONS });
  await shop.service.open(PER_SECOND, SESSIONS);
}, 900_000);
afterAll(async () => {
  await shop?.close();
});

it('is aborted at 1 % for its bills, and for nothing else', MINUTES, async () => {
  stopped = await deployBad(shop, { version: 'v2', faults: { bill_twice: 0.02 } });
  // Both judge the same bills: of the last minutes, and of the whole release. Whichever looks first aborts.
  expect([['billing'], ['verdict'], ['billing', 'verdict']]).toContainEqual(stopped.abort.by);
});

it('in the stated time, and few of its customers have met it', MINUTES, async () => {
  const first = await firstBillingWrong(shop, stopped.abort.canary);
  // CounterfoilVersionBillsWrong, at a tenth.
  await stoppedInTime(shop, stopped, { journey: JOURNEY, first, lasting: 6 });
});

it('each of its bills is listed for a person, with the version that wrote it', MINUTES, async () => {
  findings = await listed(shop, stopped.abort, { journey: JOURNEY, kind: 'duplicate' });
});

it('and is settled by two people: what is owed is right, and no row was touched', MINUTES, async () => {
  expect(await shop.wronglyBilled()).toBeGreaterThanOrEqual(3);
  await settled(shop, findings, 'billed twice by v2');
  await billedRightly(shop, JOURNEY);
});
