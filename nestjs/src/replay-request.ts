import { BadRequestException, PayloadTooLargeException } from '@nestjs/common';

/** The most ids one request may name: what fits a deadline of some seconds. */
export const MAX_REPLAY_IDS = 100;

/** Bounds and default of `deadlineMs`. Above a minute, proxies cut the connection before the answer. */
export const REPLAY_DEADLINE_MS = { min: 100, max: 60_000, default: 10_000 } as const;

const MAX_ID_LENGTH = 200;
const IDEMPOTENCY_KEY = /^[\x21-\x7e]{1,200}$/;
const FIELDS = new Set(['eventIds', 'deadlineMs', 'dryRun']);

/** A checked request. */
export interface ReplayRequest {
  /** Distinct, in the order given. */
  eventIds: string[];
  deadlineMs: number;
  dryRun: boolean;
  /** The caller's name for this request, for the log. */
  idempotencyKey: string | undefined;
}

const isEventId = (id: unknown): id is string =>
  typeof id === 'string' &&
  id !== '' &&
  id.length <= MAX_ID_LENGTH &&
  !id.includes('\u0000') &&
  id.isWellFormed();

/** Checks a request body; throws 413 for too many ids, 400 with every problem otherwise. Values are never repeated. */
export function parseReplayRequest(body: unknown, idempotencyKey: string | undefined): ReplayRequest {
  if (typeof body !== 'object' || body === null || Array.isArray(body)) {
    throw new BadRequestException(['the body must be a JSON object with eventIds']);
  }
  const {
    eventIds,
    deadlineMs = REPLAY_DEADLINE_MS.default,
    dryRun = false,
  } = body as Record<string, unknown>;
  if (Array.isArray(eventIds) && eventIds.length > MAX_REPLAY_IDS) {
    throw new PayloadTooLargeException(
      `eventIds holds more than ${MAX_REPLAY_IDS} ids: send them in several requests`,
    );
  }
  const problems: string[] = [];
  if (!Array.isArray(eventIds) || eventIds.length === 0) {
    problems.push(`eventIds must be an array of 1 to ${MAX_REPLAY_IDS} ids`);
  } else if (!eventIds.every(isEventId)) {
    problems.push(`eventIds must hold strings of 1 to ${MAX_ID_LENGTH} characters`);
  }
  const { min, max } = REPLAY_DEADLINE_MS;
  if (!Number.isSafeInteger(deadlineMs) || (deadlineMs as number) < min || (deadlineMs as number) > max) {
    problems.push(`deadlineMs must be an integer from ${min} to ${max}`);
  }
  if (typeof dryRun !== 'boolean') problems.push('dryRun must be true or false');
  if (Object.keys(body).some((field) => !FIELDS.has(field))) {
    problems.push(`only ${[...FIELDS].join(', ')} are known`);
  }
  if (idempotencyKey !== undefined && !IDEMPOTENCY_KEY.test(idempotencyKey)) {
    problems.push('the Idempotency-Key header must be 1 to 200 visible ASCII characters');
  }
  if (problems.length > 0) throw new BadRequestException(problems);
  return {
    eventIds: [...new Set(eventIds as string[])],
    deadlineMs: deadlineMs as number,
    dryRun: dryRun as boolean,
    idempotencyKey,
  };
}
