/** values.yaml and what is made of its comments: the schema and the README's tables. */
import { spawnSync } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, inject, test } from 'vitest';
import { type Group, readValues, type Setting } from '../../scripts/chart-values-comments.ts';
import { schemaOf } from '../../scripts/chart-values-schema.ts';
import { chartFolder, render, renderFails, required, type Values } from './render.ts';

const folder = mkdtempSync(join(tmpdir(), 'counterfoil-values-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const program = fileURLToPath(new URL('../../scripts/chart-values.ts', import.meta.url));
function chartValues(...args: readonly string[]) {
  const { status, stdout } = spawnSync(process.execPath, [program, ...args], { encoding: 'utf8' });
  return { status, stdout };
}

describe('the schema and the README of the chart', () => {
  test('are what values.yaml says', () => {
    expect(chartValues('--check')).toEqual({ status: 0, stdout: '' });
  });

  test('are called different once a default changes, and equal once written anew', () => {
    cpSync(chartFolder, folder, { recursive: true });
    const values = join(folder, 'values.yaml');
    writeFileSync(
      values,
      readFileSync(values, 'utf8').replace('eventsTable: event_backups', 'eventsTable: events'),
    );
    const answer = chartValues('--check', folder);
    expect(answer.status).toBe(1);
    expect(answer.stdout).toContain('values.schema.json differs from values.yaml');
    expect(answer.stdout).toContain('README.md differs from values.yaml');
    expect(answer.stdout).toContain('npm run chart-values writes it anew');
    expect(chartValues(folder).status).toBe(0);
    expect(chartValues('--check', folder)).toEqual({ status: 0, stdout: '' });
    expect(readFileSync(join(folder, 'README.md'), 'utf8')).toContain('| `service.eventsTable` |');
  });

  test('are not written while a value is not documented', () => {
    const bare = join(folder, 'values.yaml');
    writeFileSync(bare, '# @section One\n# Documented.\na: 1\nb: 2\n');
    const before = readFileSync(join(folder, 'values.schema.json'), 'utf8');
    expect(chartValues(folder)).toEqual({
      status: 1,
      stdout: 'values.yaml, line 4: b: is not documented\n',
    });
    expect(readFileSync(join(folder, 'values.schema.json'), 'utf8')).toBe(before);
  });

  test('cannot be made by a wrong call', () => {
    expect(chartValues('--chekc').status).toBe(2);
  });
});

describe('the comments of values.yaml', () => {
  const problems = (text: string) => readValues(`# @section One\n${text}`).problems;

  test.each([
    ['a key without comment', 'a: 1', 'line 2: a: is not documented'],
    [
      'a comment that an empty line cuts off',
      '# Text.\na: 1\n\n# Lost.\n\n# Text.\nb: 2',
      'line 5: a comment that documents nothing: it must stand right above a key',
    ],
    ['an unknown directive', '# Text.\n# @minimum 1\na: 1', 'line 3: @minimum is no directive'],
    ['a directive given twice', '# Text.\n# @min 1\n# @min 2\na: 3', 'line 4: @min is given twice'],
    [
      'a default of another type',
      '# Text.\n# @type string\na: 1',
      'line 4: a: the default is integer, not string',
    ],
    [
      'a default that is too small',
      '# Text.\n# @min 2\na: 1',
      'line 4: a: the default is outside @min and @max',
    ],
    ['a default beside the list', '# Text.\n# @enum x, y\na: z', 'line 4: a: the default is not in @enum'],
    [
      'a default that the pattern refuses',
      '# Text.\n# @pattern ^x$\na: z',
      'line 4: a: the default does not match @pattern',
    ],
    [
      'an empty default that is required',
      '# Text.\n# @required\na: ""',
      'line 4: a: the default is empty, and @required',
    ],
    [
      'items of another type',
      '# Text.\n# @items string\na: [1]',
      'line 4: a: the default has items that are not string',
    ],
    [
      'values of another type',
      '# Text.\n# @values string\na: {b: 1}',
      'line 4: a: the default has values that are not string',
    ],
    ['null without a type', '# Text.\na: null', 'line 3: a: null says no type: give @type'],
    [
      'an object of which nobody knows what it holds',
      '# Text.\na: {}',
      'line 3: a: say what is in it: @open or @values',
    ],
    ['a list of which nobody knows what it holds', '# Text.\na: []', 'line 3: a: say what is in it: @items'],
    ['a type that is none', '# Text.\n# @type int\na: 1', 'line 4: a: @type names "int", which is no type'],
    ['a limit for a text', '# Text.\n# @max 3\na: abc', 'line 4: a: @min and @max are for numbers'],
    ['a limit that is no number', '# Text.\n# @max many\na: 1', 'line 4: a: @max needs a number'],
    [
      'a pattern for a number',
      '# Text.\n# @pattern ^1$\na: 1',
      'line 4: a: @pattern, @enum and @required are for strings',
    ],
    [
      'a pattern without end',
      '# Text.\n# @pattern ^a\na: a',
      'line 4: a: @pattern must begin with ^ and end with $',
    ],
    [
      'a pattern that Go refuses',
      '# Text.\n# @pattern ^(?!b)a$\na: a',
      'line 4: a: @pattern uses what Go does not know',
    ],
    [
      'a rule for what has keys below it',
      '# Text.\n# @min 1\na:\n  # Text.\n  b: 1',
      'line 4: a: @min is for what has no keys below it',
    ],
    [
      'a section further down',
      'a:\n  # @section Two\n  # Text.\n  b: 1',
      'line 5: a.b: @section stands at the top',
    ],
    [
      'two sections of one name',
      '# Text.\na: 1\n# @section One\n# Text.\nb: 1',
      'line 4: there are two sections "One"',
    ],
  ])('are refused for %s', (_, text, problem) => {
    expect(problems(text)).toContain(problem);
  });

  test('are refused where no section was opened', () => {
    expect(readValues('# Text.\na: 1').problems).toEqual(['line 2: a stands under no @section']);
  });

  test('are taken where every key says what it is', () => {
    const text =
      'a:\n  # Text.\n  b: 1\n  # @min 0\n  # Text\n  # of two lines.\n  c: 0.5\n# @open\n# Text.\nd: {e: 1}\n\n# @section Two\n# What it is about.\n\n# Text.\n# @enum x, y\nf: x';
    const { sections } = readValues(`# @section One\n${text}`);
    expect(problems(text)).toEqual([]);
    expect(
      sections.map(({ title, intro, children }) => [title, intro, children.map(({ path }) => path)]),
    ).toEqual([
      ['One', '', ['a', 'd']],
      ['Two', 'What it is about.', ['f']],
    ]);
    expect(JSON.stringify(sections)).toContain('"Text of two lines."');
  });
});

test('the schema refuses null for what cannot be nothing, and takes it where it means something', () => {
  const { properties, ...schema } = schemaOf(
    readValues(
      '# @section One\n# Text.\na: 1\n# Text.\n# @type integer, null\nb: null\n# Text.\n# @type string, null\n# @enum x, y\nc: x\n',
    ),
  );
  expect(schema.required).toEqual(['a']);
  expect(properties).toMatchObject({ b: { type: ['integer', 'null'] }, c: { enum: ['x', 'y', null] } });
});

describe.skipIf(inject('chartTools') === undefined)('a null', () => {
  const { sections } = readValues(readFileSync(join(chartFolder, 'values.yaml'), 'utf8'));
  const top = sections.flatMap(({ children }) => children);
  const nulls = (
    entries: readonly (Setting | Group)[],
    isNull: (entry: Setting | Group) => boolean,
  ): Values =>
    Object.fromEntries(
      entries.flatMap((entry): [string, Values | null][] => {
        if (isNull(entry)) return [[entry.key, null]];
        return entry.is === 'group' ? [[entry.key, nulls(entry.children, isNull)]] : [];
      }),
    );
  const named = (said: string) =>
    new Set(
      [...said.matchAll(/^ *- at '([^']*)': missing propert(?:y|ies) (.*)$/gm)].flatMap(
        ([, place = '', keys = '']) =>
          [...keys.matchAll(/'([^']*)'/g)].map(([, key]) => `${place}/${key}`.slice(1).replaceAll('/', '.')),
      ),
    );

  test('is refused by name for every value that cannot be nothing, and for no other', async () => {
    const settings = (entry: Setting | Group): Setting[] =>
      entry.is === 'setting' ? [entry] : entry.children.flatMap(settings);
    const all = top.flatMap(settings);
    const cannotBeNull = all.filter(({ types }) => !types.includes('null')).map(({ path }) => path);
    expect(cannotBeNull.length).toBeGreaterThan(150);
    const said = await renderFails([required, nulls(top, ({ is }) => is === 'setting')]);
    expect([...named(said)].sort()).toEqual(cannotBeNull.sort());
  });

  test('is refused for a whole group', async () => {
    const said = await renderFails([required, { rollout: { conditions: null }, jobs: { schema: null } }]);
    expect([...named(said)].sort()).toEqual(['jobs.schema', 'rollout.conditions']);
  });

  test('is taken where it means something', async () => {
    const values = nulls(top, (entry) => entry.is === 'setting' && entry.types.includes('null'));
    expect((await render([required, values])).text).not.toBe('');
  });
});

test('the schema refuses every key that values.yaml does not have, but for global and enabled', () => {
  const { properties, additionalProperties, ...schema } = schemaOf(
    readValues(
      '# @section One\na:\n  # Text.\n  # @required\n  b: x\n# Text.\n# @values string, number\nc: {}\n# @open\n# Text.\nd: {}',
    ),
  );
  expect(additionalProperties).toBe(false);
  expect(schema.required).toEqual(['a', 'c', 'd']);
  expect(properties).toEqual({
    global: { type: 'object' },
    enabled: { type: 'boolean' },
    a: {
      type: 'object',
      additionalProperties: false,
      required: ['b'],
      properties: { b: { description: 'Text.', type: 'string', default: 'x', minLength: 1 } },
    },
    c: {
      description: 'Text.',
      type: 'object',
      default: {},
      additionalProperties: { type: ['string', 'number'] },
    },
    d: { description: 'Text.', type: 'object', default: {} },
  });
});
