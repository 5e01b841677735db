import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { eventId, openPoster, POISON_PREFIX } from './bench-replay-events.ts';
import { figuresOf, type Measured, missedGoals } from './bench-replay-report.ts';
import type { Round } from './bench-replay-rounds.ts';
import { type Sink, startSink } from './bench-replay-sink-process.ts';

const EVENTS = 300;

/** Runs the bench as npm does. */
const bench = (...args: string[]) =>
  new Promise<{ code: unknown; stdout: string; stderr: string }>((resolve) => {
    execFile(
      process.execPath,
      [fileURLToPath(new URL('bench-replay.ts', import.meta.url)), ...args],
      (error, stdout, stderr) => resolve({ code: error?.code ?? 0, stdout, stderr }),
    );
  });

/** The cells of a line of a table, behind its label. */
function cellsOf(stdout: string, label: string): string[] {
  const line = stdout.split('\n').find((one) => one.startsWith(label.padEnd(40)));
  if (line === undefined) throw new Error(`no line "${label}" in:\n${stdout}`);
  return line.slice(40).trim().split(/\s+/);
}

test('the bench runs, and each contender delivers each event once', { timeout: 300_000 }, async () => {
  const { code, stdout, stderr } = await bench(
    ...['--events', String(EVENTS), '--rounds', '1', '--json', '--only', 'handler,noop,poison,claims'],
  );
  expect(code, stderr).toBe(0);
  for (const label of [
    'bare POST loop, no database',
    'graphile-worker',
    'pg-boss',
    'row at a time',
    'event-replay, 25 events in a POST',
  ]) {
    const [, , , , delivered] = cellsOf(stdout.slice(stdout.indexOf('No handler')), label);
    expect(delivered, label).toBe(String(EVENTS));
  }
  // Its own line has no ratio of itself to itself.
  expect(cellsOf(stdout, 'event-replay')[2]).toBe(String(EVENTS));
  expect(cellsOf(stdout, 'behind poison ones, a tenth as many')[2]).toBe(String(EVENTS + EVENTS / 10));
  expect(Number(cellsOf(stdout, '  start')[2])).toBe(EVENTS);
  const figures = JSON.parse(stdout.trimEnd().split('\n').at(-1) ?? '') as Record<string, number | null>;
  const { oldSnapshot, ...measured } = figures;
  expect(oldSnapshot).toBeNull();
  for (const [name, value] of Object.entries(measured)) expect(value, name).toBeGreaterThan(0);
});

describe('the sink', () => {
  let sink: Sink;
  beforeAll(async () => {
    sink = await startSink();
  });
  afterAll(async () => {
    await sink.end();
  });

  test('confirms events that came once, and says so of one that came twice or not at all', async () => {
    const { post, close } = openPoster(sink.url, 2);
    sink.reset(0);
    await post(eventId(1));
    await post(eventId(2));
    expect(await sink.confirm('we', 2)).toEqual({ requests: 2, events: 2, distinct: 2, poison: 0 });
    await expect(sink.confirm('we', 3)).rejects.toThrow('worth nothing');
    await post(eventId(2));
    await expect(sink.confirm('we', 2)).rejects.toThrow('worth nothing');
    await expect(sink.confirm('we', 3)).rejects.toThrow('worth nothing');
    sink.reset(0);
    expect(await sink.confirm('we', 0)).toMatchObject({ requests: 0 });
    await close();
  });

  test('takes as long as it is told, and processes no poison', async () => {
    const { post, close } = openPoster(sink.url, 1);
    sink.reset(50);
    const beganAt = performance.now();
    await post(eventId(1));
    expect(performance.now() - beganAt).toBeGreaterThan(45);
    sink.reset(0);
    await expect(post(`${POISON_PREFIX}1`)).rejects.toThrow('failed');
    await expect(post(`${POISON_PREFIX}2`)).rejects.toThrow('invalid_payload');
    await close();
  });
});

describe('the figures', () => {
  const rounds = (...rates: number[]): Round[] =>
    rates.map((perSecond) => ({ perSecond, delivered: EVENTS }));
  const measured: Measured = {
    events: EVENTS,
    noop: new Map([
      ['bare', rounds(100, 400)],
      ['job', rounds(200, 100)],
      ['graphile', rounds(100, 50)],
    ]),
    snapshot: {
      isFull: true,
      heldSeconds: 180,
      held: [100, 50],
      free: [100, 100],
      deadRows: { held: 1, free: 0 },
    },
  };

  test('are those of the best rounds, the snapshot that of all its turns, and null what was not run', () => {
    expect(figuresOf(measured)).toEqual({
      events: EVENTS,
      overBarePost20ms: null,
      overBarePostNoop: 0.5,
      overGraphileWorker: 2,
      overPgBoss: null,
      overRowAtATime: null,
      poisonHead: null,
      oldSnapshot: 0.667,
      rssMb: null,
    });
  });

  test('name each goal that they miss, and none that they meet or that was not measured', () => {
    expect(missedGoals(figuresOf(measured), measured)).toEqual([
      'overBarePostNoop is 0.5, and the goal is at least 0.55',
      'oldSnapshot is 0.667, and the goal is at least 0.8',
    ]);
  });
});

test.each([
  { args: ['--help'], code: 0 },
  { args: ['--events', 'many'], code: 2 },
  { args: ['--rounds', '0'], code: 2 },
  { args: ['--only', 'noop,nothing'], code: 2 },
  { args: ['--what'], code: 2 },
])('bench:replay $args ends with $code before anything starts', async ({ args, code }) => {
  const ended = await bench(...args);
  expect(ended.code).toBe(code);
  expect(ended.stdout + ended.stderr).toContain('--');
  expect(ended.stderr).not.toContain('lanes each');
});
