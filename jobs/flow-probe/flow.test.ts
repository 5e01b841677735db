import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { parse as parseYaml } from 'yaml';
import { parseFlow, readFlow } from './flow.ts';

const smallest = (override: Readonly<Record<string, unknown>> = {}) => ({
  mark: 'a-mark',
  steps: [{ name: 'order', path: '/orders', expect: [201] }],
  bill: { check: 'orders', key: ['{run}'] },
  ...override,
});

const fileWith = (text: string): string => {
  const path = join(mkdtempSync(join(tmpdir(), 'counterfoil-flow-')), 'flow.yaml');
  writeFileSync(path, text);
  return path;
};

const problemsOf = (declared: unknown): string => {
  try {
    parseFlow(declared);
    return '';
  } catch (error) {
    return (error as Error).message;
  }
};

test('without a file it is the flow of the plan, in five steps', () => {
  const flow = readFlow(undefined);
  expect(flow.steps.map(({ name }) => name)).toEqual([
    'create-contract',
    'activate-contract',
    'consume-service',
    'create-session',
    'complete-session',
  ]);
  expect(flow.bill).toEqual({ check: 'session-billing', key: ['{session}'], amount: 107, currency: 'EUR' });
});

test('the flow that the README shows can be used', () => {
  const readme = readFileSync(new URL('README.md', import.meta.url), 'utf8');
  const [shown] = [...readme.matchAll(/```yaml\n([\s\S]*?)```/g)].map(([, body = '']) => body).slice(-1);
  expect(shown).toContain('mark:');
  expect(parseFlow(parseYaml(shown ?? '')).steps).toHaveLength(1);
});

test('defaults are filled in', () => {
  expect(parseFlow(smallest())).toEqual({
    mark: 'a-mark',
    ids: [],
    steps: [{ name: 'order', method: 'POST', path: '/orders', expect: [201], take: {} }],
    bill: { check: 'orders', key: ['{run}'], amount: null, currency: null },
    events: [],
  });
});

describe('is refused, all at once and by path', () => {
  test.each([
    [{ steps: [] }, 'steps: is too short'],
    [
      { steps: [{ name: 'order', path: 'http://elsewhere/', expect: [201] }] },
      'steps[0].path: must begin with one /',
    ],
    [
      { steps: [{ name: 'order', path: '//elsewhere/', expect: [201] }] },
      'steps[0].path: must begin with one /',
    ],
    [{ steps: [{ name: 'order', path: '/a', expect: [] }] }, 'steps[0].expect: is too short'],
    [{ steps: [{ name: 'order', path: '/a', expect: [201], retries: 3 }] }, 'steps[0]: retries: unknown'],
    [
      { steps: [{ name: 'order', method: 'GET', path: '/a', body: {}, expect: [200] }] },
      'steps[0].body: a GET has none',
    ],
    [
      { steps: [{ name: 'order', path: '/{session}', expect: [201] }] },
      'steps[0].path: no placeholder session',
    ],
    [
      { steps: [{ name: 'order', path: '/a', body: { deep: [{ id: '{who}' }] }, expect: [201] }] },
      'steps[0].body: no placeholder who',
    ],
    [{ ids: ['run'] }, 'ids[0]: is a name that is always there'],
    [{ bill: { check: 'orders', key: ['{order}'] } }, 'bill.key: no placeholder order'],
    [{ bill: { check: 'orders', key: ['1'], amount: 1.5 } }, 'bill.amount: must be int'],
    [{ events: [{ name: 'x.v1', payload: {} }] }, 'events[0].payload: needs a payload key'],
    [{ events: [{ name: 'x.v1', payload: { "it's": '1' } }] }, 'events[0].payload'],
    [{ mark: undefined }, 'mark: must be string'],
  ])('%j', (override, expected) => {
    expect(problemsOf(smallest(override))).toContain(expected);
  });

  test('a name that is used twice, and two problems in one message', () => {
    const step = { name: 'order', path: '/a', expect: [201] };
    const message = problemsOf(smallest({ steps: [step, step], bill: { check: 'orders', key: ['{gone}'] } }));
    expect(message).toContain('steps[1].name: is used twice; bill.key');
  });

  test('no value is quoted', () => {
    expect(problemsOf(smallest({ mark: 'secret word', steps: [{ path: 'secret' }] }))).not.toContain(
      'secret',
    );
    expect(() => readFlow(fileWith('secret: [unclosed'))).toThrow(
      /^the file of the flow is not YAML \(\w+\)$/,
    );
    expect(() => readFlow('/nowhere/secret.yaml')).toThrow(
      'the file that CF_PROBE_FILE names cannot be read',
    );
  });
});

test('a placeholder that a step takes from its answer is known to the steps after it, and not before', () => {
  const take = { name: 'order', path: '/orders', expect: [201], take: { order: 'data.id' } };
  const use = { name: 'pay', path: '/orders/{order}', expect: [200] };
  expect(parseFlow(smallest({ steps: [take, use] })).steps).toHaveLength(2);
  expect(problemsOf(smallest({ steps: [use, take] }))).toContain('steps[0].path: no placeholder order');
});
