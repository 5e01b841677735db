/**
 * Walks over a range of time in windows, one statement after the other, and steers their width towards a target
 * time. Decides widths and retries only; what a window is, its caller knows.
 */

import { RunFailure } from '../runtime/failures.ts';
import type { Logger } from '../runtime/logger.ts';
import { errorCode } from '../runtime/sqlstates.ts';
import { earliest, formatInstant, type Instant, latest } from './instant.ts';

export interface Range {
  readonly from: Instant;
  readonly to: Instant;
}

interface Pace {
  /** Windows are made no narrower: below this, what is read around a window outweighs what is in it. */
  readonly narrowest: Instant;
  readonly targetMs: number;
  readonly timeoutMs: number;
}

export interface Coverage {
  /** Everything before this was read. */
  readonly coveredTo: Instant;
  readonly windows: number;
  /** Windows of the whole range; an estimate from the last width when the sweep was stopped. */
  readonly plannedWindows: number;
  readonly complete: boolean;
}

const SECOND = 1_000_000n;
const FIRST_WIDTH = 3600n * SECOND;
/** Wider ones would only make the first dense stretch after a gap run into its time limit more often. */
const WIDEST = 32n * 86_400n * SECOND;
/** For what no narrower window makes cheaper, such as a mass update in one transaction: all rows of one time. */
const LONGEST_STATEMENT_MS = 30_000;

/** What one window cost and held. */
interface WindowCost {
  /** Time of its statement, in milliseconds. */
  readonly tookMs: number;
  /** Rows of the side that has more. */
  readonly rows: number;
}

/** With fewer rows than this, the time of a window is the way to the server: a narrower one would cost the same. */
const FEW_ROWS = 1000;

/** The next width: doubled below half the target or for few rows, halved above twice the target. */
export function nextWidth(width: Instant, cost: WindowCost, pace: Pace): Instant {
  const { targetMs, narrowest } = pace;
  if (cost.rows < FEW_ROWS || cost.tookMs < targetMs / 2) return earliest(width * 2n, WIDEST);
  if (cost.tookMs > targetMs * 2) return latest(width / 2n, narrowest);
  return width;
}

/**
 * @param read reads one window under a time limit for each statement, and gives what it cost
 * @param stop asked before each window; true ends the sweep there
 */
export async function sweep(
  range: Range,
  pace: Pace,
  logger: Logger,
  stop: () => Promise<boolean>,
  read: (window: Range, timeoutMs: number) => Promise<WindowCost>,
): Promise<Coverage> {
  let width = FIRST_WIDTH;
  let timeoutMs = pace.timeoutMs;
  let at = range.from;
  let windows = 0;
  while (at < range.to) {
    if (await stop()) {
      const left = (range.to - at + width - 1n) / width;
      return { coveredTo: at, windows, plannedWindows: windows + Number(left), complete: false };
    }
    const to = earliest(at + width, range.to);
    try {
      const cost = await read({ from: at, to }, timeoutMs);
      at = to;
      windows += 1;
      width = nextWidth(width, cost, pace);
      timeoutMs = pace.timeoutMs;
    } catch (error) {
      if (!ranIntoTimeLimit(error)) throw error;
      if (to - at > pace.narrowest) {
        width = latest((to - at) / 2n, pace.narrowest);
        logger.info(
          { from: formatInstant(at), widthSeconds: Number(width) / 1e6 },
          'a window ran into its time limit: halved',
        );
      } else {
        timeoutMs *= 2;
        if (timeoutMs > LONGEST_STATEMENT_MS) throw error;
        logger.warn(
          { from: formatInstant(at), timeoutMs },
          'a window cannot be made narrower: giving it longer; a smaller CF_SLACK_SECONDS makes windows cheaper',
        );
      }
    }
  }
  return { coveredTo: range.to, windows, plannedWindows: windows, complete: true };
}

/**
 * The pace of a run.
 * @param settings of those, a slack in milliseconds: every window reads that much of the other side around it
 */
export function paceOf(settings: {
  readonly CF_WINDOW_TARGET_MILLISECONDS: number;
  readonly CF_WINDOW_TIMEOUT_MILLISECONDS: number;
  readonly CF_SLACK_SECONDS: number;
}): Pace {
  return {
    targetMs: settings.CF_WINDOW_TARGET_MILLISECONDS,
    timeoutMs: settings.CF_WINDOW_TIMEOUT_MILLISECONDS,
    narrowest: latest(1n, (BigInt(settings.CF_SLACK_SECONDS) * 1000n) / 8n),
  };
}

/** Whether a statement was ended by `statement_timeout` (57014). */
export function ranIntoTimeLimit(error: unknown): boolean {
  return error instanceof RunFailure && errorCode(error.cause) === '57014';
}
