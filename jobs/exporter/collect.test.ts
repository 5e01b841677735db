import { setTimeout as delay } from 'node:timers/promises';
import { afterEach, expect, test } from 'vitest';
import { collectLog } from '../../test/builders/open-database.ts';
import { sampleOf } from '../../test/builders/scrape.ts';
import { waitFor } from '../../test/builders/wait-for.ts';
import { RunFailure } from '../runtime/failures.ts';
import { type Collected, Collector } from './collect.ts';
import { SeriesCache } from './series-cache.ts';

const running: { readonly stop: AbortController; readonly ended: Promise<void> }[] = [];
afterEach(async () => {
  for (const { stop } of running) stop.abort();
  await Promise.all(running.splice(0).map(({ ended }) => ended));
});

/** A collection whose reading the test decides, taken as fast as it can be. */
function start(read: (signal: AbortSignal) => Promise<Collected<'events'>>, timeoutMs = 10_000) {
  const log = collectLog();
  const stop = new AbortController();
  const cache = new SeriesCache({ installation: 'shop', version: '1', maxAgeMs: 60_000 }, ['events']);
  const collector = new Collector({
    collection: 'events',
    intervalMs: 1,
    timeoutMs,
    read,
    sink: cache,
    logger: log.logger,
    signal: stop.signal,
    hangAllowanceMs: 100,
  });
  const ended = collector.run();
  running.push({ stop, ended });
  const success = async () =>
    sampleOf(await cache.render(), 'counterfoil_collection_success', { collection: 'events' });
  return { collector, cache, log, stop, ended, success };
}

const nothing: Collected<'events'> = () => undefined;

test('is taken again and again, and never twice at once', async () => {
  let now = 0;
  let most = 0;
  let turns = 0;
  start(async () => {
    now += 1;
    most = Math.max(most, now);
    await delay(2);
    now -= 1;
    turns += 1;
    return nothing;
  });
  await waitFor('five turns', async () => turns >= 5);
  expect(most).toBe(1);
});

test('a failure is said once and not at every turn, and so is its end', async () => {
  let turns = 0;
  const outcomes: (() => Collected<'events'>)[] = [];
  const { log, success } = start(async () => {
    turns += 1;
    return (outcomes.shift() ?? (() => nothing))();
  });
  const fail = (id: 'database_unreachable' | 'grant_missing') => () => {
    throw new RunFailure(id, `because of ${id}`);
  };
  outcomes.push(fail('database_unreachable'), fail('database_unreachable'), fail('grant_missing'));
  await waitFor('all of them', async () => outcomes.length === 0 && turns >= 4 && (await success()) === 1);
  await waitFor('the end of it', async () => log.messages().includes('the collection works again'));
  const messages = log.messages();
  expect(
    messages.filter((text) => text === 'the collection failed: because of database_unreachable'),
  ).toHaveLength(1);
  expect(messages.filter((text) => text === 'the collection failed: because of grant_missing')).toHaveLength(
    1,
  );
  expect(messages.filter((text) => text === 'the collection works again')).toHaveLength(1);
});

test('an attempt that does not end counts as failed at once, and no other begins beside it', async () => {
  let begun = 0;
  const hang = Promise.withResolvers<Collected<'events'>>();
  const { success, collector, log } = start(async () => {
    begun += 1;
    return begun === 2 ? await hang.promise : nothing;
  }, 50);
  await waitFor('the failure', async () => begun === 2 && (await success()) === 0);
  expect(log.entries().at(-1)).toMatchObject({ failureId: 'database_busy', collection: 'events' });
  expect(collector.turns).toBe(true);
  expect(begun).toBe(2);
  // Too late: what it brings is not taken any more, and the next attempt works.
  hang.resolve((set) => set('counterfoil_pending_events', {}, 999));
  await waitFor('the next attempt', async () => begun >= 3 && (await success()) === 1);
});

test('a loop that hangs for much longer than it may is no longer alive, and comes back when it goes on', async () => {
  const hang = Promise.withResolvers<Collected<'events'>>();
  let begun = 0;
  const { collector, success } = start(async () => {
    begun += 1;
    return begun === 1 ? await hang.promise : nothing;
  }, 20);
  await waitFor('the failure', async () => (await success()) === 0 && collector.attempted);
  expect(collector.turns).toBe(true);
  await waitFor('the hanging', async () => !collector.turns);
  hang.resolve(nothing);
  await waitFor('the next turn', async () => collector.turns && (await success()) === 1);
});

test('the signal tells an attempt that its time is over', async () => {
  let told = false;
  start(async (signal) => {
    await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()));
    told = true;
    return nothing;
  }, 20);
  await waitFor('the signal', async () => told);
});

test('what cannot be measured here is off and says why once; when it can be, it is there', async () => {
  let possible = false;
  let turns = 0;
  const { cache, log } = start(async () => {
    turns += 1;
    return possible ? (set) => set('counterfoil_pending_events', {}, 4) : 'there is no index';
  });
  await waitFor('some turns', async () => turns >= 3);
  expect(sampleOf(await cache.render(), 'counterfoil_collection_success')).toBeUndefined();
  expect(log.messages().filter((text) => text === 'this collection is off: there is no index')).toHaveLength(
    1,
  );
  possible = true;
  await waitFor('its series', async () => sampleOf(await cache.render(), 'counterfoil_pending_events') === 4);
});

test('a series that may not be set fails the collection and ends nothing', async () => {
  let turns = 0;
  const { log, success } = start(async () => {
    turns += 1;
    return (set) => set('counterfoil_pending_events', {}, turns === 1 ? Number.NaN : 1);
  });
  await waitFor('the next turn', async () => (await success()) === 1);
  expect(log.entries()[0]).toMatchObject({ failureId: 'internal' });
});

test('ends with the run, also in the middle of an attempt, which is no failure', async () => {
  const begun = Promise.withResolvers<void>();
  const { stop, ended, log, collector } = start(async (signal) => {
    begun.resolve();
    await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()));
    throw new Error('broken off');
  });
  await begun.promise;
  stop.abort();
  await ended;
  expect(log.messages()).toEqual([]);
  expect(collector.turns).toBe(true);
});
