import { Inject, Injectable, Logger } from '@nestjs/common';
import type { DriverTransaction } from './driver.js';
import { errorCode } from './error-code.js';
import { EventPublisher, PublishRefusedError } from './event-publisher.js';
import { ListenerRegistry } from './listener-registry.js';
import { type EventMetrics, METRICS, type RebuildOutcome } from './metrics.js';
import { OPTIONS, type RebuildAnswer, type ResolvedOptions } from './options.js';
import { PayloadRefusedError } from './payload-text.js';
import {
  countOutcomes,
  NotStartedException,
  Replay,
  type ReplayAnswer,
  type ReplayResult,
  type ReplayTime,
} from './replay.js';
import { MAX_ID_LENGTH, MAX_REPLAY_IDS, type SessionReplayRequest } from './replay-request.js';
import { lockRebuild, selectPendingOfSession, selectRebuiltOfSession } from './replay-session-statements.js';
import { selectEvents } from './statements.js';

/** What a replay by session can say about a rebuild, each with its meaning. */
export const SESSION_REBUILDS = {
  not_asked: 'pending events were found: they are what counts',
  not_supported: 'nothing is pending and the service has no rebuild function',
  rebuilt: 'nothing was pending: the service gave the event anew; its result says what became of it',
  not_found: 'nothing is pending and the service knows no such fact',
  not_needed: 'nothing is pending and the bill of the fact stands',
  refused: 'a machine must not rebuild it; code says why',
} as const;

/** One of the words in SESSION_REBUILDS. */
export type SessionRebuild = keyof typeof SESSION_REBUILDS;

/** The answer for a session. */
export interface SessionReplayAnswer extends ReplayAnswer {
  sessionId: string;
  rebuild: SessionRebuild;
  /** With `refused`: the service's word, or one of `rebuild_failed`, `rebuild_malformed`, `no_listener`. */
  code?: string;
  /** More events of the session are pending than one request takes: ask again. */
  more?: true;
}

type Rebuilt = Pick<SessionReplayAnswer, 'results' | 'rebuild' | 'code'>;

const WORD = /^[a-z][a-z0-9_]{0,63}$/;

/**
 * SQLSTATE classes and system errors after which asking again may help: the connection, resources, an operator, a
 * conflict with others. Anything else is a fault of the rebuild function that another call would meet again.
 */
const PASSING = /^(08|40|53|55|57)[0-9A-Z]{3}$|^E[A-Z]+$/;

/**
 * Replays the pending events of a session, and where there is none asks the service to give the event anew; those that
 * the request excepts count as none. It never judges a fact itself, never changes an existing row but by delivering it,
 * and runs nothing on a dry run.
 */
@Injectable()
export class SessionReplay {
  private readonly logger = new Logger('Counterfoil');

  constructor(
    @Inject(OPTIONS) private readonly options: ResolvedOptions,
    @Inject(ListenerRegistry) private readonly registry: ListenerRegistry,
    @Inject(EventPublisher) private readonly publisher: EventPublisher,
    @Inject(Replay) private readonly replay: Replay,
    @Inject(METRICS) private readonly metrics: EventMetrics,
  ) {}

  /** Answers within the deadline; throws NotStartedException as `Replay.run` does. */
  async run(request: SessionReplayRequest): Promise<SessionReplayAnswer> {
    const { sessionId, deadlineMs, dryRun, idempotencyKey, except } = request;
    const { driver, sessionKey } = this.options;
    const time = this.replay.begin(deadlineMs);
    try {
      // Before the pending ones: what is processed between the two looks is then seen by the rebuild function.
      const rebuilt = await this.replay.readInTime(
        time,
        selectRebuiltOfSession(driver, sessionKey, sessionId),
      );
      const open = await this.replay.readInTime(
        time,
        selectPendingOfSession(driver, sessionKey, sessionId, MAX_REPLAY_IDS + 1 + except.length),
      );
      const found = open.filter(({ eventId }) => !except.includes(eventId)).slice(0, MAX_REPLAY_IDS + 1);
      const pending = found.slice(0, MAX_REPLAY_IDS);
      const answer: Rebuilt =
        pending.length > 0
          ? {
              results: await this.replay.settle(
                pending.map(({ eventId }) => eventId),
                pending,
                dryRun,
                time,
              ),
              rebuild: 'not_asked',
            }
          : await this.rebuild(request, rebuilt, time);
      const { results, rebuild, code } = answer;
      const more = found.length > pending.length;
      this.logger.log({
        message: 'Replay of a session answered',
        sessionId,
        idempotencyKey,
        dryRun,
        counts: countOutcomes(results),
        rebuild,
        code,
        more,
      });
      return { ...this.replay.identity(), sessionId, ...answer, ...(more ? { more } : {}) };
    } finally {
      time.end();
    }
  }

  private async rebuild(
    request: SessionReplayRequest,
    rebuilt: ReadonlyMap<string, number>,
    time: ReplayTime,
  ): Promise<Rebuilt> {
    const { rebuild } = this.options;
    if (rebuild === undefined) return { results: [], rebuild: 'not_supported' };
    let answer: RebuildAnswer | undefined;
    try {
      answer = await Promise.race([rebuild(request.sessionId), time.expired]);
    } catch (thrown) {
      const error = errorCode(thrown);
      this.logger.error({ message: 'Event could not be rebuilt', sessionId: request.sessionId, error });
      this.note(request, 'failed');
      if (PASSING.test(error))
        throw new NotStartedException('the event could not be rebuilt: nothing was run');
      return refused('rebuild_failed');
    }
    if (answer === undefined) {
      this.note(request, 'failed');
      throw new NotStartedException('the event was not rebuilt in time: nothing was run');
    }
    switch (answer.outcome) {
      case 'not_found':
      case 'not_needed':
        this.note(request, answer.outcome);
        return { results: [], rebuild: answer.outcome };
      case 'refused':
        this.note(request, 'refused');
        return refused(WORD.test(answer.code) ? answer.code : 'unnamed');
      case 'rebuilt':
        return await this.deliver(request, answer.event, rebuilt, time);
      default:
        return this.malformed(request);
    }
  }

  private async deliver(
    request: SessionReplayRequest,
    event: { name: string; payload: unknown },
    rebuilt: ReadonlyMap<string, number>,
    time: ReplayTime,
  ): Promise<Rebuilt> {
    const { sessionId, dryRun } = request;
    // Without its session in the payload, the next call would not find the event, and make another one.
    if (keyText(event?.payload, this.options.sessionKey) !== sessionId) return this.malformed(request);
    if (this.registry.listenersOf(event.name).length === 0) {
      this.note(request, 'failed');
      return refused('no_listener');
    }
    // The number that the session had before its fact was read: calls at the same time give the same id.
    const number = 1 + (rebuilt.get(event.name) ?? 0);
    const eventId = `rebuild:${event.name}:${sessionId}:${number}`;
    if (eventId.length > MAX_ID_LENGTH) return this.malformed(request);
    if (dryRun) {
      const result: ReplayResult = {
        eventId,
        outcome: 'outcome_unknown',
        retryable: true,
        error: 'dry_run',
      };
      return { results: [result], rebuild: 'rebuilt' };
    }
    try {
      const written = await this.replay.readInTime(time, this.write(eventId, sessionId, event));
      if (!written) return this.malformed(request);
    } catch (thrown) {
      this.note(request, 'failed');
      throw thrown;
    }
    this.note(request, 'rebuilt');
    // What stands there, not what this call was given: another call may have written the row.
    const stored = await this.replay.readInTime(time, selectEvents(this.options.driver, [eventId]));
    return { results: await this.replay.settle([eventId], stored, false, time), rebuild: 'rebuilt' };
  }

  /** Writes the row, unless another call has; false where the event is not one that can be published. */
  private async write(
    eventId: string,
    sessionId: string,
    { name, payload }: { name: string; payload: unknown },
  ): Promise<boolean> {
    try {
      await this.options.driver.transaction(async (tx) => {
        if (await lockRebuild(tx, eventId)) return;
        await this.publisher.publish(silently(tx), { name, payload, eventId });
        this.logger.log({ message: 'Event rebuilt', eventId, eventName: name, sessionId });
      });
      return true;
    } catch (thrown) {
      if (thrown instanceof PublishRefusedError || thrown instanceof PayloadRefusedError) return false;
      throw thrown;
    }
  }

  private malformed(request: SessionReplayRequest): Rebuilt {
    this.logger.error({
      message: 'The rebuild function gave an event that cannot be published',
      sessionId: request.sessionId,
    });
    this.note(request, 'failed');
    return refused('rebuild_malformed');
  }

  private note({ dryRun }: SessionReplayRequest, outcome: RebuildOutcome): void {
    if (!dryRun) this.metrics.rebuilt(outcome);
  }
}

const refused = (code: string): Rebuilt => ({ results: [], rebuild: 'refused', code });

/** The same transaction, without a live delivery after its commit: the replay delivers, to answer with the outcome. */
const silently = (tx: DriverTransaction): DriverTransaction => ({
  handle: tx.handle,
  run: (sql, params) => tx.run(sql, params),
  afterCommit: () => undefined,
});

/** A payload's field as Postgres' `->>` gives it, for text and numbers. */
function keyText(payload: unknown, key: string): string | undefined {
  if (typeof payload !== 'object' || payload === null) return undefined;
  const value = (payload as Record<string, unknown>)[key];
  return typeof value === 'string' || typeof value === 'number' ? String(value) : undefined;
}
