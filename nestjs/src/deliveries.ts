import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import {
  Inject,
  Injectable,
  Logger,
  type OnApplicationBootstrap,
  type OnApplicationShutdown,
  type OnModuleInit,
} from '@nestjs/common';
import { deferred } from './deferred.js';
import { errorCode, isRetryable } from './error-code.js';
import { type BackedListener, ListenerRegistry } from './listener-registry.js';
import { type EventMetrics, type LeftPendingReason, METRICS } from './metrics.js';
import type { BackedDelivery } from './on-backed-event.js';
import { OPTIONS, type ResolvedOptions } from './options.js';
import { OrderedTurns, type Turn } from './ordered-turns.js';
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
import { findTraceApi, inLinkedSpan } from './tracing.js';
import { WaitingEvents } from './waiting-events.js';

/** An event to deliver. */
export interface DeliverableEvent {
  eventId: string;
  eventName: string;
  payloadText: string;
  /** The trace in which it was published. */
  traceparent?: string | null | undefined;
}

/** A live event with room in this process, whose listeners are claimed by the write that publishes it. */
export interface Reserved {
  readonly claim: Claim;
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
  /** The database refused or lost the claim, or gave it too late: nothing was started. `error` is a class or code. */
  | { kind: 'claim_failed'; error: string }
  /** Nothing to claim: no committed pending row, or every listener has succeeded or is under a live lease. */
  | { kind: 'unclaimed' }
  /** Listeners ran. `closed`: the event is processed. `unrecorded`: an outcome could not be written. */
  | { kind: 'ran'; failures: ListenerFailure[]; closed: boolean; unrecorded: boolean };

/** An event in work: from the room it takes until its last outcome is recorded, or its lease is given up. */
class InWork implements Reserved {
  readonly claim: Claim;
  /** When the commit was acknowledged, or a replay began. */
  since: number;
  /** When the lease runs out, by this process's clock, counted from before the last claim or renewal was sent. */
  leaseEndsAt: number;
  /** Since when each listener runs, of those whose outcome is not recorded yet; undefined before and after. */
  readonly open = new Map<string, number | undefined>();
  /** How many of them have not finished: without any, the lease is only left for writing outcomes, not renewed. */
  running = 0;
  started = false;
  /** Its lease was given up, or shutdown has: it has been counted, and no listener of it is started any more. */
  over = false;
  closed = false;
  unrecorded = false;
  readonly failures: ListenerFailure[] = [];
  turns: ReadonlyMap<string, Turn> | undefined;
  private controller: AbortController | undefined;

  constructor(
    readonly event: DeliverableEvent,
    readonly listeners: readonly BackedListener[],
    leaseOwner: string,
    /** Published by this process just now, as opposed to replayed. */
    readonly live: boolean,
  ) {
    this.claim = { eventId: event.eventId, listeners: listeners.map(({ name }) => name), leaseOwner };
    this.since = performance.now();
    this.leaseEndsAt = this.since;
  }

  /** Made when a listener asks for it: most never do. */
  get signal(): AbortSignal {
    this.controller ??= new AbortController();
    if (this.over) this.controller.abort();
    return this.controller.signal;
  }

  end(): void {
    this.over = true;
    this.controller?.abort();
  }
}

/** What a listener is given beside the payload. */
class Delivery implements BackedDelivery {
  readonly eventId: string;
  readonly eventName: string;
  readonly #work: InWork;

  constructor(
    work: InWork,
    readonly attempt: number,
  ) {
    this.eventId = work.event.eventId;
    this.eventName = work.event.eventName;
    this.#work = work;
  }

  get traceparent(): string | undefined {
    return this.#work.event.traceparent ?? undefined;
  }

  get signal(): AbortSignal {
    return this.#work.signal;
  }
}

/** For work that nobody waits for: it rejects only where a logger throws, and that must not end the process. */
const nothing = (): void => undefined;

/** Pauses before an outcome is written again, in ms; the last one goes on. */
const MARK_RETRIES_MS = [100, 500, 1_000];

/**
 * Outcomes are sent no more often than this, in ms: the listeners' leases last thousands of times longer, and at some
 * hundred events a second a statement then records several.
 */
const MARK_SPACING_MS = 4;

/**
 * Renewals in the time of a lease. Of a finished listener, at least three quarters of it are then left in which no
 * other process starts it again: by default 22.5 s, longer than a failover or restart of the database.
 */
const RENEWALS_PER_LEASE = 4;

/** At most one line per this many ms about events that stay pending for want of room. */
const CAPACITY_LOG_MS = 5_000;

/** How many replays may wait for room; more are answered at once that there is none. */
const MAX_WAITING = 1_000;

/**
 * Runs listeners and keeps their record: claim, run each on its own, record each, close the event after the last.
 * Works on at most `maxInFlight` events, keeps a bounded number waiting, renews the leases of those in work, and waits
 * for all at shutdown. Never emits
 * on the event emitter: there a failing listener hides the outcome of its siblings.
 */
@Injectable()
export class Deliveries implements OnModuleInit, OnApplicationBootstrap, OnApplicationShutdown {
  private readonly logger = new Logger('Counterfoil');
  private readonly inWork = new Map<string, InWork>();
  private readonly queue: WaitingEvents;
  private readonly turns = new OrderedTurns();
  private readonly claims: StatementBatch<Claim, ClaimedListener[]>;
  private readonly marks: StatementBatch<Mark, Marked>;
  private readonly processId: string;
  private claimCount = 0;
  /** Whether every provider has been initialised: a listener called before might miss what its own start sets up. */
  private started = false;
  private phase: 'open' | 'draining' | 'closed' = 'open';
  private drained: Promise<void> | undefined;
  private renewal: NodeJS.Timeout | undefined;
  private readonly closing = new AbortController();
  private onIdle: (() => void) | undefined;
  private readonly roomWaiters = new Set<() => void>();
  private leftForRoom = 0;
  private capacityLoggedAt = Number.NEGATIVE_INFINITY;

  constructor(
    @Inject(OPTIONS) private readonly options: ResolvedOptions,
    @Inject(ListenerRegistry) private readonly registry: ListenerRegistry,
    @Inject(METRICS) private readonly metrics: EventMetrics,
  ) {
    const { driver, listenerLeaseMs } = options;
    this.queue = new WaitingEvents(options.maxWaiting, options.maxWaitingLength);
    this.processId = `${options.publishedBy ?? 'process'}/${randomUUID()}`;
    this.claims = new StatementBatch((claims) => claimListeners(driver, claims, listenerLeaseMs));
    this.marks = new StatementBatch((marks) => markListeners(driver, marks), MARK_SPACING_MS);
  }

  async onModuleInit(): Promise<void> {
    const everyMs = Math.ceil(this.options.listenerLeaseMs / RENEWALS_PER_LEASE);
    this.renewal = setInterval(() => void this.renew().catch(nothing), everyMs);
    this.renewal.unref();
    await findTraceApi();
  }

  /** Starts what was published while the application started: it has waited as for room. */
  onApplicationBootstrap(): void {
    this.started = true;
    const early = this.queue.clear();
    for (const event of early) this.emit(event);
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

  /** How many events just committed wait for room among those in work. */
  get waiting(): number {
    return this.queue.size;
  }

  /** Delivers an event just committed. Returns at once; what it cannot take stays pending for a replay. */
  emit(event: DeliverableEvent): void {
    const { eventId, eventName } = event;
    if (this.started && this.registry.listenersOf(eventName).length === 0) {
      this.metrics.leftPending(eventName, 'no_listener');
      this.logger.warn({ message: 'Event has no listener and stays pending', eventId, eventName });
      return;
    }
    if (this.inWork.has(eventId)) return;
    const work = this.takeRoom(event, true);
    if (work !== undefined) void this.claimAndRun(work, 'Event published').catch(nothing);
    else if (this.phase === 'closed' || !this.queue.add(event)) this.leaveForRoom(event);
  }

  /**
   * Takes room for an event whose commit is about to be sent, so that the same statement can claim its listeners;
   * undefined where there is none, or no listener. `deliver` or `cancel` follows.
   */
  reserve(event: DeliverableEvent): Reserved | undefined {
    if (this.inWork.has(event.eventId) || this.registry.listenersOf(event.eventName).length === 0) {
      return undefined;
    }
    const work = this.takeRoom(event, true);
    if (work !== undefined) work.leaseEndsAt = performance.now() + this.options.listenerLeaseMs;
    return work;
  }

  /** Delivers an event that was reserved: its commit is acknowledged, and with it the claim. Returns at once. */
  deliver(reserved: Reserved): void {
    const work = reserved as InWork;
    // The drain has ended meanwhile and has counted it.
    if (work.over) {
      this.release(work);
      return;
    }
    work.since = performance.now();
    void this.run(
      work,
      work.claim.listeners.map((listener) => ({ listener, attempt: 1 })),
      'Event published',
    );
  }

  /** Gives back the room of an event that was not committed, or whose commit's outcome is unknown. */
  cancel(reserved: Reserved): void {
    this.release(reserved as InWork);
  }

  /** Delivers an event as soon as there is room, and never rejects; gives up waiting, as `at_capacity`, when `signal` aborts. */
  async attemptWhenRoom(event: DeliverableEvent, signal: AbortSignal, onStart: () => void): Promise<Attempt> {
    while (!this.inWork.has(event.eventId) && !this.hasRoom() && this.phase !== 'closed' && !signal.aborted) {
      if (this.roomWaiters.size >= MAX_WAITING) return { kind: 'at_capacity' };
      const { promise, resolve } = deferred<void>();
      this.roomWaiters.add(resolve);
      signal.addEventListener('abort', () => resolve(), { once: true });
      await promise;
      this.roomWaiters.delete(resolve);
    }
    if (signal.aborted) {
      // It may have been woken for room that it does not take.
      this.fillRoom();
      return { kind: 'at_capacity' };
    }
    onStart();
    if (this.inWork.has(event.eventId)) {
      this.fillRoom();
      return { kind: 'in_flight' };
    }
    const work = this.takeRoom(event, false);
    return work === undefined ? { kind: 'at_capacity' } : await this.claimAndRun(work, 'Event replayed');
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
      const counts = { count: this.inWork.size, waiting: this.queue.size };
      this.logger.log({ message: 'Waiting for events in work', ...counts });
      const idle = deferred<void>();
      this.onIdle = idle.resolve;
      const deadline = setTimeout(idle.resolve, this.options.drainDeadlineMs);
      await idle.promise;
      clearTimeout(deadline);
    }
    this.phase = 'closed';
    this.closing.abort();
    for (const wake of this.roomWaiters) wake();
    clearInterval(this.renewal);
    const unstarted = this.queue.clear();
    for (const { eventName } of unstarted) this.metrics.leftPending(eventName, 'shutdown');
    this.metrics.drained(this.inWork.size + unstarted.length);
    if (this.inWork.size > 0 || unstarted.length > 0) {
      const left = [...this.inWork.values()];
      this.logger.error({
        message: 'Stopping with events in work; a replay takes them up',
        count: left.length,
        events: left.map(({ event: { eventId, eventName }, open }) => ({
          eventId,
          eventName,
          listeners: [...open.keys()],
        })),
        waiting: unstarted.map(({ eventId }) => eventId),
      });
      for (const work of left) {
        if (work.live && !work.over) this.metrics.leftPending(work.event.eventName, 'shutdown');
        work.end();
      }
    } else {
      this.logger.log({ message: 'Every event in work is done' });
    }
  }

  private hasRoom(): boolean {
    return this.started && this.inWork.size < this.options.maxInFlight;
  }

  /** Its place among the events in work and in the orders of its listeners; undefined where there is no room. */
  private takeRoom(event: DeliverableEvent, live: boolean): InWork | undefined {
    if (!this.hasRoom() || this.phase === 'closed') return undefined;
    this.claimCount += 1;
    const leaseOwner = `${this.processId}/${this.claimCount}`;
    const listeners = this.registry.listenersOf(event.eventName);
    const work = new InWork(event, listeners, leaseOwner, live);
    work.turns = this.turns.takeAll(listeners, event.payloadText);
    this.inWork.set(event.eventId, work);
    return work;
  }

  private async claimAndRun(work: InWork, message: string): Promise<Attempt> {
    const { eventId, eventName } = work.event;
    const sentAt = performance.now();
    let claimed: readonly ClaimedListener[];
    try {
      claimed = await this.claims.submit(work.claim);
    } catch (thrown) {
      const error = errorCode(thrown);
      this.countLeftPending(work, 'claim_failed');
      this.release(work);
      this.logger.error({
        message: 'Event could not be claimed and stays pending',
        eventId,
        eventName,
        error,
      });
      return { kind: 'claim_failed', error };
    }
    work.leaseEndsAt = sentAt + this.options.listenerLeaseMs;
    if (claimed.length === 0 || work.over) {
      this.release(work);
      return { kind: 'unclaimed' };
    }
    return await this.run(work, claimed, message);
  }

  /** Runs claimed listeners, each on its own, and never rejects. */
  private async run(work: InWork, claimed: readonly ClaimedListener[], message: string): Promise<Attempt> {
    const { eventId, eventName } = work.event;
    try {
      this.logger.log({ message, eventId, eventName });
      work.running = claimed.length;
      for (const { listener } of claimed) work.open.set(listener, undefined);
      // Those that are not to run now leave their turn to the next event.
      if (work.turns !== undefined) {
        for (const [name, turn] of work.turns) if (!work.open.has(name)) turn.end();
      }
      const [first] = claimed;
      if (first !== undefined && claimed.length === 1) await this.runAndRecord(work, first);
      else await Promise.all(claimed.map((one) => this.runAndRecord(work, one)));
      if (!work.started && !work.over) {
        this.countLeftPending(work, 'claim_failed');
        return { kind: 'claim_failed', error: 'lease_ran_out' };
      }
      const { failures, unrecorded } = work;
      if (!work.closed && !unrecorded && !work.over && failures.length === 0) {
        work.closed = await closeEvent(this.options.driver, eventId).catch(() => false);
      }
      if (work.closed) this.logger.log({ message: 'Event processed', eventId, eventName });
      this.countEnd(work);
      return { kind: 'ran', failures, closed: work.closed, unrecorded };
    } catch (thrown) {
      // Nothing above is meant to throw: a logger may.
      return { kind: 'claim_failed', error: errorCode(thrown) };
    } finally {
      this.release(work);
    }
  }

  private async runAndRecord(work: InWork, { listener: name, attempt }: ClaimedListener): Promise<void> {
    const listener = work.listeners.find((candidate) => candidate.name === name);
    if (listener === undefined) return;
    const turn = work.turns?.get(name);
    if (turn !== undefined) await turn.come;
    // Where the commit, the claim or the turn came later than the lease lasts, somebody else may run it by now.
    const isLate = performance.now() >= work.leaseEndsAt;
    if (work.over || isLate) {
      // Never started, and left to whoever takes the lease over.
      turn?.end();
      work.running -= 1;
      work.open.delete(name);
      work.unrecorded = true;
      if (!work.over) {
        const { eventId, eventName } = work.event;
        this.logger.warn({
          message: 'Listener not started: its lease has run out',
          eventId,
          eventName,
          listener: name,
        });
      }
      return;
    }
    work.started = true;
    work.open.set(name, performance.now());
    const failure = await this.runListener(work, listener, attempt);
    turn?.end();
    work.running -= 1;
    work.open.set(name, undefined);
    if (failure !== undefined) work.failures.push(failure);
    const marked = await this.record(work, {
      eventId: work.event.eventId,
      listener: name,
      leaseOwner: work.claim.leaseOwner,
      status: failure === undefined ? 'succeeded' : 'failed',
      error: failure?.error ?? null,
    });
    work.open.delete(name);
    if (marked === 'closed') work.closed = true;
    if (marked === 'lost') work.unrecorded = true;
  }

  private async runListener(
    work: InWork,
    listener: BackedListener,
    attempt: number,
  ): Promise<ListenerFailure | undefined> {
    const { eventId, eventName, payloadText, traceparent } = work.event;
    try {
      // Each listener gets its own copy, read back from the stored text: what it sees live is what a replay gives.
      const payload: unknown = JSON.parse(payloadText);
      const delivery = new Delivery(work, attempt);
      // A live delivery is in its trace already: it goes on in the caller's own asynchronous context.
      if (work.live) await listener.invoke(payload, delivery);
      else {
        const names = { eventId, eventName, listener: listener.name };
        await inLinkedSpan(traceparent, names, () => listener.invoke(payload, delivery));
      }
      if (!work.over) this.metrics.listenerRan(eventName, listener.name, 'succeeded');
      return undefined;
    } catch (thrown) {
      if (!work.over) this.metrics.listenerRan(eventName, listener.name, 'failed');
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
    const held: InWork[] = [];
    for (const work of this.inWork.values()) {
      const late = [...work.open]
        .filter(([, startedAt]) => startedAt !== undefined && now - startedAt >= listenerDeadlineMs)
        .map(([name]) => name);
      if (late.length > 0) this.giveUp(work, late);
      else if (work.running > 0) held.push(work);
    }
    if (held.length === 0) return;
    try {
      const renewed = await renewLeases(
        driver,
        held.map(({ claim }) => claim),
        listenerLeaseMs,
      );
      // Not those that somebody else has taken over.
      for (const work of held) {
        if (renewed.has(work.claim.leaseOwner)) work.leaseEndsAt = now + listenerLeaseMs;
      }
    } catch (error) {
      this.logger.warn({
        message: 'Leases could not be renewed',
        count: held.length,
        error: errorCode(error),
      });
    }
  }

  /**
   * Past its deadline a listener's outcome is unknown, and never failed: it may still end well, and is then recorded
   * unless somebody has taken its lease over. It may as well hang for ever: without its lease the event counts as
   * lost, is replayed elsewhere and is seen by alerts.
   */
  private giveUp(work: InWork, late: readonly string[]): void {
    const { eventId, eventName } = work.event;
    for (const [name, startedAt] of work.open) {
      if (startedAt !== undefined) this.metrics.listenerRan(eventName, name, 'given_up');
    }
    this.metrics.processed(eventName, 'outcome_unknown');
    this.countLeftPending(work, 'given_up');
    work.end();
    for (const name of late) work.turns?.get(name)?.end();
    this.release(work);
    this.logger.error({
      message: 'Listener runs past its deadline; its lease is given up',
      eventId,
      eventName,
      listeners: late,
    });
  }

  /** Counts how a delivery ended, unless it was counted when it was given up or left by the drain. */
  private countEnd(work: InWork): void {
    if (work.over || !work.started) return;
    const { eventName } = work.event;
    if (work.closed) {
      this.metrics.processed(eventName, 'processed');
      this.metrics.duration(eventName, (performance.now() - work.since) / 1_000);
    } else if (work.failures.length > 0) {
      this.metrics.processed(eventName, 'failed');
      this.countLeftPending(work, 'listener_failed');
    } else if (work.unrecorded) {
      this.metrics.processed(eventName, 'outcome_unknown');
      this.countLeftPending(work, 'unrecorded');
    } else {
      this.metrics.processed(eventName, 'incomplete');
      this.countLeftPending(work, 'incomplete');
    }
  }

  private countLeftPending(work: InWork, reason: LeftPendingReason): void {
    if (work.live && !work.over) this.metrics.leftPending(work.event.eventName, reason);
  }

  private release(work: InWork): void {
    if (this.inWork.get(work.event.eventId) !== work) return;
    this.inWork.delete(work.event.eventId);
    // Of an event that never ran. To end a turn twice does nothing.
    if (work.turns !== undefined && !work.started) for (const turn of work.turns.values()) turn.end();
    this.fillRoom();
    if (this.inWork.size === 0) this.onIdle?.();
  }

  /** One place is free: for the event that has waited longest, else for a replay. */
  private fillRoom(): void {
    while (this.hasRoom() && this.phase !== 'closed') {
      const next = this.queue.take();
      if (next === undefined) {
        this.wakeRoomWaiter();
        return;
      }
      // A replay may have been faster.
      if (this.inWork.has(next.event.eventId)) continue;
      const work = this.takeRoom(next.event, true);
      if (work === undefined) return;
      work.since = next.since;
      void this.claimAndRun(work, 'Event published').catch(nothing);
    }
  }

  /** The replay that waits longest may try. */
  private wakeRoomWaiter(): void {
    const [wake] = this.roomWaiters;
    if (wake === undefined) return;
    this.roomWaiters.delete(wake);
    wake();
  }

  private leaveForRoom({ eventName }: DeliverableEvent): void {
    this.metrics.leftPending(eventName, this.phase === 'closed' ? 'shutdown' : 'overload');
    this.leftForRoom += 1;
    const now = performance.now();
    if (now - this.capacityLoggedAt < CAPACITY_LOG_MS) return;
    this.logger.warn({
      message: 'No room for more events; they stay pending for a replay',
      count: this.leftForRoom,
    });
    this.capacityLoggedAt = now;
    this.leftForRoom = 0;
  }
}
