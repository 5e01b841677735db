import { expect, test } from 'vitest';
import { within } from './request-context.js';
import { makeLog, NestLog } from './service-log.js';

/** Stands for personal data: it must appear in no line. */
const CANARY = 'ada.lovelace@example.org';

function watchedLog(level = 'debug') {
  const lines: string[] = [];
  const log = makeLog(level, { write: (line) => void lines.push(line) });
  return { log, nest: new NestLog(log), lines, read: () => lines.map((line) => JSON.parse(line)) };
}

test('an error is written as its code and the places it came through, never with its message', () => {
  const { log, nest, lines, read } = watchedLog();
  const error = Object.assign(new Error(`for ${CANARY}\n    at ${CANARY} (file.js:1:1)`), { code: '23505' });
  log.error({ err: error }, 'Failed');
  nest.error(error, 'Router');
  nest.fatal(error);
  const stack = { code: '23505', at: expect.arrayContaining([expect.stringContaining('service-log.test')]) };
  expect(read()).toMatchObject([
    { err: stack, msg: 'Failed' },
    { err: stack, msg: 'Unexpected error', context: 'Router' },
    { err: stack, level: 60 },
  ]);
  expect(lines.join('')).not.toContain(CANARY);
});

test('of an error whose message was changed later no place is written, since it may hold the old message', () => {
  const { log, lines, read } = watchedLog();
  const error = new Error(`for\n    at ${CANARY} (file.js:1:1)`);
  // Written down by the first who looks, and not again.
  expect(error.stack).toContain(CANARY);
  error.message = 'changed';
  log.error({ err: error }, 'Failed');
  expect(read()).toMatchObject([{ err: { code: 'Error', at: [] } }]);
  expect(lines.join('')).not.toContain(CANARY);
});

test('Nest’s lines keep their level, their context and their fields', () => {
  const { nest, read } = watchedLog();
  nest.log({ message: 'Event published', eventId: 'e' }, 'Counterfoil');
  nest.warn('late', 'Context');
  nest.debug('small');
  nest.verbose('smaller');
  nest.error('went wrong', 'a stack', 'Context');
  expect(read().map(({ time: _time, ...line }) => line)).toEqual([
    { level: 30, context: 'Counterfoil', eventId: 'e', msg: 'Event published' },
    { level: 40, context: 'Context', msg: 'late' },
    { level: 20, msg: 'small' },
    { level: 20, msg: 'smaller' },
    { level: 50, context: 'Context', msg: 'went wrong' },
  ]);
});

test('the ids of request and event stand in each line within, and in none outside', () => {
  const { log, read } = watchedLog();
  within({ requestId: 'r' }, () => {
    log.info({ a: 1 }, 'one');
    within({ eventId: 'e' }, () => log.info('two'));
    log.info('three');
  });
  log.info('four');
  expect(read().map(({ msg, requestId, eventId }) => [msg, requestId, eventId])).toEqual([
    ['one', 'r', undefined],
    ['two', 'r', 'e'],
    ['three', 'r', undefined],
    ['four', undefined, undefined],
  ]);
});

test('a line below the level is not written', () => {
  const { log, lines } = watchedLog('warn');
  log.info('hidden');
  expect(lines).toEqual([]);
});
