import { expect, test } from 'vitest';
import type { CounterfoilDriver } from './driver.js';
import { resolveOptions } from './options.js';

const driver = {} as CounterfoilDriver;

test('the defaults leave Kubernetes time to see the end of a drain', () => {
  expect(resolveOptions({ driver, serviceVersion: '1' })).toMatchObject({
    listenerLeaseMs: 30_000,
    drainDeadlineMs: 25_000,
    maxInFlight: 100,
    sessionKey: 'sessionId',
  });
});

test('every option that cannot be used is named, and no value', () => {
  const options = {
    driver,
    serviceVersion: '',
    replayToken: '',
    listenerLeaseMs: 0,
    listenerDeadlineMs: Number.NaN,
    maxInFlight: 1.5,
    drainDeadlineMs: -77,
    sessionKey: "sessionId' = '77",
  };
  expect(() => resolveOptions(options)).toThrow(
    expect.objectContaining({
      name: 'OptionsRefusedError',
      message: expect.stringMatching(
        /^(?=.*serviceVersion)(?=.*replayToken)(?=.*listenerLeaseMs)(?=.*listenerDeadlineMs)(?=.*maxInFlight)(?=.*drainDeadlineMs)(?=.*sessionKey)(?!.*77)/,
      ),
    }),
  );
});
