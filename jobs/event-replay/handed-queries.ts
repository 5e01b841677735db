/** Statements on what was given to the predecessor's outbox. */
import type { Database } from '../runtime/database.ts';
import type { EventsTable } from './events-table.ts';
import { backupStatusOf, outcomeOfBackup } from './statement-parts.ts';

/** Where a walk over what was given to the outbox begins. */
export const firstHanded: HandedCursor = { handedAt: '-infinity', eventId: '' };

export interface HandedCursor {
  readonly handedAt: string;
  readonly eventId: string;
}

export interface HandedEvent {
  readonly event_id: string;
  readonly event_name: string;
  readonly handed_at: string;
  readonly age_ms: number;
}

/**
 * One page of the walk over what was given to the outbox: what is no longer pending in the events table is done, the
 * rest is given out. Needs the index replay_events_handed.
 */
export const readHandedEvents = async (
  database: Database,
  events: EventsTable,
  after: HandedCursor,
  size: number,
): Promise<{
  readonly ended: number;
  readonly waiting: readonly HandedEvent[];
  readonly last: HandedCursor | undefined;
}> =>
  await database.transaction({ repeatable: true }, async (transaction) => {
    const rows = await transaction.query<HandedEvent & { ended: boolean }>(
      `-- event-replay: readHandedEvents
       WITH page AS MATERIALIZED (
         SELECT event_id, event_name, handed_at FROM replay_events
          WHERE status = 'handed_to_outbox' AND (handed_at, event_id) > ($1::timestamptz, $2::text)
          ORDER BY handed_at, event_id
          LIMIT $3::integer
       ), looked_up AS MATERIALIZED (
         SELECT page.*, ${backupStatusOf(events, 'page.event_id')} AS backup_status FROM page
       ), ended AS (
         UPDATE replay_events AS r
            SET status = 'done', finished_at = clock_timestamp(), last_outcome = ${outcomeOfBackup}
           FROM looked_up
          WHERE r.event_id = ANY (ARRAY(SELECT event_id FROM looked_up WHERE backup_status <> 'pending'))
            AND r.event_id = looked_up.event_id AND r.status = 'handed_to_outbox'
         RETURNING r.event_id
       )
       SELECT event_id, event_name, handed_at, event_id IN (SELECT event_id FROM ended) AS ended,
              (extract(epoch FROM statement_timestamp() - handed_at) * 1000)::double precision AS age_ms
         FROM looked_up ORDER BY handed_at, event_id`,
      [after.handedAt, after.eventId, size],
    );
    const last = rows.at(-1);
    return {
      ended: rows.filter((row) => row.ended).length,
      waiting: rows.filter((row) => !row.ended),
      last:
        last === undefined || rows.length < size
          ? undefined
          : { handedAt: last.handed_at, eventId: last.event_id },
    };
  });

/** Ends what was given to the outbox and is billed, and makes due again what nobody has billed in time. */
export const settleHandedEvents = async (
  database: Database,
  billed: readonly string[],
  dueAgain: readonly string[],
): Promise<{ readonly billed: number; readonly dueAgain: number }> =>
  await database.transaction({ repeatable: true }, async (transaction) => {
    const rows = await transaction.query<{ status: string }>(
      `-- event-replay: settleHandedEvents
       UPDATE replay_events AS r
          SET status = CASE WHEN r.event_id = ANY ($1::text[]) THEN 'done' ELSE 'due' END,
              finished_at = CASE WHEN r.event_id = ANY ($1::text[]) THEN clock_timestamp() END,
              last_outcome = CASE WHEN r.event_id = ANY ($1::text[]) THEN 'billed_by_outbox' ELSE 'not_billed_by_outbox' END,
              next_attempt_at = CASE WHEN r.event_id = ANY ($1::text[]) THEN r.next_attempt_at ELSE statement_timestamp() END
        WHERE r.event_id = ANY ($1::text[] || $2::text[]) AND r.status = 'handed_to_outbox'
       RETURNING r.status`,
      [billed, dueAgain],
    );
    const done = rows.filter(({ status }) => status === 'done').length;
    return { billed: done, dueAgain: rows.length - done };
  });
