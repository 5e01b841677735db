/**
 * The only file that talks to the replay endpoint. It says how a call ended and never decides what that means
 * for an event. Follows no redirect: the token goes to the configured address and to no other.
 */
import {
  CircuitState,
  ConsecutiveBreaker,
  circuitBreaker,
  handleWhenResult,
  isBrokenCircuitError,
} from 'cockatiel';
import { Agent, request } from 'undici';
import { z } from 'zod';
import { errorCode } from '../runtime/sqlstates.ts';
import type { EventOutcome } from './decide.ts';

export interface PublisherSettings {
  readonly url: string;
  readonly token: string;
  /** Connections, one for each call in flight. */
  readonly lanes: number;
  /** What the service is given for one call, in milliseconds. */
  readonly deadlineMs: number;
}

export interface EventAnswer {
  readonly outcome: EventOutcome;
  readonly retryable: boolean;
  /** A class or a code, or nothing: free text could hold what stands in a payload. */
  readonly error: string | undefined;
}

export type CallResult =
  | {
      readonly kind: 'answered';
      readonly serviceVersion: string;
      readonly listenersDigest: string;
      /** By event id; an id that was asked for and is not in it got no answer. */
      readonly answers: ReadonlyMap<string, EventAnswer>;
      /** Results for ids that were not asked for, and second ones for the same id: ignored. */
      readonly strangers: number;
    }
  | { readonly kind: 'unreached' | 'cut' | 'unclear'; readonly code: string }
  | { readonly kind: 'refused'; readonly code: string }
  | { readonly kind: 'abandoned' }
  /** Not sent at all, since the endpoint is down. */
  | { readonly kind: 'unsent' };

export interface Publisher {
  /** Sends one call. Trouble with the endpoint is a result and never an error. */
  publish(eventIds: readonly string[], idempotencyKey: string, signal: AbortSignal): Promise<CallResult>;
  /** `down` after more calls in a row without an answer than one crash of the service can cut. */
  endpoint(): 'up' | 'down';
  close(): Promise<void>;
}

/** The client waits this much longer than the service was given: its answer has to travel. */
const ANSWER_MARGIN_MS = 2_000;
const CONNECT_TIMEOUT_MS = 5_000;
/** Below the 5 s after which Node's own server closes an idle connection. */
const KEEP_ALIVE_MS = 4_000;
/** 100 results of 10 kB each: far above what an honest answer needs. */
const LARGEST_ANSWER_BYTES = 1_048_576;
/** Failures in a row beyond one per lane, so that one crash of the service is not taken for an outage. */
const FAILURES_BEYOND_LANES = 4;

/** By which the module of the service says of a refusal that it began no handler. */
const OUTCOME_HEADER = 'counterfoil-outcome';
const NOT_STARTED = 'not-started';
/** Below 500, and still no word on the request itself: request timeout, too early, too many requests. */
const refusedForNow = new Set([408, 425, 429]);

const outcomes = [
  'processed',
  'already_processed',
  'in_flight',
  'not_found',
  'no_listener',
  'unknown_version',
  'invalid_payload',
  'outcome_unknown',
  'failed',
] as const satisfies readonly EventOutcome[];

const answerSchema = z.object({
  serviceVersion: z.string().max(200),
  listenersDigest: z.string().min(1).max(200),
  results: z
    .array(
      z.object({
        eventId: z.string(),
        outcome: z.enum(outcomes),
        retryable: z.boolean().optional(),
        error: z.string().optional(),
      }),
    )
    .max(1_000),
});

export function createPublisher(settings: PublisherSettings): Publisher {
  const agent = new Agent({
    connections: settings.lanes,
    pipelining: 1,
    allowH2: false,
    connect: { timeout: CONNECT_TIMEOUT_MS },
    headersTimeout: settings.deadlineMs + ANSWER_MARGIN_MS,
    bodyTimeout: settings.deadlineMs + ANSWER_MARGIN_MS,
    keepAliveTimeout: KEEP_ALIVE_MS,
    keepAliveMaxTimeout: KEEP_ALIVE_MS,
    maxResponseSize: LARGEST_ANSWER_BYTES,
  });
  // The pause while the circuit is open is the caller's (replay.ts): a run that ends needs none.
  const breaker = circuitBreaker(handleWhenResult(isTrouble), {
    breaker: new ConsecutiveBreaker(settings.lanes + FAILURES_BEYOND_LANES),
    halfOpenAfter: 0,
  });
  return {
    async publish(eventIds, idempotencyKey, signal) {
      try {
        return await breaker.execute(() => post(agent, settings, eventIds, idempotencyKey, signal));
      } catch (error) {
        if (isBrokenCircuitError(error)) return { kind: 'unsent' };
        throw error;
      }
    },
    endpoint: () => (breaker.state === CircuitState.Closed ? 'up' : 'down'),
    close: async () => await agent.destroy(),
  };
}

function isTrouble(result: unknown): boolean {
  const { kind } = result as CallResult;
  return kind === 'unreached' || kind === 'cut' || kind === 'unclear';
}

async function post(
  agent: Agent,
  settings: PublisherSettings,
  eventIds: readonly string[],
  idempotencyKey: string,
  signal: AbortSignal,
): Promise<CallResult> {
  if (signal.aborted) return { kind: 'abandoned' };
  // undici's own limits begin anew with each piece of the body; this one bounds the whole call.
  const late = new AbortController();
  const timer = setTimeout(() => late.abort(), settings.deadlineMs + ANSWER_MARGIN_MS);
  const onStop = () => late.abort();
  signal.addEventListener('abort', onStop, { once: true });
  try {
    const response = await request(settings.url, {
      dispatcher: agent,
      method: 'POST',
      headers: {
        authorization: `Bearer ${settings.token}`,
        'content-type': 'application/json',
        accept: 'application/json',
        'idempotency-key': idempotencyKey,
      },
      body: JSON.stringify({ eventIds, deadlineMs: settings.deadlineMs }),
      signal: late.signal,
    });
    const refusal = readStatus(response.statusCode, response.headers[OUTCOME_HEADER]);
    if (refusal !== undefined) {
      await response.body.dump({ limit: LARGEST_ANSWER_BYTES });
      return refusal;
    }
    return readAnswer(await response.body.text(), eventIds);
  } catch (error) {
    if (signal.aborted) return { kind: 'abandoned' };
    return late.signal.aborted ? { kind: 'unclear', code: 'timeout' } : readError(error);
  } finally {
    clearTimeout(timer);
    signal.removeEventListener('abort', onStop);
  }
}

/** What a status other than success means; nothing for success. */
function readStatus(status: number, outcome: string | string[] | undefined): CallResult | undefined {
  const code = `http_${status}`;
  if (status >= 200 && status < 300) return undefined;
  if (status >= 500 || refusedForNow.has(status)) {
    // Only our own module knows that nothing was begun; a proxy that says 503 may have sent the request before.
    return { kind: outcome === NOT_STARTED ? 'unreached' : 'unclear', code };
  }
  return { kind: 'refused', code };
}

function readAnswer(text: string, eventIds: readonly string[]): CallResult {
  let content: unknown;
  try {
    content = JSON.parse(text);
  } catch {
    return { kind: 'unclear', code: 'answer_not_json' };
  }
  const parsed = answerSchema.safeParse(content);
  if (!parsed.success) return { kind: 'unclear', code: 'answer_malformed' };
  const asked = new Set(eventIds);
  const answers = new Map<string, EventAnswer>();
  for (const { eventId, outcome, retryable, error } of parsed.data.results) {
    if (!asked.has(eventId) || answers.has(eventId)) continue;
    // A failure that does not say whether a retry helps gets one: the budget bounds it.
    answers.set(eventId, { outcome, retryable: retryable ?? true, error: classOrCode(error) });
  }
  // An answer that says nothing of any event is trouble of the endpoint, and not of each event.
  if (answers.size === 0) return { kind: 'unclear', code: 'answer_empty' };
  return {
    kind: 'answered',
    serviceVersion: parsed.data.serviceVersion,
    listenersDigest: parsed.data.listenersDigest,
    answers,
    strangers: parsed.data.results.length - answers.size,
  };
}

function classOrCode(error: string | undefined): string | undefined {
  if (error === undefined) return undefined;
  return /^[A-Za-z0-9_.:-]{1,64}$/.test(error) ? error : 'error_text_withheld';
}

/** Errors before a connection stood: no handler was reached. */
const neverConnected = new Set([
  'ECONNREFUSED',
  'ENOTFOUND',
  'EAI_AGAIN',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'ENETDOWN',
  'EADDRNOTAVAIL',
  'ETIMEDOUT',
  'UND_ERR_CONNECT_TIMEOUT',
]);
/** Errors of a connection that stood, after the request had begun to go out. */
const connectionBroke = new Set(['ECONNRESET', 'EPIPE', 'UND_ERR_SOCKET']);

function readError(error: unknown): CallResult {
  const code = errorCode(error) ?? 'unknown_error';
  // TLS comes before the request: a certificate that is refused has let nothing through.
  if (neverConnected.has(code) || /^(CERT_|ERR_TLS_|ERR_SSL_|DEPTH_ZERO_|UNABLE_TO_|SELF_SIGNED_)/.test(code))
    return { kind: 'unreached', code };
  if (connectionBroke.has(code)) return { kind: 'cut', code };
  return { kind: 'unclear', code };
}
