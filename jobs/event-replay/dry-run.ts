/** Says what a run would send at this moment. Reads only: Postgres itself refuses anything else. */
import type { Database } from '../runtime/database.ts';
import type { Logger } from '../runtime/logger.ts';
import type { RunCounts } from '../runtime/run-record.ts';
import { type EventsTable, normalizeIds } from './events-table.ts';
import { foreseeEvents } from './intake-queries.ts';

export interface DryRunSettings {
  readonly graceMs: number;
  readonly eventIds: readonly string[] | undefined;
  /** The most events to name; 0: MOST_NAMED. */
  readonly limit: number;
}

/** As many lines as a person reads. */
const MOST_NAMED = 1_000;

export async function dryRun(
  database: Database,
  logger: Logger,
  events: EventsTable,
  settings: DryRunSettings,
): Promise<RunCounts> {
  const eventIds =
    settings.eventIds === undefined ? undefined : normalizeIds(settings.eventIds, events.idType);
  const limit = settings.limit === 0 ? MOST_NAMED : settings.limit;
  const foreseen = await foreseeEvents(database, events, { graceMs: settings.graceMs, eventIds, limit });
  for (const event of foreseen) {
    logger.info(
      { eventId: event.event_id, eventName: event.event_name, ageSeconds: Math.round(event.age_seconds) },
      'would be sent',
    );
  }
  const named = new Set(foreseen.map((event) => event.event_id));
  const notPending = (settings.eventIds ?? []).filter(
    (id) => !normalizeIds([id], events.idType).some((normal) => named.has(normal)),
  );
  for (const eventId of notPending)
    logger.warn({ eventId }, 'an event that was named would not be sent: not pending, or not there');
  return {
    would_send: foreseen.length,
    would_take_in: foreseen.filter((event) => !event.known).length,
    not_pending: notPending.length,
  };
}
