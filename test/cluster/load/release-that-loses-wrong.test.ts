/**
 * A release that loses two of a hundred events, each with another amount than its session's: no machine sends them, since
 * that would bill the amount that the aborted version made up. A person has them rebuilt from the sessions.
 */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { eventually } from '../cluster.ts';
import { figure } from '../figures.ts';
import { Shop } from '../shop.ts';
import { billedRightly, openFindings, person, requestEnded } from './approved-correction.ts';
import { deployBad, type Stopped, stoppedInTime } from './bad-release-under-load.ts';
import { firstLosing, PER_SECOND, SESSIONS } from './judged-rows.ts';

const JOURNEY = 'loses 2 % with wrong payloads';
const MINUTES = { timeout: 1_200_000 };

let shop: Shop;
let stopped: Stopped;
let parked: readonly string[];

beforeAll(async () => {
  shop = await Shop.open({ sessions: SESSIONS });
  await shop.service.open(PER_SECOND, SESSIONS);
}, 900_000);
afterAll(async () => {
  await shop?.close();
});

const bills = async (): Promise<string> =>
  await shop.service.sql(
    `SELECT count(*) FROM event_backups AS e JOIN mentor_payable_ledgers AS l ON l.session_id::text = e.payload ->> 'sessionId'
      WHERE e.event_id = ANY ('{${parked.join()}}')`,
  );

it('is aborted at 1 % for its losses, and for nothing else', MINUTES, async () => {
  stopped = await deployBad(shop, { version: 'v2', faults: { lose_wrong: 0.02 } });
  expect([['loss'], ['verdict'], ['loss', 'verdict']]).toContainEqual(stopped.abort.by);
});

it('in the stated time, and few of its customers have met it', MINUTES, async () => {
  const first = await firstLosing(shop, stopped.abort.canary);
  await stoppedInTime(shop, stopped, { journey: JOURNEY, first, lasting: 30 });
});

it(
  'what it lost is not sent, since the session says something else, but parked and listed',
  MINUTES,
  async () => {
    expect(await shop.repaired(stopped.abort.canary, 600)).toBe('not_clean');
    await shop.namespace.kubectl('delete', 'pod', 'customers');
    const rows = await shop.service.sql(
      `SELECT event_id FROM counterfoil.replay_events
      WHERE published_hash = '${stopped.abort.canary}' AND status = 'parked' AND parked_reason = 'fact_changed'`,
    );
    parked = rows.split('\n').filter((id) => id !== '');
    figure(JOURNEY, 'events parked', parked.length);
    expect(parked.length).toBeGreaterThanOrEqual(3);
    expect(await bills()).toBe('0');
    expect(await shop.wronglyBilled()).toBe(parked.length);
    await eventually('each is listed', 240, async () => {
      const listed = (await openFindings(shop)).filter(({ cause }) => cause === 'event_parked');
      if (listed.length !== parked.length) throw new Error(`${listed.length} of ${parked.length}`);
      return true;
    });
  },
);

it('a person has them rebuilt from the sessions: each is billed its own amount, once', MINUTES, async () => {
  await person(shop, 'ann');
  const findings = (await openFindings(shop)).map(({ id }) => id);
  const request = await shop.service.sql(
    `SELECT counterfoil.request('rebuild', '${JSON.stringify({ findings })}', 'v2 made up its amounts')`,
    'ann',
  );
  expect(await requestEnded(shop, request)).toEqual(['done', 'rebuilt']);
  await billedRightly(shop, JOURNEY);
});

it('and the events themselves may be unparked then: they bill nothing more', MINUTES, async () => {
  await shop.service.sql(
    `SELECT counterfoil.unpark('{${parked.join()}}', 'billed from the sessions')`,
    'ann',
  );
  await eventually('all are processed', 300, async () => {
    const open = await shop.service.sql(
      `SELECT count(*) FROM event_backups WHERE event_id = ANY ('{${parked.join()}}') AND status <> 'processed'`,
    );
    if (open !== '0') throw new Error(`${open} are not`);
    return true;
  });
  expect(await bills()).toBe(String(parked.length));
  expect(await shop.wronglyBilled()).toBe(0);
});
