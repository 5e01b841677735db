import { Logger } from '@nestjs/common';
import { errorCode } from './error-code.js';
import type { ReplayOutcome } from './replay.js';

// What the module counts, and when. The interface names no metrics library: `@counterfoil/nestjs/prom-client` is one
// implementation. Every label value is one of a closed set of words, or a name known at start.

/** How a call of `publish` ended: values of `status` in `event_published_total`. */
export const PUBLISHED_STATUSES = {
  committed: 'its transaction was committed, by the database’s answer; listeners are started next',
  refused: 'not published: its name, id, payload or transaction was refused, nothing was sent',
  failed: 'not published: the database refused the row or did not answer',
} as const;

/** How listeners run by this process left an event: values of `status` in `event_processed_total`. */
export const PROCESSED_STATUSES = {
  processed: 'every listener has succeeded and the row says so',
  failed: 'a listener failed; the row stays pending',
  incomplete: 'every listener run here succeeded; another process has one left or has closed the row itself',
  outcome_unknown: 'a listener ran, and how it ended could not be recorded or it never ended',
} as const;

/** Why an event that this process published stays pending: values of `reason` in `counterfoil_event_left_pending_total`. */
export const LEFT_PENDING_REASONS = {
  no_listener: 'no listener of this version takes it',
  overload: 'no room beside those in flight',
  claim_failed:
    'the database refused or lost the claim, or gave it later than the lease lasts; no listener ran',
  listener_failed: 'at least one listener failed',
  incomplete: 'a listener of another process is left',
  unrecorded: 'an outcome could not be written while the lease lasted',
  given_up: 'a listener ran past its deadline',
  shutdown: 'the process stopped before its listeners had finished',
} as const;

/** How a run of one listener ended: values of `outcome` in `counterfoil_listener_runs_total`. */
export const LISTENER_OUTCOMES = {
  succeeded: 'it resolved',
  failed: 'it threw or rejected',
  given_up:
    'it ran past its deadline and its lease was given up; should it end after all, that is not counted',
} as const;

/** What came of asking the service for a rebuild: values of `outcome` in `counterfoil_rebuilds_total`. */
export const REBUILD_OUTCOMES = {
  rebuilt: 'the service gave the event anew and it was delivered',
  not_found: 'the service has no such fact',
  not_needed: 'its bill stands',
  refused: 'a machine must not rebuild it',
  failed: 'the rebuild function or the database failed',
} as const;

/** A word of PUBLISHED_STATUSES. */
export type PublishedStatus = keyof typeof PUBLISHED_STATUSES;
/** A word of PROCESSED_STATUSES. */
export type ProcessedStatus = keyof typeof PROCESSED_STATUSES;
/** A word of LEFT_PENDING_REASONS. */
export type LeftPendingReason = keyof typeof LEFT_PENDING_REASONS;
/** A word of LISTENER_OUTCOMES. */
export type ListenerOutcome = keyof typeof LISTENER_OUTCOMES;
/** A word of REBUILD_OUTCOMES. */
export type RebuildOutcome = keyof typeof REBUILD_OUTCOMES;

/** The label value of every event name that was not known at start: a caller's typing error makes no new series. */
export const UNDECLARED_EVENT = 'undeclared';

/** What is known at start, so that every label set exists at 0 before anything happens. */
export interface MetricsDeclaration {
  serviceVersion: string;
  /** How many events may be in flight. */
  maxInFlight: number;
  /** Each event type with the names of its listeners; the last one is UNDECLARED_EVENT with none. */
  events: readonly { readonly eventType: string; readonly listeners: readonly string[] }[];
  /** Events in work now, live and replayed; to be read when metrics are asked for. */
  inFlight(): number;
  /** Events committed that wait for room among them. */
  waiting(): number;
}

/**
 * Where the module reports to. All methods are synchronous and are called on the hot path, so that they must only
 * count. Every event type is a declared one or UNDECLARED_EVENT. What a method throws is logged once and goes no further.
 *
 * Of the events that one process publishes, counted by type over its life:
 * `published committed = processed live + left pending + in flight + waiting`, except for rows that never came to be (a savepoint
 * rolled back inside a committed transaction). The share `left pending / committed` is the loss of a version in its own
 * process: both sides come from one scrape. What dies with the process is in no counter: rows overdue in SQL say that.
 */
export interface EventMetrics {
  /** Once, when all listeners are known, before the first request is served. */
  declare(declaration: MetricsDeclaration): void;
  /**
   * Exactly once for each call of `publish`: `refused` where it throws before anything is sent, `failed` where the
   * statement rejects, `committed` in the callback after the commit. None for a transaction that was rolled back or
   * whose outcome is unknown, nor for an event that a replay has had rebuilt. `event_published_total`; all but `committed` count in `event_publish_error_total` too.
   */
  published(eventType: string, status: PublishedStatus): void;
  /**
   * Once for each delivery, live or replayed, in which at least one listener was started here: when the last of them
   * has ended and been recorded; or `outcome_unknown`, once, when its lease is given up at the listener's deadline.
   */
  processed(eventType: string, status: ProcessedStatus): void;
  /**
   * With each `processed(…, 'processed')`: seconds from the acknowledged commit (of a replay: from the claim) to the
   * row being processed. `event_duration_seconds`
   */
  duration(eventType: string, seconds: number): void;
  /**
   * Once for each event published by this process whose live delivery ends with the row pending (replays never):
   * from `emit` for `no_listener` and `overload`, else at the end of the attempt; `shutdown` for those the drain leaves,
   * instead of and not beside another reason.
   */
  leftPending(eventType: string, reason: LeftPendingReason): void;
  /** Once for each start of a listener, live or replayed, when it ends or is given up. */
  listenerRan(eventType: string, listener: string, outcome: ListenerOutcome): void;
  /** At the end of a drain, with the number of events still in work, live and replayed; 0 where all were done. */
  drained(left: number): void;
  /** For each result of a replay that was answered, dry runs left out. */
  replayed(outcome: ReplayOutcome): void;
  /** For each call of the service's rebuild function, dry runs left out. */
  rebuilt(outcome: RebuildOutcome): void;
}

/** Counts nothing. */
export const NO_METRICS: EventMetrics = {
  declare() {},
  published() {},
  processed() {},
  duration() {},
  leftPending() {},
  listenerRan() {},
  drained() {},
  replayed() {},
  rebuilt() {},
};

/** Injection token of the metrics as the module itself calls them: a `BoundedMetrics`. */
export const METRICS = Symbol('counterfoil:metrics');

/**
 * Stands between the module and an implementation: unknown event names become UNDECLARED_EVENT, and an implementation
 * that throws can neither fail a publish nor lose an event.
 */
export class BoundedMetrics implements EventMetrics {
  private readonly logger = new Logger('Counterfoil');
  private known: ReadonlySet<string>;
  private complained = false;

  /** @param publishes names known before the listeners are */
  constructor(
    private readonly target: EventMetrics,
    publishes: readonly string[] = [],
  ) {
    this.known = new Set(publishes);
  }

  declare(declaration: MetricsDeclaration): void {
    const events = [
      ...declaration.events.filter(({ eventType }) => eventType !== UNDECLARED_EVENT),
      { eventType: UNDECLARED_EVENT, listeners: [] },
    ];
    this.known = new Set(events.map(({ eventType }) => eventType));
    this.count(() => this.target.declare({ ...declaration, events }));
  }

  published(eventType: string, status: PublishedStatus): void {
    this.count(() => this.target.published(this.bounded(eventType), status));
  }

  processed(eventType: string, status: ProcessedStatus): void {
    this.count(() => this.target.processed(this.bounded(eventType), status));
  }

  duration(eventType: string, seconds: number): void {
    this.count(() => this.target.duration(this.bounded(eventType), seconds));
  }

  leftPending(eventType: string, reason: LeftPendingReason): void {
    this.count(() => this.target.leftPending(this.bounded(eventType), reason));
  }

  listenerRan(eventType: string, listener: string, outcome: ListenerOutcome): void {
    this.count(() => this.target.listenerRan(this.bounded(eventType), listener, outcome));
  }

  drained(left: number): void {
    this.count(() => this.target.drained(left));
  }

  replayed(outcome: ReplayOutcome): void {
    this.count(() => this.target.replayed(outcome));
  }

  rebuilt(outcome: RebuildOutcome): void {
    this.count(() => this.target.rebuilt(outcome));
  }

  private bounded(eventType: string): string {
    return this.known.has(eventType) ? eventType : UNDECLARED_EVENT;
  }

  private count(call: () => void): void {
    try {
      call();
    } catch (thrown) {
      if (this.complained) return;
      this.complained = true;
      this.logger.error({ message: 'Metrics failed and are incomplete', error: errorCode(thrown) });
    }
  }
}
