import { describe, expect, it } from 'vitest';
import { limitOf, withArguments } from './analysis-limit.ts';

describe('the limit of a condition', () => {
  it.each([
    ['result[0] > 0.005', 0.005],
    ['result[0] <= 0.95', 0.95],
    ['result <= 5', 5],
    ['result > -1', -1],
    ['result[0] >= 1e-3', 0.001],
    ['result.successRate >= 0.99', 0.99],
    ["result['error-rate'] < .01", 0.01],
    ['0.005 < result[0]', 0.005],
    ['asFloat(result[0]) > 0.01', 0.01],
    ['result[0] > asFloat("0.01")', 0.01],
    ["asFloat('0.01') < result[0]", 0.01],
    // The safe shape of reference 1.3: how many results there are is no limit.
    ['len(result) > 0 && !isNaN(result[0]) && result[0] > 0.005', 0.005],
    ['len(result) == 0 || isNaN(result[0]) || result[0] <= 0.005', 0.005],
    ['any(result, # > 0.2)', 0.2],
    ['all(result, {# <= 0.2})', 0.2],
    ['result[0] > 0.5 || result[0] > 0.5', 0.5],
  ])('%s is its number', (condition, limit) => {
    expect(limitOf(condition)).toBe(limit);
  });

  it.each([
    ['true'],
    [''],
    ['result == "ok"'],
    ['len(result) > 0'],
    ['result[0] > result[1]'],
    ['isNaN(result[0])'],
    // Two numbers: a line at either would be wrong.
    ['result[0] > 0.1 && result[0] < 0.9'],
    ['result[0] > 0.5x'],
    ['results > 5'],
    ['x.y > 5'],
  ])('%s has none', (condition) => {
    expect(limitOf(condition)).toBeUndefined();
  });
});

describe('the arguments of a run', () => {
  const args = new Map([
    ['limit', '0.02'],
    ['service.name', 'shop'],
  ]);

  it('stand where the template names them', () => {
    expect(withArguments('result[0] > {{args.limit}}', args)).toBe('result[0] > 0.02');
    expect(withArguments('{{ args.limit }}/{{args.service.name}}', args)).toBe('0.02/shop');
    expect(withArguments('result[0] > 1', args)).toBe('result[0] > 1');
  });

  it('that have no plain value, as those from a Secret, leave no text to read a number from', () => {
    expect(withArguments('result[0] > {{args.secret}}', args)).toBeUndefined();
  });
});
