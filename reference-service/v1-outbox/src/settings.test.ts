import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { readSettings, SettingsRefusedError } from './settings.js';

const DATABASE_URL = 'postgres://localhost/service';

test('the README lists the settings of the outbox with their defaults', () => {
  const readme = readFileSync(new URL('../README.md', import.meta.url), 'utf8');
  const rows = [...readme.matchAll(/^\| `(OUTBOX_\w+)` +\| (\d+) /gm)].map(([, name, initial]) => [
    name,
    Number(initial),
  ]);
  const { pollMs, batchSize, stuckMs } = readSettings({ DATABASE_URL });
  expect(Object.fromEntries(rows)).toEqual({
    OUTBOX_POLL_SECONDS: pollMs / 1_000,
    OUTBOX_BATCH_SIZE: batchSize,
    OUTBOX_STUCK_SECONDS: stuckMs / 1_000,
  });
});

test('an empty variable is an absent one, and a poll without a rest is refused', () => {
  expect(readSettings({ DATABASE_URL, OUTBOX_POLL_SECONDS: '' }).pollMs).toBe(30_000);
  expect(readSettings({ DATABASE_URL, OUTBOX_POLL_SECONDS: '1' }).pollMs).toBe(1_000);
  expect(() => readSettings({ DATABASE_URL, OUTBOX_POLL_SECONDS: '0' })).toThrow(SettingsRefusedError);
});
