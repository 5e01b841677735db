import { Inject, Injectable, Logger, ServiceUnavailableException } from '@nestjs/common';
import { type Attempt, Deliveries } from './deliveries.js';
import { errorCode } from './error-code.js';
import { ListenerRegistry } from './listener-registry.js';
import { type EventMetrics, METRICS } from './metrics.js';
import { isAccepted, OPTIONS, type ResolvedOptions } from './options.js';
import type { ReplayRequest } from './replay-request.js';
import {
  closeEvent,
  type EventState,
  type StoredEvent,
  selectEventState,
  selectEvents,
} from './statements.js';

/** What a replay can answer for an event, each with its meaning. */
export const REPLAY_OUTCOMES = {
  processed: 'every listener has now succeeded',
  already_processed: 'every listener had succeeded before; nothing was run',
  in_flight:
    'a listener runs under a live lease, or this request started none: no room (error at_capacity), or the database failed before (error: its code) or gave the lease too late (error lease_ran_out). Ask again later',
  not_found: 'there is no such event',
  no_listener: 'no listener of this version takes the event; another digest of listeners may',
  unknown_version: 'listeners take another version of this event, none takes this one',
  invalid_payload: 'the stored payload has not the form its listeners expect',
  outcome_unknown:
    'a listener still runs at the deadline, or its outcome or that of the event could not be recorded: ask again later',
  failed: 'a listener failed; retryable says whether trying again may help',
} as const;

/** One of the words in REPLAY_OUTCOMES. */
export type ReplayOutcome = keyof typeof REPLAY_OUTCOMES;

/**
 * The response header of a refusal after which nothing was started and asking again may help: it tells the service's
 * own 503 from that of a proxy, behind which a listener may have run.
 */
export const NOT_STARTED_HEADER = { name: 'counterfoil-outcome', value: 'not-started' } as const;

/** Nothing was started, and asking again may help: 503 with NOT_STARTED_HEADER. */
export class NotStartedException extends ServiceUnavailableException {}

/** The answer for one event. */
export interface ReplayResult {
  eventId: string;
  outcome: ReplayOutcome;
  retryable?: boolean;
  /** A class or code; never a message. */
  error?: string;
}

/** The answer to a request: exactly one result per distinct id. */
export interface ReplayAnswer {
  serviceVersion: string;
  /** Changes when a listener comes, goes or takes another event: what had no listener may have one now. */
  listenersDigest: string;
  results: ReplayResult[];
}

type Finding = Omit<ReplayResult, 'eventId'>;

/** Kept back from the deadline for writing the answer, as a share and at most in ms. */
const ANSWER_SHARE = 0.1;
const ANSWER_MAX_MS = 250;

/** The time one request has: its answer must be sent when it is over. */
export class ReplayTime {
  private readonly controller = new AbortController();
  private readonly timer: NodeJS.Timeout;
  /** Resolves, with nothing, when the time is over. */
  readonly expired: Promise<undefined>;

  constructor(deadlineMs: number) {
    const budgetMs = deadlineMs - Math.min(ANSWER_MAX_MS, Math.round(deadlineMs * ANSWER_SHARE));
    this.timer = setTimeout(() => this.controller.abort(), budgetMs);
    this.expired = new Promise((resolve) => {
      this.signal.addEventListener('abort', () => resolve(undefined), { once: true });
    });
  }

  get signal(): AbortSignal {
    return this.controller.signal;
  }

  end(): void {
    clearTimeout(this.timer);
    this.controller.abort();
  }
}

/** Runs the listeners that have not succeeded yet, of the events asked for, and answers within the deadline. */
@Injectable()
export class Replay {
  private readonly logger = new Logger('Counterfoil');

  constructor(
    @Inject(OPTIONS) private readonly options: ResolvedOptions,
    @Inject(ListenerRegistry) private readonly registry: ListenerRegistry,
    @Inject(Deliveries) private readonly deliveries: Deliveries,
    @Inject(METRICS) private readonly metrics: EventMetrics,
  ) {}

  /**
   * Replays up to 100 events at once. What still runs at the deadline goes on under its lease and is answered
   * `outcome_unknown`. Throws
   * NotStartedException when the service is stopping or its database does not answer; nothing ran then.
   */
  async run({ eventIds, deadlineMs, dryRun, idempotencyKey }: ReplayRequest): Promise<ReplayAnswer> {
    const time = this.begin(deadlineMs);
    try {
      const stored = await this.readInTime(time, selectEvents(this.options.driver, eventIds));
      const results = await this.settle(eventIds, stored, dryRun, time);
      this.logger.log({
        message: 'Replay answered',
        idempotencyKey,
        dryRun,
        counts: countOutcomes(results),
      });
      return { ...this.identity(), results };
    } finally {
      time.end();
    }
  }

  /** Starts the clock of a request; throws NotStartedException when the service is stopping. */
  begin(deadlineMs: number): ReplayTime {
    if (this.deliveries.stopping) throw new NotStartedException('the service is stopping: ask another pod');
    return new ReplayTime(deadlineMs);
  }

  /** Which version answers, and with which listeners. */
  identity(): Pick<ReplayAnswer, 'serviceVersion' | 'listenersDigest'> {
    return { serviceVersion: this.options.serviceVersion, listenersDigest: this.registry.digest() };
  }

  /** Waits for something read before any listener is started; throws NotStartedException where it does not come. */
  async readInTime<Result>(time: ReplayTime, reading: Promise<Result>): Promise<Result> {
    let found: { result: Result } | undefined;
    try {
      found = await Promise.race([reading.then((result) => ({ result })), time.expired]);
    } catch (error) {
      this.logger.error({ message: 'Events could not be read for a replay', error: errorCode(error) });
      throw new NotStartedException('the database did not answer: nothing was run');
    }
    if (found === undefined)
      throw new NotStartedException('the database did not answer in time: nothing was run');
    return found.result;
  }

  /** One result per id: runs what can be run of the stored events, or says what it would meet. */
  async settle(
    eventIds: readonly string[],
    stored: readonly StoredEvent[],
    dryRun: boolean,
    time: ReplayTime,
  ): Promise<ReplayResult[]> {
    const byId = new Map(stored.map((event) => [event.eventId, event]));
    const results = await Promise.all(
      eventIds.map(async (eventId): Promise<ReplayResult> => {
        const event = byId.get(eventId);
        if (event === undefined) return { eventId, outcome: 'not_found' };
        const finding =
          this.judge(event) ??
          (dryRun
            ? await this.foresee(event, time.expired)
            : await this.replay(event, time.signal, time.expired));
        return { eventId, ...finding };
      }),
    );
    if (!dryRun) for (const { outcome } of results) this.metrics.replayed(outcome);
    return results;
  }

  /** What can be said without running anything; undefined for an event that can be run. */
  private judge(event: StoredEvent): Finding | undefined {
    if (event.status === 'processed') return { outcome: 'already_processed' };
    if (this.registry.listenersOf(event.eventName).length === 0) {
      return { outcome: this.registry.hasOtherVersion(event.eventName) ? 'unknown_version' : 'no_listener' };
    }
    if (!isAccepted(this.options, event.eventName, event.payloadText)) return { outcome: 'invalid_payload' };
    return undefined;
  }

  private async replay(
    event: StoredEvent,
    signal: AbortSignal,
    expired: Promise<undefined>,
  ): Promise<Finding> {
    let started = false;
    const work = this.deliveries
      .attemptWhenRoom(event, signal, () => {
        started = true;
      })
      .then((attempt) => this.describe(event, attempt));
    const finding = await Promise.race([this.orUnknown(event, work), expired]);
    return finding ?? (started ? UNANSWERED : NO_ROOM);
  }

  private async describe(event: StoredEvent, attempt: Attempt): Promise<Finding> {
    switch (attempt.kind) {
      case 'in_flight':
        return { outcome: 'in_flight', retryable: true };
      case 'at_capacity':
        return NO_ROOM;
      case 'claim_failed':
        return { outcome: 'in_flight', retryable: true, error: attempt.error };
      case 'unclaimed':
        try {
          return await this.explain(event);
        } catch (thrown) {
          // Nothing was started, so that nothing is unknown but the state.
          return { outcome: 'in_flight', retryable: true, error: this.noteFailure(event, thrown) };
        }
      case 'ran': {
        const [first] = attempt.failures;
        if (first !== undefined) {
          return {
            outcome: 'failed',
            retryable: attempt.failures.some(({ retryable }) => retryable),
            error: first.error,
          };
        }
        if (attempt.unrecorded)
          return { outcome: 'outcome_unknown', retryable: true, error: 'outcome_not_recorded' };
        if (attempt.closed) return { outcome: 'processed' };
        const finding = await this.explain(event);
        return finding.outcome === 'already_processed' ? { outcome: 'processed' } : finding;
      }
    }
  }

  /** Why an event is not closed although nothing of it was left for this process to run. */
  private async explain(event: StoredEvent): Promise<Finding> {
    const { driver } = this.options;
    const finding = this.interpret(event, await selectEventState(driver, event.eventId));
    if (finding !== undefined) return finding;
    if (await closeEvent(driver, event.eventId)) return { outcome: 'already_processed' };
    // Somebody else was faster, or the row cannot be changed: only what stands there now is certain.
    const then = this.interpret(event, await selectEventState(driver, event.eventId));
    return then ?? { outcome: 'outcome_unknown', retryable: true, error: 'event_not_closed' };
  }

  /** What a state says about its event; undefined where every listener has succeeded and only closing is left. */
  private interpret(event: StoredEvent, state: EventState | undefined): Finding | undefined {
    if (state === undefined) return { outcome: 'not_found' };
    if (state.status === 'processed') return { outcome: 'already_processed' };
    if (state.running.length > 0) return { outcome: 'in_flight', retryable: true };
    const own = new Set(this.registry.listenersOf(event.eventName).map(({ name }) => name));
    if (state.open.some((listener) => own.has(listener))) return { outcome: 'in_flight', retryable: true };
    // Another version's listener has not succeeded: only that version can say that the event is processed.
    if (state.open.length > 0) return { outcome: 'no_listener', error: 'listener_not_registered' };
    return undefined;
  }

  /** What a replay would meet, without running or writing anything. */
  private async foresee(event: StoredEvent, expired: Promise<undefined>): Promise<Finding> {
    const look = async (): Promise<Finding> => {
      const state = await selectEventState(this.options.driver, event.eventId);
      if (state === undefined) return { outcome: 'not_found' };
      if (state.status === 'processed') return { outcome: 'already_processed' };
      if (state.running.length > 0) return { outcome: 'in_flight', retryable: true };
      return { outcome: 'outcome_unknown', retryable: true, error: 'dry_run' };
    };
    return (await Promise.race([this.orUnknown(event, look()), expired])) ?? UNANSWERED;
  }

  /** A database that fails in the middle leaves the outcome of this event unknown, and those of the others alone. */
  private async orUnknown(event: StoredEvent, work: Promise<Finding>): Promise<Finding> {
    try {
      return await work;
    } catch (thrown) {
      return { outcome: 'outcome_unknown', retryable: true, error: this.noteFailure(event, thrown) };
    }
  }

  /** Logs what kept an event from being answered and gives its code. */
  private noteFailure({ eventId, eventName }: StoredEvent, thrown: unknown): string {
    const error = errorCode(thrown);
    this.logger.error({ message: 'Event could not be replayed', eventId, eventName, error });
    return error;
  }
}

/** How many results there are of each outcome, for the log. */
export function countOutcomes(results: readonly ReplayResult[]): Partial<Record<ReplayOutcome, number>> {
  const counts: Partial<Record<ReplayOutcome, number>> = {};
  for (const { outcome } of results) counts[outcome] = (counts[outcome] ?? 0) + 1;
  return counts;
}

const UNANSWERED: Finding = { outcome: 'outcome_unknown', retryable: true, error: 'deadline' };
const NO_ROOM: Finding = { outcome: 'in_flight', retryable: true, error: 'at_capacity' };
