/**
 * The only file that talks to the service. It says how a call ended and never decides what that means for an event or
 * a finding. All its routes share one breaker: they are one process. Follows no redirect: the token goes to the
 * configured addresses and to no other.
 */
import {
  CircuitState,
  ConsecutiveBreaker,
  circuitBreaker,
  handleWhenResult,
  isBrokenCircuitError,
} from 'cockatiel';
import { Agent, request } from 'undici';
import { errorCode } from '../runtime/sqlstates.ts';

export interface ServiceSettings {
  readonly token: string;
  /** Calls with events that may be in flight at once; as many failures and a few more mean an outage. */
  readonly lanes: number;
  /** Connections, one for each call in flight, of whatever kind. */
  readonly connections: number;
  /** What the service is given for one call, in milliseconds. */
  readonly deadlineMs: number;
}

/** A call without an answer that could be read. */
export type NoAnswer =
  | { readonly kind: 'unreached' | 'cut' | 'unclear'; readonly code: string }
  /** A clear no to the request itself. */
  | { readonly kind: 'refused'; readonly code: string }
  | { readonly kind: 'abandoned' }
  /** Not sent at all, since the endpoint is down. */
  | { readonly kind: 'unsent' };

export interface Service {
  /**
   * Posts JSON. Trouble with the endpoint is a result and never an error.
   * @param read makes an answer of the text of a success, or `unclear`
   */
  post<Answer extends { readonly kind: string }>(
    call: {
      readonly url: string;
      readonly body: Readonly<Record<string, unknown>>;
      readonly idempotencyKey: string;
      readonly signal: AbortSignal;
    },
    read: (text: string) => Answer | NoAnswer,
  ): Promise<Answer | NoAnswer>;
  /** `down` after more calls in a row without an answer than one crash of the service can cut. */
  endpoint(): 'up' | 'down';
  close(): Promise<void>;
}

/** The client waits this much longer than the service was given: its answer has to travel. */
const ANSWER_MARGIN_MS = 2_000;
/** Calls that begin within so much time share a deadline: a timer and a signal for each would cost as much as the rest of it. */
const DEADLINE_STEP_MS = 250;
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

export function openService(settings: ServiceSettings): Service {
  const limitMs = settings.deadlineMs + ANSWER_MARGIN_MS;
  const agent = new Agent({
    connections: settings.connections,
    pipelining: 1,
    allowH2: false,
    connect: { timeout: CONNECT_TIMEOUT_MS },
    // Never before the deadline of the whole call, which says what its end means.
    headersTimeout: limitMs + 2 * DEADLINE_STEP_MS,
    bodyTimeout: limitMs + 2 * DEADLINE_STEP_MS,
    keepAliveTimeout: KEEP_ALIVE_MS,
    keepAliveMaxTimeout: KEEP_ALIVE_MS,
    maxResponseSize: LARGEST_ANSWER_BYTES,
  });
  const deadlines = new Deadlines(limitMs);
  // The pause while the circuit is open is the caller's (replay.ts): a run that ends needs none.
  const breaker = circuitBreaker(handleWhenResult(isTrouble), {
    breaker: new ConsecutiveBreaker(settings.lanes + FAILURES_BEYOND_LANES),
    halfOpenAfter: 0,
  });
  return {
    async post(call, read) {
      try {
        return await breaker.execute(() => send(agent, settings.token, deadlines, call, read));
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
  const { kind } = result as { readonly kind: string };
  return kind === 'unreached' || kind === 'cut' || kind === 'unclear';
}

async function send<Answer extends { readonly kind: string }>(
  agent: Agent,
  token: string,
  deadlines: Deadlines,
  call: Parameters<Service['post']>[0],
  read: (text: string) => Answer | NoAnswer,
): Promise<Answer | NoAnswer> {
  if (call.signal.aborted) return { kind: 'abandoned' };
  // undici's own limits begin anew with each piece of the body; this one bounds the whole call.
  const deadline = deadlines.from(call.signal);
  try {
    const response = await request(call.url, {
      dispatcher: agent,
      method: 'POST',
      headers: {
        authorization: `Bearer ${token}`,
        'content-type': 'application/json',
        accept: 'application/json',
        'idempotency-key': call.idempotencyKey,
      },
      body: JSON.stringify(call.body),
      signal: deadline.signal,
    });
    const refusal = readStatus(response.statusCode, response.headers[OUTCOME_HEADER]);
    if (refusal !== undefined) {
      await response.body.dump({ limit: LARGEST_ANSWER_BYTES });
      return refusal;
    }
    return read(await response.body.text());
  } catch (error) {
    if (call.signal.aborted) return { kind: 'abandoned' };
    return deadline.isOver ? { kind: 'unclear', code: 'timeout' } : readError(error);
  }
}

interface Deadline {
  /** Aborted at the deadline, or when the run gives its calls up. */
  readonly signal: AbortSignal;
  isOver: boolean;
}

/** Gives each call a deadline that is not before the limit, and at most one step after it. */
class Deadlines {
  readonly #limitMs: number;
  #newest: { readonly deadline: Deadline; readonly stop: AbortSignal; readonly since: number } | undefined;

  constructor(limitMs: number) {
    this.#limitMs = limitMs;
  }

  from(stop: AbortSignal): Deadline {
    const now = performance.now();
    const newest = this.#newest;
    if (newest !== undefined && newest.stop === stop && now - newest.since < DEADLINE_STEP_MS)
      return newest.deadline;
    const controller = new AbortController();
    const deadline = { signal: controller.signal, isOver: false };
    const onStop = () => controller.abort();
    stop.addEventListener('abort', onStop, { once: true });
    setTimeout(() => {
      stop.removeEventListener('abort', onStop);
      deadline.isOver = true;
      controller.abort();
    }, this.#limitMs + DEADLINE_STEP_MS).unref();
    this.#newest = { deadline, stop, since: now };
    return deadline;
  }
}

/** What a status other than success means; nothing for success. */
function readStatus(status: number, outcome: string | string[] | undefined): NoAnswer | undefined {
  const code = `http_${status}`;
  if (status >= 200 && status < 300) return undefined;
  if (status >= 500 || refusedForNow.has(status)) {
    // Only our own module knows that nothing was begun; a proxy that says 503 may have sent the request before.
    return { kind: outcome === NOT_STARTED ? 'unreached' : 'unclear', code };
  }
  return { kind: 'refused', code };
}

/** The content of an answer, or nothing where it is no JSON. */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return undefined;
  }
}

/** A class or a code; free text could hold what stands in a payload. */
export function classOrCode(error: string | undefined): string | undefined {
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

function readError(error: unknown): NoAnswer {
  const code = errorCode(error) ?? 'unknown_error';
  // TLS comes before the request: a certificate that is refused has let nothing through.
  if (neverConnected.has(code) || /^(CERT_|ERR_TLS_|ERR_SSL_|DEPTH_ZERO_|UNABLE_TO_|SELF_SIGNED_)/.test(code))
    return { kind: 'unreached', code };
  if (connectionBroke.has(code)) return { kind: 'cut', code };
  return { kind: 'unclear', code };
}
