import { AsyncLocalStorage } from 'node:async_hooks';
import { randomUUID } from 'node:crypto';
import { type BackedDelivery, OnBackedEvent } from '@counterfoil/nestjs';

/** What every log line of a piece of work says about it. */
export interface WorkContext {
  /** Of the request it began with, through which a listener runs too when it follows at once. */
  requestId?: string;
  /** Of the event a listener was given. */
  eventId?: string;
}

const storage = new AsyncLocalStorage<WorkContext>();

/** The context of the work that is going on; empty outside of any. */
export const currentContext = (): WorkContext => storage.getStore() ?? {};

/** Runs `work` and all that it starts with these ids added to its log lines. */
export function within<Result>(context: WorkContext, work: () => Result): Result {
  return storage.run({ ...storage.getStore(), ...context }, work);
}

/** Nothing that could be anybody's words: an id goes into every log line. */
const REQUEST_ID = /^[A-Za-z0-9_-]{1,64}$/;

/** The caller's request id where it is one that can be logged, else a new one. */
export function requestIdOf(given: string | string[] | undefined): string {
  return typeof given === 'string' && REQUEST_ID.test(given) ? given : randomUUID();
}

/** `@OnBackedEvent` for this service: every log line written while the listener runs holds the event's id. */
export function OnServiceEvent(eventName: string): MethodDecorator {
  return (target, key, descriptor) => {
    const listener = descriptor.value as unknown as (payload: unknown, delivery: BackedDelivery) => unknown;
    const wrapped = function (this: unknown, payload: unknown, delivery: BackedDelivery): unknown {
      return within({ eventId: delivery.eventId }, () => listener.call(this, payload, delivery));
    };
    Object.assign(descriptor, { value: wrapped });
    OnBackedEvent(eventName)(target, key, descriptor);
  };
}
