/**
 * What this run holds: claims rows, prolongs their leases while they are in work, writes what became of them and
 * gives the rest back. Every write names the token of the claim, so a late one meets no row and changes nothing.
 */
import { randomUUID } from 'node:crypto';
import type { Database } from '../runtime/database.ts';
import type { Logger } from '../runtime/logger.ts';
import {
  type ClaimedRow,
  claimDueEvents,
  claimNamedEvents,
  claimOldestOfEachAggregate,
  type HeldRow,
  type OutcomeRow,
  recordOutcomes,
  releaseClaims,
  renewClaims,
} from './claim-queries.ts';
import type { ReplayCounts } from './counts.ts';

/** An event that we hold until its outcome is written, it is given back, or its lease runs out. */
export interface HeldEvent {
  readonly row: ClaimedRow;
  readonly token: string;
  /** Our own clock at the claim, in milliseconds. */
  readonly claimedAt: number;
  /** Our own clock, counted from before the statement that gave it: on the safe side of the database's. */
  validUntil: number;
}

export interface ClaimsSettings {
  readonly claimedBy: string;
  readonly leaseMs: number;
  readonly inAggregateOrder: boolean;
  readonly eventIds: readonly string[] | undefined;
  /** Outcomes are written when so many are there, or after RECORD_AFTER_MS. */
  readonly recordSize: number;
}

/**
 * Longest time that an outcome waits for company; what a kill can cost us in repeats, beside the calls in flight. With 64 lanes
 * and a handler of 20 ms a claim of 500 is through in 160 ms: its outcomes are written at once, and not in two parts.
 */
const RECORD_AFTER_MS = 250;
/** Most outcomes in one statement. */
const LARGEST_RECORD = 1_000;
const RECORD_RETRY_MS = 250;

export class Claims {
  readonly #database: Database;
  readonly #logger: Logger;
  readonly #settings: ClaimsSettings;
  readonly #counts: ReplayCounts;
  readonly #onRecorded: () => void;
  readonly #hardStop: AbortSignal;
  readonly #held = new Map<string, HeldEvent>();
  readonly #renewal: NodeJS.Timeout;
  #renewing: Promise<void> = Promise.resolve();
  #healthy = true;
  #written = 0;
  #outcomes: { event: HeldEvent; outcome: OutcomeRow }[] = [];
  #recording: Promise<void> | undefined;
  #recordTimer: NodeJS.Timeout | undefined;

  /**
   * @param onRecorded called after each write of outcomes, whether it met its rows or not
   * @param hardStop from then on, what cannot be written is given up
   */
  constructor(
    database: Database,
    logger: Logger,
    settings: ClaimsSettings,
    counts: ReplayCounts,
    onRecorded: () => void,
    hardStop: AbortSignal,
  ) {
    this.#database = database;
    this.#logger = logger;
    this.#settings = settings;
    this.#counts = counts;
    this.#onRecorded = onRecorded;
    this.#hardStop = hardStop;
    this.#renewal = setInterval(() => {
      this.#renewing = this.#renewing.then(() => this.#renew());
    }, settings.leaseMs / 3);
  }

  /** False while leases cannot be prolonged: then nothing new may be claimed. */
  get healthy(): boolean {
    return this.#healthy;
  }

  /** Outcomes that were written to rows that were ours. */
  get written(): number {
    return this.#written;
  }

  /** How many outcomes wait to be written. */
  get unrecorded(): number {
    return this.#outcomes.length + (this.#recording === undefined ? 0 : 1);
  }

  /** Claims what is due, oldest first. */
  async claim(limit: number, withSuspects: boolean): Promise<HeldEvent[]> {
    const { claimedBy, leaseMs, eventIds, inAggregateOrder } = this.#settings;
    const token = randomUUID();
    const claimedAt = Date.now();
    const claim = { token, claimedBy, leaseMs, limit, withSuspects };
    this.#counts.claim_statements += 1;
    const rows =
      eventIds !== undefined
        ? await claimNamedEvents(this.#database, claim, eventIds)
        : inAggregateOrder
          ? await claimOldestOfEachAggregate(this.#database, claim)
          : await claimDueEvents(this.#database, claim);
    const events = rows.map((row) => ({ row, token, claimedAt, validUntil: claimedAt + leaseMs }));
    for (const event of events) this.#held.set(event.row.event_id, event);
    this.#counts.claimed += events.length;
    return events;
  }

  /** Whether the claim surely still is ours; asked before each call. */
  isValid(event: HeldEvent): boolean {
    return this.#held.get(event.row.event_id) === event && Date.now() < event.validUntil;
  }

  /** Holds an event no longer without a word to the database: it is done there, or no longer ours. */
  forget(event: HeldEvent): void {
    if (this.#held.get(event.row.event_id) === event) this.#held.delete(event.row.event_id);
  }

  /** Takes an outcome to be written soon, together with others. */
  record(event: HeldEvent, outcome: OutcomeRow): void {
    this.#outcomes.push({ event, outcome });
    if (this.#outcomes.length >= this.#settings.recordSize) this.recordNow();
    else this.#recordTimer ??= setTimeout(() => this.recordNow(), RECORD_AFTER_MS);
  }

  /** Begins to write what waits, unless that is happening already. */
  recordNow(): void {
    clearTimeout(this.#recordTimer);
    this.#recordTimer = undefined;
    if (this.#recording !== undefined || this.#outcomes.length === 0) return;
    this.#recording = this.#recordAll().finally(() => {
      this.#recording = undefined;
      // What came in between waits for its own time again.
      if (this.#outcomes.length >= this.#settings.recordSize) this.recordNow();
      else if (this.#outcomes.length > 0)
        this.#recordTimer ??= setTimeout(() => this.recordNow(), RECORD_AFTER_MS);
      this.#onRecorded();
    });
  }

  /** Ends when what waits at this moment is written. */
  async recordWaiting(): Promise<void> {
    await this.#recording;
    this.recordNow();
    await this.#recording;
  }

  /** Ends when everything is written that can be. */
  async recordRest(): Promise<void> {
    while (this.unrecorded > 0) {
      this.recordNow();
      await this.#recording;
    }
  }

  /** Gives events back that were not sent: due at once. What cannot be given back comes back with its lease. */
  async release(events: readonly HeldEvent[]): Promise<void> {
    const held = events.filter((event) => this.#held.get(event.row.event_id) === event);
    if (held.length === 0) return;
    for (const event of held) this.forget(event);
    try {
      this.#counts.released += await releaseClaims(this.#database, held.map(heldRow));
    } catch (error) {
      this.#logger.warn(
        { err: error, events: held.length },
        'claims were not given back: their leases run out',
      );
    }
  }

  /** Stops to prolong leases. */
  async close(): Promise<void> {
    clearInterval(this.#renewal);
    clearTimeout(this.#recordTimer);
    await this.#renewing;
  }

  /** A failure to write is no failure of the delivery (P18): tried again for as long as the lease lasts. */
  async #recordAll(): Promise<void> {
    const portion = this.#outcomes.splice(0, LARGEST_RECORD);
    let waiting = portion;
    for (let attempt = 1; waiting.length > 0; attempt += 1) {
      try {
        this.#counts.record_statements += 1;
        const written = new Set(
          await recordOutcomes(
            this.#database,
            waiting.map(({ outcome }) => outcome),
          ),
        );
        this.#written += written.size;
        const lost = waiting.filter(({ outcome }) => !written.has(outcome.event_id));
        this.#giveUp(lost, 'outcomes were not written: their claims have gone to someone else');
        waiting = [];
      } catch (error) {
        this.#logger.warn({ err: error, events: waiting.length, attempt }, 'outcomes could not be written');
        const late = waiting.filter(({ event }) => this.#hardStop.aborted || Date.now() >= event.validUntil);
        this.#giveUp(
          late,
          'outcomes were not written before their leases or the run ended: the service is asked again',
        );
        waiting = waiting.filter((entry) => !late.includes(entry));
        if (waiting.length > 0) await new Promise((resolve) => setTimeout(resolve, RECORD_RETRY_MS));
      }
    }
    for (const { event } of portion) this.forget(event);
  }

  #giveUp(entries: readonly { readonly event: HeldEvent }[], message: string): void {
    if (entries.length === 0) return;
    this.#counts.unrecorded += entries.length;
    this.#logger.warn({ eventIds: entries.slice(0, 20).map(({ event }) => event.row.event_id) }, message);
  }

  async #renew(): Promise<void> {
    const events = [...this.#held.values()];
    const renewedAt = Date.now();
    try {
      const ours =
        events.length === 0
          ? []
          : await renewClaims(this.#database, events.map(heldRow), this.#settings.leaseMs);
      const renewed = new Map(ours.map((row) => [row.event_id, row.renewed]));
      for (const event of events) {
        const isRenewed = renewed.get(event.row.event_id);
        // Somebody else has it, or it is recorded: it is not sent any more.
        if (isRenewed === undefined) this.forget(event);
        else if (isRenewed) event.validUntil = renewedAt + this.#settings.leaseMs;
      }
      this.#healthy = true;
    } catch (error) {
      this.#healthy = false;
      this.#logger.warn(
        { err: error, events: events.length },
        'leases were not prolonged: nothing new is claimed',
      );
    }
  }
}

const heldRow = ({ row, token }: HeldEvent): HeldRow => ({ event_id: row.event_id, claim_token: token });
