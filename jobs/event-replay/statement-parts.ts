/**
 * Parts of the statements of event-replay that depend on what the service's table looks like. Ours run with the state
 * schema as their path; the service's tables come qualified and quoted from events-table.ts. Each change in the
 * statements repeats the state and the owner that it expects, and says how many rows it met.
 * `statement_timestamp()` is their clock: an index can be searched by it, and in these transactions of one statement
 * it is no older than the statement.
 */
import type { EventsTable, IdType } from './events-table.ts';

/** `last_outcome` of a call without a clear end: such an event is sent alone, so that it harms no other. */
export const NO_CLEAR_ANSWER = 'no_clear_answer';

/** Where a walk over the pending events stands: the key of the last row seen, in the columns' own text form. */
export interface Cursor {
  readonly createdAt: string;
  readonly eventId: string;
}

/** In characters; an index entry holds 2,704 bytes. */
const LONGEST_AGGREGATE_KEY = 200;

const lowestId: Readonly<Record<IdType, string>> = {
  text: '',
  uuid: '00000000-0000-0000-0000-000000000000',
  bigint: '-9223372036854775808',
};

/** Before the oldest event there can be. */
export const firstCursor = (idType: IdType): Cursor => ({
  createdAt: '-infinity',
  eventId: lowestId[idType],
});

/** The parts of a statement that depend on what the service's table looks like. */
export function partsOf(events: EventsTable) {
  const { idType, createdAtType, deliveries } = events;
  // A name of pg_timezone_names, as env.ts and events-table.ts have made sure.
  const zone = `'${events.timeZone}'`;
  const sameId = deliveries === undefined || deliveries.idType === idType;
  return {
    /** `created_at` as timestamptz. */
    createdAt: createdAtType === 'timestamp' ? `b.created_at AT TIME ZONE ${zone}` : 'b.created_at',
    /** A timestamptz in the type of the column, so that an index on it can be used. */
    inColumnType: (moment: string) =>
      createdAtType === 'timestamp' ? `(${moment}) AT TIME ZONE ${zone}` : `(${moment})`,
    /** The one payload field that this job reads, and only where an order was asked for; cut to fit an index. */
    aggregateKey: (parameter: string) =>
      events.aggregateKey === undefined
        ? `${parameter}::text`
        : `left(b.payload ->> ${parameter}::text, ${LONGEST_AGGREGATE_KEY})`,
    publishedHash: events.hasPublishedHash ? 'b.published_hash::text' : 'NULL::text',
    leased:
      deliveries === undefined
        ? 'false'
        : `EXISTS (SELECT FROM ${deliveries.name} AS d
                    WHERE ${sameId ? 'd.event_id = b.event_id' : 'd.event_id::text = b.event_id::text'}
                      AND d.lease_until > statement_timestamp())`,
  };
}

/** What the service's table says of an event; a probe of its key and no join, which may read the whole table. */
export const backupStatusOf = (events: EventsTable, id: string): string => `coalesce(
                  (SELECT CASE WHEN b.status::text IN ('pending', 'processed') THEN b.status::text ELSE 'other' END
                     FROM ${events.name} AS b WHERE b.event_id = ${id}::${events.idType}), 'gone')`;

/** What becomes of an event here that is not pending there. */
export const outcomeOfBackup = `CASE backup_status WHEN 'processed' THEN 'already_processed'
                                                WHEN 'gone' THEN 'gone'
                                                ELSE 'not_pending' END`;
