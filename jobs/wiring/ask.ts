/** The only file that asks over HTTP. Follows no redirect: a token goes to the configured address and to no other. */
import { request } from 'undici';
import { errorCode } from '../runtime/sqlstates.ts';

export type Asked =
  | { readonly kind: 'answered'; readonly status: number; readonly text: string }
  /** No answer in time, or none that could be read: a code says why. */
  | { readonly kind: 'unanswered'; readonly code: string };

const LIMIT_MS = 10_000;

export async function ask(
  url: string,
  signal: AbortSignal,
  call: {
    readonly method?: 'GET' | 'POST';
    readonly headers?: Readonly<Record<string, string>>;
    readonly body?: unknown;
  } = {},
): Promise<Asked> {
  const late = AbortSignal.timeout(LIMIT_MS);
  try {
    const response = await request(url, {
      method: call.method ?? 'GET',
      headers: {
        accept: '*/*',
        'user-agent': 'counterfoil-wiring',
        ...(call.body === undefined ? {} : { 'content-type': 'application/json' }),
        ...call.headers,
      },
      body: call.body === undefined ? null : JSON.stringify(call.body),
      signal: AbortSignal.any([late, signal]),
    });
    return { kind: 'answered', status: response.statusCode, text: await response.body.text() };
  } catch (error) {
    return { kind: 'unanswered', code: late.aborted ? 'timeout' : (errorCode(error) ?? 'unknown_error') };
  }
}

/** How a call ended that did not end well. */
export const described = (asked: Asked): string =>
  asked.kind === 'answered' ? `answers with status ${asked.status}` : `does not answer (${asked.code})`;

/** The content of an answer, or nothing where it is no JSON. */
export function jsonOf(asked: Asked): unknown {
  if (asked.kind !== 'answered') return undefined;
  try {
    return JSON.parse(asked.text) as unknown;
  } catch {
    return undefined;
  }
}
