/** Takes what people, scripts and the exporter ask for in the table `requests`: replays of named events or of a range. */
import { z } from 'zod';
import type { Database } from '../runtime/database.ts';
import type { Logger } from '../runtime/logger.ts';
import type { ReplayCounts } from './counts.ts';
import { type EventsTable, normalizeIds } from './events-table.ts';
import {
  type Cursor,
  findOpenRequest,
  firstCursor,
  markRequestTaken,
  type OpenRequest,
  refuseRequest,
  takeInNamedEvents,
  takeInRange,
} from './queries.ts';

export interface RequestContext {
  readonly database: Database;
  readonly logger: Logger;
  readonly events: EventsTable;
  readonly installation: string;
  readonly runId: string;
}

/** Ids in one statement, and pending events in one page of a range. */
const PORTION = 5_000;

const time = z.iso.datetime({ offset: true });
const scopeSchema = z.union([
  z.strictObject({ event_ids: z.array(z.string().min(1)).min(1).max(100_000) }),
  z.strictObject({ from: time, to: time, published_hash: z.string().min(1).optional() }),
]);

/** Takes in the events of every open request, oldest request first. Repeating it after a crash changes nothing. */
export async function takeOpenRequests(context: RequestContext, counts: ReplayCounts): Promise<void> {
  for (;;) {
    const request = await findOpenRequest(context.database);
    if (request === undefined) return;
    const scope = scopeSchema.safeParse(request.scope);
    if (!scope.success) {
      await refuse(
        context,
        request,
        'the scope must be {"event_ids": […]} or {"from": …, "to": …, "published_hash": …}',
      );
      continue;
    }
    if ('published_hash' in scope.data && !context.events.hasPublishedHash) {
      await refuse(
        context,
        request,
        'the events table has no column published_hash: leave it out of the scope',
      );
      continue;
    }
    const result =
      'event_ids' in scope.data
        ? await takeNamed(context, counts, scope.data.event_ids, request.id)
        : await takeRange(context, counts, scope.data, request.id);
    await markRequestTaken(context.database, request.id, context.runId, result);
    context.logger.info({ requestId: request.id, ...result }, 'a request for a replay was taken');
  }
}

async function refuse(context: RequestContext, request: OpenRequest, problem: string): Promise<void> {
  await refuseRequest(context.database, context.installation, request.id, context.runId, problem);
  context.logger.warn({ requestId: request.id }, `a request for a replay was refused: ${problem}`);
}

/** Takes in named events whatever their age; also what CF_EVENT_IDS does. */
export async function takeNamed(
  context: Pick<RequestContext, 'database' | 'logger' | 'events'>,
  counts: ReplayCounts,
  eventIds: readonly string[],
  requestId: string | null,
): Promise<Readonly<Record<string, number>>> {
  const { database, logger, events } = context;
  const ids = normalizeIds(eventIds, events.idType);
  const result = {
    asked: eventIds.length,
    taken_in: 0,
    unparked: 0,
    already_due: 0,
    not_pending: 0,
    leased: 0,
    unknown: new Set(eventIds).size - ids.length,
  };
  for (let start = 0; start < ids.length; start += PORTION) {
    const portion = ids.slice(start, start + PORTION);
    const found = await takeInNamedEvents(database, events, { eventIds: portion, requestId });
    result.taken_in += found.takenIn;
    result.unparked += found.unparked;
    result.already_due += found.alreadyDue;
    result.not_pending += found.notPending;
    result.leased += found.leased;
    result.unknown += found.unknown.length;
    for (const eventId of found.unknown.slice(0, 100)) {
      logger.warn({ eventId }, 'an event that was asked for is not in the events table');
    }
  }
  counts.taken_in += result.taken_in;
  counts.unparked += result.unparked;
  return result;
}

async function takeRange(
  { database, events }: RequestContext,
  counts: ReplayCounts,
  scope: { readonly from: string; readonly to: string; readonly published_hash?: string | undefined },
  requestId: string,
): Promise<Readonly<Record<string, number>>> {
  const result = { pending: 0, taken_in: 0 };
  let after: Cursor | undefined = firstCursor(events.idType);
  while (after !== undefined) {
    const page = await takeInRange(database, events, {
      from: scope.from,
      to: scope.to,
      publishedHash: scope.published_hash ?? null,
      requestId,
      after,
      size: PORTION,
    });
    result.pending += page.scanned;
    result.taken_in += page.takenIn;
    after = page.scanned < PORTION ? undefined : page.last;
  }
  counts.taken_in += result.taken_in;
  return result;
}
