import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { readSettings, settingNames } from './settings.js';

const needed = { DATABASE_URL: 'postgres://db/service' };

test('only DATABASE_URL is needed, and an empty variable is an absent one', () => {
  const settings = readSettings({ ...needed, REPLAY_TOKEN: '', POD_TEMPLATE_HASH: '', PORT: '', FAULTS: '' });
  expect(settings).toMatchObject({
    port: 3000,
    host: '0.0.0.0',
    replayToken: undefined,
    faults: false,
    poolSize: 10,
    shutdownPauseMs: 0,
  });
});

test('every variable that cannot be used is named, and no value', () => {
  const env = {
    DATABASE_URL: 'secret',
    PORT: '70000',
    POOL_SIZE: '1e3',
    FAULTS: 'yes',
    LISTENER_LEASE_SECONDS: '0',
  };
  expect(() => readSettings(env)).toThrow(
    'settings refused: DATABASE_URL, FAULTS, LISTENER_LEASE_SECONDS, POOL_SIZE, PORT;',
  );
  expect(() => readSettings({})).toThrow('settings refused: DATABASE_URL;');
});

test('faults need a token that keeps strangers from arming them', () => {
  expect(() => readSettings({ ...needed, FAULTS: 'true' })).toThrow('settings refused: REPLAY_TOKEN;');
  expect(readSettings({ ...needed, FAULTS: 'true', REPLAY_TOKEN: 't' }).faults).toBe(true);
});

test('faults can be armed from the start, each with its rate; one that does not exist is refused', () => {
  const faultsOf = (FAULTS: string) => readSettings({ ...needed, REPLAY_TOKEN: 't', FAULTS });
  expect(faultsOf('lose=0.02,slow=1')).toMatchObject({
    faults: true,
    armedFaults: new Map([
      ['lose', 0.02],
      ['slow', 1],
    ]),
  });
  expect(faultsOf('true').armedFaults.size).toBe(0);
  for (const wrong of ['loose=0.02', 'lose', 'lose=2', 'lose=0.02;slow=1', 'true,lose=1', 'constructor=1'])
    expect(() => faultsOf(wrong), wrong).toThrow('settings refused: FAULTS;');
});

test('the README lists exactly the variables there are', () => {
  const readme = readFileSync(new URL('../README.md', import.meta.url), 'utf8');
  const listed = [...readme.matchAll(/^\| `([A-Z_]+)` +\|/gm)].map((match) => match[1]);
  expect(listed.sort()).toEqual([...settingNames].sort());
});
