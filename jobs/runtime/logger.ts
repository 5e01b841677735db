import { type DestinationStream, destination, type Logger, pino } from 'pino';
import { safeMessage } from './sqlstates.ts';

export type { Logger };

/** Where log lines go: a stream with `write`, standard output unless a test passes its own. */
export type LogDestination = DestinationStream;

/**
 * One JSON line per entry, time in UTC. Synchronous on purpose: a job is short, and the last lines before an
 * exit are those that matter. Fields are ids, names, counts and codes; never rows, payloads or settings.
 */
export function createLogger(
  options: { readonly job: string; readonly level: string; readonly installation: string },
  stream: LogDestination = destination({ dest: 1, sync: true }),
): Logger {
  return pino(
    {
      level: options.level,
      base: { job: options.job, installation: options.installation },
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      // Of an error only what was written by us or names objects: pg's `detail` and `where` quote rows.
      serializers: { err: describeError },
    },
    stream,
  );
}

interface LoggedError {
  type: string;
  message: string;
  frames?: string[];
  cause?: LoggedError;
}

function describeError(error: unknown): LoggedError {
  if (!(error instanceof Error)) return { type: typeof error, message: safeMessage(error) };
  return {
    type: error.name,
    message: safeMessage(error),
    // The frames alone: the head of a stack repeats the message that was made safe above.
    frames: (error.stack ?? '')
      .split('\n')
      .filter((line) => line.startsWith('    at '))
      .map((line) => line.trim()),
    ...(error.cause instanceof Error ? { cause: describeError(error.cause) } : {}),
  };
}
