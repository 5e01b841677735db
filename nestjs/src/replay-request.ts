import { BadRequestException, PayloadTooLargeException } from '@nestjs/common';

/** The most ids one request may name: what fits a deadline of some seconds. */
export const MAX_REPLAY_IDS = 100;

/** Bounds and default of `deadlineMs`. Above a minute, proxies cut the connection before the answer. */
export const REPLAY_DEADLINE_MS = { min: 100, max: 60_000, default: 10_000 } as const;

/** The longest event or session id, in characters. */
export const MAX_ID_LENGTH = 200;

const IDEMPOTENCY_KEY = /^[\x21-\x7e]{1,200}$/;

/** What every replay may be told. */
interface ReplayTerms {
  deadlineMs: number;
  dryRun: boolean;
  /** The caller's name for this request, for the log. */
  idempotencyKey: string | undefined;
}

/** A checked request for events. */
export interface ReplayRequest extends ReplayTerms {
  /** Distinct, in the order given. */
  eventIds: string[];
}

/** A checked request for a session. */
export interface SessionReplayRequest extends ReplayTerms {
  sessionId: string;
  /** Pending events that are left alone, since the caller knows that they say something wrong. */
  except: string[];
}

/** Whether an id is one that Postgres takes and that fits a path. */
export const isId = (id: unknown): id is string =>
  typeof id === 'string' &&
  id !== '' &&
  id.length <= MAX_ID_LENGTH &&
  !id.includes('\u0000') &&
  id.isWellFormed();

/** Checks a request body; throws 413 for too many ids, 400 with every problem otherwise. Values are never repeated. */
export function parseReplayRequest(body: unknown, idempotencyKey: string | undefined): ReplayRequest {
  if (!isObject(body)) throw new BadRequestException(['the body must be a JSON object with eventIds']);
  const { eventIds } = body;
  if (Array.isArray(eventIds) && eventIds.length > MAX_REPLAY_IDS) {
    throw new PayloadTooLargeException(
      `eventIds holds more than ${MAX_REPLAY_IDS} ids: send them in several requests`,
    );
  }
  const problems: string[] = [];
  if (!Array.isArray(eventIds) || eventIds.length === 0) {
    problems.push(`eventIds must be an array of 1 to ${MAX_REPLAY_IDS} ids`);
  } else if (!eventIds.every(isId)) {
    problems.push(`eventIds must hold strings of 1 to ${MAX_ID_LENGTH} characters`);
  }
  const terms = parseTerms(body, idempotencyKey, ['eventIds', 'deadlineMs', 'dryRun'], problems);
  return { eventIds: [...new Set(eventIds as string[])], ...terms };
}

/** Checks a session's id and a body that may be left out; throws 400 with every problem. Values are never repeated. */
export function parseSessionReplayRequest(
  sessionId: string,
  body: unknown,
  idempotencyKey: string | undefined,
): SessionReplayRequest {
  if (body !== undefined && body !== null && !isObject(body)) {
    throw new BadRequestException(['the body must be a JSON object, or left out']);
  }
  const problems: string[] = [];
  if (!isId(sessionId)) problems.push(`the session id must be 1 to ${MAX_ID_LENGTH} characters`);
  const { except = [] } = body ?? {};
  if (!Array.isArray(except) || except.length > MAX_REPLAY_IDS || !except.every(isId))
    problems.push(
      `except must be an array of up to ${MAX_REPLAY_IDS} ids of 1 to ${MAX_ID_LENGTH} characters`,
    );
  const terms = parseTerms(body ?? {}, idempotencyKey, ['deadlineMs', 'dryRun', 'except'], problems);
  return { sessionId, except: except as string[], ...terms };
}

const isObject = (body: unknown): body is Record<string, unknown> =>
  typeof body === 'object' && body !== null && !Array.isArray(body);

function parseTerms(
  body: Record<string, unknown>,
  idempotencyKey: string | undefined,
  fields: readonly string[],
  problems: string[],
): ReplayTerms {
  const { deadlineMs = REPLAY_DEADLINE_MS.default, dryRun = false } = body;
  const { min, max } = REPLAY_DEADLINE_MS;
  if (!Number.isSafeInteger(deadlineMs) || (deadlineMs as number) < min || (deadlineMs as number) > max) {
    problems.push(`deadlineMs must be an integer from ${min} to ${max}`);
  }
  if (typeof dryRun !== 'boolean') problems.push('dryRun must be true or false');
  if (Object.keys(body).some((field) => !fields.includes(field))) {
    problems.push(`only ${fields.join(', ')} are known`);
  }
  if (idempotencyKey !== undefined && !IDEMPOTENCY_KEY.test(idempotencyKey)) {
    problems.push('the Idempotency-Key header must be 1 to 200 visible ASCII characters');
  }
  if (problems.length > 0) throw new BadRequestException(problems);
  return { deadlineMs: deadlineMs as number, dryRun: dryRun as boolean, idempotencyKey };
}
