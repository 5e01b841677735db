import { expect, test } from 'vitest';
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

test('no statement holds more than a hundred items and no more than two run at once', async () => {
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
  expect(most).toBe(2);
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
