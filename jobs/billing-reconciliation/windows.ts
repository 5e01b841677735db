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

export interface Pace {
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
const NARROWEST = 1n;
/** For rows of one microsecond, such as a mass update in one transaction, which no window can divide. */
const LONGEST_STATEMENT_MS = 30_000;

/** The next width: doubled below half the target, halved above twice the target. */
export function nextWidth(width: Instant, slowestMs: number, targetMs: number): Instant {
  if (slowestMs > targetMs * 2) return latest(width / 2n, NARROWEST);
  if (slowestMs < targetMs / 2) return earliest(width * 2n, WIDEST);
  return width;
}

/**
 * @param read reads one window under a time limit for each statement, and gives the time of its slowest one
 * @param stop asked before each window; true ends the sweep there
 */
export async function sweep(
  range: Range,
  pace: Pace,
  logger: Logger,
  stop: () => Promise<boolean>,
  read: (window: Range, timeoutMs: number) => Promise<number>,
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
      const slowestMs = await read({ from: at, to }, timeoutMs);
      at = to;
      windows += 1;
      width = nextWidth(width, slowestMs, pace.targetMs);
      timeoutMs = pace.timeoutMs;
    } catch (error) {
      if (!ranIntoTimeLimit(error)) throw error;
      if (to - at > NARROWEST) {
        width = (to - at) / 2n;
        logger.info(
          { from: formatInstant(at), widthSeconds: Number(width) / 1e6 },
          'a window ran into its time limit: halved',
        );
      } else {
        timeoutMs *= 2;
        if (timeoutMs > LONGEST_STATEMENT_MS) throw error;
        logger.warn(
          { from: formatInstant(at), timeoutMs },
          'rows of one single time cannot be divided: giving them longer',
        );
      }
    }
  }
  return { coveredTo: range.to, windows, plannedWindows: windows, complete: true };
}

/** Whether a statement was ended by `statement_timeout` (57014). */
export function ranIntoTimeLimit(error: unknown): boolean {
  return error instanceof RunFailure && errorCode(error.cause) === '57014';
}
