import { randomUUID } from 'node:crypto';
import { Inject, Injectable } from '@nestjs/common';
import { type DeliverableEvent, Deliveries, type Reserved } from './deliveries.js';
import type { CommitAware, CounterfoilDriver, DriverTransaction } from './driver.js';
import { errorCode } from './error-code.js';
import { EventColumns } from './event-columns.js';
import { parseEventName } from './event-name.js';
import { type EventMetrics, METRICS } from './metrics.js';
import { isAccepted, OPTIONS, type ResolvedOptions } from './options.js';
import { PayloadRefusedError, payloadText } from './payload-text.js';
import { TransactionOverError } from './pg-driver.js';
import { insertClaimedEvent, insertEvent, type NewEvent, type OptionalColumn } from './statements.js';
import { activeTraceparent } from './tracing.js';

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

/** Whether the database has refused a write, as opposed to being lost on the way (classes 08 and 57). */
const isRefusal = (error: unknown): boolean => /^(?!08|57)[0-9A-Z]{5}$/.test(errorCode(error));

/** Publishes events that survive a crash: the row first, in the caller's transaction, the listeners after its commit. */
@Injectable()
export class EventPublisher<Handle = unknown> {
  private readonly columns: EventColumns;

  constructor(
    @Inject(OPTIONS) private readonly options: ResolvedOptions,
    @Inject(Deliveries) private readonly deliveries: Deliveries,
    @Inject(METRICS) private readonly metrics: EventMetrics,
  ) {
    this.columns = new EventColumns(options.driver);
  }

  /**
   * Runs `work` in a transaction in which events can be published: commits when it resolves, rolls back when it
   * rejects. Rejects with the error of `work`, or with the database's.
   */
  transaction<Result>(work: (tx: DriverTransaction<Handle>) => Promise<Result>): Promise<Result> {
    return (this.options.driver as CounterfoilDriver<Handle>).transaction(work);
  }

  /**
   * Writes the event's row in `tx` and gives its id; the listeners start after the commit, and only if the row is
   * there. Throws PublishRefusedError or PayloadRefusedError before anything is sent, and TransactionOverError outside
   * a transaction. The row travels with the statement that follows it in `tx`, at the latest with COMMIT: where the
   * database refuses it, that statement or the transaction rejects with the database's error.
   */
  async publish(tx: CommitAware, event: BackedEvent): Promise<string> {
    const { name: eventName, eventId = randomUUID() } = event;
    let payload: string;
    try {
      payload = this.accept(tx, eventName, eventId, event.payload);
    } catch (refusal) {
      this.metrics.published(eventName, 'refused');
      throw refusal;
    }
    try {
      const columns = this.columns.known ?? (await this.columns.lookUp(tx));
      const traceparent = columns.includes('traceparent')
        ? activeTraceparent(this.options.traceparent)
        : null;
      const published = { eventId, eventName, payloadText: payload, traceparent };
      if (tx.hold === undefined) await this.write(tx, columns, published);
      else this.hold(tx, columns, published);
      return eventId;
    } catch (error) {
      this.metrics.published(eventName, error instanceof TransactionOverError ? 'refused' : 'failed');
      throw error;
    }
  }

  /**
   * Publishes an event in a transaction of its own, for a caller whose fact is committed already and who has no
   * transaction to give. What it cannot catch: a crash, or a database that fails, between the caller's commit and this
   * call. The event then has no row, no replay will ever see it, and only a comparison of facts with ledger rows (the
   * reconciliation job) finds that it is missing. Wherever the fact is written, `publish` in that transaction is right.
   */
  async publishAfterTheFact(event: BackedEvent): Promise<string> {
    return await this.transaction((tx) => this.publish(tx, event));
  }

  /** Throws for what cannot be published; gives the payload as it is stored. */
  private accept(tx: CommitAware, eventName: string, eventId: string, payload: unknown): string {
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
    if (this.options.publishes !== undefined && !this.options.publishes.includes(eventName)) {
      throw new PublishRefusedError(`${eventName} was not published: it is not among the option publishes`);
    }
    if (eventId === '' || eventId.includes('\u0000') || !eventId.isWellFormed()) {
      throw new PublishRefusedError(
        `${eventName} was not published: its event id is empty or no text Postgres takes`,
      );
    }
    const text = payloadText(eventName, payload);
    // Judged as stored, since that is what listeners get.
    if (!isAccepted(this.options, eventName, text)) {
      throw new PayloadRefusedError(eventName, '$', 'a payload that its schema refuses');
    }
    return text;
  }

  /** Writes the row now: for a transaction that keeps nothing back. */
  private async write(
    tx: CommitAware,
    columns: readonly OptionalColumn[],
    event: DeliverableEvent,
  ): Promise<void> {
    const { sql, params } = insertEvent(this.rowOf(event), columns);
    try {
      await tx.run(sql, params);
    } catch (error) {
      this.columns.noteFailure(error);
      throw error;
    }
    tx.afterCommit(() => {
      this.metrics.published(event.eventName, 'committed');
      this.deliveries.emit(event);
    });
  }

  /**
   * Leaves the row to the transaction, which sends it with what follows. Where that is COMMIT, the listeners are
   * claimed by the same statement: it saves a claim, and no other process can start them in between.
   */
  private hold(tx: CommitAware, columns: readonly OptionalColumn[], event: DeliverableEvent): void {
    const row = this.rowOf(event);
    let reserved: Reserved | undefined;
    let failed = false;
    // First, since it throws where the transaction is over.
    tx.afterCommit(() => {
      // Its row was refused in a savepoint that the caller then rolled back.
      if (failed) return;
      this.metrics.published(event.eventName, 'committed');
      if (reserved === undefined) this.deliveries.emit(event);
      else this.deliveries.deliver(reserved);
    });
    tx.hold?.({
      beforeStatement: () => insertEvent(row, columns),
      withCommit: () => {
        reserved = this.deliveries.reserve(event);
        return reserved === undefined
          ? insertEvent(row, columns)
          : insertClaimedEvent(row, columns, reserved.claim, this.options.listenerLeaseMs);
      },
      failed: (error) => {
        failed = true;
        if (reserved !== undefined) this.deliveries.cancel(reserved);
        this.columns.noteFailure(error);
        // Of a commit that was not answered nothing is known.
        if (isRefusal(error)) this.metrics.published(event.eventName, 'failed');
      },
    });
  }

  private rowOf(event: DeliverableEvent): NewEvent {
    const { publishedBy, publishedHash, serviceVersion } = this.options;
    const { eventId, eventName, payloadText: text, traceparent } = event;
    return {
      eventId,
      eventName,
      payloadText: text,
      published_by: publishedBy ?? null,
      published_hash: publishedHash ?? null,
      service_version: serviceVersion,
      traceparent: traceparent ?? null,
    };
  }
}
