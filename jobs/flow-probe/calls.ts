/**
 * The only file that talks to the service. Says how a call ended and never decides what that means. Follows no redirect:
 * the token goes to the configured address and to no other. Of an answer nothing is kept but its status and, where a step
 * asks for it, its JSON.
 */
import { Agent, request } from 'undici';
import { errorCode } from '../runtime/sqlstates.ts';
import type { Step } from './flow.ts';
import { fill, fillAll, type Values } from './placeholders.ts';

export type CallEnd =
  | { readonly kind: 'answered'; readonly status: number; readonly content: unknown }
  /** No answer in time, or none that could be read: a class or a code says why. */
  | { readonly kind: 'unanswered'; readonly code: string }
  /** Cut by SIGTERM. */
  | { readonly kind: 'abandoned' };

export interface Calls {
  /** Sends one step. Trouble with the service is a result and never an error. */
  send(step: Step, values: Values, signal: AbortSignal): Promise<CallEnd>;
  close(): Promise<void>;
}

const CONNECT_TIMEOUT_MS = 5_000;
/** Far above what an honest answer to one step needs. */
const LARGEST_ANSWER_BYTES = 1_048_576;

export function openCalls(settings: {
  readonly url: string;
  readonly token: string | undefined;
  /** What the service is given for one answer, in milliseconds. */
  readonly limitMs: number;
}): Calls {
  const { limitMs } = settings;
  const agent = new Agent({
    connections: 1,
    pipelining: 1,
    allowH2: false,
    connect: { timeout: Math.min(CONNECT_TIMEOUT_MS, limitMs) },
    headersTimeout: limitMs,
    bodyTimeout: limitMs,
    maxResponseSize: LARGEST_ANSWER_BYTES,
  });
  const base = settings.url.replace(/\/+$/, '');
  return {
    async send(step, values, signal) {
      if (signal.aborted) return { kind: 'abandoned' };
      // undici's own limits begin anew with each piece of the body; this one bounds the whole call.
      const late = AbortSignal.timeout(limitMs);
      try {
        const response = await request(`${base}${fill(step.path, values, encodeURIComponent)}`, {
          dispatcher: agent,
          method: step.method,
          headers: {
            accept: 'application/json',
            'user-agent': 'counterfoil-flow-probe',
            ...(step.body === undefined ? {} : { 'content-type': 'application/json' }),
            ...(settings.token === undefined ? {} : { authorization: `Bearer ${settings.token}` }),
          },
          body: step.body === undefined ? null : JSON.stringify(fillAll(step.body, values)),
          signal: AbortSignal.any([late, signal]),
        });
        const text = await response.body.text();
        const content = Object.keys(step.take).length === 0 ? undefined : parseJson(text);
        return { kind: 'answered', status: response.statusCode, content };
      } catch (error) {
        if (signal.aborted) return { kind: 'abandoned' };
        return { kind: 'unanswered', code: late.aborted ? 'timeout' : (errorCode(error) ?? 'unknown_error') };
      }
    },
    close: async () => await agent.destroy(),
  };
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return undefined;
  }
}

/** The text or number that stands at a path such as `data.id`; nothing where there is none. */
export function valueAt(content: unknown, path: string): string | undefined {
  let value = content;
  for (const part of path.split('.')) {
    if (typeof value !== 'object' || value === null || !Object.hasOwn(value, part)) return undefined;
    value = (value as Record<string, unknown>)[part];
  }
  if (typeof value === 'number' && Number.isSafeInteger(value)) return String(value);
  return typeof value === 'string' && value !== '' ? value : undefined;
}
