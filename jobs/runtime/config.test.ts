import { describe, expect, test } from 'vitest';
import { z } from 'zod';
import { count, flag, optional, readSettings, required, type SettingsShape, seconds } from './config.ts';
import { runtimeSettings } from './env.ts';
import { RunFailure } from './failures.ts';

const shape = {
  CF_TOKEN: required(),
  CF_BATCH: count(50, 1, 100),
  CF_GRACE_SECONDS: seconds(600, 0, 86_400),
  CF_DRY_RUN: flag(false),
  CF_NOTE: optional(),
  CF_MODE: z.enum(['tail', 'full']).default('tail'),
};

function refusal(rules: SettingsShape, environment: Record<string, string>): string {
  try {
    readSettings(rules, environment);
  } catch (error) {
    expect(error).toBeInstanceOf(RunFailure);
    expect((error as RunFailure).id).toBe('settings_invalid');
    expect((error as RunFailure).exitCode).toBe(2);
    return (error as RunFailure).message;
  }
  throw new Error('the settings were taken');
}

test('reads what is given and fills in the defaults', () => {
  expect(readSettings(shape, { CF_TOKEN: 'secret', CF_BATCH: '7', PATH: '/bin' })).toEqual({
    CF_TOKEN: 'secret',
    CF_BATCH: 7,
    CF_GRACE_SECONDS: 600_000,
    CF_DRY_RUN: false,
    CF_NOTE: undefined,
    CF_MODE: 'tail',
  });
});

test('settings cannot be changed afterwards', () => {
  expect(Object.isFrozen(readSettings(shape, { CF_TOKEN: 'secret' }))).toBe(true);
});

test('names all problems at once, with the rule and never the value', () => {
  const message = refusal(shape, {
    CF_BATCH: 'canary-1',
    CF_GRACE_SECONDS: '99999999',
    CF_DRY_RUN: 'canary-2',
    CF_MODE: 'canary-3',
    CF_TOKN: 'canary-4',
  });
  expect(message).toBe(
    '6 of the settings cannot be used: CF_TOKEN: is required; CF_BATCH: must be a whole number; ' +
      'CF_GRACE_SECONDS: must be at most 86400; CF_DRY_RUN: must be one of true, false; ' +
      'CF_MODE: must be one of tail, full; CF_TOKN: is not a setting of this job',
  );
  expect(message).not.toContain('canary');
});

test('refuses an unknown variable only where it begins with CF_', () => {
  expect(readSettings({}, { COUNTERFOIL_SERVICE_HOST: '10.0.0.1', CFX: '1' })).toEqual({});
  expect(refusal({}, { CF_X: '1' })).toContain('CF_X: is not a setting of this job');
});

describe('a flag', () => {
  test.each([
    ['true', true],
    ['false', false],
  ])('reads %s', (text, expected) => {
    expect(readSettings({ CF_F: flag(!expected) }, { CF_F: text }).CF_F).toBe(expected);
  });

  test.each(['TRUE', '1', 'yes', '', ' true'])('does not read %j', (text) => {
    expect(refusal({ CF_F: flag(true) }, { CF_F: text })).toContain('CF_F: must be one of true, false');
  });

  test('has a default of its own', () => {
    expect(readSettings({ CF_F: flag(true), CF_G: flag(false) }, {})).toEqual({ CF_F: true, CF_G: false });
  });
});

describe('a number', () => {
  test.each(['1', '100'])('takes its bounds: %s', (text) => {
    expect(readSettings({ CF_N: count(5, 1, 100) }, { CF_N: text }).CF_N).toBe(Number(text));
  });

  test.each([
    ['0', 'must be at least 1'],
    ['101', 'must be at most 100'],
    ['1.5', 'must be a whole number'],
    ['-1', 'must be a whole number'],
    ['1e2', 'must be a whole number'],
    ['', 'must be a whole number'],
    [' 5', 'must be a whole number'],
    ['9'.repeat(16), 'must be a whole number'],
  ])('does not take %j', (text, rule) => {
    expect(refusal({ CF_N: count(5, 1, 100) }, { CF_N: text })).toContain(`CF_N: ${rule}`);
  });

  test('given in seconds arrives in milliseconds', () => {
    expect(readSettings({ CF_S: seconds(1, 0, 10) }, { CF_S: '10' }).CF_S).toBe(10_000);
    expect(refusal({ CF_S: seconds(1, 0, 10) }, { CF_S: '11' })).toContain('CF_S: must be at most 10');
  });
});

test('a required text must not be empty; an optional one that is empty counts as left out', () => {
  expect(refusal({ CF_T: required() }, { CF_T: '' })).toContain('CF_T: must not be empty');
  expect(refusal({ CF_T: required() }, {})).toContain('CF_T: is required');
  expect(readSettings({ CF_T: optional() }, { CF_T: '' }).CF_T).toBeUndefined();
  expect(readSettings({ CF_T: optional() }, { CF_T: 'x' }).CF_T).toBe('x');
});

test('a rule of any other form is reported without its words', () => {
  const rule = z.preprocess(() => ({ canary: 1 }), z.strictObject({}));
  expect(refusal({ CF_T: rule }, { CF_T: 'canary' })).toBe(
    '1 of the settings cannot be used: CF_T: cannot be used',
  );
});

describe('the settings of every job', () => {
  const url = 'postgresql://jobs:canary@localhost/app';

  test('need nothing but the connection URL', () => {
    expect(readSettings(runtimeSettings, { DATABASE_URL: url })).toMatchObject({
      DATABASE_URL: url,
      CF_SCHEMA: 'counterfoil',
      CF_INSTALLATION: 'counterfoil',
      CF_LOCK_TIMEOUT_SECONDS: 1_000,
    });
  });

  test('take an empty freeze id for none, and refuse one that is no id', () => {
    expect(
      readSettings(runtimeSettings, { DATABASE_URL: url, CF_FREEZE_ID: '' }).CF_FREEZE_ID,
    ).toBeUndefined();
    expect(refusal(runtimeSettings, { DATABASE_URL: url, CF_FREEZE_ID: 'mine' })).toContain(
      'CF_FREEZE_ID: must be the id of a freeze',
    );
  });

  test.each([
    ['DATABASE_URL', 'mysql://jobs:canary@localhost/app', 'must begin with postgresql://'],
    ['DATABASE_URL', 'postgresql://[canary', 'is not a URL'],
    ['DATABASE_URL', 'postgresql://u:canary@localhost:port/x', 'is not a URL'],
    [
      'DATABASE_URL',
      'postgresql://u@localhost/canary?sslmode=verify-ca',
      'sslmode=verify-ca needs sslrootcert',
    ],
    [
      'DATABASE_URL',
      'postgresql://u@localhost/x?sslmode=verify-full&sslrootcert=/canary.crt',
      'names a file that cannot be read (ENOENT)',
    ],
    ['CF_SCHEMA', 'canary"; DROP', 'must be a lower-case identifier'],
    ['CF_SCHEMA', '', 'must be a lower-case identifier'],
    ['CF_INSTALLATION', 'Canary', 'must be a DNS label'],
    ['CF_POD_NAME', 'canary pod', 'must be a pod name'],
    ['CF_LOG_LEVEL', 'canary', 'must be one of debug, info, warn, error'],
    ['CF_DATABASE_POOL_SIZE', '1', 'must be at least 2'],
  ])('refuse %s by its rule', (name, value, rule) => {
    const message = refusal(runtimeSettings, { DATABASE_URL: url, [name]: value });
    expect(message).toContain(`${name}: ${rule}`);
    expect(message).not.toMatch(/canary/i);
  });
});
