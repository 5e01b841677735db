import { describe, expect, test } from 'vitest';
import { RunFailure } from './failures.ts';
import { breaksConnection, errorCode, mayRetry, safeMessage, toRunFailure } from './sqlstates.ts';

const coded = (code: unknown, message = 'text') => Object.assign(new Error(message), { code });

describe('the class of an error', () => {
  test.each([
    ['57P01', 'database_unreachable', true],
    ['57P03', 'database_unreachable', true],
    ['08006', 'database_unreachable', true],
    ['08P01', 'database_unreachable', true],
    ['ECONNREFUSED', 'database_unreachable', true],
    ['ECONNRESET', 'database_unreachable', true],
    ['53300', 'database_busy', true],
    ['55P03', 'database_busy', true],
    ['40001', 'database_busy', true],
    ['40P01', 'database_busy', true],
    ['57014', 'database_busy', false],
    ['53100', 'database_error', false],
    ['28P01', 'database_refused', false],
    ['28000', 'database_refused', false],
    ['3D000', 'database_refused', false],
    ['42501', 'grant_missing', false],
    ['42P01', 'table_missing', false],
    ['42703', 'column_missing', false],
    ['25006', 'database_read_only', false],
    ['23505', 'database_error', false],
    ['22P02', 'database_error', false],
  ])('%s: the run ends as %s, tried again: %s', (code, failure, retry) => {
    expect(toRunFailure(coded(code)).id).toBe(failure);
    expect(mayRetry(coded(code))).toBe(retry);
    expect(breaksConnection(coded(code))).toBe(failure === 'database_unreachable');
  });

  test('what pg throws without a code at a lost connection is known by its text', () => {
    const lost = new Error('Connection terminated unexpectedly');
    expect([toRunFailure(lost).id, mayRetry(lost), breaksConnection(lost)]).toEqual([
      'database_unreachable',
      true,
      true,
    ]);
  });

  test('anything else without a code is a defect, and is not tried again', () => {
    for (const thrown of [new TypeError('x is not a function'), 'text', undefined, null]) {
      expect([toRunFailure(thrown).id, mayRetry(thrown)]).toEqual(['internal', false]);
    }
  });

  test('a failure that was already named stays what it is', () => {
    const failure = new RunFailure('lease_lost', 'lost');
    expect(toRunFailure(failure)).toBe(failure);
    expect(mayRetry(failure)).toBe(false);
  });
});

test('the code of an error is its text, and nothing else counts as one', () => {
  expect(errorCode(coded('23505'))).toBe('23505');
  for (const none of [coded(5), new Error('x'), null, undefined, 'text'])
    expect(errorCode(none)).toBeUndefined();
});

test('messages of class 22 quote a value and are replaced; others are kept with their code', () => {
  expect(safeMessage(coded('22P02', 'invalid input syntax for type uuid: "canary"'))).not.toContain('canary');
  expect(safeMessage(coded('22003', 'value "canary" is out of range'))).not.toContain('canary');
  expect(safeMessage(coded('42P01', 'relation "sessions" does not exist'))).toBe(
    'relation "sessions" does not exist (42P01)',
  );
});

test('the cause of a failure is kept', () => {
  const error = coded('57P01');
  expect(toRunFailure(error).cause).toBe(error);
});
