import { expect, test } from 'vitest';
import { GatheredInserts } from './gathered-inserts.js';

/** Statements that end when the test lets them. */
function statements(refused: (item: number) => unknown = () => undefined) {
  const sent: number[][] = [];
  const ends: (() => void)[] = [];
  const inserts = new GatheredInserts<number, string>(async (items) => {
    sent.push([...items]);
    await new Promise<void>((resolve) => ends.push(resolve));
    const error = items.map(refused).find((problem) => problem !== undefined);
    if (error !== undefined) throw error;
    return items.map((item) => (item === 0 ? undefined : `row ${item}`));
  });
  /** Whatever follows from a call or from the end of a statement happens before the next turn of the event loop. */
  const end = async (): Promise<void> => {
    await new Promise(setImmediate);
    ends.shift()?.();
    await new Promise(setImmediate);
  };
  return { sent, inserts, end };
}

test('an insert that comes alone goes at once, and hears whether its key was taken', async () => {
  const { sent, inserts, end } = statements();
  const rows = [inserts.submit(1), inserts.submit(0)];
  await end();
  expect(await Promise.all(rows)).toEqual(['row 1', undefined]);
  expect(sent).toEqual([[1, 0]]);
});

test('what comes while two statements are on their way travels together, a hundred rows at most', async () => {
  const { sent, inserts, end } = statements();
  const rows = [inserts.submit(1)];
  await new Promise(setImmediate);
  rows.push(inserts.submit(2));
  await new Promise(setImmediate);
  for (let item = 3; item <= 105; item += 1) rows.push(inserts.submit(item));
  await new Promise(setImmediate);
  expect(sent).toEqual([[1], [2]]);
  for (let left = 0; left < 4; left += 1) await end();
  expect(sent.map((items) => items.length)).toEqual([1, 1, 100, 3]);
  expect(await Promise.all(rows)).toHaveLength(105);
});

test('a row that the database refuses fails alone, and those beside it are written', async () => {
  const { inserts, end } = statements((item) => (item === 2 ? { code: '23514' } : undefined));
  const rows = Promise.allSettled([1, 2, 3].map((item) => inserts.submit(item)));
  for (let left = 0; left < 4; left += 1) await end();
  expect(await rows).toEqual([
    { status: 'fulfilled', value: 'row 1' },
    { status: 'rejected', reason: { code: '23514' } },
    { status: 'fulfilled', value: 'row 3' },
  ]);
});

test('a database that is away fails them all at once: trying each of them would take minutes', async () => {
  const { sent, inserts, end } = statements(() => ({ code: 'ECONNREFUSED' }));
  const rows = Promise.allSettled([1, 2, 3].map((item) => inserts.submit(item)));
  await end();
  expect((await rows).map(({ status }) => status)).toEqual(['rejected', 'rejected', 'rejected']);
  expect(sent).toEqual([[1, 2, 3]]);
});
