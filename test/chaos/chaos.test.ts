/** The chaos run itself, shorter than by hand, and that its verdict can be bad. */
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type ChaosReport, randomOf, runChaos } from '../../scripts/chaos-run.ts';
import { countForgotten, judge } from '../../scripts/chaos-verdict.ts';
import { addEvent, addLedgerRow, addSession } from '../builders/service.ts';
import { createTestDatabase, type TestDatabase } from '../postgres/database.ts';

/** Each disturbance costs a start of the service or the time it takes to notice; a busy machine doubles that. */
const LONG = 600_000;

const script = (name: string) => fileURLToPath(new URL(`../../scripts/${name}`, import.meta.url));

/** `npm run chaos` as a person calls it; gives its exit code and its standard output and error. */
async function callChaos(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  return await new Promise((resolve) => {
    execFile(process.execPath, [script('chaos.ts'), ...args], (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr });
    });
  });
}

const lastLine = (text: string) =>
  JSON.parse(text.trimEnd().split('\n').at(-1) ?? '') as ChaosReport['result'];

describe('kills under load', () => {
  test(
    'ten kills later every completed session has exactly one bill, and what was in flight is counted',
    async () => {
      const { code, stdout, stderr } = await callChaos('--kills', '10', '--seed', '4', '--json');
      expect(code, stdout + stderr).toBe(0);
      const result = lastLine(stdout);
      expect(Object.keys(result)).toEqual([
        'kills',
        'seed',
        'completed',
        'lost',
        'billedTwice',
        'killsWithPending',
        'recovered',
        'secondsToRecoverP99',
      ]);
      expect(result).toMatchObject({ kills: 10, seed: 4, lost: 0, billedTwice: 0 });
      expect(result.killsWithPending).toBeGreaterThanOrEqual(8);
      expect(result.recovered).toBeGreaterThan(0);
      expect(stderr.match(/sigkill \d+: \d+ events pending/g)).toHaveLength(10);
    },
    LONG,
  );

  test(
    'without replay and reconciliation the sessions that the kills cut off are reported as lost',
    async () => {
      const { code, stdout } = await callChaos('--kills', '3', '--seed', '4', '--without-jobs', '--json');
      expect(code, stdout).toBe(1);
      const { lost, billedTwice, recovered } = lastLine(stdout);
      expect(lost).toBeGreaterThan(0);
      expect(billedTwice).toBe(0);
      expect(recovered).toBe(0);
      expect(stdout).toContain(`${lost} completed sessions have no bill`);
    },
    LONG,
  );

  test('what cannot be understood is refused before anything starts', async () => {
    expect((await callChaos('--kills', 'some')).code).toBe(2);
    expect((await callChaos('--disturb', 'weather')).code).toBe(2);
    expect((await callChaos('--help')).code).toBe(0);
  });
});

describe.each([
  { disturbance: 'clock', what: 'kills of a service whose clock is an hour off', times: 4 },
  { disturbance: 'postgres', what: 'crashes of Postgres', times: 3 },
  { disturbance: 'half-open', what: 'connections to Postgres that went silent', times: 1 },
] as const)('$what', ({ disturbance, times }) => {
  test(
    'leave every completed session with exactly one bill',
    async () => {
      const report = await runChaos({ disturbance, times, seed: 4 });
      expect(report.problems).toEqual([]);
      expect(report.result).toMatchObject({ kills: times, lost: 0, billedTwice: 0 });
      expect(report.result.recovered).toBeGreaterThan(0);
    },
    LONG,
  );
});

describe('the verdict', () => {
  let database: TestDatabase;
  beforeAll(async () => {
    database = await createTestDatabase();
  });
  afterAll(async () => {
    await database?.drop();
  });
  const verdict = async () => await judge((text, params) => database.query(text, params));

  test('counts a completed session without a bill, and not one that is not completed', async () => {
    const { id } = await addSession(database);
    await addSession(database, { completedAt: null });
    await addEvent(database, id);
    expect(await verdict()).toEqual({ completed: 1, lost: 1, billedTwice: 0, stillPending: 1 });
    await addLedgerRow(database, { sessionId: id });
    expect(await verdict()).toEqual({ completed: 1, lost: 0, billedTwice: 0, stillPending: 1 });
  });

  test('counts a second live bill, and not one that is reversed', async () => {
    const { id } = await addSession(database);
    const first = await addLedgerRow(database, { sessionId: id });
    await addLedgerRow(database, { sessionId: id });
    expect(await verdict()).toMatchObject({ lost: 0, billedTwice: 1 });
    await addLedgerRow(database, { sessionId: id, amountMinor: '-1000', reversesId: first });
    expect(await verdict()).toMatchObject({ lost: 0, billedTwice: 0 });
  });

  test('counts a session whose caller was told that it is completed and that is not, or is not there', async () => {
    const [{ id: done }, { id: open }] = [
      await addSession(database),
      await addSession(database, { completedAt: null }),
    ];
    const forgotten = async (...ids: string[]) =>
      await countForgotten((text, params) => database.query(text, params), ids);
    expect(await forgotten(done)).toBe(0);
    expect(await forgotten(done, open, crypto.randomUUID())).toBe(2);
  });
});

test('a seed gives the same moments again, and another seed others', () => {
  const numbers = (seed: number) => {
    const random = randomOf(seed);
    return Array.from({ length: 5 }, () => random());
  };
  expect(numbers(4)).toEqual(numbers(4));
  expect(numbers(4)).not.toEqual(numbers(5));
  expect(numbers(4).every((number) => number >= 0 && number < 1)).toBe(true);
});

test('the clock that is an hour off moves what a program reads as now, and no time that it was given', async () => {
  const asked = await new Promise<string>((resolve, reject) => {
    execFile(
      process.execPath,
      [
        '--import',
        new URL('../../scripts/chaos-clock.ts', import.meta.url).href,
        '--eval',
        `const given = new Date('2026-01-01T00:00:00Z');
         console.log(JSON.stringify([Date.now(), new Date().getTime(), Date.parse(Date()), given.getTime(), given instanceof Date]))`,
      ],
      { env: { PATH: process.env.PATH, CHAOS_CLOCK_SHIFT_MS: '3600000' } },
      (error, stdout) => (error === null ? resolve(stdout) : reject(error)),
    );
  });
  const [now, ofNew, ofText, given, isDate] = JSON.parse(asked) as [number, number, number, number, boolean];
  for (const read of [now, ofNew, ofText]) {
    expect(Math.abs(read - Date.now() - 3_600_000)).toBeLessThan(30_000);
  }
  expect(given).toBe(Date.parse('2026-01-01T00:00:00Z'));
  expect(isDate).toBe(true);
});
