/** The harness of the other files here, on the chart itself. */
import { describe, expect, inject, test } from 'vitest';
import { render, renderFails, required } from './render.ts';

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
});
