import 'reflect-metadata';
import { OnEvent } from '@nestjs/event-emitter';

/** What a listener is told about the event besides its payload. */
export interface BackedDelivery {
  /** The same for every attempt: what an idempotent listener keys on. */
  eventId: string;
  eventName: string;
  /** 1 for the first start of this listener, counted over all processes. */
  attempt: number;
  /**
   * Aborted when the listener's lease is given up: at its deadline, or when shutdown stops waiting. Whoever goes on
   * after that may run beside a replay.
   */
  readonly signal: AbortSignal;
  /** The trace in which the event was published, in the form of W3C's header, where the table has the column. */
  readonly traceparent?: string | undefined;
}

/** Settings of one listener. */
export interface BackedListenerOptions {
  /**
   * The name under which the listener's outcome is recorded; the method's name by default. A changed name is a new
   * listener: events still pending are given to it again.
   */
  listener?: string;
  /**
   * A payload field, such as `sessionId`: events of one value of it are given to this listener one at a time, those of
   * this process in the order in which their commits were sent, replays among them. It is no promise across
   * processes: an event published or replayed by another pod runs beside it, one that failed does not hold up those
   * after it, and one past its deadline lets the next go while it may still run. What must never overlap takes a row
   * lock of its own. Without it, events are delivered at once and in no order.
   */
  orderBy?: string;
}

/** What the decorator leaves on the method. */
export interface BackedListenerMetadata {
  eventName: string;
  listener: string;
  orderBy?: string | undefined;
}

const METADATA = Symbol('counterfoil:backed-listeners');

/**
 * Makes a method a backed listener of `eventName` (`domain.action.v1`): an `@OnEvent` with errors not suppressed,
 * whose outcome is recorded and which is run again by a replay until it has succeeded once. The method is called with
 * the payload and a `BackedDelivery`; it must be idempotent.
 */
export function OnBackedEvent(eventName: string, options: BackedListenerOptions = {}): MethodDecorator {
  return (target, key, descriptor) => {
    const method = descriptor.value as object;
    const metadata: BackedListenerMetadata = {
      eventName,
      listener: options.listener ?? String(key),
      orderBy: options.orderBy,
    };
    Reflect.defineMetadata(METADATA, [...backedListenersOf(method), metadata], method);
    OnEvent(eventName, { suppressErrors: false })(target, key, descriptor);
  };
}

/** The backed listeners a method was declared as; empty for any other value. */
export function backedListenersOf(method: unknown): readonly BackedListenerMetadata[] {
  if (typeof method !== 'function') return [];
  return (Reflect.getMetadata(METADATA, method) as BackedListenerMetadata[] | undefined) ?? [];
}

/** The names under which a method listens by a plain `@OnEvent` as well as by ours; one given in parts is joined. */
export function plainEventsOf(method: unknown): readonly string[] {
  if (typeof method !== 'function') return [];
  const key = (OnEvent('') as unknown as { KEY: string }).KEY;
  const entries = (Reflect.getMetadata(key, method) as { event: unknown }[] | undefined) ?? [];
  return entries
    .map(({ event }) => (Array.isArray(event) ? event.map(String).join('.') : event))
    .filter((event) => typeof event === 'string');
}
