import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { readSettings } from '../runtime/config.ts';
import { billingReconciliationSettings } from './env.ts';

test('the table of settings in the README has every setting and its default', () => {
  const readme = readFileSync(new URL('README.md', import.meta.url), 'utf8');
  const written = [...readme.matchAll(/^\| `(CF_\w+)` \| (?:`([^`]*)`)? ?\|/gm)].map(([, name, initial]) => [
    name,
    initial,
  ]);
  const defaults = readSettings(billingReconciliationSettings, {});
  const declared = Object.entries(defaults).map(([name, value]) => [
    name,
    value === undefined ? undefined : String(name.endsWith('_SECONDS') ? Number(value) / 1000 : value),
  ]);
  expect(written).toEqual(declared);
});
