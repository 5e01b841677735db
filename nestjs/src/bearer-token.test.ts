import { expect, test } from 'vitest';
import { bearerMatches } from './bearer-token.js';

test('only exactly the token matches', () => {
  expect(bearerMatches('Bearer s3cret', 's3cret')).toBe(true);
  expect(bearerMatches('bearer s3cret', 's3cret')).toBe(true);
  for (const header of [
    undefined,
    '',
    'Bearer',
    'Bearer ',
    'Bearer s3cre',
    'Bearer s3cret1',
    'Bearer s3cret x',
    's3cret',
  ]) {
    expect(bearerMatches(header, 's3cret'), header).toBe(false);
  }
});
