/** The harness of the other files here, on the chart itself and on charts that are wrong on purpose. */
import { fileURLToPath } from 'node:url';
import { describe, expect, inject, test } from 'vitest';
import { lint, render, renderFails, renderNotes, required } from './render.ts';

describe.skipIf(inject('chartTools') === undefined)('the chart', () => {
  test('renders with three values: the secret of the database, the secret of the token, the service', async () => {
    const { objects } = await render(required);
    expect(objects.length).toBeGreaterThan(0);
    for (const { metadata } of objects)
      expect(metadata.labels?.['app.kubernetes.io/name']).toBe('counterfoil');
  });

  test('does not render where helm refuses, and says why', async () => {
    expect(await renderFails({ ...required, notAValue: 1 })).toContain('notAValue');
    await expect(render({ ...required, notAValue: 1 })).rejects.toThrow('notAValue');
  });

  test('says in NOTES.txt what was installed', async () => {
    expect(await renderNotes(required)).toContain('billing');
  });

  test('is refused by helm lint where it is wrong, and not where it is right', async () => {
    const chart = fileURLToPath(new URL('fixtures/refused-by-lint', import.meta.url));
    expect(await lint({}, { chart })).toContain('version');
    expect(await lint(required)).toBe('');
  });

  test('is rendered once for equal values, and again for others', async () => {
    expect(await render(required)).toBe(await render({ ...required }));
    expect(await render(required)).not.toBe(await render({ ...required, installation: 'other' }));
  });
});
