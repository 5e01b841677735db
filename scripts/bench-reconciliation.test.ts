import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Contenders, insistOnSame, openContenders } from './bench-reconciliation-contenders.ts';
import {
  expectedOf,
  type FactsDatabase,
  factCounts,
  makeFactsDatabase,
  tenthOf,
} from './bench-reconciliation-data.ts';
import { openReconciliation, type Reconciliation, standingFindings } from './bench-reconciliation-job.ts';
import { logSettings, openServerLog, statementsOf } from './bench-reconciliation-log.ts';
import {
  bestOverBest,
  type Figures,
  median,
  missedGoals,
  nothingMeasured,
  quantile,
} from './bench-reconciliation-report.ts';
import { pgbenchVersion } from './bench-service-contenders.ts';
import { type EmbeddedPostgres, startEmbeddedPostgres } from './embedded-postgres.ts';

describe('the contenders and the job, over 2,000 facts', () => {
  const counts = factCounts(2_000);
  const folder = mkdtempSync(join(tmpdir(), 'counterfoil-bench-test-'));
  let server: EmbeddedPostgres;
  let facts: FactsDatabase;
  let contenders: Contenders;
  let job: Reconciliation;

  beforeAll(async () => {
    server = await startEmbeddedPostgres({ settings: logSettings });
    facts = await makeFactsDatabase(server.url, 'facts', counts, () => undefined);
    contenders = await openContenders(facts.url);
    job = openReconciliation(folder, await openServerLog(facts.client));
  });

  afterAll(async () => {
    await contenders?.close();
    await facts?.client.end();
    await server?.stop();
    rmSync(folder, { recursive: true, force: true });
  });

  const byKind = (found: ReadonlySet<string>) => {
    const kinds: Record<string, number> = { missing: 0, orphan: 0, duplicate: 0, amount: 0 };
    for (const print of found) {
      const kind = print.split(' ')[0] ?? '';
      kinds[kind] = (kinds[kind] ?? 0) + 1;
    }
    return kinds;
  };

  test('all find the discrepancies that the data was made with, key by key', async () => {
    const expected = expectedOf(counts);
    expect(Math.min(...Object.values(expected))).toBeGreaterThan(0);
    const { found } = await contenders.fullJoin();
    expect(byKind(found)).toEqual(expected);
    expect((await contenders.fourQueries()).found).toEqual(found);
    const run = await job.run(facts, 'full');
    expect(run.counts.facts).toBe(2_000);
    expect(await standingFindings(facts)).toEqual(found);
    const { rows } = await facts.client.query<{ recent: number }>(
      `SELECT count(*)::integer AS recent FROM sessions WHERE completed_at > now() - interval '24 hours'`,
    );
    expect(rows[0]?.recent).toBe(counts.recent);
  });

  test('a bill that vanishes is found by all, and told from a run that has not looked', async () => {
    const before = (await contenders.fullJoin()).found;
    const recentBefore = (await contenders.planQuery()).found;
    const { rowCount } = await facts.client.query(
      `DELETE FROM mentor_payable_ledgers WHERE session_id = (
         SELECT s.id FROM sessions AS s JOIN mentor_payable_ledgers AS l ON l.session_id = s.id
          WHERE s.completed_at > now() - interval '23 hours'
          GROUP BY s.id HAVING count(*) = 1 AND min(l.amount_minor) = s.amount_minor ORDER BY s.id LIMIT 1)`,
    );
    expect(rowCount).toBe(1);
    const { found } = await contenders.fullJoin();
    const vanished = [...found].filter((print) => !before.has(print));
    expect(vanished).toHaveLength(1);
    const recent = (await contenders.planQuery()).found;
    expect([...recent].filter((print) => !recentBefore.has(print))).toEqual(vanished);
    const stale = await standingFindings(facts);
    expect(() => insistOnSame('full', stale, 'the full outer join', found)).toThrow('discrepancies');
    await job.run(facts, 'full');
    insistOnSame('full', await standingFindings(facts), 'the full outer join', found);
  });

  test('the log of the server tells the time of the run, and of each window', async () => {
    const { ms, wholeMs, statements, databaseMs } = await job.run(facts, 'incremental');
    const windows = statements.filter(({ name }) => name === 'compareWindow');
    expect(windows.length).toBeGreaterThan(0);
    expect(windows.every((one) => one.ms > 0 && !one.cancelled)).toBe(true);
    expect(ms).toBeGreaterThan(0);
    expect(ms).toBeLessThan(wholeMs);
    const within = statements.reduce((sum, one) => sum + one.ms, 0);
    expect(databaseMs).toBeGreaterThan(within);
  });

  test('a run that does not succeed gives no figure', async () => {
    await facts.client.query('ALTER TABLE sessions RENAME COLUMN completed_at TO ended_at');
    try {
      await expect(job.run(facts, 'full')).rejects.toThrow('outcome refused');
    } finally {
      await facts.client.query('ALTER TABLE sessions RENAME COLUMN ended_at TO completed_at');
    }
  });
});

describe('the log of statements', () => {
  const line = (second: number, message: string, more: object = {}) => ({
    timestamp: `2026-11-28 06:00:0${second}.000 UTC`,
    user: 'counterfoil_jobs',
    pid: 7,
    error_severity: 'LOG',
    message,
    ...more,
  });
  const text = '-- billing-reconciliation: compareWindow; index on facts at\nSELECT 1';

  test('takes parsing, planning and execution together', () => {
    const [one, ...more] = statementsOf([
      line(1, `duration: 0.500 ms  parse <unnamed>: ${text}`),
      line(1, `duration: 1.500 ms  bind <unnamed>: ${text}`),
      line(2, `duration: 40.000 ms  execute <unnamed>: ${text}`),
    ]);
    expect(one).toMatchObject({ name: 'compareWindow', ms: 42, cancelled: false });
    expect(more).toEqual([]);
  });

  test('knows of a statement that ran into its limit, which has no duration', () => {
    const statements = statementsOf([
      line(1, `duration: 1.000 ms  bind <unnamed>: ${text}`),
      line(2, 'canceling statement due to statement timeout', {
        error_severity: 'ERROR',
        state_code: '57014',
        statement: text,
      }),
      line(3, 'duration: 0.100 ms  statement: COMMIT'),
    ]);
    expect(statements).toMatchObject([
      { name: 'compareWindow', ms: 1_000, cancelled: true },
      { name: 'transaction control', ms: 0.1, cancelled: false },
    ]);
  });

  test('keeps two connections apart', () => {
    const statements = statementsOf([
      line(1, `duration: 1.000 ms  bind <unnamed>: ${text}`),
      line(1, `duration: 2.000 ms  bind <unnamed>: ${text}`, { pid: 8 }),
      line(2, `duration: 10.000 ms  execute <unnamed>: ${text}`, { pid: 8 }),
      line(2, `duration: 20.000 ms  execute <unnamed>: ${text}`),
    ]);
    expect(statements.map(({ ms }) => ms)).toEqual([12, 21]);
  });
});

describe('the figures', () => {
  test('of several rounds are the best and the one in the middle', () => {
    expect(bestOverBest([30, 20, 90], [40, 10, 20])).toBe(2);
    expect([median([3, 1, 2]), median([4, 1, 3, 2])]).toEqual([2, 2.5]);
    expect([quantile([1, 2, 3, 4], 0.5), quantile([1, 2, 3, 4], 0.95)]).toEqual([2, 4]);
  });

  test('miss a goal only where they are worse than it', () => {
    const figures: Figures = { facts: 1_000_000, ...nothingMeasured };
    expect(missedGoals(figures)).toEqual([]);
    expect(missedGoals({ ...figures, sweepOverFullJoin: 1.5, neighbourThroughput: 0.9 })).toEqual([]);
    expect(missedGoals({ ...figures, sweepOverFullJoin: 1.51, neighbourThroughput: 0.89 })).toHaveLength(2);
    expect(missedGoals({ ...figures, incrementalOverPlanQuery: 0.8 })).toEqual([]);
    expect(missedGoals({ ...figures, facts: 10_000_000, incrementalOverPlanQuery: 0.8 })).toHaveLength(1);
  });

  test('compare two tables with the same last 24 hours', () => {
    expect(factCounts(10_000_000)).toEqual({ older: 9_900_000, recent: 100_000 });
    expect(tenthOf(factCounts(10_000_000))).toEqual({ older: 990_000, recent: 100_000 });
    expect(factCounts(2_000).recent).toBe(200);
  });
});

const bench = async (args: readonly string[]) =>
  await new Promise<{ code: unknown; stdout: string; stderr: string }>((resolve) => {
    execFile(
      process.execPath,
      [fileURLToPath(new URL('bench-reconciliation.ts', import.meta.url)), ...args],
      { maxBuffer: 1 << 26 },
      (error, stdout, stderr) => resolve({ code: error?.code ?? 0, stdout, stderr }),
    );
  });

test('bench:reconciliation runs all its parts over 2,000 facts and says every figure', async () => {
  const { code, stdout, stderr } = await bench([
    '--facts',
    '2000',
    '--rounds',
    '1',
    '--seconds',
    '1',
    '--json',
  ]);
  expect(code, stderr).toBe(0);
  const figures = JSON.parse(stdout.trimEnd().split('\n').at(-1) ?? '') as Record<string, number | null>;
  expect(Object.keys(figures)).toEqual(['facts', ...Object.keys(nothingMeasured)]);
  const { neighbourThroughput, rssMb, ...others } = figures;
  expect(Object.values(others).every((value) => typeof value === 'number' && value > 0)).toBe(true);
  expect(typeof neighbourThroughput).toBe((await pgbenchVersion()) === undefined ? 'object' : 'number');
  expect(typeof rssMb).toBe(process.platform === 'linux' ? 'number' : 'object');
  expect(stdout).toContain('best');
}, 300_000);

test.each([
  { args: ['--help'], code: 0 },
  { args: ['--facts', 'many'], code: 2 },
  { args: ['--only', 'everything'], code: 2 },
  { args: ['--what'], code: 2 },
])('bench:reconciliation $args ends with $code before anything starts', async ({ args, code }) => {
  const ended = await bench(args);
  expect(ended.code).toBe(code);
  expect(ended.stdout + ended.stderr).toContain('--');
});
