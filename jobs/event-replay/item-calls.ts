/**
 * Asks the service to mend findings: to rebuild the event of one, by its key, or to correct the bills of several. It
 * reads the answers and says what they mean for each finding; what follows is decided in decide.ts.
 */
import { z } from 'zod';
import type { EventOutcome } from './decide.ts';
import type { SeenFinding } from './item-queries.ts';
import { eventAnswers } from './publisher.ts';
import { classOrCode, type NoAnswer, parseJson, type Service } from './service.ts';

/** What the service said of one finding. */
export type ItemAnswer =
  /** It is done, or there is nothing left to do. */
  | { readonly means: 'done'; readonly outcome: string }
  /** It will not, and another call cannot change that. */
  | { readonly means: 'given_up'; readonly outcome: string; readonly error: string | undefined }
  /** As an event that a handler had in its hands. */
  | {
      readonly means: 'tried';
      readonly outcome: EventOutcome;
      readonly retryable: boolean;
      readonly error: string | undefined;
    };

interface Rebuilt {
  readonly kind: 'rebuilt';
  readonly answer: ItemAnswer;
}

interface Corrected {
  readonly kind: 'corrected';
  /** By key, as JSON. */
  readonly answers: ReadonlyMap<string, ItemAnswer>;
}

const rebuildSchema = z.object({
  ...eventAnswers,
  rebuild: z.enum(['not_asked', 'not_supported', 'rebuilt', 'not_found', 'not_needed', 'refused']),
  code: z.string().optional(),
  more: z.boolean().optional(),
});

/** Which of several events decides about their finding: the one that is furthest from its end. */
const worstFirst = [
  'failed',
  'invalid_payload',
  'no_listener',
  'unknown_version',
  'outcome_unknown',
  'not_found',
  'in_flight',
  'processed',
  'already_processed',
] as const satisfies readonly EventOutcome[];

/** The address of one fact; nothing where its key cannot stand in a path. */
export function rebuildUrl(replayUrl: string, key: readonly string[]): string | undefined {
  const [only, ...more] = key;
  // A URL takes . and .. for steps, however they are written.
  if (only === undefined || more.length > 0 || only === '' || /^\.{1,2}$/.test(only)) return undefined;
  return `${replayUrl.replace(/\/+$/, '')}/${encodeURIComponent(only)}`;
}

/** A service of an earlier version knows no `except`, so it is named only where something is excepted. */
const bodyOf = ({
  deadlineMs,
  except,
}: {
  readonly deadlineMs: number;
  readonly except: readonly string[];
}) => ({
  deadlineMs,
  ...(except.length === 0 ? {} : { except }),
});

export const askForRebuild = async (
  service: Service,
  call: {
    readonly url: string;
    readonly deadlineMs: number;
    /** Pending events that must not be sent: an aborted version wrote something else than the fact into them. */
    readonly except: readonly string[];
    readonly idempotencyKey: string;
    readonly signal: AbortSignal;
  },
): Promise<Rebuilt | NoAnswer> =>
  await service.post({ ...call, body: bodyOf(call) }, (text): Rebuilt | NoAnswer => {
    const content = parseJson(text);
    if (content === undefined) return { kind: 'unclear', code: 'answer_not_json' };
    const parsed = rebuildSchema.safeParse(content);
    if (!parsed.success) return { kind: 'unclear', code: 'answer_malformed' };
    const { rebuild, code, results, more } = parsed.data;
    switch (rebuild) {
      case 'not_needed':
        return { kind: 'rebuilt', answer: { means: 'done', outcome: rebuild } };
      case 'not_found':
      case 'not_supported':
      case 'refused':
        return { kind: 'rebuilt', answer: { means: 'given_up', outcome: rebuild, error: classOrCode(code) } };
      case 'rebuilt':
      case 'not_asked': {
        const worst = worstFirst.flatMap((outcome) => results.filter((result) => result.outcome === outcome));
        const [first] = worst;
        if (first === undefined) return { kind: 'unclear', code: 'answer_empty' };
        const done = first.outcome === 'processed' || first.outcome === 'already_processed';
        if (done && more !== true)
          return {
            kind: 'rebuilt',
            answer: { means: 'done', outcome: rebuild === 'rebuilt' ? rebuild : 'replayed' },
          };
        const retryable = worst.every((result) => result.outcome !== 'failed' || (result.retryable ?? true));
        return {
          kind: 'rebuilt',
          answer: {
            means: 'tried',
            // More of them are pending than one call takes: each call brings the end nearer and burns nothing.
            outcome: done ? 'in_flight' : first.outcome,
            retryable,
            error: done ? 'more_pending' : classOrCode(first.error),
          },
        };
      }
    }
  });

const correctionSchema = z.object({
  results: z
    .array(
      z.object({
        key: z.array(z.string()),
        outcome: z.enum(['corrected', 'already_corrected', 'changed', 'not_found', 'failed']),
        retryable: z.boolean().optional(),
        error: z.string().optional(),
      }),
    )
    .max(1_000),
});

export const askForCorrections = async (
  service: Service,
  call: {
    readonly url: string;
    readonly idempotencyKey: string;
    readonly signal: AbortSignal;
    readonly request: {
      readonly requestId: string;
      readonly requestedBy: string;
      readonly approvedBy: string;
      readonly reason: string;
    };
    readonly corrections: readonly SeenFinding[];
  },
): Promise<Corrected | NoAnswer> => {
  const corrections = call.corrections.map(({ finding: _finding, ...seen }) => seen);
  return await service.post(
    { ...call, body: { ...call.request, dryRun: false, corrections } },
    (text): Corrected | NoAnswer => {
      const content = parseJson(text);
      if (content === undefined) return { kind: 'unclear', code: 'answer_not_json' };
      const parsed = correctionSchema.safeParse(content);
      if (!parsed.success) return { kind: 'unclear', code: 'answer_malformed' };
      const asked = new Set(corrections.map(({ key }) => JSON.stringify(key)));
      const answers = new Map<string, ItemAnswer>();
      for (const { key, outcome, retryable, error } of parsed.data.results) {
        const name = JSON.stringify(key);
        if (!asked.has(name) || answers.has(name)) continue;
        answers.set(name, correctionAnswer(outcome, retryable ?? true, classOrCode(error)));
      }
      return answers.size === 0 ? { kind: 'unclear', code: 'answer_empty' } : { kind: 'corrected', answers };
    },
  );
};

function correctionAnswer(
  outcome: 'corrected' | 'already_corrected' | 'changed' | 'not_found' | 'failed',
  retryable: boolean,
  error: string | undefined,
): ItemAnswer {
  switch (outcome) {
    case 'corrected':
    case 'already_corrected':
      return { means: 'done', outcome };
    case 'changed':
    case 'not_found':
      return { means: 'given_up', outcome, error };
    case 'failed':
      return { means: 'tried', outcome, retryable, error };
  }
}
