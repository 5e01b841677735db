import { expect, test } from 'vitest';
import { errorCode, isRetryable } from './error-code.js';

const withCode = (code: unknown): Error => Object.assign(new Error('secret'), { code });

test('an error is named by the first code among its causes, else by its class', () => {
  expect(errorCode(withCode('ECONNREFUSED'))).toBe('ECONNREFUSED');
  expect(errorCode(new Error('query failed', { cause: withCode('23505') }))).toBe('23505');
  expect(errorCode(new TypeError('secret'))).toBe('TypeError');
});

test('nothing that could hold text of a payload is taken for a code', () => {
  for (const thrown of [
    withCode('ada@example.org'),
    withCode(7),
    'secret',
    null,
    undefined,
    { message: 'secret' },
  ]) {
    expect(errorCode(thrown)).toBe('Error');
  }
  const named = new Error('secret');
  named.name = 'no bill for ada@example.org';
  expect(errorCode(named)).toBe('Error');
});

test('a chain of causes that bites its own tail ends', () => {
  const error = new Error('secret');
  error.cause = error;
  expect(errorCode(error)).toBe('Error');
});

test('trying again may help unless the error itself says that it does not', () => {
  expect(isRetryable(Object.assign(new Error(), { retryable: false }))).toBe(false);
  for (const thrown of [new Error(), Object.assign(new Error(), { retryable: 'no' }), 'text', null]) {
    expect(isRetryable(thrown)).toBe(true);
  }
});
