/** The pods of a service are replaced one after the other while its customers complete sessions, as before a change of its secrets. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { allBilled } from './bad-release.ts';
import { SERVICE } from './billing-service.ts';
import { eventually, kubectl } from './cluster.ts';
import { figure } from './figures.ts';
import { Shop } from './shop.ts';

const JOURNEY = 'rolling restart under load';
const MINUTES = { timeout: 300_000 };
/** As the pod template of billing-service.ts has it. */
const GRACE = 20;

interface Pod {
  readonly metadata: { readonly name: string; readonly uid: string; readonly deletionTimestamp?: string };
}

let shop: Shop;

beforeAll(async () => {
  shop = await Shop.open({ sessions: 20_000 });
  await shop.service.open(30, 20_000);
  await eventually('customers are served', 60, async () => (await shop.service.customers()).completed > 30);
}, 900_000);
afterAll(async () => {
  await shop?.close();
});

const pods = async () => (await shop.namespace.get<{ items: Pod[] }>('pods', '-l', `app=${SERVICE}`)).items;

describe.each([1, 2, 3])('restart %i', (number) => {
  it('replaces each pod within its grace, by no new version', MINUTES, async () => {
    const { stable } = await shop.versions();
    const before = new Set((await pods()).map(({ metadata: { uid } }) => uid));
    expect(before.size).toBe(2);
    // A plugin takes its flags after its name.
    await kubectl('argo', 'rollouts', 'restart', SERVICE, '-n', shop.namespace.name);
    // When each was told to end, by what Kubernetes says: when its grace is over.
    const told = new Map<string, number>();
    let longest = 0;
    await eventually('other pods serve', 240, async () => {
      const now = await pods();
      for (const { metadata } of now)
        if (metadata.deletionTimestamp !== undefined)
          told.set(metadata.uid, Date.parse(metadata.deletionTimestamp) - GRACE * 1_000);
      const there = new Set(now.map(({ metadata: { uid } }) => uid));
      for (const [uid, at] of told)
        if (!there.has(uid)) {
          longest = Math.max(longest, (Date.now() - at) / 1_000);
          told.delete(uid);
        }
      const old = [...before].filter((uid) => there.has(uid));
      if (old.length > 0) throw new Error(`${old.length} are there still`);
      return (await shop.readyPods(stable)).length === 2;
    });
    figure(JOURNEY, `restart ${number}: longest end of a pod`, longest, 's', GRACE);
    expect(longest).toBeGreaterThan(0);
    expect(longest).toBeLessThan(GRACE);
    const { canary } = await shop.versions();
    expect({ canary, stable: (await shop.versions()).stable }).toEqual({ canary: stable, stable });
  });
});

it('refuses no request, and loses nothing', MINUTES, async () => {
  const { refused } = await shop.service.customers();
  figure(JOURNEY, 'requests refused', refused, '', 0);
  await allBilled(shop, JOURNEY);
  const replayed = Number(await shop.service.sql('SELECT count(*) FROM counterfoil.replay_events'));
  figure(JOURNEY, 'events that had to be replayed', replayed, '', 0);
  expect({ refused, replayed }).toEqual({ refused: 0, replayed: 0 });
});
