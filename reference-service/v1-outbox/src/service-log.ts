import { type DestinationStream, type Logger, pino } from 'pino';

/** A name for an error that is safe to log and store: SQLSTATE or errno, else the class; never the message. */
export function errorCode(error: unknown): string {
  const { code, name } = (error ?? {}) as { code?: unknown; name?: unknown };
  for (const word of [code, name]) {
    if (typeof word === 'string' && /^\w{1,64}$/.test(word)) return word;
  }
  return 'Error';
}

/** JSON lines to standard output unless told; of an error only its code, since its message may hold payload. */
export function makeLog(destination: DestinationStream = pino.destination(1)): Logger {
  const options = {
    level: 'info',
    base: null,
    serializers: { err: (error: unknown) => ({ code: errorCode(error) }) },
    timestamp: pino.stdTimeFunctions.isoTime,
  };
  return pino(options, destination);
}
