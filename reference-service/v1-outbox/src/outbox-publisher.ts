import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import type { Pool } from 'pg';
import type { Logger } from 'pino';
import type { Metrics } from './metrics.js';
import { errorCode } from './service-log.js';
import { createPerSessionBilling, UnusableEventError } from './session-billing.js';
import { SESSION_COMPLETED } from './session-completed.js';
import type { Settings } from './settings.js';

// Polls domain_events and has each event billed: pending → processing → published. A claim has an end, so that what a
// crash leaves `processing` is taken up again, and a token, so that who comes late with a mark matches no row. Delivery
// is at least once; the ledger's key makes it one bill. It never gives an event up because the database failed: only one
// that nobody could ever bill becomes `failed`.

interface ClaimedEvent {
  id: string;
  eventType: string;
  payload: unknown;
}

/** How one delivery ended. */
interface Delivered {
  id: string;
  status: 'published' | 'pending' | 'failed';
  error: string | null;
}

/** The publisher of the outbox: one loop per process; several processes share the rows. */
export class OutboxPublisher {
  private readonly stopping = new AbortController();
  private loop: Promise<void> | undefined;

  constructor(
    private readonly pool: Pool,
    private readonly settings: Pick<Settings, 'podName' | 'pollMs' | 'batchSize' | 'stuckMs'>,
    private readonly metrics: Metrics,
    private readonly log: Logger,
  ) {}

  /** Polls at once and from then on whenever the time between polls is over. */
  start(): void {
    this.loop ??= this.run();
  }

  /** Claims nothing more; resolves when the batch in work is delivered and marked. */
  async stop(): Promise<void> {
    this.stopping.abort();
    await this.loop;
  }

  private async run(): Promise<void> {
    const { signal } = this.stopping;
    while (!signal.aborted) {
      try {
        // A full batch means that there may be more: what has gathered is published before the next rest.
        while (!signal.aborted && (await this.publishBatch()) === this.settings.batchSize);
      } catch (error) {
        this.log.error({ err: error }, 'Poll failed; the next one tries again');
      }
      await delay(this.settings.pollMs, undefined, { signal }).catch(() => undefined);
    }
  }

  /** Publishes what is due, at most one batch; gives how many rows it claimed. */
  async publishBatch(): Promise<number> {
    const claim = `${this.settings.podName}/${randomUUID()}`;
    const events = await this.claim(claim);
    if (events.length === 0) return 0;
    // At once, as far as the pool reaches.
    const delivered = await Promise.all(events.map((event) => this.deliver(event)));
    try {
      await this.mark(claim, delivered);
    } catch (error) {
      this.metrics.processed('outcome_unknown', delivered.length);
      throw error;
    }
    return events.length;
  }

  private async claim(claim: string): Promise<ClaimedEvent[]> {
    const { rows } = await this.pool.query<ClaimedEvent>(
      `/* v1-outbox claim-events, by domain_events_open */
with due as (
  select id from domain_events
  where status in ('pending', 'processing') and available_at <= clock_timestamp()
  order by available_at, id
  limit $1::integer
  for update skip locked
)
update domain_events e
set status = 'processing', claimed_by = $2::text, claimed_at = clock_timestamp(), attempts = e.attempts + 1,
  available_at = clock_timestamp() + $3::integer * interval '1 millisecond'
from due
where e.id = due.id and e.status in ('pending', 'processing')
returning e.id, e.event_type as "eventType", e.payload`,
      [this.settings.batchSize, claim, this.settings.stuckMs],
    );
    return rows;
  }

  private async deliver({ id, eventType, payload }: ClaimedEvent): Promise<Delivered> {
    try {
      if (eventType !== SESSION_COMPLETED)
        throw new UnusableEventError('no listener takes this type of event');
      await createPerSessionBilling(this.pool, this.log, payload);
      return { id, status: 'published', error: null };
    } catch (error) {
      const status = error instanceof UnusableEventError ? 'failed' : 'pending';
      this.log.error({ err: error, eventId: id, status }, 'Event could not be billed');
      return { id, status, error: errorCode(error) };
    }
  }

  /** Rows whose claim was taken over in the meantime are not ours to mark. */
  private async mark(claim: string, delivered: readonly Delivered[]): Promise<void> {
    const { rows } = await this.pool.query<{ id: string; status: Delivered['status']; seconds: number }>(
      `/* v1-outbox mark-events */
with outcome as (
  select * from unnest($2::text[], $3::text[], $4::text[]) as o (id, status, error)
), held as (
  select e.id from domain_events e join outcome o on o.id = e.id
  where e.status = 'processing' and e.claimed_by = $1::text
  order by e.id
  for no key update of e
)
update domain_events e
set status = o.status, error = o.error, claimed_by = null,
  published_at = case when o.status = 'published' then clock_timestamp() end,
  -- A failure is tried again after as many half minutes as it had attempts, at most ten minutes later.
  available_at = case when o.status = 'pending'
    then clock_timestamp() + least(e.attempts, 20) * interval '30 seconds' else e.available_at end
from outcome o, held h
where o.id = e.id and h.id = e.id and e.status = 'processing' and e.claimed_by = $1::text
returning e.id, e.status, extract(epoch from clock_timestamp() - e.created_at)::float8 as seconds`,
      [
        claim,
        delivered.map(({ id }) => id),
        delivered.map(({ status }) => status),
        delivered.map(({ error }) => error),
      ],
    );
    for (const { id, status, seconds } of rows) {
      this.metrics.processed(status === 'published' ? 'processed' : 'failed');
      if (status !== 'published') continue;
      this.metrics.duration(seconds);
      this.log.info({ eventId: id, eventName: SESSION_COMPLETED }, 'Event processed');
    }
    const lost = delivered.length - rows.length;
    if (lost === 0) return;
    this.metrics.processed('outcome_unknown', lost);
    this.log.warn({ lost }, 'Claims were taken over while their events were billed');
  }
}
