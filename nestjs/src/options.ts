import type { CounterfoilDriver } from './driver.js';
import type { EventMetrics } from './metrics.js';

/** What a service says when asked to rebuild the event of a session. */
export type RebuildAnswer =
  /** The event as it should have been published; its name must have a listener. */
  | { outcome: 'rebuilt'; event: { name: string; payload: unknown } }
  /** There is no such fact. */
  | { outcome: 'not_found' }
  /** Its live bill stands. */
  | { outcome: 'not_needed' }
  /** A machine must not rebuild it; `code` says why, in a word such as `bill_was_reversed`. */
  | { outcome: 'refused'; code: string };

/** Settings of the module. */
export interface CounterfoilOptions<Handle = unknown> {
  /** The service's database: `pgDriver(pool)` or `drizzleDriver(db)`. */
  driver: CounterfoilDriver<Handle>;
  /** The service's version, as replay answers name it. */
  serviceVersion: string;
  /** Bearer token of `POST /admin/events/replay`; without it the endpoint does not exist. */
  replayToken?: string | undefined;
  /** The pod's name, for `event_backups.published_by` where that column exists. */
  publishedBy?: string | undefined;
  /** The pod template's hash, for `event_backups.published_hash` where that column exists. */
  publishedHash?: string | undefined;
  /**
   * The active trace in the form of W3C's header `traceparent`, for `event_backups.traceparent` where that column
   * exists; by default OpenTelemetry's, where the service has `@opentelemetry/api`.
   */
  traceparent?: (() => string | undefined) | undefined;
  /**
   * By event name: whether a payload has the form its listeners expect. Refused payloads are not published, and a
   * stored one is answered `invalid_payload` by a replay instead of being given to a listener.
   */
  accepts?: Readonly<Record<string, (payload: unknown) => boolean>> | undefined;
  /**
   * Every name this service publishes. Given, each must have a backed listener, or the start is refused, and `publish`
   * refuses any other name. Without it, an event nobody listens to stays pending and is seen by alerts only.
   */
  publishes?: readonly string[] | undefined;
  /** The payload field by which `POST /admin/events/replay/:sessionId` finds events (default `sessionId`). */
  sessionKey?: string | undefined;
  /**
   * Gives an event anew from the service's own facts, where a replay by session finds nothing pending. Must only read,
   * and must give the same event for the same facts. Without it such a replay answers `not_supported`.
   */
  rebuild?: ((sessionId: string) => Promise<RebuildAnswer>) | undefined;
  /** Where the module counts to; `promClientMetrics(registry)` of `@counterfoil/nestjs/prom-client`, or your own. */
  metrics?: EventMetrics | undefined;
  /**
   * How long a listener is left alone by other processes after its last renewal, in ms (default 30 000). After a
   * crash a replay waits this long; renewed every quarter of it, so shorter bears less of a stalled database: a
   * finished listener's outcome is written again and again until its lease has run out.
   */
  listenerLeaseMs?: number | undefined;
  /** A listener that runs longer is given up: its lease is no longer renewed, in ms (default 900 000). */
  listenerDeadlineMs?: number | undefined;
  /** How long shutdown waits for running listeners, in ms (default 25 000, below Kubernetes' 30 s). */
  drainDeadlineMs?: number | undefined;
  /** How many events may be in work in this process (default 100); beyond it they wait. */
  maxInFlight?: number | undefined;
  /**
   * How many published events may wait for room, first in, first out (default ten times `maxInFlight`); beyond it they
   * stay pending for a replay.
   */
  maxWaiting?: number | undefined;
  /** How much payload may wait with them, in characters of JSON (default 16 MiB); beyond it as for `maxWaiting`. */
  maxWaitingLength?: number | undefined;
}

/** The options with every default filled in. */
export interface ResolvedOptions extends CounterfoilOptions {
  sessionKey: string;
  listenerLeaseMs: number;
  listenerDeadlineMs: number;
  drainDeadlineMs: number;
  maxInFlight: number;
  maxWaiting: number;
  maxWaitingLength: number;
}

/** Options that cannot be used; names the settings, never their values. */
export class OptionsRefusedError extends Error {
  override readonly name = 'OptionsRefusedError';
  constructor(problems: readonly string[]) {
    super(`CounterfoilModule options refused: ${problems.join('; ')}`);
  }
}

/** Injection token of the resolved options. */
export const OPTIONS = Symbol('counterfoil:options');

/** The name of one field at the top of a payload, as it can stand in a statement and in an index. */
export const PAYLOAD_FIELD = /^[A-Za-z_][A-Za-z0-9_]{0,62}$/;

/** Fills in defaults; throws OptionsRefusedError with every problem found. */
export function resolveOptions(options: CounterfoilOptions): ResolvedOptions {
  const resolved = {
    ...options,
    sessionKey: options.sessionKey ?? 'sessionId',
    listenerLeaseMs: options.listenerLeaseMs ?? 30_000,
    listenerDeadlineMs: options.listenerDeadlineMs ?? 900_000,
    drainDeadlineMs: options.drainDeadlineMs ?? 25_000,
    maxInFlight: options.maxInFlight ?? 100,
    maxWaiting: options.maxWaiting ?? 10 * (options.maxInFlight ?? 100),
    maxWaitingLength: options.maxWaitingLength ?? 16 * 1024 * 1024,
  };
  const problems: string[] = [];
  for (const name of ['listenerLeaseMs', 'listenerDeadlineMs', 'maxInFlight'] as const) {
    if (!Number.isSafeInteger(resolved[name]) || resolved[name] < 1)
      problems.push(`${name} must be a positive integer`);
  }
  for (const name of ['drainDeadlineMs', 'maxWaiting', 'maxWaitingLength'] as const) {
    if (!Number.isSafeInteger(resolved[name]) || resolved[name] < 0)
      problems.push(`${name} must be an integer of at least 0`);
  }
  if (!PAYLOAD_FIELD.test(resolved.sessionKey)) {
    problems.push('sessionKey must be the name of a payload field, of letters, digits and _');
  }
  if (options.serviceVersion === '') problems.push('serviceVersion must not be empty');
  if (options.replayToken === '')
    problems.push('replayToken must not be empty; leave it out for no endpoint');
  if (problems.length > 0) throw new OptionsRefusedError(problems);
  return resolved;
}

/** Whether a stored payload has the form its listeners expect; an event without a declared form is taken as it is. */
export function isAccepted(options: CounterfoilOptions, eventName: string, payloadText: string): boolean {
  const accepts = options.accepts?.[eventName];
  if (accepts === undefined) return true;
  try {
    return accepts(JSON.parse(payloadText));
  } catch {
    return false;
  }
}
