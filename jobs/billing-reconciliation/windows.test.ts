import { describe, expect, test } from 'vitest';
import { RunFailure } from '../runtime/failures.ts';
import { createLogger } from '../runtime/logger.ts';
import { nextWidth, paceOf, type Range, sweep } from './windows.ts';

const HOUR = 3_600_000_000n;
const pace = { targetMs: 250, timeoutMs: 1000, narrowest: 1n };
const silent = createLogger({ job: 'test', level: 'error', installation: 'test' });
const cost = (tookMs: number, rows = 1000) => ({ tookMs, rows });
const never = () => Promise.resolve(false);
const timeLimit = () =>
  new RunFailure('database_busy', 'canceled', {
    cause: Object.assign(new Error('canceled'), { code: '57014' }),
  });

describe('the width of windows', () => {
  test('is doubled while statements are fast, halved when they are slow, and kept in between', () => {
    expect(nextWidth(HOUR, cost(124), pace)).toBe(2n * HOUR);
    expect(nextWidth(HOUR, cost(126), pace)).toBe(HOUR);
    expect(nextWidth(HOUR, cost(500), pace)).toBe(HOUR);
    expect(nextWidth(HOUR, cost(501), pace)).toBe(HOUR / 2n);
  });

  test('is doubled for few rows however long they took: a slow way to the server is not mended by more windows', () => {
    expect(nextWidth(HOUR, cost(900, 999), pace)).toBe(2n * HOUR);
  });

  test('has a least and a greatest', () => {
    expect(nextWidth(1n, cost(9999), pace)).toBe(1n);
    expect(nextWidth(32n * 24n * HOUR, cost(0), pace)).toBe(32n * 24n * HOUR);
  });
});

describe('the pace', () => {
  test('makes no window narrower than an eighth of what is read around it', () => {
    const settings = { CF_WINDOW_TARGET_MILLISECONDS: 250, CF_WINDOW_TIMEOUT_MILLISECONDS: 1000 };
    expect(paceOf({ ...settings, CF_SLACK_SECONDS: 3_600_000 }).narrowest).toBe(HOUR / 8n);
    expect(paceOf({ ...settings, CF_SLACK_SECONDS: 0 }).narrowest).toBe(1n);
  });
});

describe('a sweep', () => {
  test('tiles the range without gap and without overlap', async () => {
    const windows: Range[] = [];
    const coverage = await sweep({ from: 5n, to: 100n * HOUR + 7n }, pace, silent, never, (window) => {
      windows.push(window);
      return Promise.resolve(cost(1));
    });
    expect(windows[0]?.from).toBe(5n);
    expect(windows.at(-1)?.to).toBe(100n * HOUR + 7n);
    for (const [position, window] of windows.entries())
      if (position > 0) expect(window.from).toBe(windows[position - 1]?.to);
    expect(coverage).toMatchObject({ complete: true, windows: windows.length });
  });

  test('an empty range has no window', async () => {
    const coverage = await sweep({ from: 5n, to: 5n }, pace, silent, never, () =>
      Promise.reject(new Error()),
    );
    expect(coverage).toEqual({ coveredTo: 5n, windows: 0, plannedWindows: 0, complete: true });
  });

  test('a window that runs into its time limit is halved and read again from the same place', async () => {
    const asked: Range[] = [];
    await sweep({ from: 0n, to: HOUR }, pace, silent, never, (window) => {
      asked.push(window);
      return window.to - window.from > HOUR / 4n ? Promise.reject(timeLimit()) : Promise.resolve(cost(200));
    });
    expect(asked.map(({ from, to }) => [from, to - from])).toEqual([
      [0n, HOUR],
      [0n, HOUR / 2n],
      [0n, HOUR / 4n],
      [HOUR / 4n, HOUR / 4n],
      [HOUR / 2n, HOUR / 4n],
      [(3n * HOUR) / 4n, HOUR / 4n],
    ]);
  });

  test('rows of one microsecond get longer, and fail the run when even that is too short', async () => {
    const limits: number[] = [];
    await sweep({ from: 0n, to: 1n }, pace, silent, never, (_, timeoutMs) => {
      limits.push(timeoutMs);
      return timeoutMs < 8000 ? Promise.reject(timeLimit()) : Promise.resolve(cost(1));
    });
    expect(limits).toEqual([1000, 2000, 4000, 8000]);
    await expect(
      sweep({ from: 0n, to: 1n }, pace, silent, never, () => Promise.reject(timeLimit())),
    ).rejects.toThrow('canceled');
  });

  test('any other failure ends the sweep at once', async () => {
    let asked = 0;
    const failing = sweep({ from: 0n, to: HOUR }, pace, silent, never, () => {
      asked += 1;
      return Promise.reject(new RunFailure('table_missing', 'gone'));
    });
    await expect(failing).rejects.toThrow('gone');
    expect(asked).toBe(1);
  });

  test('told to stop, it says how much of how much it covered', async () => {
    let asked = 0;
    const coverage = await sweep(
      { from: 0n, to: 10n * HOUR },
      pace,
      silent,
      () => Promise.resolve(asked === 2),
      () => {
        asked += 1;
        return Promise.resolve(cost(200));
      },
    );
    expect(coverage).toEqual({ coveredTo: 2n * HOUR, windows: 2, plannedWindows: 10, complete: false });
  });
});
