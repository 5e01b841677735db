/** Brings what is known of a held event before decide.ts, counts what was decided, and has it written. */
import { RunFailure } from '../runtime/failures.ts';
import type { Logger } from '../runtime/logger.ts';
import type { CheckPlans } from './check-plans.ts';
import type { Claims, HeldEvent } from './claims.ts';
import type { ReplayCounts } from './counts.ts';
import { type CallEnd, type Decision, decide, type Policy } from './decide.ts';
import type { Answered } from './publisher.ts';

interface VerdictContext {
  readonly claims: Claims;
  readonly counts: ReplayCounts;
  readonly logger: Logger;
  readonly plans: CheckPlans;
}

const statusAfter = {
  done: 'done',
  park: 'parked',
  hand_over: 'handed_to_outbox',
  wait: 'due',
} as const;

/** A line for each event, so that whoever searches the logs for one finds its end; parked ones have a warning. */
const words = {
  done: 'event replayed',
  wait: 'event not replayed yet: it is sent again later',
  hand_over: 'event handed to the outbox of the predecessor',
} as const;

export class Verdicts {
  readonly #policy: Policy;
  readonly #context: VerdictContext;
  #lastAnswerAt = Number.NEGATIVE_INFINITY;

  constructor(policy: Policy, context: VerdictContext) {
    this.#policy = policy;
    this.#context = context;
  }

  /** When the endpoint last gave a proper answer, by our own clock. */
  get lastAnswerAt(): number {
    return this.#lastAnswerAt;
  }

  /** The endpoint has just given a proper answer: trouble with an event that was sent before is that event's own. */
  answered(): void {
    this.#lastAnswerAt = Date.now();
  }

  /**
   * Parks what says something else than its fact, and of an aborted version also what nobody can tell of: such an event
   * would bill what is not true.
   */
  async withoutChangedFacts(events: readonly HeldEvent[]): Promise<readonly HeldEvent[]> {
    const { plans } = this.#context;
    const doubtful = events.filter(
      ({ row }) => !row.match_waived && (row.aborted || plans.compares(row.event_name)),
    );
    if (doubtful.length === 0) return events;
    const agreeing = await plans.agreeing(doubtful.map(({ row }) => row)).catch(async (error: unknown) => {
      await this.#context.claims.release(events);
      throw error;
    });
    const asked = new Set(doubtful);
    return events.filter((event) => {
      if (!asked.has(event)) return true;
      const decision = this.decide(event, undefined, agreeing.has(event.row.event_id) ? 'agrees' : 'changed');
      if (decision.next === 'replay') return true;
      this.record(event, decision, undefined, undefined);
      return false;
    });
  }

  /** @param end nothing before the call */
  decide(event: HeldEvent, end: CallEnd | undefined, fact?: 'agrees' | 'changed'): Decision {
    const { row, claimedAt } = event;
    const lastAttemptAt = claimedAt - (row.last_attempt_age_ms ?? Number.POSITIVE_INFINITY);
    return decide(
      {
        eventId: row.event_id,
        ...(fact === undefined ? {} : { fact }),
        attempts: {
          handler: row.handler_attempts,
          transport: row.transport_attempts,
          unfinished: row.unfinished_calls,
        },
      },
      { endpointAnswered: this.#lastAnswerAt > lastAttemptAt },
      end,
      this.#policy,
      { now: row.claimed_at_ms + (Date.now() - claimedAt), chance: Math.random() },
    );
  }

  /** Counts a decision and has it written. */
  record(
    event: HeldEvent,
    decision: Decision,
    known: { readonly outcome: string; readonly error: string | null } | undefined,
    service: Answered['service'],
  ): void {
    const { counts, logger } = this.#context;
    const { event_id: eventId, event_name: eventName } = event.row;
    switch (decision.next) {
      case 'replay':
        throw new RunFailure(
          'internal',
          `event ${eventId}: a call has ended, and was decided to be sent again at once`,
        );
      case 'done':
        if (known?.outcome === 'already_processed') counts.already_processed += 1;
        else counts.processed += 1;
        break;
      case 'wait':
        counts.waiting += 1;
        break;
      case 'hand_over':
        counts.handed += 1;
        break;
      case 'park':
        counts.parked += 1;
        logger.warn(
          { eventId, eventName, reason: decision.reason, error: known?.error ?? undefined },
          'event parked: it is not sent again until a person or a new release takes it up',
        );
        break;
    }
    if (decision.next !== 'park')
      logger.info(
        { eventId, eventName, outcome: known?.outcome, error: known?.error ?? undefined },
        words[decision.next],
      );
    this.#context.claims.record(event, {
      event_id: eventId,
      claim_token: event.token,
      status: statusAfter[decision.next],
      handler_attempts: decision.attempts.handler,
      transport_attempts: decision.attempts.transport,
      unfinished_calls: decision.attempts.unfinished,
      next_attempt_at_ms: decision.next === 'wait' ? decision.until : null,
      outcome: known?.outcome ?? event.row.last_outcome ?? 'not_sent',
      error: known?.error ?? null,
      parked_reason: decision.next === 'park' ? decision.reason : null,
      listeners_digest: service?.listenersDigest ?? null,
      service_version: service?.serviceVersion ?? null,
    });
  }
}
