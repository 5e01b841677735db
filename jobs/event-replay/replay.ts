/**
 * The work of one run: claim -> start -> POST -> record, with calls in flight on every lane and no barrier
 * between batches. It only moves events along; what becomes of one is decided in decide.ts.
 * It never sends an event whose claim may have run out, and never keeps one that it will not send.
 */
import type { Database } from '../runtime/database.ts';
import { RunFailure } from '../runtime/failures.ts';
import type { Logger } from '../runtime/logger.ts';
import { pause } from '../runtime/pause.ts';
import type { CheckPlans } from './check-plans.ts';
import { readLongestLease, startCalls } from './claim-queries.ts';
import { Claims, type ClaimsSettings, type HeldEvent } from './claims.ts';
import type { ReplayCounts } from './counts.ts';
import type { Policy } from './decide.ts';
import type { EventsTable } from './events-table.ts';
import type { Intake } from './intake.ts';
import { ListenerOffers } from './listener-offers.ts';
import type { CallResult, EventAnswer, Publisher } from './publisher.ts';
import { NO_CLEAR_ANSWER } from './statement-parts.ts';
import { Verdicts } from './verdicts.ts';
import { Wakeup } from './wakeup.ts';

export interface ReplaySettings {
  readonly mode: 'once' | 'continuous';
  readonly lanes: number;
  readonly batchSize: number;
  readonly claimSize: number;
  /** The most events to send; 0: no limit. */
  readonly limit: number;
  readonly pollMs: number;
  /** How long calls in flight may go on after `stop`. */
  readonly drainMs: number;
  /** Whether events beside those named may be taken up: only then is a new listener looked for. */
  readonly looksForMore: boolean;
  readonly policy: Policy;
  readonly claims: ClaimsSettings;
}

export interface ReplayContext {
  readonly database: Database;
  readonly logger: Logger;
  readonly events: EventsTable;
  readonly publisher: Publisher;
  readonly intake: Intake;
  readonly plans: CheckPlans;
  readonly counts: ReplayCounts;
  /** SIGTERM, or the lease of the run is lost: take nothing new, finish, give back. */
  readonly stop: AbortSignal;
}

/** Why a run came to its end. */
export type ReplayEnd = 'nothing_due' | 'limit_reached' | 'no_progress' | 'stopped';

interface Call {
  readonly events: readonly HeldEvent[];
  readonly idempotencyKey: string;
}

/** First pause of the intake, and shortest of all. */
const SHORTEST_PAUSE_MS = 250;
/** First pause while the endpoint is down; doubled up to the longest transport backoff. */
const FIRST_OUTAGE_PAUSE_MS = 1_000;
/** Waits end here even when nobody rings, so that a missed ring costs a second and not a run. */
const LONGEST_WAIT_MS = 1_000;
/** Past the end of a lease, so that the statement that looks for ended ones meets it. */
const LEASE_END_MARGIN_MS = 20;

export class Replay {
  readonly #settings: ReplaySettings;
  readonly #context: ReplayContext;
  readonly #claims: Claims;
  readonly #verdicts: Verdicts;
  readonly #offers: ListenerOffers;
  readonly #ready: Call[] = [];
  /** Events whose last call had no clear end: sent alone and one at a time, so that one of them harms no other. */
  readonly #suspects: HeldEvent[] = [];
  /** Rung when a call has ended: there may be room. */
  readonly #room = new Wakeup();
  /** Rung when there may be something to claim. */
  readonly #news = new Wakeup();
  readonly #hardStop = new AbortController();
  /** Aborted when this run ends, whatever the reason: the intake waits no longer. */
  readonly #ended = new AbortController();
  #ahead: Promise<HeldEvent[]> | undefined;
  #inFlight = 0;
  #suspectInFlight = false;
  #crashSuspectInFlight = false;
  /** Between two events that may crash the service, every lane has had a call. */
  #callsBeforeCrashSuspect = 0;
  #trial = false;
  #failure: unknown;
  #lookedAround = false;
  #walkEnded = false;
  /** Grows whenever something happened after which a claim may find more. */
  #changes = 0;
  #toClaim: number;
  #callNumber = 0;
  #answeredCalls = 0;
  #lastCall: CallResult | undefined;
  #outages = 0;
  #othersAwaited = false;

  constructor(settings: ReplaySettings, context: ReplayContext) {
    this.#settings = settings;
    this.#context = context;
    this.#toClaim = settings.limit === 0 ? Number.POSITIVE_INFINITY : settings.limit;
    this.#claims = new Claims(
      context.database,
      context.logger,
      settings.claims,
      context.counts,
      () => this.#changed(),
      this.#hardStop.signal,
    );
    const { counts, logger, plans } = context;
    this.#verdicts = new Verdicts(settings.policy, { claims: this.#claims, counts, logger, plans });
    this.#offers = new ListenerOffers({
      database: context.database,
      logger,
      counts,
      claims: this.#claims,
      mustStop: () => this.#mustStop(),
      onUnparked: () => this.#changed(),
      onFailure: (error) => this.#fail(error),
    });
  }

  /**
   * Works until nothing is due (`once`), the limit is reached, or `stop`. Leaves nothing claimed that can be
   * given back, whatever the end.
   * @throws RunFailure `endpoint_down` (once), `endpoint_refused`, or what the database reports
   */
  async run(): Promise<ReplayEnd> {
    const { stop } = this.#context;
    let deadline: NodeJS.Timeout | undefined;
    const onStop = () => {
      deadline = setTimeout(() => this.#hardStop.abort(), this.#settings.drainMs);
      this.#ringAll();
    };
    if (stop.aborted) onStop();
    else stop.addEventListener('abort', onStop, { once: true });
    const intake = this.#takeIn();
    let end: ReplayEnd = 'stopped';
    try {
      end = await this.#feed();
    } catch (error) {
      this.#fail(error);
    }
    try {
      await this.#close(intake);
    } finally {
      stop.removeEventListener('abort', onStop);
      clearTimeout(deadline);
    }
    if (this.#failure !== undefined) throw this.#failure;
    if (end !== 'stopped') this.#checkEndpoint();
    return end;
  }

  /** Claims, starts and hands over to the lanes, until there is a reason to end. */
  async #feed(): Promise<ReplayEnd> {
    let claimedInVain = 0;
    let settledBefore = -1;
    // What is oldest is known only when the first page has been looked at.
    while (!this.#lookedAround && !this.#mustStop()) await this.#news.wait(LONGEST_WAIT_MS);
    while (!this.#mustStop()) {
      if (this.#context.publisher.endpoint() === 'down') {
        await this.#sitOutOutage();
        continue;
      }
      this.#outages = 0;
      if (this.#toClaim <= 0) {
        if (!this.#isBusy()) return 'limit_reached';
        await this.#room.wait(LONGEST_WAIT_MS);
        continue;
      }
      if (!this.#claims.healthy || this.#ready.length >= this.#reserve()) {
        await this.#room.wait(LONGEST_WAIT_MS);
        continue;
      }
      const changes = this.#changes;
      const events = await this.#takeClaim();
      if (events.length === 0) {
        if (await this.#isEnd(changes)) return 'nothing_due';
        continue;
      }
      const settled = this.#settled();
      claimedInVain = settled === settledBefore ? claimedInVain + events.length : 0;
      settledBefore = settled;
      if (claimedInVain > this.#mostInHand() && this.#settings.mode === 'once') {
        await this.#claims.release(events);
        return 'no_progress';
      }
      await this.#admit(events);
    }
    return 'stopped';
  }

  /** The claim that was made ahead, or a new one; after a full one, the next is made while the lanes work. */
  async #takeClaim(): Promise<HeldEvent[]> {
    const ahead = this.#ahead;
    this.#ahead = undefined;
    const asked = this.#claimLimit();
    const events = await (ahead ?? this.#claims.claim(asked, this.#takesSuspects()));
    this.#toClaim -= events.length;
    if (events.length >= this.#settings.claimSize && this.#toClaim > 0 && !this.#mustStop()) {
      this.#ahead = this.#claims.claim(this.#claimLimit(), this.#takesSuspects());
      // Its failure is met where it is awaited.
      this.#ahead.catch(() => undefined);
    }
    return events;
  }

  /** Calls that are begun in advance: one claim of them, so that no lane waits for the database. */
  #reserve(): number {
    const { lanes, batchSize, claimSize } = this.#settings;
    return Math.max(lanes, Math.ceil(claimSize / batchSize));
  }

  #claimLimit(): number {
    return Math.min(this.#settings.claimSize, this.#toClaim);
  }

  #takesSuspects(): boolean {
    return this.#suspects.length < this.#settings.claimSize;
  }

  /** Whether an empty claim is the end; if it is not, waits for a reason to claim again. */
  async #isEnd(changes: number): Promise<boolean> {
    if (this.#isBusy()) {
      if (this.#inFlight === 0) this.#claims.recordNow();
      await this.#news.wait(LONGEST_WAIT_MS);
      return false;
    }
    await this.#offers.settled();
    if (this.#changes !== changes) return false;
    if (this.#settings.mode === 'once') {
      if (!this.#walkEnded) {
        await this.#news.wait(LONGEST_WAIT_MS);
        return false;
      }
      return !(await this.#probe()) && !(await this.#awaitOthers());
    }
    if (!(await this.#probe())) await this.#news.wait(this.#settings.pollMs);
    return false;
  }

  /** Sorts claimed events: parked before any call, kept back to be sent alone, or started and made ready. */
  async #admit(events: readonly HeldEvent[]): Promise<void> {
    const plain: HeldEvent[] = [];
    for (const event of events) {
      const decision = this.#verdicts.decide(event, undefined);
      if (decision.next !== 'replay') this.#verdicts.record(event, decision, undefined, undefined);
      else if (event.row.unfinished_calls > 0 || event.row.last_outcome === NO_CLEAR_ANSWER)
        this.#suspects.push(event);
      else plain.push(event);
    }
    const started = await this.#start(plain);
    for (let start = 0; start < started.length; start += this.#settings.batchSize) {
      this.#ready.push(this.#callOf(started.slice(start, start + this.#settings.batchSize)));
    }
    if (this.#mustStop()) return;
    this.#dispatch();
  }

  /** Marks the calls as begun; what is no longer pending is done, what is no longer ours is left out. */
  async #start(claimed: readonly HeldEvent[]): Promise<HeldEvent[]> {
    const events = this.#mustStop() ? claimed : await this.#verdicts.withoutChangedFacts(claimed);
    const [first] = events;
    if (first === undefined || this.#mustStop()) {
      await this.#claims.release(events);
      return [];
    }
    const { counts, database, logger } = this.#context;
    counts.start_statements += 1;
    const found = new Map<string, string>(
      (
        await startCalls(
          database,
          this.#context.events,
          first.token,
          events.map(({ row }) => row.event_id),
        )
      ).map((row) => [row.event_id, row.backup_status] as const),
    );
    return events.filter((event) => {
      const { event_id: eventId, event_name: eventName } = event.row;
      const status = found.get(eventId);
      if (status === 'pending') return true;
      this.#claims.forget(event);
      this.#changes += 1;
      if (status === undefined) {
        counts.unrecorded += 1;
        logger.warn({ eventId }, 'a claim has gone to someone else before its call');
      } else if (status === 'processed') {
        counts.already_processed += 1;
        logger.info({ eventId, eventName }, 'event was processed meanwhile: it is not sent');
      } else {
        counts.gone += 1;
        logger.warn({ eventId, eventName, status }, 'an event is not pending any more: nothing to replay');
      }
      return false;
    });
  }

  #callOf(events: readonly HeldEvent[]): Call {
    this.#callNumber += 1;
    return { events, idempotencyKey: `${events[0]?.token}:${this.#callNumber}` };
  }

  /** Fills the lanes. */
  #dispatch(): void {
    const { lanes } = this.#settings;
    while (this.#inFlight < lanes && this.#maySend() && !this.#crashSuspectInFlight) {
      const suspect = this.#mayTrySuspect() ? this.#suspects[0] : undefined;
      // One that may crash the service goes with nothing beside it, once the lanes have run empty for it.
      const mayCrash = suspect !== undefined && suspect.row.unfinished_calls > 0;
      const othersFirst = mayCrash && this.#callsBeforeCrashSuspect > 0 && this.#ready.length > 0;
      if (suspect !== undefined && !othersFirst) {
        if (mayCrash && this.#inFlight > 0) return;
        this.#suspects.shift();
        this.#suspectInFlight = true;
        this.#crashSuspectInFlight = mayCrash;
        if (mayCrash) this.#callsBeforeCrashSuspect = lanes;
        this.#run(this.#sendAlone(suspect));
        continue;
      }
      const call = this.#ready.shift();
      if (call === undefined) return;
      this.#callsBeforeCrashSuspect -= 1;
      this.#run(this.#send(call));
    }
  }

  /** After a first answer, where there can be one: only that tells trouble of the event from trouble of the endpoint. */
  #mayTrySuspect(): boolean {
    if (this.#suspectInFlight) return false;
    return this.#answeredCalls > 0 || (this.#ready.length === 0 && this.#inFlight === 0);
  }

  #maySend(): boolean {
    return !this.#mustStop() && (this.#trial || this.#context.publisher.endpoint() === 'up');
  }

  #run(work: Promise<void>): void {
    this.#inFlight += 1;
    work
      .catch((error: unknown) => this.#fail(error))
      .finally(() => {
        this.#inFlight -= 1;
        this.#dispatch();
        if (this.#inFlight === 0) this.#claims.recordNow();
        // For each of thousands of calls a second the loop would only see that there is no room.
        if (this.#inFlight === 0 || this.#ready.length < this.#reserve()) this.#room.ring();
      });
  }

  async #sendAlone(event: HeldEvent): Promise<void> {
    try {
      const started = await this.#start([event]);
      if (started.length > 0) await this.#send(this.#callOf(started));
    } finally {
      this.#suspectInFlight = false;
      this.#crashSuspectInFlight = false;
    }
  }

  async #send(call: Call): Promise<void> {
    const { counts, logger, publisher } = this.#context;
    const events = call.events.filter((event) => this.#claims.isValid(event));
    if (events.length < call.events.length) {
      for (const event of call.events) if (!events.includes(event)) this.#claims.forget(event);
      counts.unrecorded += call.events.length - events.length;
      logger.warn(
        { events: call.events.length - events.length },
        'claims ran out before their call: not sent',
      );
    }
    if (events.length === 0) return;
    counts.calls += 1;
    counts.sent += events.length;
    const result = await publisher
      .publish(
        events.map(({ row }) => row.event_id),
        call.idempotencyKey,
        this.#hardStop.signal,
      )
      .catch(async (error: unknown) => {
        // Trouble of the endpoint is a result: this is the run's own end, and no event's fault.
        await this.#claims.release(events);
        throw error;
      });
    await this.#settle(events, result);
  }

  async #settle(events: readonly HeldEvent[], result: CallResult): Promise<void> {
    const { counts, logger } = this.#context;
    switch (result.kind) {
      case 'refused':
        await this.#claims.release(events);
        throw new RunFailure(
          'endpoint_refused',
          `the replay endpoint answered ${result.code}: check CF_REPLAY_URL and CF_REPLAY_TOKEN; the events stay due`,
        );
      case 'unsent':
        counts.calls -= 1;
        counts.sent -= events.length;
        await this.#claims.release(events);
        this.#changed();
        return;
      case 'abandoned':
        for (const event of events)
          this.#verdicts.record(
            event,
            this.#verdicts.decide(event, { kind: 'abandoned' }),
            { outcome: 'abandoned', error: null },
            undefined,
          );
        return;
      case 'unreached':
      case 'cut':
      case 'unclear': {
        this.#lastCall = result;
        counts.calls_without_answer += 1;
        const known = {
          outcome: result.kind === 'unreached' ? 'unreached' : NO_CLEAR_ANSWER,
          error: result.code,
        };
        const { kind } = result;
        for (const event of events)
          this.#verdicts.record(event, this.#verdicts.decide(event, { kind }), known, undefined);
        return;
      }
      case 'answered': {
        this.#lastCall = result;
        this.#answeredCalls += 1;
        this.#verdicts.answered();
        if (result.strangers > 0) {
          logger.warn(
            { results: result.strangers },
            'the endpoint answered for events that were not asked for: ignored',
          );
        }
        for (const event of events) {
          const answer: EventAnswer = result.answers.get(event.row.event_id) ?? {
            outcome: 'outcome_unknown',
            retryable: true,
            error: 'result_missing',
          };
          const decision = this.#verdicts.decide(event, { kind: 'answered', ...answer });
          // In flight with a SQLSTATE: the service's database refused it before any handler began.
          if (answer.outcome === 'in_flight' && /^[0-9A-Z]{5}$/.test(answer.error ?? '')) counts.held_up += 1;
          const known = { outcome: answer.outcome, error: answer.error ?? null };
          this.#verdicts.record(event, decision, known, result.service);
        }
        if (result.service !== undefined) this.#offers.offer(result.service.listenersDigest);
      }
    }
  }

  /** Only a run that takes up events beside those named looks for other listeners. */
  async #probe(): Promise<boolean> {
    const { mode, looksForMore } = this.#settings;
    return looksForMore && (await this.#offers.probe(mode, this.#verdicts.lastAnswerAt));
  }

  /**
   * What a killed run had claimed comes back when its leases run out: a once-run waits for that, one lease at most
   * (a replica that is alive renews its own), so that it is not left for the next schedule.
   */
  async #awaitOthers(): Promise<boolean> {
    const { database, intake, counts, stop } = this.#context;
    const leftMs = this.#othersAwaited ? undefined : await readLongestLease(database);
    if (leftMs === undefined) return false;
    this.#othersAwaited = true;
    const before = counts.reclaimed;
    await pause(Math.min(Math.max(leftMs, 0), this.#settings.claims.leaseMs) + LEASE_END_MARGIN_MS, stop);
    await intake.reclaim();
    return counts.reclaimed > before;
  }

  /** Runs beside the lanes, on a connection of its own: a large backlog holds up no call. */
  async #takeIn(): Promise<void> {
    const { intake, stop } = this.#context;
    const ended = AbortSignal.any([stop, this.#ended.signal]);
    let pauseMs = SHORTEST_PAUSE_MS;
    try {
      while (!this.#mustStop() && !ended.aborted) {
        const { found, walkEnded } = await intake.cycle();
        this.#walkEnded ||= walkEnded;
        if (found || walkEnded || !this.#lookedAround) this.#changed();
        this.#lookedAround = true;
        if (!walkEnded) continue;
        if (this.#settings.mode === 'once') return;
        pauseMs = found ? SHORTEST_PAUSE_MS : Math.min(pauseMs * 2, this.#settings.pollMs);
        await pause(pauseMs * (0.75 + Math.random() / 2), ended);
      }
    } catch (error) {
      this.#fail(error);
    }
  }

  /** A once-run ends; a continuous one gives everything back, waits, and tries with a single event. */
  async #sitOutOutage(): Promise<void> {
    const { logger, stop } = this.#context;
    if (this.#settings.mode === 'once') throw this.#endpointDown();
    await this.#giveBack();
    const { transportBackoffMaxMs } = this.#settings.policy;
    const pauseMs = Math.min(FIRST_OUTAGE_PAUSE_MS * 2 ** Math.min(this.#outages, 20), transportBackoffMaxMs);
    if (this.#outages === 0)
      logger.warn({ code: this.#troubleCode() }, 'the replay endpoint is down: backing off');
    this.#outages += 1;
    await pause(pauseMs * (0.5 + Math.random() / 2), stop);
    if (this.#mustStop()) return;
    let events = await this.#claims.claim(1, false);
    if (events.length === 0) events = await this.#claims.claim(1, true);
    this.#trial = true;
    try {
      await this.#admit(events);
      while (this.#isBusy() && !this.#mustStop()) {
        this.#claims.recordNow();
        await this.#room.wait(LONGEST_WAIT_MS);
      }
    } finally {
      this.#trial = false;
    }
    if (this.#context.publisher.endpoint() === 'up') logger.info('the replay endpoint answers again');
  }

  /** A run that ends with its last calls unanswered has not done what it was started for. */
  #checkEndpoint(): void {
    if (this.#settings.mode !== 'once' || this.#context.counts.calls_without_answer === 0) return;
    if (this.#answeredCalls === 0 || this.#lastCall?.kind === 'unreached') throw this.#endpointDown();
  }

  #endpointDown(): RunFailure {
    return new RunFailure(
      'endpoint_down',
      `the replay endpoint gave no proper answer (${this.#troubleCode()}): look at the service; the events stay due`,
    );
  }

  #troubleCode(): string {
    return this.#lastCall !== undefined && 'code' in this.#lastCall ? this.#lastCall.code : 'no answer';
  }

  /** Gives back all that is not in flight. */
  async #giveBack(): Promise<void> {
    const ahead = await this.#ahead?.catch(() => []);
    this.#ahead = undefined;
    this.#toClaim += this.#ready.flatMap(({ events }) => events).length + this.#suspects.length;
    await this.#claims.release([
      ...(ahead ?? []),
      ...this.#ready.splice(0).flatMap(({ events }) => events),
      ...this.#suspects.splice(0),
    ]);
  }

  /** Ends in this order: nothing new, give back, let calls end, write their outcomes. */
  async #close(intake: Promise<void>): Promise<void> {
    this.#ended.abort();
    await this.#giveBack();
    while (this.#inFlight > 0) await this.#room.wait(LONGEST_WAIT_MS);
    // A suspect that was about to start when the run was stopped is back in the queue's hands.
    await this.#giveBack();
    await this.#claims.recordRest();
    await this.#offers.settled();
    await intake;
    await this.#claims.close();
    try {
      await this.#context.intake.finish();
    } catch (error) {
      this.#fail(error);
    }
  }

  /** Keeps the first failure; the rest of the run only tidies up. */
  #fail(error: unknown): void {
    const first = this.#failure;
    if (first === undefined) this.#failure = error;
    // The other lanes meet the same refusal: it is said once.
    else if (!(error instanceof RunFailure && first instanceof RunFailure && error.id === first.id))
      this.#context.logger.warn({ err: error }, 'a further failure while the run was ending');
    this.#ringAll();
  }

  #changed(): void {
    this.#changes += 1;
    this.#ringAll();
  }

  #ringAll(): void {
    this.#news.ring();
    this.#room.ring();
  }

  #mustStop(): boolean {
    return this.#context.stop.aborted || this.#failure !== undefined;
  }

  /** More than can be claimed before a first outcome is written: beyond it, a run turns in circles. */
  #mostInHand(): number {
    const { lanes, batchSize, claimSize } = this.#settings;
    return 3 * lanes * batchSize + 5 * claimSize;
  }

  #isBusy(): boolean {
    return (
      this.#inFlight > 0 || this.#ready.length > 0 || this.#suspects.length > 0 || this.#claims.unrecorded > 0
    );
  }

  /** Events that this run has brought forward in the table: only that is progress. */
  #settled(): number {
    const { already_processed, gone } = this.#context.counts;
    return this.#claims.written + already_processed + gone;
  }
}
