import { describe, expect, test } from 'vitest';
import { addMs, earliest, formatInstant, latest, msBetween, parseInstant } from './instant.ts';

describe('points in time', () => {
  test.each([
    ['2026-11-23 06:00:00.123456+00', '2026-11-23T06:00:00.123456Z'],
    ['2026-11-23 06:00:00+00', '2026-11-23T06:00:00.000000Z'],
    ['2026-11-23T06:00Z', '2026-11-23T06:00:00.000000Z'],
    ['2026-11-23T08:30:00.5+02:30', '2026-11-23T06:00:00.500000Z'],
    ['1969-12-31 23:59:59.999999+00', '1969-12-31T23:59:59.999999Z'],
    ['0001-01-01 00:00:00+00', '0001-01-01T00:00:00.000000Z'],
  ])('%s keeps every microsecond', (text, formatted) => {
    expect(formatInstant(parseInstant(text))).toBe(formatted);
  });

  test('what is no such time is refused', () => {
    expect(() => parseInstant('infinity')).toThrow(RangeError);
    expect(() => parseInstant('2026-11-23 06:00:00')).toThrow(RangeError);
  });

  test('they are compared and moved as whole microseconds', () => {
    const one = parseInstant('2026-11-23T06:00:00.000001Z');
    const other = addMs(one, -1);
    expect(formatInstant(other)).toBe('2026-11-23T05:59:59.999001Z');
    expect(msBetween(other, one)).toBe(1);
    expect([earliest(one, other), latest(one, other)]).toEqual([other, one]);
  });
});
