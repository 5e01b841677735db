/** Takes what people, scripts and the exporter ask for in the table `requests`: replays of named events or of a range. */
import { z } from 'zod';
import type { Database } from '../runtime/database.ts';
import type { Logger } from '../runtime/logger.ts';
import { errorCode, toRunFailure } from '../runtime/sqlstates.ts';
import type { ReplayCounts } from './counts.ts';
import { type EventsTable, normalizeIds } from './events-table.ts';
import { type RangePage, readRange, takeInNamedEvents } from './intake-queries.ts';
import { findOpenRequest, markRequestTaken, type OpenRequest, refuseRequest } from './request-queries.ts';
import { type Cursor, firstCursor } from './statement-parts.ts';

export interface RequestContext {
  readonly database: Database;
  readonly logger: Logger;
  readonly events: EventsTable;
  readonly installation: string;
  readonly runId: string;
}

/** Ids in one statement, and pending events in one page of a range. */
const PORTION = 5_000;

/** Years that mean something here; Postgres and JavaScript agree on all of them. */
const EARLIEST = Date.UTC(1970);
const LATEST = Date.UTC(2200);
const time = z.iso
  .datetime({ offset: true })
  .transform((text) => new Date(text).getTime())
  .refine((at) => at >= EARLIEST && at < LATEST)
  .transform((at) => new Date(at).toISOString());
const scopeSchema = z.union([
  z.strictObject({ event_ids: z.array(z.string().min(1)).min(1).max(100_000) }),
  z.strictObject({
    from: time,
    to: time,
    published_hash: z.string().min(1).optional(),
    // By which the exporter knows its own request after an abort; means nothing here.
    abort: z.looseObject({}).optional(),
  }),
]);

/**
 * Takes in the events of the open requests, oldest request first, a portion at each step: sending and stopping
 * need not wait for a large one. Says at each step whether more may be open. Repeating a request after a crash
 * changes nothing. One that fails is passed over until the next round.
 */
export async function* takeOpenRequests(
  context: RequestContext,
  counts: ReplayCounts,
): AsyncGenerator<boolean> {
  let after = '0';
  for (;;) {
    const request = await findOpenRequest(context.database, after);
    after = request?.id ?? '0';
    if (request === undefined) {
      yield false;
      continue;
    }
    try {
      yield* takeRequest(context, counts, request);
    } catch (error) {
      const failure = toRunFailure(error);
      if (errorCode(failure.cause)?.startsWith('22') === true) {
        await refuse(context, request, 'the database cannot read a value of the scope');
      } else if (failure.id === 'database_busy' || failure.id === 'database_error') {
        context.logger.warn({ requestId: request.id, err: failure }, 'a request for a replay was put off');
      } else throw failure;
    }
  }
}

async function* takeRequest(
  context: RequestContext,
  counts: ReplayCounts,
  request: OpenRequest,
): AsyncGenerator<boolean> {
  const scope = scopeSchema.safeParse(request.scope);
  if (!scope.success) {
    await refuse(
      context,
      request,
      'the scope must be {"event_ids": […]} or {"from": …, "to": …, "published_hash": …}, ' +
        'with times of the years 1970 to 2199 such as 2026-11-01T12:00:00Z',
    );
    return;
  }
  if ('published_hash' in scope.data && !context.events.hasPublishedHash) {
    await refuse(
      context,
      request,
      'the events table has no column published_hash: leave it out of the scope',
    );
    return;
  }
  const portions =
    'event_ids' in scope.data
      ? takeNamed(context, counts, scope.data.event_ids, request.id)
      : takeRange(context, counts, scope.data, request.id);
  let result = {};
  for await (const soFar of portions) {
    result = soFar;
    yield true;
  }
  await markRequestTaken(context.database, request.id, context.runId, result);
  context.logger.info({ requestId: request.id, ...result }, 'a request for a replay was taken');
}

async function refuse(context: RequestContext, request: OpenRequest, problem: string): Promise<void> {
  await refuseRequest(context.database, context.installation, request.id, context.runId, problem);
  context.logger.warn({ requestId: request.id }, `a request for a replay was refused: ${problem}`);
}

/** Takes in named events whatever their age, a portion at each step, with what became of them so far. */
export async function* takeNamed(
  { database, logger, events }: Pick<RequestContext, 'database' | 'logger' | 'events'>,
  counts: ReplayCounts,
  eventIds: readonly string[],
  requestId: string | null,
): AsyncGenerator<Readonly<Record<string, number>>> {
  const ids = normalizeIds(eventIds, events.idType);
  const result = {
    asked: eventIds.length,
    taken_in: 0,
    unparked: 0,
    already_due: 0,
    handed: 0,
    not_pending: 0,
    leased: 0,
    unknown: new Set(eventIds).size - ids.length,
  };
  for (let start = 0; start === 0 || start < ids.length; start += PORTION) {
    const portion = ids.slice(start, start + PORTION);
    const found = await takeInNamedEvents(database, events, { eventIds: portion, requestId, unparks: true });
    result.taken_in += found.takenIn;
    result.unparked += found.unparked;
    result.already_due += found.alreadyDue;
    result.handed += found.handed;
    result.not_pending += found.notPending;
    result.leased += found.leased;
    result.unknown += found.unknown.length;
    counts.taken_in += found.takenIn;
    counts.unparked += found.unparked;
    for (const eventId of found.unknown.slice(0, 100)) {
      logger.warn({ eventId }, 'an event that was asked for is not in the events table');
    }
    yield result;
  }
}

async function* takeRange(
  { database, events }: RequestContext,
  counts: ReplayCounts,
  scope: { readonly from: string; readonly to: string; readonly published_hash?: string | undefined },
  requestId: string,
): AsyncGenerator<Readonly<Record<string, number>>> {
  const result = { pending: 0, taken_in: 0, already_due: 0 };
  let after: Cursor | undefined = firstCursor(events.idType);
  while (after !== undefined) {
    const page: RangePage = await readRange(database, events, {
      from: scope.from,
      to: scope.to,
      publishedHash: scope.published_hash ?? null,
      after,
      size: PORTION,
    });
    const found = await takeInNamedEvents(database, events, {
      eventIds: page.eventIds,
      requestId,
      unparks: false,
    });
    result.pending += page.eventIds.length;
    result.taken_in += found.takenIn;
    result.already_due += found.alreadyDue;
    counts.taken_in += found.takenIn;
    after = page.eventIds.length < PORTION ? undefined : page.last;
    yield result;
  }
}
