/**
 * Whole releases through our rules, the templates' own queries, and Argo's own evaluator: a few whose end is certain.
 * `npm run bench:releases` is the same with thousands, and gives the shares.
 */
import { beforeAll, describe, expect, inject, test } from 'vitest';
import { replayAll } from './bench.ts';
import { secondsOf } from './releases-canary.ts';
import { type PlannedRelease, planAll } from './releases-plan.ts';
import type { Outcome } from './releases-replay.ts';
import { shareOf } from './releases-table.ts';

const planned = (cells: RegExp, each = 1): PlannedRelease[] =>
  planAll({ each, seed: 7 }).filter((one) => cells.test(`${one.traffic} ${one.fault}`));

const replay = async (releases: readonly PlannedRelease[], askSeconds = 900) =>
  await replayAll(releases, { batch: 100, heldAfterSeconds: 600, askSeconds });

const tools = inject('rolloutTools');
describe.skipIf(tools === undefined)('a release', () => {
  let outcomes: Outcome[];
  const endsOf = (cells: RegExp) =>
    outcomes.filter(({ release: { traffic, fault } }) => cells.test(`${traffic} ${fault}`));
  beforeAll(async () => {
    // All in one storage: the hours of a release cost as much as they do for one.
    outcomes = await replay(
      [
        ...planned(/^1,000\/s (none|lost [25] %|wrong bills [25] %)$/, 4),
        ...planned(/^100\/s (none|hot check fails|exporter gone|lost 2 %, replay always.*)$/),
        ...planned(/^(10|100)\/h (none|lost 2 %)$/),
      ].map((release, n) => ({ ...release, id: `r${n}` })),
    );
  }, 300_000);

  test('without a fault is promoted, and one that loses or bills wrongly beside it is aborted at 1 %', () => {
    const good = endsOf(/^1,000\/s none$/);
    const bad = endsOf(/^1,000\/s (lost|wrong)/);
    expect([good.length, bad.length]).toEqual([12, 16]);
    for (const { end } of good) expect(end).toBe('promoted');
    for (const { end, minutes, weight } of bad)
      expect([end, minutes < 20, weight]).toEqual(['aborted', true, 1]);
  });

  test('whose telemetry vanishes is aborted within minutes, and one that is seen is not', () => {
    const gone = endsOf(/(hot check fails|exporter gone)$/);
    expect(gone).toHaveLength(2);
    for (const { release, end, minutes } of gone) {
      const seen = minutes - Math.max(release.hotCheckFailsAt, release.exporterGoneAt) / 60;
      expect([end, seen > 0, seen < 8]).toEqual(['aborted', true, true]);
    }
    for (const { end } of endsOf(/^100\/s none$/)) expect(end).toBe('promoted');
  });

  test('that loses events is aborted although replay repairs at once; by what is pending alone it would not be', () => {
    const ends = endsOf(/replay always/).map(({ release, end }) => [release.repairedIsLost, end]);
    expect(ends).toEqual([
      [true, 'aborted'],
      [false, 'promoted'],
    ]);
  });

  test('with too little traffic is held at its gate, and neither promoted nor aborted', () => {
    const quiet = endsOf(/\/h (none|lost)/);
    expect(quiet).toHaveLength(8);
    for (const { end, weight } of quiet) expect([end, weight]).toEqual(['held', 1]);
  });

  test('ends the same way when every query is asked at every scrape', async () => {
    const sick = planned(/^1,000\/s (lost 1 %|wrong bills 2 %|lost 5 %)$/);
    const seldom = await replay(sick);
    expect(await replay(sick, 15)).toEqual(seldom);
    expect(seldom.map(({ end }) => end)).toEqual(['aborted', 'aborted', 'aborted']);
  });
});

describe('shares', () => {
  test('have bounds, also where there was none or all of them', () => {
    expect(shareOf(0, 100).high).toBeCloseTo(0.037, 3);
    expect(shareOf(100, 100).low).toBeCloseTo(0.963, 3);
    const { low, high } = shareOf(5, 100);
    expect([low, high].map((one) => one.toFixed(3))).toEqual(['0.022', '0.112']);
  });

  test('of nothing say nothing', () => {
    expect(shareOf(0, 0)).toMatchObject({ low: 0, high: 1 });
  });

  test('durations are those of Argo, and others are refused', () => {
    expect(['2h', '30m', '15s', 7].map(secondsOf)).toEqual([7_200, 1_800, 15, 7]);
    expect(() => secondsOf('2 days')).toThrow('no duration');
  });
});
