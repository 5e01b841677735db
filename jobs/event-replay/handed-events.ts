/**
 * Follows what was given to the predecessor's outbox until its bill is seen. Where the endpoint is the target again,
 * what nobody has billed in time is sent there: the ledger's idempotency key makes that safe, and only for events of
 * which a check says where their bill is.
 */
import type { Database } from '../runtime/database.ts';
import type { Logger } from '../runtime/logger.ts';
import type { CheckPlans } from './check-plans.ts';
import type { ReplayCounts } from './counts.ts';
import type { EventsTable } from './events-table.ts';
import { firstHanded, type HandedCursor, readHandedEvents, settleHandedEvents } from './handed-queries.ts';

export interface HandedSettings {
  /** How long a bill may take before an event counts as stuck, or goes to the endpoint. */
  readonly graceMs: number;
  readonly target: 'endpoint' | 'outbox';
}

/** Each costs a probe of the events and one of the ledger. */
const PAGE_SIZE = 500;

export class HandedEvents {
  readonly #database: Database;
  readonly #logger: Logger;
  readonly #events: EventsTable;
  readonly #plans: CheckPlans;
  readonly #settings: HandedSettings;
  #after: HandedCursor = firstHanded;
  #overdue = 0;

  constructor(
    database: Database,
    logger: Logger,
    events: EventsTable,
    plans: CheckPlans,
    settings: HandedSettings,
  ) {
    this.#database = database;
    this.#logger = logger;
    this.#events = events;
    this.#plans = plans;
    this.#settings = settings;
  }

  /** One page of a walk that begins again when it has ended. */
  async cycle(counts: ReplayCounts): Promise<void> {
    const { ended, waiting, last } = await readHandedEvents(
      this.#database,
      this.#events,
      this.#after,
      PAGE_SIZE,
    );
    counts.handed_settled += ended;
    if (waiting.length > 0) {
      const billed = await this.#plans.billed(waiting);
      const late = waiting.filter(
        (event) => !billed.has(event.event_id) && event.age_ms >= this.#settings.graceMs,
      );
      const dueAgain =
        this.#settings.target === 'outbox'
          ? []
          : late.filter((event) => this.#plans.knows(event.event_name)).map(({ event_id: id }) => id);
      this.#overdue += late.length - dueAgain.length;
      if (billed.size + dueAgain.length > 0) {
        const settled = await settleHandedEvents(this.#database, [...billed], dueAgain);
        counts.handed_settled += settled.billed;
        counts.handed_due_again += settled.dueAgain;
      }
    }
    this.#after = last ?? firstHanded;
    if (last !== undefined) return;
    if (this.#overdue > counts.handed_overdue)
      this.#logger.warn(
        { events: this.#overdue },
        'events were given to the outbox and are not billed in time: look at the publisher of the predecessor',
      );
    counts.handed_overdue = this.#overdue;
    this.#overdue = 0;
  }
}
