/**
 * Takes one collection again and again: at its own interval, never twice at once, each attempt within its own time. A
 * failed attempt ends nothing: it is said once, the last values stay until they are too old, and the next attempt
 * comes when it would have come.
 */

import { RunFailure } from '../runtime/failures.ts';
import type { Logger } from '../runtime/logger.ts';
import { pause } from '../runtime/pause.ts';
import { toRunFailure } from '../runtime/sqlstates.ts';
import type { CollectionSink, FilledCollection, SetSeries } from './collection.ts';

/** What one attempt found out; a text says why it cannot be measured here, which is no failure. */
export type Collected<C extends FilledCollection> = ((set: SetSeries<C>) => void) | string;

export interface CollectOptions<C extends FilledCollection> {
  readonly collection: C;
  readonly intervalMs: number;
  readonly timeoutMs: number;
  /** @param signal aborted when the attempt has used up its time, and at the end of the run */
  readonly read: (signal: AbortSignal) => Promise<Collected<C>>;
  readonly sink: CollectionSink;
  readonly logger: Logger;
  /** Ends the loop. */
  readonly signal: AbortSignal;
  /** How long an attempt may hang beyond its time before the loop counts as hanging; a test passes less. */
  readonly hangAllowanceMs?: number;
}

/** The database is at rest for so many times as long as a collection took: a slow one takes turns less often. */
const REST_PER_WORK = 10;
const SHORTEST_REST_MS = 500;
/** Twice the client's own limit for a connection that has gone half open: from then on it is a defect. */
const HANG_ALLOWANCE_MS = 60_000;

/** A collection at work, as the rest of the process sees it. */
export interface CollectionLoop {
  readonly collection: FilledCollection;
  /** Whether there was a first attempt, whatever became of it. */
  readonly attempted: boolean;
  /** Whether the loop comes round; false where it hangs, which nothing but a restart ends. */
  readonly turns: boolean;
  /** Resolves when the signal of the run is aborted and the last attempt has ended. */
  run(): Promise<void>;
}

export class Collector<C extends FilledCollection> implements CollectionLoop {
  readonly collection: C;
  readonly #options: CollectOptions<C>;
  /** What is wrong at the moment, as it was last logged. */
  #said: string | undefined;
  #attempted = false;
  #dueBy: number;

  constructor(options: CollectOptions<C>) {
    this.collection = options.collection;
    this.#options = options;
    this.#dueBy = performance.now() + this.#longestTurnMs;
  }

  get attempted(): boolean {
    return this.#attempted;
  }

  get turns(): boolean {
    return this.#options.signal.aborted || performance.now() <= this.#dueBy;
  }

  async run(): Promise<void> {
    const { signal, intervalMs, timeoutMs } = this.#options;
    while (!signal.aborted) {
      this.#dueBy = performance.now() + this.#longestTurnMs;
      const began = performance.now();
      const succeeded = await this.#attempt(began);
      const tookMs = Math.min(performance.now() - began, timeoutMs);
      // After a failure no longer rest than usual: the database may be back.
      const restMs = succeeded ? tookMs * REST_PER_WORK : SHORTEST_REST_MS;
      await pause(Math.max(intervalMs - tookMs, restMs), signal);
    }
  }

  async #attempt(began: number): Promise<boolean> {
    const { collection, timeoutMs, read, sink, signal } = this.#options;
    const timedOut = new AbortController();
    const timer = setTimeout(() => {
      timedOut.abort();
      // At once, and not when the attempt really ends: until then it may hang at a half-open connection.
      this.#fail(new RunFailure('database_busy', 'the collection did not end within its time'), began);
    }, timeoutMs);
    try {
      const collected = await read(AbortSignal.any([signal, timedOut.signal]));
      if (timedOut.signal.aborted || signal.aborted) return false;
      if (typeof collected === 'string') {
        sink.off(collection);
        this.#say('info', collected, { collection }, `this collection is off: ${collected}`);
        return true;
      }
      sink.publish(collection, collected, performance.now() - began);
      if (this.#said !== undefined) this.#options.logger.info({ collection }, 'the collection works again');
      this.#said = undefined;
      return true;
    } catch (error) {
      if (!timedOut.signal.aborted && !signal.aborted) this.#fail(toRunFailure(error), began);
      return false;
    } finally {
      clearTimeout(timer);
      this.#attempted = true;
    }
  }

  #fail(failure: RunFailure, began: number): void {
    const { collection, sink } = this.#options;
    this.#attempted = true;
    sink.lost(collection, performance.now() - began);
    const cause = failure.cause === undefined ? {} : { err: failure.cause };
    this.#say(
      'warn',
      failure.id,
      { collection, failureId: failure.id, ...cause },
      `the collection failed: ${failure.message}`,
    );
  }

  /** Once, and again only when something else is wrong: an outage of a day is one line and not 5,760. */
  #say(level: 'info' | 'warn', what: string, fields: object, message: string): void {
    if (this.#said === what) return;
    this.#said = what;
    this.#options.logger[level](fields, message);
  }

  get #longestTurnMs(): number {
    const { intervalMs, timeoutMs, hangAllowanceMs = HANG_ALLOWANCE_MS } = this.#options;
    return timeoutMs + hangAllowanceMs + Math.max(intervalMs, timeoutMs * REST_PER_WORK);
  }
}
