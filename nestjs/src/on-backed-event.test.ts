import { OnEvent } from '@nestjs/event-emitter';
import { expect, test } from 'vitest';
import { backedListenersOf, OnBackedEvent, plainEventsOf } from './on-backed-event.js';

class Billing {
  @OnBackedEvent('services.session.completed.v1')
  @OnBackedEvent('services.session.completed.v2', { listener: 'billTheNewer', orderBy: 'sessionId' })
  bill(): void {}

  @OnEvent('cache.refresh')
  @OnEvent(['contract', 'signed', 'v1'])
  @OnEvent(Symbol('private'))
  refresh(): void {}

  plain(): void {}
}
const { bill, refresh, plain } = Billing.prototype;

test('a method may listen to several versions, each by a name of its own', () => {
  expect(backedListenersOf(bill)).toEqual([
    { eventName: 'services.session.completed.v2', listener: 'billTheNewer', orderBy: 'sessionId' },
    { eventName: 'services.session.completed.v1', listener: 'bill', orderBy: undefined },
  ]);
});

test('a plain listener is none of ours, and its names are known, joined where they come in parts', () => {
  expect(backedListenersOf(refresh)).toEqual([]);
  expect([...plainEventsOf(refresh)].sort()).toEqual(['cache.refresh', 'contract.signed.v1']);
});

test('what listens to nothing, and what is no method, listens to nothing', () => {
  for (const value of [plain, undefined, 'bill', {}]) {
    expect(backedListenersOf(value)).toEqual([]);
    expect(plainEventsOf(value)).toEqual([]);
  }
});
