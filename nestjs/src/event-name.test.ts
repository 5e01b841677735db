import { expect, test } from 'vitest';
import { parseEventName } from './event-name.js';

test('a name is domain, action and version', () => {
  expect(parseEventName('contract.signed.v1')).toEqual({ subject: 'contract.signed', version: 1 });
  expect(parseEventName('services.session.completed.v12')).toEqual({
    subject: 'services.session.completed',
    version: 12,
  });
});

test('what lacks one of them, or is spelt otherwise, is no name', () => {
  for (const name of [
    '',
    'signed.v1',
    'contract.signed',
    'contract.signed.v0',
    'contract.signed.v01',
    'contract.signed.1',
    'Contract.signed.v1',
    'contract..signed.v1',
    'contract.signed.v1 ',
    'contract.*.v1',
  ]) {
    expect(parseEventName(name), name).toBeUndefined();
  }
});
