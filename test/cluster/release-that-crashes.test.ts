/** A release whose process dies with the first session that it completes, and again with each of the next. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { backOnStable, firstTrue, inTime, mended } from './bad-release.ts';
import { type Abort, Shop } from './shop.ts';

const JOURNEY = 'crashes in a loop';
const MINUTES = { timeout: 900_000 };

let shop: Shop;
let deployedAt: number;
let abort: Abort;

beforeAll(async () => {
  shop = await Shop.open({
    values: {
      rollout: {
        steps: [
          // Three crashes, with the pauses between them, take more than a minute: the probe would be first to find them.
          { weight: 1, pause: '180s', gates: ['sample', 'probe'] },
          { weight: 100, pause: '85s', gates: ['sample', 'probe'] },
        ],
      },
    },
  });
  await shop.service.open(15, 9_000);
}, 900_000);
afterAll(async () => {
  await shop?.close();
});

it('is aborted at 1 % for its crashes, and for nothing else', MINUTES, async () => {
  deployedAt = Date.now();
  await shop.service.deploy({ version: 'v2', faults: { crash_after_commit: 1 } });
  abort = await shop.aborted(600);
  expect(abort.by).toEqual(['crashes']);
});

it('loses its traffic within a minute of the third crash', async () => {
  const restarts = `application_restart_total{namespace="${shop.namespace.name}",published_hash="${abort.canary}"}`;
  inTime(abort, {
    ...{ journey: JOURNEY, deployedAt },
    conditionAt: await firstTrue(`max(${restarts}) > 2`),
    lasting: 6,
  });
});

it(
  'leaves events behind that nobody has billed, and they are billed once without a hand on it',
  MINUTES,
  async () => {
    const published = Number(
      await shop.service.sql(`SELECT count(*) FROM event_backups WHERE published_hash = '${abort.canary}'
      AND event_name = 'services.session.completed.v1'`),
    );
    // Each of its crashes came after a commit.
    expect(published).toBeGreaterThanOrEqual(3);
    await backOnStable(shop, abort);
    await mended(shop, abort, JOURNEY);
    const replayed = await shop.service.sql(
      `SELECT count(*) FROM counterfoil.replay_events
        WHERE published_hash = '${abort.canary}' AND status = 'done'`,
    );
    expect(Number(replayed)).toBeGreaterThan(0);
  },
);
