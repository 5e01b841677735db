/**
 * Ten good releases and twenty that are bad, one after the other through one installation under load: none of the first is to
 * be aborted, all of the others are. They begin at 5 %, where 400 events come in half a minute: what is judged is the same as at 1 %.
 * `npm run bench:releases -- --cluster` sets how many (CLUSTER_GOOD, CLUSTER_BAD) and the seed of what is wrong (CLUSTER_SEED).
 */
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { shareOf, shareText } from '../../rollouts/releases-table.ts';
import { eventually } from '../cluster.ts';
import { figure } from '../figures.ts';
import { hurried } from '../hurried.ts';
import { Shop } from '../shop.ts';

const JOURNEY = 'thirty releases';
const SEED = Number(process.env.CLUSTER_SEED ?? 1);
const GOOD = Number(process.env.CLUSTER_GOOD ?? 10);
const BAD = Number(process.env.CLUSTER_BAD ?? 20);
/** A second, as in the other journeys under load. */
const RATE = 250;
const FIRST_WEIGHT = 5;
const SESSIONS = 150_000 * (GOOD + BAD);
const MINUTES = { timeout: 1_200_000 };

const share = fc.integer({ min: 20, max: 100 }).map((permille) => permille / 1_000);
/**
 * What a release may have. `skip_backup` is not among them: what leaves no event names no version, so it is found and rebuilt,
 * but no canary is stopped for it.
 */
const fault = fc.oneof(
  ...['lose', 'lose_wrong', 'fail', 'bill_wrong', 'bill_twice'].map((name) =>
    fc.tuple(fc.constant(name), share),
  ),
  fc.tuple(fc.constantFrom('crash_after_commit', 'crash_after_handler'), share),
);
const faults = fc.sample(fault, { seed: SEED, numRuns: BAD });

let shop: Shop;
let falselyAborted = 0;
let missed = 0;

beforeAll(async () => {
  const [{ gates, pause }, ...later] = hurried.rollout.steps;
  const steps = [{ weight: FIRST_WEIGHT, gates, pause }, ...later];
  shop = await Shop.open({ sessions: SESSIONS, values: { rollout: { steps } } });
  await shop.service.open(RATE, SESSIONS);
}, 1_200_000);
afterAll(async () => {
  const line = (what: string, part: number, of: number) =>
    `${what}: ${part} of ${of}, ${shareText(shareOf(part, of))}\n`;
  process.stdout.write(line('false aborts', falselyAborted, GOOD) + line('missed', missed, BAD));
  figure(JOURNEY, `false aborts of ${GOOD}`, falselyAborted, '', 0);
  figure(JOURNEY, `missed of ${BAD}`, missed, '', 0);
  await shop?.close();
});

describe.each(Array.from({ length: GOOD }, (_, number) => number + 1))('good release %i', (number) => {
  it('is promoted', MINUTES, async () => {
    const from = Date.now();
    await shop.service.deploy({ version: `good-${number}` });
    const { canary } = await shop.atWeight(FIRST_WEIGHT);
    const ended = await shop.ended(1_080);
    falselyAborted += ended === 'promoted' ? 0 : 1;
    figure(JOURNEY, `good release ${number} promoted after`, (Date.now() - from) / 1_000, 's');
    expect(ended).toBe('promoted');
    expect((await shop.versions()).stable).toBe(canary);
  });
});

describe.each(faults.map(([name, rate], index) => ({ name, rate, number: index + 1 })))(
  'bad release $number: $name at $rate',
  ({ name, rate, number }) => {
    it('is aborted at its first step', MINUTES, async () => {
      const before = (await shop.versions()).stable;
      const from = Date.now();
      await shop.service.deploy({ version: `bad-${number}`, faults: { [name]: rate } });
      await shop.atWeight(FIRST_WEIGHT);
      const ended = await shop.ended(1_080);
      missed += ended === 'aborted' ? 0 : 1;
      expect(ended).toBe('aborted');
      const abort = await shop.aborted(30);
      process.stdout.write(`${name} at ${rate}: ${abort.by.join(', ')}\n`);
      figure(JOURNEY, `${name} at ${rate}: aborted after`, (abort.seenAt - from) / 1_000, 's');
      expect(abort.stable).toBe(before);
      expect(abort.heaviest).toBeLessThanOrEqual(FIRST_WEIGHT);
    });
  },
);

/** Sessions without a bill and wrong bills that no finding lists. Events with wrong payloads are parked, and wait for a person. */
const rest = async (): Promise<readonly number[]> =>
  (
    await shop.service.sql(`WITH live AS (
        SELECT l.session_id, count(*) AS bills, sum(l.amount_minor) AS amount
          FROM mentor_payable_ledgers AS l
         WHERE l.reverses_id IS NULL
           AND NOT EXISTS (SELECT FROM mentor_payable_ledgers AS r WHERE r.reverses_id = l.id)
         GROUP BY l.session_id)
      SELECT
        (SELECT count(*) FROM sessions AS s WHERE s.completed_at IS NOT NULL
           AND NOT EXISTS (SELECT FROM live WHERE live.session_id = s.id)
           AND NOT EXISTS (SELECT FROM counterfoil.discrepancies AS d
                            WHERE d.key = jsonb_build_array(s.id::text)::text AND d.status = 'open' AND d.cause = 'event_parked')),
        (SELECT count(*) FROM sessions AS s JOIN live ON live.session_id = s.id
          WHERE (live.bills > 1 OR live.amount <> s.amount_minor)
            AND NOT EXISTS (SELECT FROM counterfoil.discrepancies AS d
                             WHERE d.key = jsonb_build_array(s.id::text)::text AND d.status = 'open'))`)
  )
    .split('|')
    .map(Number);

it('nobody is unbilled at the end, and what is billed wrongly is listed for a person', MINUTES, async () => {
  await shop.namespace.kubectl('delete', 'pod', 'customers');
  let last: readonly number[] = [];
  try {
    await eventually('all is billed or listed', 1_000, async () => {
      last = await rest();
      if (last.some((count) => count > 0)) throw new Error(last.join());
      return true;
    });
  } finally {
    const [unbilled = 0, unlisted = 0] = last;
    figure(JOURNEY, 'sessions unbilled at the end that wait for nobody', unbilled, '', 0);
    figure(JOURNEY, 'wrong bills that no finding lists', unlisted, '', 0);
  }
});
