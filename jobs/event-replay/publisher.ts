/** Sends events to the replay endpoint and reads its answers. What an answer means for an event is decided in decide.ts. */
import { z } from 'zod';
import type { EventOutcome } from './decide.ts';
import { classOrCode, type NoAnswer, parseJson, type Service } from './service.ts';

export interface EventAnswer {
  readonly outcome: EventOutcome;
  readonly retryable: boolean;
  /** A class or a code, or nothing: free text could hold what stands in a payload. */
  readonly error: string | undefined;
}

export interface Answered {
  readonly kind: 'answered';
  /** Who answered; nothing where it was no service with listeners. */
  readonly service: { readonly serviceVersion: string; readonly listenersDigest: string } | undefined;
  /** By event id; an id that was asked for and is not in it got no answer. */
  readonly answers: ReadonlyMap<string, EventAnswer>;
  /** Results for ids that were not asked for, and second ones for the same id: ignored. */
  readonly strangers: number;
}

export type CallResult = Answered | NoAnswer;

/** Where pending events go. */
export interface Publisher {
  /** Sends one call. Trouble with the endpoint is a result and never an error. */
  publish(eventIds: readonly string[], idempotencyKey: string, signal: AbortSignal): Promise<CallResult>;
  /** `down` while it gives no proper answer. */
  endpoint(): 'up' | 'down';
}

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

/** The fields that every answer of the module has about events. */
export const eventAnswers = {
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
};
const answerSchema = z.object(eventAnswers);

/** Sends to the replay endpoint of the service. */
export const publishTo = (service: Service, url: string, deadlineMs: number): Publisher => ({
  publish: async (eventIds, idempotencyKey, signal) =>
    await service.post({ url, body: { eventIds, deadlineMs }, idempotencyKey, signal }, (text) =>
      readAnswer(text, eventIds),
    ),
  endpoint: () => service.endpoint(),
});

function readAnswer(text: string, eventIds: readonly string[]): CallResult {
  const content = parseJson(text);
  if (content === undefined) return { kind: 'unclear', code: 'answer_not_json' };
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
  const { serviceVersion, listenersDigest } = parsed.data;
  return {
    kind: 'answered',
    service: { serviceVersion, listenersDigest },
    answers,
    strangers: parsed.data.results.length - answers.size,
  };
}
