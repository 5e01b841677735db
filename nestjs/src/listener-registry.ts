import { createHash } from 'node:crypto';
import { Inject, Injectable, type OnModuleInit } from '@nestjs/common';
import { DiscoveryService, MetadataScanner } from '@nestjs/core';
import { parseEventName } from './event-name.js';
import { type BackedDelivery, backedListenersOf, plainEventsOf } from './on-backed-event.js';
import { type CounterfoilOptions, OPTIONS, PAYLOAD_FIELD } from './options.js';

/** A listener found in the application. */
export interface BackedListener {
  /** The stable name under which its outcomes are recorded. */
  name: string;
  /** The payload field whose values order it, where asked for. */
  orderBy?: string | undefined;
  /** Runs it once; rejects with whatever it throws. */
  invoke(payload: unknown, delivery: BackedDelivery): Promise<void>;
}

/** Listeners that cannot work as declared; thrown at start, with every problem in one message. */
export class ListenersRefusedError extends Error {
  override readonly name = 'ListenersRefusedError';
  constructor(problems: readonly string[]) {
    super(`backed listeners refused:\n- ${problems.join('\n- ')}`);
  }
}

type AnyMethod = (...args: unknown[]) => unknown;

/** Knows every backed listener of the application, and refuses the start where one could lose events. */
@Injectable()
export class ListenerRegistry implements OnModuleInit {
  // Empty until every provider exists: an event published earlier stays pending for a replay.
  private listeners: ReadonlyMap<string, readonly BackedListener[]> = new Map();
  private hash = '';

  constructor(
    @Inject(DiscoveryService) private readonly discovery: DiscoveryService,
    @Inject(MetadataScanner) private readonly scanner: MetadataScanner,
    @Inject(OPTIONS) private readonly options: CounterfoilOptions,
  ) {}

  onModuleInit(): void {
    this.listeners = this.discover();
    const pairs = [...this.listeners].flatMap(([event, list]) =>
      list.map(({ name }) => JSON.stringify([event, name])),
    );
    this.hash = createHash('sha256').update(pairs.sort().join('\n')).digest('hex');
  }

  /** The listeners of exactly this event name; empty where there is none. */
  listenersOf(eventName: string): readonly BackedListener[] {
    return this.listeners.get(eventName) ?? [];
  }

  /** Every event name that has a listener. */
  eventNames(): readonly string[] {
    return [...this.listeners.keys()];
  }

  /** Whether some listener takes another version of the same event. */
  hasOtherVersion(eventName: string): boolean {
    const subject = parseEventName(eventName)?.subject;
    return (
      subject !== undefined &&
      [...this.listeners.keys()].some((name) => parseEventName(name)?.subject === subject)
    );
  }

  /** A hex digest over all (event name, listener name) pairs: another digest, other answers to a replay. */
  digest(): string {
    return this.hash;
  }

  private discover(): ReadonlyMap<string, readonly BackedListener[]> {
    const listeners = new Map<string, BackedListener[]>();
    const plain: { eventName: string; place: string }[] = [];
    const { accepts = {}, publishes } = this.options;
    const problems = [
      ...malformed('accepts', Object.keys(accepts)),
      ...malformed('publishes', publishes ?? []),
      ...Object.keys(accepts)
        .filter((name) => publishes !== undefined && !publishes.includes(name))
        .map((name) => `accepts: "${name}" is not among publishes`),
    ];

    for (const wrapper of [...this.discovery.getProviders(), ...this.discovery.getControllers()]) {
      const instance = wrapper.instance as Record<string, AnyMethod> | null | undefined;
      if (wrapper.isAlias || typeof instance !== 'object' || instance === null) continue;
      const prototype = Object.getPrototypeOf(instance) as Record<string, unknown> | null;
      if (prototype === null) continue;
      for (const key of this.scanner.getAllMethodNames(prototype)) {
        const method = prototype[key];
        const place = `${String(wrapper.name)}.${key}`;
        const backed = backedListenersOf(method);
        for (const eventName of plainEventsOf(method)) {
          if (!backed.some((entry) => entry.eventName === eventName)) plain.push({ eventName, place });
        }
        for (const { eventName, listener, orderBy } of backed) {
          if (parseEventName(eventName) === undefined) {
            problems.push(`${place}: "${eventName}" is not of the form domain.action.v1`);
          }
          if (orderBy !== undefined && !PAYLOAD_FIELD.test(orderBy)) {
            problems.push(
              `${place}: orderBy must be the name of a payload field, of letters, digits and _, not "${orderBy}"`,
            );
          }
          if (!wrapper.isDependencyTreeStatic()) {
            problems.push(
              `${place}: a backed listener cannot be request or transient scoped; make it a singleton`,
            );
          }
          const siblings = listeners.get(eventName) ?? [];
          if (siblings.some(({ name }) => name === listener)) {
            problems.push(
              `${place}: ${eventName} already has a listener "${listener}"; give this one a name of its own ` +
                `with @OnBackedEvent(name, { listener })`,
            );
          }
          siblings.push({
            name: listener,
            orderBy,
            async invoke(payload, delivery) {
              await instance[key]?.(payload, delivery);
            },
          });
          listeners.set(eventName, siblings);
        }
      }
    }

    for (const { eventName, place } of plain) {
      if (listeners.has(eventName) || publishes?.includes(eventName)) {
        problems.push(
          `${place}: a plain @OnEvent has not the error setting and would never be called for the backed ` +
            `${eventName}; use @OnBackedEvent`,
        );
      }
    }
    for (const name of new Set(publishes)) {
      if (!listeners.has(name) && parseEventName(name) !== undefined) {
        problems.push(
          `publishes: ${name} has no listener, its events would stay pending; ` +
            `add a method with @OnBackedEvent('${name}') to a provider, or take the name out`,
        );
      }
    }
    if (problems.length > 0) throw new ListenersRefusedError(problems);
    return listeners;
  }
}

const malformed = (option: string, names: readonly string[]): string[] =>
  names
    .filter((name) => parseEventName(name) === undefined)
    .map((name) => `${option}: "${name}" is not of the form domain.action.v1`);
