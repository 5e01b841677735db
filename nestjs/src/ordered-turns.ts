import { deferred } from './deferred.js';
import type { BackedListener } from './listener-registry.js';

/** One listener's place behind the events of the same aggregate that came before. */
export interface Turn {
  /** Resolves when every earlier one has ended. */
  readonly come: Promise<void>;
  /** Lets the next one go; further calls do nothing. */
  end(): void;
}

/**
 * Lets a listener with `orderBy` run for one event of an aggregate at a time, in the order in which the turns were
 * taken: of live events, that in which their commits were sent. It knows of this process alone, and holds no more
 * turns than there are events in work.
 */
export class OrderedTurns {
  private readonly last = new Map<string, Promise<void>>();

  /** Of how many aggregates a turn is taken. */
  get size(): number {
    return this.last.size;
  }

  /** A turn for each listener that asks for an order, by its name; undefined where none does. */
  takeAll(listeners: readonly BackedListener[], payloadText: string): ReadonlyMap<string, Turn> | undefined {
    let turns: Map<string, Turn> | undefined;
    let payload: unknown;
    for (const { name, orderBy } of listeners) {
      if (orderBy === undefined) continue;
      payload ??= JSON.parse(payloadText);
      const value = (payload as Record<string, unknown> | null)?.[orderBy];
      // An event that does not say of which aggregate it is has no order.
      if (value === undefined || value === null) continue;
      turns ??= new Map();
      turns.set(name, this.take(JSON.stringify([name, value])));
    }
    return turns;
  }

  private take(key: string): Turn {
    const come = this.last.get(key) ?? Promise.resolve();
    const { promise, resolve } = deferred<void>();
    // Whoever comes next waits for this one, and by it for all before.
    const over = come.then(() => promise);
    this.last.set(key, over);
    return {
      come,
      end: () => {
        resolve();
        void over.then(() => {
          if (this.last.get(key) === over) this.last.delete(key);
        });
      },
    };
  }
}
