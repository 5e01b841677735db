/** The collection `events`: what is pending in the service's table, and what of it nobody is at work on. */
import type { Database } from '../runtime/database.ts';
import type { Collected } from './collect.ts';
import {
  countParked,
  countPending,
  MOST_COUNTED,
  MOST_LOOKED_UP,
  type OverdueEvents,
  readNewestEvent,
  readOverdue,
} from './event-queries.ts';
import type { ServiceTables } from './service-tables.ts';

export interface EventsOptions {
  readonly graceMs: number;
  readonly statementTimeoutMs: number;
}

export async function readEvents(
  database: Database,
  tables: ServiceTables,
  options: EventsOptions,
  signal: AbortSignal,
): Promise<Collected<'events'>> {
  const source = await tables.events(signal);
  if (source === undefined) return 'there is no table of events (CF_EVENTS_TABLE)';
  if (source.pendingIndex === 'none') {
    return `no index leads to what is pending: CREATE INDEX CONCURRENTLY ON ${source.name} (status, created_at) WHERE status = 'pending'`;
  }
  try {
    const { pending, overdue, oldest, newest } = await database.read(
      async (transaction) => {
        const counted = await countPending(transaction, source, options.graceMs);
        const looked = await readOverdue(transaction, source, options.graceMs);
        const all = looked.looked_up < MOST_LOOKED_UP;
        return {
          pending: counted.pending,
          overdue: all ? looked.overdue : estimate(looked, counted.old, await countParked(transaction)),
          oldest: looked.oldest,
          newest: source.hasTimeIndex ? await readNewestEvent(transaction, source) : undefined,
        };
      },
      { signal, statementTimeoutMs: options.statementTimeoutMs },
    );
    return (set) => {
      set('counterfoil_pending_events', {}, pending);
      set('counterfoil_overdue_events', {}, overdue);
      if (oldest !== null) set('counterfoil_oldest_overdue_event_timestamp_seconds', {}, oldest);
      if (newest !== undefined) set('counterfoil_newest_event_timestamp_seconds', {}, newest);
    };
  } catch (error) {
    tables.forget();
    throw error;
  }
}

/**
 * Beyond those that were looked up one by one, all that is old and not parked counts as overdue: leases are as few as the
 * service has in hand.
 */
function estimate({ overdue, looked_up: lookedUp }: OverdueEvents, old: number, parked: number): number {
  const notParked = Math.max(lookedUp, old - parked);
  return Math.min(overdue + notParked - lookedUp, MOST_COUNTED);
}
