/** What whoever is on call sees of a release that was rolled back, while it is repaired and after. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { query } from './prometheus.ts';
import { type Abort, INSTALLATION, Shop } from './shop.ts';

let shop: Shop;
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
  await shop.service.deploy({ version: 'v2', faults: { crash_after_commit: 1 } });
  abort = await shop.aborted(600);
  await shop.repaired(abort.canary, 600);
}, 1_800_000);
afterAll(async () => {
  await shop?.close();
});

/** The newest of the last half hour, so that a series that is gone by now is seen as well. */
const values = async (metric: string, labels = '') =>
  (await query(`last_over_time(${metric}{namespace="${shop.namespace.name}"${labels}}[30m])`)).map(
    ({ metric: { published_hash, metric: name, phase }, value }) => ({
      ...(published_hash === undefined ? {} : { published_hash }),
      ...(name === undefined ? {} : { name }),
      ...(phase === undefined ? {} : { phase }),
      value: Number(value[1]),
    }),
  );

it('the metrics followed the release: its weight, its step and what was measured of it', async () => {
  const [heaviest] = await query(
    `max_over_time(counterfoil_rollout_weight{namespace="${shop.namespace.name}"}[30m])`,
  );
  expect(Number(heaviest?.value[1])).toBe(1);
  expect(await values('counterfoil_rollout_weight')).toEqual([{ value: 0 }]);
  expect(await values('counterfoil_rollout_steps')).toEqual([{ value: 6 }]);
  expect(await values('counterfoil_rollout_aborted')).toEqual([{ value: 1 }]);
  const of = `,published_hash="${abort.canary}",analysis="background"`;
  expect(await values('counterfoil_analysis_measurement', `${of},metric="crashes"`)).toEqual([
    expect.objectContaining({ value: 1 }),
  ]);
  expect(await values('counterfoil_analysis_measurement', `${of},metric="loss"`)).toEqual([
    expect.objectContaining({ value: 0 }),
  ]);
});

it('its cause is named, once', async () => {
  expect(await values('counterfoil_rollout_abort_info')).toEqual([
    { published_hash: abort.canary, name: 'crashes', value: 1 },
  ]);
});

it('the Rollout has an Event of each state of the repair, and none of a repair that failed', async () => {
  const { items } = await shop.namespace.get<{ items: { reason: string; message: string }[] }>(
    ...['events', '--field-selector', 'involvedObject.kind=Rollout,involvedObject.name=billing'],
  );
  const ours = items.map(({ reason }) => reason).filter((reason) => reason.startsWith('Counterfoil'));
  expect(ours.sort()).toEqual(['CounterfoilRepairClean', 'CounterfoilRepairRequested']);
});

it('the exporter and the screen of status say the same', async () => {
  const exporter = `/api/v1/namespaces/${shop.namespace.name}/services/${INSTALLATION}-exporter:http/proxy`;
  const view = JSON.parse(await shop.namespace.kubectl('get', '--raw', `${exporter}/rollout`));
  expect(view).toMatchObject({
    ...{ rollout: 'billing', version: abort.canary, weight: 0, stableHash: abort.stable, aborted: true },
  });
  const screen = await shop.namespace.kubectl(
    ...['exec', `deployment/${INSTALLATION}-exporter`, '--', 'node', 'jobs/status/main.ts'],
  );
  expect(screen).toContain(`Release: version ${abort.canary}, canary weight 0 %, rollout ${view.phase}`);
});
