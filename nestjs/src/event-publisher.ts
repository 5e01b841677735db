import { randomUUID } from 'node:crypto';
import { Inject, Injectable } from '@nestjs/common';
import { Deliveries } from './deliveries.js';
import type { CommitAware, CounterfoilDriver, DriverTransaction } from './driver.js';
import { parseEventName } from './event-name.js';
import { isAccepted, OPTIONS, type ResolvedOptions } from './options.js';
import { PayloadRefusedError, payloadText } from './payload-text.js';
import { hasPublisherColumns, insertAttributedEvent, insertEvent } from './statements.js';

/** An event to publish. */
export interface BackedEvent {
  /** `domain.action.v1` */
  name: string;
  /** Plain JSON: what a replay will give the listeners, days later perhaps. */
  payload: unknown;
  /** A new UUID by default. One that exists already is refused by the table's primary key. */
  eventId?: string;
}

/** An event that was not published for its name, its id or the transaction it was given. */
export class PublishRefusedError extends Error {
  override readonly name = 'PublishRefusedError';
}

const UNDEFINED_COLUMN = '42703';

/** Publishes events that survive a crash: the row first, in the caller's transaction, the listeners after its commit. */
@Injectable()
export class EventPublisher<Handle = unknown> {
  private attributed: boolean | undefined;

  constructor(
    @Inject(OPTIONS) private readonly options: ResolvedOptions,
    @Inject(Deliveries) private readonly deliveries: Deliveries,
  ) {}

  /**
   * Runs `work` in a transaction in which events can be published: commits when it resolves, rolls back when it
   * rejects. Rejects with the error of `work`, or with the database's.
   */
  transaction<Result>(work: (tx: DriverTransaction<Handle>) => Promise<Result>): Promise<Result> {
    return (this.options.driver as CounterfoilDriver<Handle>).transaction(work);
  }

  /**
   * Writes the event's row in `tx` and gives its id; the listeners start after the commit, and only if the row is
   * there. Throws PublishRefusedError or PayloadRefusedError before anything is sent, TransactionOverError outside a
   * transaction, and the database's error otherwise.
   */
  async publish(tx: CommitAware, event: BackedEvent): Promise<string> {
    const { name: eventName, eventId = randomUUID() } = event;
    if (typeof tx?.run !== 'function' || typeof tx.afterCommit !== 'function') {
      throw new PublishRefusedError(
        'publish needs a transaction that says when it is committed: take the one that transaction() gives',
      );
    }
    if (parseEventName(eventName) === undefined) {
      throw new PublishRefusedError(
        'an event was not published: its name is not of the form domain.action.v1',
      );
    }
    if (eventId === '' || eventId.includes('\u0000') || !eventId.isWellFormed()) {
      throw new PublishRefusedError(
        `${eventName} was not published: its event id is empty or no text Postgres takes`,
      );
    }
    const text = payloadText(eventName, event.payload);
    // Judged as stored, since that is what listeners get.
    if (!isAccepted(this.options, eventName, text)) {
      throw new PayloadRefusedError(eventName, '$', 'a payload that its schema refuses');
    }
    await this.insert(tx, { eventId, eventName, payloadText: text });
    tx.afterCommit(() => this.deliveries.emit({ eventId, eventName, payloadText: text }));
    return eventId;
  }

  private async insert(
    tx: CommitAware,
    event: { eventId: string; eventName: string; payloadText: string },
  ): Promise<void> {
    // Looked up on the caller's own connection: with a small pool, a second one might never come free.
    this.attributed ??= await hasPublisherColumns(tx);
    if (!this.attributed) return await insertEvent(tx, event);
    try {
      await insertAttributedEvent(
        tx,
        event,
        this.options.publishedBy ?? null,
        this.options.publishedHash ?? null,
      );
    } catch (error) {
      // The columns were dropped under a running process: look again, so that only this transaction fails.
      if ((error as { code?: unknown }).code === UNDEFINED_COLUMN) this.attributed = undefined;
      throw error;
    }
  }
}
