import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { Inject, Injectable, Logger, type OnApplicationShutdown, type OnModuleInit } from '@nestjs/common';
import { errorCode, isRetryable } from './error-code.js';
import { type BackedListener, ListenerRegistry } from './listener-registry.js';
import { OPTIONS, type ResolvedOptions } from './options.js';
import { StatementBatch } from './statement-batch.js';
import {
  type Claim,
  type ClaimedListener,
  claimListeners,
  closeEvent,
  type Mark,
  type Marked,
  markListeners,
  renewLeases,
} from './statements.js';

/** An event to deliver. */
export interface DeliverableEvent {
  eventId: string;
  eventName: string;
  payloadText: string;
}

/** A listener that failed in an attempt. */
export interface ListenerFailure {
  listener: string;
  /** Class or code of the error. */
  error: string;
  retryable: boolean;
}

/** What one attempt to deliver an event came to. */
export type Attempt =
  /** In work in this process already, or the process has no room (or is stopping): nothing was claimed. */
  | { kind: 'in_flight' | 'at_capacity' }
  /** The database refused or lost the claim: nothing was started. `error` is a class or code. */
  | { kind: 'claim_failed'; error: string }
  /** Nothing to claim: no committed pending row, or every listener has succeeded or is under a live lease. */
  | { kind: 'unclaimed' }
  /** Listeners ran. `closed`: the event is processed. `unrecorded`: an outcome could not be written. */
  | { kind: 'ran'; failures: ListenerFailure[]; closed: boolean; unrecorded: boolean };

interface InWork {
  eventId: string;
  eventName: string;
  leaseOwner: string;
  claimedAt: number;
  /** When the lease runs out, by this process's clock, counted from the last claim or renewal that was answered. */
  leaseEndsAt: number;
  /** Those whose outcome is not recorded yet. */
  listeners: Set<string>;
  /** How many of them have not finished: without any, the lease is only left for writing outcomes, not renewed. */
  running: number;
}

/** Pauses before an outcome is written again, in ms; the last one goes on. */
const MARK_RETRIES_MS = [100, 500, 1_000];

/**
 * Renewals in the time of a lease. Of a finished listener, at least three quarters of it are then left in which no
 * other process starts it again: by default 22.5 s, longer than a failover or restart of the database.
 */
const RENEWALS_PER_LEASE = 4;

/** At most one line per this many ms about events that stay pending for want of room. */
const CAPACITY_LOG_MS = 5_000;

/**
 * Runs listeners and keeps their record: claim, run each on its own, record each, close the event after the last.
 * Holds at most `maxInFlight` events, renews the leases of what it holds, and waits for it at shutdown. Never emits
 * on the event emitter: there a failing listener hides the outcome of its siblings.
 */
@Injectable()
export class Deliveries implements OnModuleInit, OnApplicationShutdown {
  private readonly logger = new Logger('Counterfoil');
  private readonly inWork = new Map<string, InWork>();
  private readonly claims: StatementBatch<Claim, ClaimedListener[]>;
  private readonly marks: StatementBatch<Mark, Marked>;
  private readonly processId: string;
  private claimCount = 0;
  private phase: 'open' | 'draining' | 'closed' = 'open';
  private drained: Promise<void> | undefined;
  private renewal: NodeJS.Timeout | undefined;
  private readonly closing = new AbortController();
  private onIdle: (() => void) | undefined;
  private roomWaiters: (() => void)[] = [];
  private leftPending = 0;
  private capacityLoggedAt = Number.NEGATIVE_INFINITY;

  constructor(
    @Inject(OPTIONS) private readonly options: ResolvedOptions,
    @Inject(ListenerRegistry) private readonly registry: ListenerRegistry,
  ) {
    const { driver, listenerLeaseMs } = options;
    this.processId = `${options.publishedBy ?? 'process'}/${randomUUID()}`;
    this.claims = new StatementBatch((claims) => claimListeners(driver, claims, listenerLeaseMs));
    this.marks = new StatementBatch((marks) => markListeners(driver, marks));
  }

  onModuleInit(): void {
    const everyMs = Math.ceil(this.options.listenerLeaseMs / RENEWALS_PER_LEASE);
    this.renewal = setInterval(() => void this.renew(), everyMs);
    this.renewal.unref();
  }

  async onApplicationShutdown(): Promise<void> {
    await this.drain();
  }

  /** Whether shutdown has begun: replays are refused from then on. */
  get stopping(): boolean {
    return this.phase !== 'open';
  }

  /** How many events are in work in this process now, live and replayed. */
  get inFlight(): number {
    return this.inWork.size;
  }

  /** Delivers an event just committed. Returns at once; what it cannot take stays pending for a replay. */
  emit(event: DeliverableEvent): void {
    if (this.registry.listenersOf(event.eventName).length === 0) {
      const { eventId, eventName } = event;
      this.logger.warn({ message: 'Event has no listener and stays pending', eventId, eventName });
      return;
    }
    void this.attempt(event, 'Event published').then((attempt) => {
      if (attempt.kind === 'at_capacity') this.noteNoRoom();
    });
  }

  /** Delivers an event as soon as there is room, and never rejects; gives up waiting, as `at_capacity`, when `signal` aborts. */
  async attemptWhenRoom(event: DeliverableEvent, signal: AbortSignal, onStart: () => void): Promise<Attempt> {
    const wake = (): void => this.wakeRoomWaiters();
    signal.addEventListener('abort', wake, { once: true });
    while (!this.hasRoom() && !signal.aborted && this.phase !== 'closed') {
      if (this.inWork.has(event.eventId)) break;
      const { promise, resolve } = Promise.withResolvers<void>();
      this.roomWaiters.push(resolve);
      await promise;
    }
    signal.removeEventListener('abort', wake);
    if (signal.aborted) return { kind: 'at_capacity' };
    onStart();
    return await this.attempt(event, 'Event replayed');
  }

  /**
   * Waits until no listener runs, at most for the drain deadline, and logs the ids that are left: their rows stay
   * pending and their leases run out. The database must stay open until this resolves; every call gives one promise.
   */
  drain(): Promise<void> {
    this.drained ??= this.waitUntilIdle();
    return this.drained;
  }

  private async waitUntilIdle(): Promise<void> {
    this.phase = 'draining';
    if (this.inWork.size > 0) {
      this.logger.log({ message: 'Waiting for events in work', count: this.inWork.size });
      const idle = Promise.withResolvers<void>();
      this.onIdle = idle.resolve;
      const deadline = setTimeout(idle.resolve, this.options.drainDeadlineMs);
      await idle.promise;
      clearTimeout(deadline);
    }
    this.phase = 'closed';
    this.closing.abort();
    this.wakeRoomWaiters();
    clearInterval(this.renewal);
    if (this.inWork.size > 0) {
      const events = [...this.inWork.values()].map(({ eventId, eventName, listeners }) => ({
        eventId,
        eventName,
        listeners: [...listeners],
      }));
      this.logger.error({
        message: 'Stopping with events in work; a replay takes them up',
        count: events.length,
        events,
      });
    } else {
      this.logger.log({ message: 'Every event in work is done' });
    }
  }

  private hasRoom(): boolean {
    return this.inWork.size < this.options.maxInFlight;
  }

  private async attempt(event: DeliverableEvent, message: string): Promise<Attempt> {
    const { eventId, eventName } = event;
    if (this.inWork.has(eventId)) return { kind: 'in_flight' };
    if (!this.hasRoom() || this.phase === 'closed') return { kind: 'at_capacity' };
    this.claimCount += 1;
    const leaseOwner = `${this.processId}/${this.claimCount}`;
    const work: InWork = {
      eventId,
      eventName,
      leaseOwner,
      claimedAt: performance.now(),
      leaseEndsAt: performance.now(),
      listeners: new Set(),
      running: 0,
    };
    this.inWork.set(eventId, work);
    try {
      const listeners = this.registry.listenersOf(eventName);
      let claimed: readonly ClaimedListener[];
      try {
        claimed = await this.claims.submit({
          eventId,
          listeners: listeners.map(({ name }) => name),
          leaseOwner,
        });
      } catch (thrown) {
        const error = errorCode(thrown);
        this.logger.error({
          message: 'Event could not be claimed and stays pending',
          eventId,
          eventName,
          error,
        });
        return { kind: 'claim_failed', error };
      }
      work.leaseEndsAt = performance.now() + this.options.listenerLeaseMs;
      if (claimed.length === 0) return { kind: 'unclaimed' };
      this.logger.log({ message, eventId, eventName });
      return await this.runClaimed(event, work, listeners, claimed);
    } finally {
      this.release(work);
    }
  }

  private async runClaimed(
    event: DeliverableEvent,
    work: InWork,
    listeners: readonly BackedListener[],
    claimed: readonly ClaimedListener[],
  ): Promise<Attempt> {
    const failures: ListenerFailure[] = [];
    let closed = false;
    let unrecorded = false;
    for (const { listener } of claimed) work.listeners.add(listener);
    work.running = claimed.length;
    await Promise.all(
      claimed.map(async ({ listener: name, attempt }) => {
        const listener = listeners.find((candidate) => candidate.name === name);
        if (listener === undefined) return;
        const failure = await this.runListener(event, listener, attempt);
        work.running -= 1;
        if (failure !== undefined) failures.push(failure);
        const marked = await this.record(work, {
          eventId: event.eventId,
          listener: name,
          leaseOwner: work.leaseOwner,
          status: failure === undefined ? 'succeeded' : 'failed',
          error: failure?.error ?? null,
        });
        work.listeners.delete(name);
        if (marked === 'closed') closed = true;
        if (marked === 'lost') unrecorded = true;
      }),
    );
    if (!closed && !unrecorded && failures.length === 0) {
      closed = await closeEvent(this.options.driver, event.eventId).catch(() => false);
    }
    if (closed)
      this.logger.log({ message: 'Event processed', eventId: event.eventId, eventName: event.eventName });
    return { kind: 'ran', failures, closed, unrecorded };
  }

  private async runListener(
    { eventId, eventName, payloadText }: DeliverableEvent,
    listener: BackedListener,
    attempt: number,
  ): Promise<ListenerFailure | undefined> {
    try {
      // Each listener gets its own copy, read back from the stored text: what it sees live is what a replay gives.
      await listener.invoke(JSON.parse(payloadText), { eventId, eventName, attempt });
      return undefined;
    } catch (thrown) {
      const error = errorCode(thrown);
      const retryable = isRetryable(thrown);
      this.logger.error({
        message: 'Listener failed; the event stays pending',
        eventId,
        eventName,
        listener: listener.name,
        attempt,
        error,
        retryable,
      });
      return { listener: listener.name, error, retryable };
    }
  }

  /**
   * Writes an outcome, again and again where the database does not take it: until the lease has run out no other
   * process starts the listener, and it must not run twice for that. Ends with the drain.
   */
  private async record(work: InWork, mark: Mark): Promise<Marked> {
    const { eventId, listener } = mark;
    for (let failures = 0; ; failures += 1) {
      // Read before the attempt, so that the last one comes when the lease runs out and not before.
      const leaseLeftMs = work.leaseEndsAt - performance.now();
      try {
        const marked = await this.marks.submit(mark);
        if (marked === 'lost') {
          this.logger.warn({ message: 'Outcome not recorded: the lease was taken over', eventId, listener });
        }
        return marked;
      } catch (thrown) {
        const error = errorCode(thrown);
        if (failures === 0)
          this.logger.warn({ message: 'Outcome could not be written', eventId, listener, error });
        if (leaseLeftMs <= 0 || this.phase === 'closed') {
          this.logger.error({
            message: 'Outcome given up; a replay runs the listener again',
            eventId,
            listener,
            error,
          });
          return 'lost';
        }
        const pauseMs = MARK_RETRIES_MS[Math.min(failures, MARK_RETRIES_MS.length - 1)];
        await delay(pauseMs, undefined, { signal: this.closing.signal }).catch(() => undefined);
      }
    }
  }

  private async renew(): Promise<void> {
    const now = performance.now();
    const { listenerDeadlineMs, listenerLeaseMs, driver } = this.options;
    for (const work of this.inWork.values()) {
      if (now - work.claimedAt < listenerDeadlineMs) continue;
      // It may hang for ever: without its lease the event counts as lost, is replayed elsewhere and is seen by alerts.
      const { eventId, eventName } = work;
      this.logger.error({
        message: 'Listener runs past its deadline; its lease is given up',
        eventId,
        eventName,
        listeners: [...work.listeners],
      });
      this.release(work);
    }
    const held = [...this.inWork.values()].filter(({ running }) => running > 0);
    if (held.length === 0) return;
    try {
      await renewLeases(driver, held, listenerLeaseMs);
      for (const work of held) work.leaseEndsAt = performance.now() + listenerLeaseMs;
    } catch (error) {
      this.logger.warn({
        message: 'Leases could not be renewed',
        count: held.length,
        error: errorCode(error),
      });
    }
  }

  private release(work: InWork): void {
    if (this.inWork.get(work.eventId) !== work) return;
    this.inWork.delete(work.eventId);
    this.wakeRoomWaiters();
    if (this.inWork.size === 0) this.onIdle?.();
  }

  private wakeRoomWaiters(): void {
    const waiters = this.roomWaiters;
    this.roomWaiters = [];
    for (const wake of waiters) wake();
  }

  private noteNoRoom(): void {
    this.leftPending += 1;
    const now = performance.now();
    if (now - this.capacityLoggedAt < CAPACITY_LOG_MS) return;
    this.logger.warn({
      message: 'No room for more events; they stay pending for a replay',
      count: this.leftPending,
    });
    this.capacityLoggedAt = now;
    this.leftPending = 0;
  }
}
