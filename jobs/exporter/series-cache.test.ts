import { expect, test } from 'vitest';
import { parseSeries, sampleOf } from '../../test/builders/scrape.ts';
import type { SetSeries } from './collection.ts';
import { SeriesCache } from './series-cache.ts';

const MAX_AGE_MS = 120_000;

/** A cache of one collection and a clock that the test moves. */
function openCache() {
  const clock = { ms: 1_000 };
  const cache = new SeriesCache(
    { installation: 'shop', version: '1.2.3', maxAgeMs: MAX_AGE_MS, now: () => clock.ms },
    ['events', 'rollout'],
  );
  return { cache, clock };
}

const pending = (value: number) => (set: SetSeries<'events'>) => set('counterfoil_pending_events', {}, value);

test('a set of series is exported with its installation, and the next one takes its place whole', async () => {
  const { cache } = openCache();
  cache.publish('events', (set) => {
    set('counterfoil_pending_events', {}, 3);
    set('counterfoil_oldest_overdue_event_timestamp_seconds', {}, 1_700_000_000);
  });
  expect(sampleOf(await cache.render(), 'counterfoil_pending_events', { installation: 'shop' })).toBe(3);
  cache.publish('events', pending(0));
  const text = await cache.render();
  expect(sampleOf(text, 'counterfoil_pending_events')).toBe(0);
  expect(sampleOf(text, 'counterfoil_oldest_overdue_event_timestamp_seconds')).toBeUndefined();
});

test('before its first success a collection says that it fails, and has no series of its own', async () => {
  const { cache } = openCache();
  const text = await cache.render();
  expect(sampleOf(text, 'counterfoil_collection_success', { collection: 'events' })).toBe(0);
  expect(sampleOf(text, 'counterfoil_collection_timestamp_seconds', { collection: 'events' })).toBe(0);
  expect(sampleOf(text, 'counterfoil_exporter_info', { version: '1.2.3' })).toBe(1);
  expect(parseSeries(text).some(({ name }) => name === 'counterfoil_pending_events')).toBe(false);
});

test('values outlive a failure until they are too old, and not by a moment more', async () => {
  const { cache, clock } = openCache();
  cache.publish('events', pending(7), 250);
  cache.lost('events', 500);
  clock.ms += MAX_AGE_MS;
  const old = await cache.render();
  expect(sampleOf(old, 'counterfoil_pending_events')).toBe(7);
  expect(sampleOf(old, 'counterfoil_collection_success', { collection: 'events' })).toBe(0);
  expect(sampleOf(old, 'counterfoil_collection_duration_seconds', { collection: 'events' })).toBe(0.5);
  clock.ms += 1;
  const older = await cache.render();
  expect(sampleOf(older, 'counterfoil_pending_events')).toBeUndefined();
  expect(
    sampleOf(older, 'counterfoil_collection_timestamp_seconds', { collection: 'events' }),
  ).toBeGreaterThan(1_700_000_000);
  cache.publish('events', pending(8));
  expect(sampleOf(await cache.render(), 'counterfoil_pending_events')).toBe(8);
});

test('a collection that nobody hears of any more vanishes too, although it never failed', async () => {
  const { cache, clock } = openCache();
  cache.publish('events', pending(7));
  clock.ms += MAX_AGE_MS + 1;
  expect(sampleOf(await cache.render(), 'counterfoil_pending_events')).toBeUndefined();
});

test('a sign of life keeps what was said, and brings nothing back that was too old', async () => {
  const { cache, clock } = openCache();
  cache.alive('events');
  expect(cache.isFresh('events')).toBe(false);
  expect(sampleOf(await cache.render(), 'counterfoil_collection_success', { collection: 'events' })).toBe(0);
  cache.publish('events', pending(7));
  cache.lost('events');
  clock.ms += MAX_AGE_MS;
  cache.alive('events');
  clock.ms += MAX_AGE_MS;
  const text = await cache.render();
  expect(sampleOf(text, 'counterfoil_pending_events')).toBe(7);
  expect(sampleOf(text, 'counterfoil_collection_success', { collection: 'events' })).toBe(1);
  clock.ms += 1;
  cache.alive('events');
  expect(sampleOf(await cache.render(), 'counterfoil_pending_events')).toBeUndefined();
});

test('a collection that is off has no series at all, and comes back with its next set', async () => {
  const { cache } = openCache();
  cache.publish('events', pending(7));
  cache.off('events');
  const off = parseSeries(await cache.render());
  expect(off.some(({ name }) => name === 'counterfoil_pending_events')).toBe(false);
  expect(off.some(({ labels }) => labels.collection === 'events')).toBe(false);
  expect(off.some(({ labels }) => labels.collection === 'rollout')).toBe(true);
  cache.publish('events', pending(8));
  expect(sampleOf(await cache.render(), 'counterfoil_pending_events')).toBe(8);
});

test('a counter is set to all that it has counted', async () => {
  const { cache } = openCache();
  cache.publish('state', (set) => set('billing_discrepancy_total', { check: 'a', kind: 'missing' }, 41));
  const text = await cache.render();
  expect(sampleOf(text, 'billing_discrepancy_total', { check: 'a', kind: 'missing' })).toBe(41);
  expect(text).toContain('# TYPE billing_discrepancy_total counter');
});

test('a label cannot break out of its place', async () => {
  const { cache } = openCache();
  const check = 'a"} 1\nforged{x="';
  cache.publish('state', (set) => set('counterfoil_check_held_back', { check }, 1));
  const series = parseSeries(await cache.render());
  expect(series.some(({ name }) => name === 'forged')).toBe(false);
  expect(series.filter(({ name }) => name === 'counterfoil_check_held_back')).toHaveLength(1);
});

test.each<[string, string, Record<string, string>, unknown, string]>([
  ['a metric that nobody declared', 'counterfoil_invented', {}, 1, 'not declared'],
  ['one that every object has', 'toString', {}, 1, 'not declared'],
  [
    'a metric of another collection',
    'counterfoil_check_held_back',
    { check: 'a' },
    1,
    'not from the collection',
  ],
  ['a label too many', 'counterfoil_pending_events', { check: 'a' }, 1, 'other labels'],
  ['NaN', 'counterfoil_pending_events', {}, Number.NaN, 'no finite number'],
  ['infinity', 'counterfoil_pending_events', {}, Number.POSITIVE_INFINITY, 'no finite number'],
  ['a text that looks like a number', 'counterfoil_pending_events', {}, '1', 'no finite number'],
])('%s is refused, and nothing of its set is taken', async (_, name, labels, value, why) => {
  const { cache } = openCache();
  cache.publish('events', pending(7));
  const careless = (set: SetSeries<'events'>) => {
    set('counterfoil_overdue_events', {}, 1);
    (set as unknown as (name: string, labels: object, value: unknown) => void)(name, labels, value);
  };
  expect(() => cache.publish('events', careless)).toThrow(why);
  const text = await cache.render();
  expect(sampleOf(text, 'counterfoil_pending_events')).toBe(7);
  expect(sampleOf(text, 'counterfoil_overdue_events')).toBeUndefined();
  expect(sampleOf(text, 'counterfoil_collection_success', { collection: 'events' })).toBe(0);
});

test('a label that is missing, no text, or was set before is refused', () => {
  const { cache } = openCache();
  const set = (fill: (set: (name: string, labels: object, value: number) => void) => void) => () =>
    cache.publish('state', fill as unknown as (set: SetSeries<'state'>) => void);
  expect(set((one) => one('counterfoil_check_held_back', {}, 1))).toThrow('other labels');
  expect(set((one) => one('counterfoil_check_held_back', { check: 7 }, 1))).toThrow('is no text');
  expect(set((one) => one('billing_discrepancy_total', { check: 'a', kind: 'missing' }, -1))).toThrow(
    'cannot be negative',
  );
  const twice = set((one) => {
    one('counterfoil_check_held_back', { check: 'a' }, 1);
    one('counterfoil_check_held_back', { check: 'a' }, 0);
  });
  expect(twice).toThrow('was set twice');
});

test('the types refuse the same before anything runs', () => {
  const { cache } = openCache();
  const unreached = () => {
    // @ts-expect-error: declared by nobody
    cache.publish('events', (set) => set('counterfoil_invented', {}, 1));
    // @ts-expect-error: from another collection
    cache.publish('events', (set) => set('counterfoil_check_held_back', { check: 'a' }, 1));
    // @ts-expect-error: without its label
    cache.publish('state', (set) => set('counterfoil_check_held_back', {}, 1));
    // @ts-expect-error: with a label too many
    cache.publish('events', (set) => set('counterfoil_pending_events', { check: 'a' }, 1));
    // @ts-expect-error: the exporter's own are nobody's to set
    cache.publish('exporter', () => undefined);
  };
  expect(unreached).toThrow();
});
