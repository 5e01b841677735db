/**
 * Walks over a table in small portions, each a transaction of its own with a limited time, and a pause after each. A
 * portion that takes too long or meets a lock is halved; the one row that somebody holds is left for the next run.
 */
import type { Check } from '../checks/parse.ts';
import type { Database } from '../runtime/database.ts';
import { RunFailure } from '../runtime/failures.ts';
import { pause } from '../runtime/pause.ts';
import { errorCode } from '../runtime/sqlstates.ts';
import { holdsOf } from './holds.ts';
import {
  type Cursor,
  limitLockWait,
  type Portion,
  portion,
  readNamedFindings,
  readOpenRequests,
  type Takes,
} from './queries.ts';
import type { Walked } from './tables.ts';

export interface PurgeSettings {
  /** In UTC: what was processed, or where nothing says when, created before may go. */
  readonly limit: string;
  readonly checks: readonly Check[];
  readonly batchSize: number;
  readonly statementMs: number;
  readonly pauseMs: number;
}

export interface PurgeContext {
  readonly database: Database;
  readonly settings: PurgeSettings;
  /** Aborted when nothing more is to be begun. */
  readonly stop: AbortSignal;
  /** Called before each portion; throws where the lease is lost. */
  readonly beforePortion: () => Promise<void>;
}

export interface WalkCounts {
  scanned: number;
  ripe: number;
  held: number;
  gone: number;
  /** Rows that would go and are locked by somebody. */
  locked: number;
  portions: number;
}

export interface WalkEnd {
  readonly counts: WalkCounts;
  /** `unreadable`: a request that nobody here understands holds everything. */
  readonly end: 'done' | 'stopped' | 'unreadable';
}

/** Share of a statement's time that it may wait for locks. */
const LOCK_SHARE = 0.25;
/** Blocks that one statement reads at most: rows of a block are some dozens. */
const LARGEST_BLOCKS = 128;

/** query_canceled (statement_timeout), lock_not_available (lock_timeout), deadlock_detected. */
const givenUp = new Set(['57014', '55P03', '40P01']);

/** A portion that took too long or waited for a lock: asked for again only in halves. */
class PortionGivenUp extends RunFailure {}

/** @param takes `nothing`: says what would go */
export async function walk(context: PurgeContext, table: Walked, takes: Takes): Promise<WalkEnd> {
  const { settings, stop } = context;
  const counts: WalkCounts = { scanned: 0, ripe: 0, held: 0, gone: 0, locked: 0, portions: 0 };
  const largest = table.hasTimeIndex ? settings.batchSize : Math.min(LARGEST_BLOCKS, settings.batchSize);
  let size = largest;
  for (const stretch of stretchesOf(table)) {
    let cursor: Cursor | undefined = stretch.first;
    while (cursor !== undefined) {
      await context.beforePortion();
      if (stop.aborted) return { counts, end: 'stopped' };
      const beganAt = performance.now();
      const take = cursor.by === 'block' ? Math.min(size, Math.max(0, stretch.end - cursor.block)) : size;
      let found: Portion | 'unreadable';
      try {
        found = await run(context, table, cursor, take, takes);
      } catch (error) {
        if (!(error instanceof PortionGivenUp)) throw error;
        if (size > 1) {
          size = Math.ceil(size / 2);
          await pause(settings.pauseMs, stop);
          continue;
        }
        if (takes === 'nothing') throw error;
        // Somebody holds this one row: the walk goes on behind it.
        found = await run(context, table, cursor, take, 'nothing');
        if (found !== 'unreadable') {
          counts.locked += found.gone;
          found = { ...found, gone: 0 };
        }
      }
      if (found === 'unreadable') return { counts, end: 'unreadable' };
      counts.scanned += found.scanned;
      counts.ripe += found.ripe;
      counts.held += found.held;
      counts.gone += found.gone;
      counts.portions += 1;
      cursor = next(cursor, found, take, stretch.end);
      const tookMs = performance.now() - beganAt;
      if (tookMs < settings.statementMs / 4) size = Math.min(largest, size * 2);
      // Never more than half of the time: others live on this database.
      if (cursor !== undefined) await pause(Math.max(settings.pauseMs, tookMs), stop);
    }
  }
  return { counts, end: 'done' };
}

interface Stretch {
  readonly first: Cursor;
  /** The block before which it ends. */
  readonly end: number;
}

/**
 * By time the walk is one stretch, oldest first. Over blocks it begins anywhere and comes round, so that runs that end
 * by their budget do not look at the same rows each time.
 */
function stretchesOf(table: Walked): readonly Stretch[] {
  if (table.hasTimeIndex) return [{ first: { by: 'time', createdAt: undefined }, end: 0 }];
  const start = Math.floor(Math.random() * table.blocks);
  return [
    { first: { by: 'block', block: start }, end: table.blocks },
    ...(start === 0 ? [] : [{ first: { by: 'block' as const, block: 0 }, end: start }]),
  ];
}

function next(cursor: Cursor, found: Portion, size: number, end: number): Cursor | undefined {
  if (cursor.by === 'block') {
    const block = cursor.block + size;
    return block < end ? { by: 'block', block } : undefined;
  }
  const { last_created_at: createdAt, last_event_id: eventId } = found;
  if (found.scanned < size || createdAt === null || eventId === null) return undefined;
  return { by: 'time', createdAt, eventId };
}

/** One portion, with what the open requests name at this moment. */
async function run(
  { database, settings }: PurgeContext,
  table: Walked,
  cursor: Cursor,
  size: number,
  takes: Takes,
): Promise<Portion | 'unreadable'> {
  return await database.transaction(
    {
      access: takes === 'nothing' ? 'read' : 'write',
      statementTimeoutMs: settings.statementMs,
      // After an unknown commit, what has gone is gone and the same walk meets what is left.
      repeatable: true,
    },
    async (transaction) => {
      const requests = holdsOf(await readOpenRequests(transaction));
      if (requests.unreadable !== undefined) return 'unreadable';
      const findings = await readNamedFindings(transaction, requests.findings);
      const { limit, checks } = settings;
      const statement = portion(table, { limit, cursor, size, requests, findings, checks, takes });
      // Below the time of the statement, so that a lock is told from work.
      await limitLockWait(transaction, Math.ceil(settings.statementMs * LOCK_SHARE));
      const [row] = await transaction
        .query<Portion>(statement.text, statement.params)
        .catch((error: unknown) => {
          if (!givenUp.has(errorCode(error) ?? '')) throw error;
          throw new PortionGivenUp('database_busy', 'a row could not be read or deleted in time', {
            cause: error,
          });
        });
      if (row === undefined) throw new RunFailure('internal', 'a portion gave no row');
      return row;
    },
  );
}
