/**
 * Finds the work: takes in what is pending and overdue, what requests ask for, and claims whose holder is gone.
 * Walks the pending events in the order of their age, a page at a time. No mark is ever taken for "all before
 * this was seen": an event can be committed behind any mark, so the walk begins again when it has ended, and
 * a second walk near the newest events keeps the delay short while the first one is far behind.
 */
import type { Database } from '../runtime/database.ts';
import type { Logger } from '../runtime/logger.ts';
import { reclaimExpiredClaims } from './claim-queries.ts';
import type { ReplayCounts } from './counts.ts';
import type { EventsTable } from './events-table.ts';
import type { HandedEvents } from './handed-events.ts';
import {
  endParkedEvents,
  firstParked,
  type IntakePage,
  type ParkedCursor,
  purgeDoneEvents,
  takeInOverdueEvents,
} from './intake-queries.ts';
import { finishRequests } from './request-queries.ts';
import { takeOpenRequests } from './requests.ts';
import { type Cursor, firstCursor } from './statement-parts.ts';

export interface IntakeSettings {
  readonly graceMs: number;
  readonly installation: string;
  readonly runId: string;
  /** False for a run that was given its events by name: it looks for no others. */
  readonly looksForMore: boolean;
  /** Whether events that the outbox has billed, and that nobody has marked, go to the endpoint. */
  readonly reopensHanded: boolean;
  /** How long what is done is kept; 0: for ever. */
  readonly keepDoneMs: number;
}

/** Pending or parked events per statement: a fraction of a second, and one probe of a key for each. */
const PAGE_SIZE = 5_000;
const RECLAIM_LIMIT = 1_000;
/** Done events that one cycle removes at most: a backlog of years goes away in the background. */
const PURGE_LIMIT = 1_000;
/** Pages of the newest events in one cycle; what is beyond them is the next cycle's. */
const NEWEST_PAGES = 4;

export class Intake {
  readonly #database: Database;
  readonly #events: EventsTable;
  readonly #handed: HandedEvents;
  readonly #settings: IntakeSettings;
  readonly #counts: ReplayCounts;
  readonly #requests: AsyncGenerator<boolean>;
  #walk: Cursor;
  #newest: Cursor | undefined;
  /** Where the walk over what is parked stands; nothing between its end and that of the other walk. */
  #parked: ParkedCursor | undefined = firstParked;

  constructor(
    database: Database,
    logger: Logger,
    events: EventsTable,
    handed: HandedEvents,
    settings: IntakeSettings,
    counts: ReplayCounts,
  ) {
    this.#database = database;
    this.#events = events;
    this.#handed = handed;
    this.#settings = settings;
    this.#counts = counts;
    const { installation, runId } = settings;
    this.#requests = takeOpenRequests({ database, logger, events, installation, runId }, counts);
    this.#walk = firstCursor(events.idType);
  }

  /** One cycle. Says whether it found work, and whether the walk and the open requests have come to their end. */
  async cycle(): Promise<{ readonly found: boolean; readonly walkEnded: boolean }> {
    const before = this.#found();
    await this.reclaim();
    if (!this.#settings.looksForMore) return { found: this.#found() > before, walkEnded: true };
    const { installation, runId } = this.#settings;
    const { value: moreRequests } = await this.#requests.next();
    this.#counts.requests += await finishRequests(this.#database, installation, runId);
    await this.#takeInNewest();
    const page = await this.#takeIn(this.#walk);
    await this.#endParked();
    await this.#handed.cycle(this.#counts);
    await this.#purge();
    const walkEnded = page.last === undefined || page.scanned < PAGE_SIZE;
    // The newest are walked from the end of the whole walk on; until then there is no such place.
    if (walkEnded) this.#newest = page.last ?? this.#newest;
    if (walkEnded) this.#parked ??= firstParked;
    this.#walk = walkEnded ? firstCursor(this.#events.idType) : (page.last ?? this.#walk);
    return { found: this.#found() > before, walkEnded: walkEnded && moreRequests !== true };
  }

  /** Makes due again what somebody claimed who is gone. */
  async reclaim(): Promise<void> {
    const { reclaimed, unfinished } = await reclaimExpiredClaims(this.#database, RECLAIM_LIMIT);
    this.#counts.reclaimed += reclaimed;
    this.#counts.unfinished += unfinished;
  }

  /** Ends the requests whose last event this run has settled. */
  async finish(): Promise<void> {
    const { installation, runId, looksForMore } = this.#settings;
    if (looksForMore) this.#counts.requests += await finishRequests(this.#database, installation, runId);
  }

  /** A page per cycle, once around per walk: what is parked may have been processed elsewhere, or be gone. */
  async #endParked(): Promise<void> {
    if (this.#parked === undefined) return;
    const { ended, last } = await endParkedEvents(this.#database, this.#events, this.#parked, PAGE_SIZE);
    this.#counts.parked_ended += ended;
    this.#parked = last;
  }

  async #purge(): Promise<void> {
    const { keepDoneMs } = this.#settings;
    if (keepDoneMs === 0) return;
    this.#counts.purged += await purgeDoneEvents(this.#database, this.#events, keepDoneMs, PURGE_LIMIT);
  }

  async #takeInNewest(): Promise<void> {
    for (let pages = 0; this.#newest !== undefined && pages < NEWEST_PAGES; pages += 1) {
      const page = await this.#takeIn(this.#newest);
      this.#newest = page.last ?? this.#newest;
      if (page.scanned < PAGE_SIZE) return;
    }
  }

  async #takeIn(after: Cursor): Promise<IntakePage> {
    const { graceMs, reopensHanded } = this.#settings;
    const page = await takeInOverdueEvents(this.#database, this.#events, {
      after,
      size: PAGE_SIZE,
      graceMs,
      reopensHanded,
    });
    this.#counts.taken_in += page.takenIn;
    this.#counts.reopened += page.reopened;
    return page;
  }

  #found(): number {
    const { taken_in, reopened, reclaimed, unparked, handed_due_again } = this.#counts;
    return taken_in + reopened + reclaimed + unparked + handed_due_again;
  }
}
