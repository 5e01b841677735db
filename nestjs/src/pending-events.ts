import { Inject, Injectable } from '@nestjs/common';
import { OPTIONS, type ResolvedOptions } from './options.js';
import { selectPending, selectPendingAfter } from './pending-events-statements.js';
import { selectEvents } from './statements.js';

/** The most events one page holds, and how many it holds by default. */
export const PENDING_PAGE = { max: 1_000, default: 100 } as const;

/** An event that is not processed. Its payload is left out: it may hold personal data. */
export interface PendingEvent {
  eventId: string;
  eventName: string;
  /** Since it was written, by the database's clock. */
  ageSeconds: number;
  /** A listener of it runs now, under a live lease. */
  running: boolean;
}

/** Pending events, oldest first. */
export interface PendingPage {
  events: PendingEvent[];
  /** More are pending: ask again with the last id as `after`. */
  more?: true;
}

/** A page that was asked for behind an event that is not there. */
export class PendingPageLostError extends Error {
  override readonly name = 'PendingPageLostError';
  constructor() {
    super('the event named by after is not there any more: begin anew');
  }
}

/** Lists what is pending: published and not processed yet, in work or left behind. */
@Injectable()
export class PendingEvents {
  constructor(@Inject(OPTIONS) private readonly options: ResolvedOptions) {}

  /** One page, behind the event `after` where it is given. Throws PendingPageLostError. */
  async list({
    limit = PENDING_PAGE.default,
    after,
  }: {
    limit?: number;
    after?: string;
  } = {}): Promise<PendingPage> {
    const { driver } = this.options;
    if (after !== undefined && (await selectEvents(driver, [after])).length === 0)
      throw new PendingPageLostError();
    const found =
      after === undefined
        ? await selectPending(driver, limit + 1)
        : await selectPendingAfter(driver, after, limit + 1);
    const events = found.slice(0, limit);
    return found.length > limit ? { events, more: true } : { events };
  }
}
