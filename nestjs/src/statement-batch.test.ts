import { expect, test } from 'vitest';
import { waitFor } from '../../test/builders/wait-for.ts';
import { StatementBatch } from './statement-batch.js';

test('items submitted together share a statement, in order', async () => {
  const statements: number[][] = [];
  const batch = new StatementBatch(async (items: readonly number[]) => {
    statements.push([...items]);
    return items.map((item) => item * 10);
  });
  expect(await Promise.all([1, 2, 3].map((item) => batch.submit(item)))).toEqual([10, 20, 30]);
  expect(statements).toEqual([[1, 2, 3]]);
});

test('no statement holds more than a hundred items, and the next one waits for it while it is answered soon', async () => {
  const sizes: number[] = [];
  let running = 0;
  let most = 0;
  const batch = new StatementBatch(async (items: readonly number[]) => {
    sizes.push(items.length);
    running += 1;
    most = Math.max(most, running);
    await new Promise((resolve) => setImmediate(resolve));
    running -= 1;
    return items;
  });
  const items = Array.from({ length: 450 }, (_, index) => index);
  expect(await Promise.all(items.map((item) => batch.submit(item)))).toEqual(items);
  expect(sizes).toEqual([100, 100, 100, 100, 50]);
  expect(most).toBe(1);
});

test('a statement that is stuck does not hold up those after it, and no more than two run at once', async () => {
  const stuck = Promise.withResolvers<void>();
  const slow = Promise.withResolvers<void>();
  let running = 0;
  let most = 0;
  const batch = new StatementBatch(async ([item = '']: readonly string[]) => {
    running += 1;
    most = Math.max(most, running);
    if (item === 'stuck') await stuck.promise;
    if (item === 'slow') await slow.promise;
    running -= 1;
    return [item];
  });
  const first = batch.submit('stuck');
  await Promise.resolve();
  await expect(batch.submit('next')).resolves.toBe('next');
  const second = batch.submit('slow');
  await waitFor('the second beside the first', async () => running === 2);
  const third = batch.submit('third');
  slow.resolve();
  expect(await Promise.all([second, third])).toEqual(['slow', 'third']);
  stuck.resolve();
  await expect(first).resolves.toBe('stuck');
  expect(most).toBe(2);
});

test('a statement waits for its distance from the one before, and the first one for nothing', async () => {
  const sizes: number[] = [];
  const batch = new StatementBatch(async (items: readonly number[]) => {
    sizes.push(items.length);
    return items;
  }, 10_000);
  await expect(batch.submit(1)).resolves.toBe(1);
  void batch.submit(2);
  void batch.submit(3);
  for (let turn = 0; turn < 10; turn += 1) await new Promise((resolve) => setImmediate(resolve));
  expect(sizes).toEqual([1]);

  const close = new StatementBatch(async (items: readonly number[]) => {
    sizes.push(items.length);
    return items;
  }, 20);
  await close.submit(1);
  const startedAt = performance.now();
  await Promise.all([
    close.submit(2),
    new Promise((resolve) => setImmediate(resolve)).then(() => close.submit(3)),
  ]);
  expect(performance.now() - startedAt).toBeGreaterThan(15);
  expect(sizes).toEqual([1, 1, 2]);
});

test('a statement that fails rejects its own items and no others', async () => {
  const batch = new StatementBatch(async (items: readonly string[]) => {
    if (items.includes('bad')) throw new Error('refused');
    return items;
  });
  const bad = Promise.allSettled([batch.submit('bad'), batch.submit('beside it')]);
  expect((await bad).map(({ status }) => status)).toEqual(['rejected', 'rejected']);
  await expect(batch.submit('later')).resolves.toBe('later');
});
