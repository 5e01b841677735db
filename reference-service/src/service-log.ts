import { errorCode } from '@counterfoil/nestjs';
import type { LoggerService } from '@nestjs/common';
import { type DestinationStream, type Logger, pino } from 'pino';
import { currentContext } from './request-context.js';

/** Injection token of the pino logger. */
export const LOG = Symbol('log');

/** How many frames of a stack are written: enough to see who called whom. */
const FRAMES = 8;

/** An error without its message, which may hold payload: its class or code, and the places it came through. */
function withoutMessage(error: unknown): { code: string; at: string[] } {
  const { stack = '', message = '' } = error instanceof Error ? error : {};
  // A message may look like frames itself. Changed since the stack was made, it cannot be told from them: then none.
  const start = stack.indexOf(message);
  const frames = (start < 0 ? '' : stack.slice(start + message.length))
    .split('\n')
    .filter((line) => /^ {4}at \S/.test(line));
  return { code: errorCode(error), at: frames.slice(0, FRAMES).map((line) => line.trim()) };
}

/** The service's log: JSON lines with the ids of request and event, errors without their messages. To stdout by default. */
export function makeLog(level: string, destination?: DestinationStream): Logger {
  const options = {
    level,
    base: null,
    // A copy, since pino merges the line into it.
    mixin: () => ({ ...currentContext() }),
    serializers: { err: withoutMessage },
    timestamp: pino.stdTimeFunctions.isoTime,
  };
  return destination === undefined ? pino(options) : pino(options, destination);
}

type Method = 'info' | 'error' | 'warn' | 'debug' | 'fatal';

/** Nest's log lines on pino. */
export class NestLog implements LoggerService {
  constructor(private readonly pino: Logger) {}

  log(message: unknown, ...rest: unknown[]): void {
    this.write('info', message, rest);
  }
  error(message: unknown, ...rest: unknown[]): void {
    this.write('error', message, rest);
  }
  warn(message: unknown, ...rest: unknown[]): void {
    this.write('warn', message, rest);
  }
  debug(message: unknown, ...rest: unknown[]): void {
    this.write('debug', message, rest);
  }
  verbose(message: unknown, ...rest: unknown[]): void {
    this.write('debug', message, rest);
  }
  fatal(message: unknown, ...rest: unknown[]): void {
    this.write('fatal', message, rest);
  }

  private write(method: Method, message: unknown, rest: readonly unknown[]): void {
    // Nest passes the context last; what comes before it is a stack, whose first line repeats an error's message.
    const context = rest.at(-1);
    const fields = typeof context === 'string' ? { context } : {};
    if (message instanceof Error) {
      this.pino[method]({ ...fields, err: message }, 'Unexpected error');
    } else if (typeof message === 'object' && message !== null) {
      const { message: text, ...own } = message as Record<string, unknown>;
      this.pino[method]({ ...fields, ...own }, String(text));
    } else {
      this.pino[method](fields, String(message));
    }
  }
}
