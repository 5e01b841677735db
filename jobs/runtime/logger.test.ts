import { expect, test } from 'vitest';
import { RunFailure } from './failures.ts';
import { createLogger } from './logger.ts';

function collect(level = 'info') {
  const lines: string[] = [];
  const logger = createLogger(
    { job: 'event-replay', level, installation: 'eu' },
    { write: (line) => lines.push(line) },
  );
  const entries = () => lines.map((line) => JSON.parse(line) as Record<string, unknown>);
  return { logger, lines, entries };
}

/** What pg throws, with each field that can quote a row. */
function postgresError(code: string, message: string): Error {
  return Object.assign(new Error(message), {
    code,
    detail: 'Key (name)=(canary) already exists.',
    where: 'COPY sessions, line 1: "canary"',
    internalQuery: 'SELECT canary',
    hint: 'canary',
  });
}

test('an entry is one JSON line with level, UTC time, job and installation', () => {
  const { logger, lines, entries } = collect();
  logger.info({ counts: { replayed: 3 } }, 'run finished');
  expect(lines).toHaveLength(1);
  expect(lines[0]).toMatch(/\n$/);
  expect(entries()[0]).toEqual({
    level: 'info',
    time: expect.stringMatching(/^\d{4}-\d\d-\d\dT[\d:.]+Z$/),
    job: 'event-replay',
    installation: 'eu',
    counts: { replayed: 3 },
    msg: 'run finished',
  });
});

test('entries below the level are left out', () => {
  const { logger, entries } = collect('warn');
  logger.info('not this');
  logger.warn('this');
  expect(entries().map((entry) => entry.msg)).toEqual(['this']);
});

test('an error of Postgres keeps its code and message and loses what quotes a row', () => {
  const { logger, lines, entries } = collect();
  logger.error({ err: postgresError('23505', 'duplicate key value violates "x_key"') }, 'failed');
  expect(entries()[0]?.err).toMatchObject({ message: 'duplicate key value violates "x_key" (23505)' });
  expect(lines.join()).not.toContain('canary');
});

test('an error of class 22 quotes the value in its message, so the message goes too', () => {
  const { logger, lines, entries } = collect();
  const cause = postgresError('22P02', 'invalid input syntax for type uuid: "canary"');
  logger.error({ err: new RunFailure('database_error', 'a statement failed', { cause }) }, 'failed');
  expect(entries()[0]?.err).toMatchObject({
    type: 'RunFailure',
    message: 'a statement failed',
    cause: { message: 'a value does not have the form that its type needs (22P02)' },
  });
  expect(lines.join()).not.toContain('canary');
});

test('frames say where an error came from, without the head that repeats its message', () => {
  const { logger, entries } = collect();
  logger.error({ err: new TypeError('not a function') }, 'failed');
  const logged = entries()[0]?.err as { type: string; frames: string[] } | undefined;
  const { type, frames } = logged ?? { type: '', frames: [] };
  expect(type).toBe('TypeError');
  expect(frames.length).toBeGreaterThan(0);
  expect(frames.every((frame) => frame.startsWith('at '))).toBe(true);
});

test('something thrown that is no error is named by its type alone', () => {
  const { logger, lines, entries } = collect();
  logger.error({ err: 'canary' }, 'failed');
  expect(entries()[0]?.err).toEqual({ type: 'string', message: 'an unknown error' });
  expect(lines.join()).not.toContain('canary');
});

test('writes to standard output unless it is told otherwise', () => {
  const logger = createLogger({ job: 'x', level: 'error', installation: 'eu' });
  logger.info('below its level: nothing is written');
  expect(logger.level).toBe('error');
});
