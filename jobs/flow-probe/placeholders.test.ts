import { expect, test } from 'vitest';
import { fill, fillAll, idOf, namesIn } from './placeholders.ts';

test('texts anywhere in a body are filled in, and numbers and keys stay as they are', () => {
  const body = {
    id: '{session}',
    note: 'by {mark}',
    list: [1, '{session}', null, true],
    '{mark}': 'key',
  };
  expect(fillAll(body, { session: 's-1', mark: 'm' })).toEqual({
    id: 's-1',
    note: 'by m',
    list: [1, 's-1', null, true],
    '{mark}': 'key',
  });
  expect(namesIn(body)).toEqual(['session', 'mark', 'session']);
});

test('in a path a value is encoded, so that it stays one part of it', () => {
  expect(fill('/orders/{id}/pay', { id: 'a/b?c' }, encodeURIComponent)).toBe('/orders/a%2Fb%3Fc/pay');
});

test('what a value holds is not filled in again', () => {
  expect(fill('{one}', { one: '{two}', two: 'x' })).toBe('{two}');
});

test('an id is a UUID of version 8, the same for the same run and another for another run, name or installation', () => {
  const id = idOf('counterfoil', 'run-1', 'session');
  expect(id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  expect(idOf('counterfoil', 'run-1', 'session')).toBe(id);
  const others = [
    idOf('counterfoil', 'run-2', 'session'),
    idOf('counterfoil', 'run-1', 'contract'),
    idOf('other', 'run-1', 'session'),
  ];
  expect(new Set([id, ...others]).size).toBe(4);
});
