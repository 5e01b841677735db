/** What people set together is rendered, linted, and taken by every supported Kubernetes. */
import { describe, expect, inject, test } from 'vitest';
import { combinations, layersOf } from './combinations.ts';
import { schemaProblems } from './kubeconform.ts';
import { lint, render } from './render.ts';

const tools = inject('chartTools');
const schemas = inject('chartSchemas');

test('there are no two combinations of one name', () => {
  expect(combinations.length).toBeGreaterThan(29);
  expect(new Set(combinations.map(({ name }) => name)).size).toBe(combinations.length);
});

describe.skipIf(tools === undefined)('with', () => {
  describe.concurrent.each(combinations)('$name', (combination) => {
    test('helm lint --strict has nothing to say', async ({ expect }) => {
      expect(await lint(layersOf(combination), combination.options)).toBe('');
    });

    test('no two objects have one name, and each name is one', async ({ expect }) => {
      const { objects } = await render(layersOf(combination), combination.options);
      const names = objects.map(
        ({ kind, metadata }) => `${kind} ${metadata.namespace ?? ''}/${metadata.name}`,
      );
      expect(names.length).toBeGreaterThan(5);
      expect(names).toEqual([...new Set(names)]);
      for (const { kind, metadata } of objects)
        expect(metadata.name, kind).toMatch(/^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$/);
    });
  });
});

describe.skipIf(tools === undefined || schemas === undefined)('every Kubernetes takes', () => {
  test('what is rendered with each of them', async () => {
    const manifests: Record<string, string> = {};
    for (const combination of combinations)
      manifests[combination.name] = (await render(layersOf(combination), combination.options)).text;
    if (tools === undefined || schemas === undefined) throw new Error('the tools are missing');
    expect(await schemaProblems(tools.kubeconform, schemas, manifests)).toEqual([]);
  });
});
