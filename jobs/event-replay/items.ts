/**
 * Carries out the requests for a rebuild and the approved corrections, finding by finding: take -> claim -> call ->
 * record. Runs beside the replay of events and shares its service: while that is down, nothing is sent here either.
 * A call may come twice after a crash; the service's own keys make that safe.
 */
import { randomUUID } from 'node:crypto';
import { z } from 'zod';
import type { Database } from '../runtime/database.ts';
import { RunFailure } from '../runtime/failures.ts';
import type { Logger } from '../runtime/logger.ts';
import { pause } from '../runtime/pause.ts';
import type { ReplayCounts } from './counts.ts';
import { type CallEnd, type Decision, decide, type Policy } from './decide.ts';
import { askForCorrections, askForRebuild, type ItemAnswer, rebuildUrl } from './item-calls.ts';
import {
  type ClaimedItem,
  claimItems,
  findApproval,
  findItemRequest,
  findUnfitFindings,
  finishItemRequests,
  giveUpRequest,
  type ItemOutcome,
  type ItemRequest,
  reclaimItems,
  recordItems,
  releaseItems,
  type SeenFinding,
  takeItemRequest,
} from './item-queries.ts';
import { refuseRequest } from './request-queries.ts';
import type { NoAnswer, Service } from './service.ts';

export interface ItemSettings {
  readonly mode: 'once' | 'continuous';
  readonly installation: string;
  readonly runId: string;
  readonly claimedBy: string;
  /** Rebuilds in flight at once. Corrections go one call at a time. */
  readonly lanes: number;
  readonly leaseMs: number;
  readonly callMs: number;
  readonly pollMs: number;
  /** How long a call in flight may go on after `stop`. */
  readonly drainMs: number;
  readonly replayUrl: string;
  /** Without it corrections are refused: a person carries them out. */
  readonly correctionsUrl: string | undefined;
  readonly policy: Policy;
}

/** Findings in one call for corrections, as many as the service takes. */
const CORRECTIONS_PER_CALL = 100;
/** A lease outlives its call by this much, so that what came back is written under it. */
const LEASE_MARGIN_MS = 10_000;
/** First pause while the endpoint is down; doubled up to the longest transport backoff. */
const FIRST_OUTAGE_PAUSE_MS = 1_000;

const ids = z.array(z.coerce.string().regex(/^\d{1,18}$/)).min(1);
const rebuildScope = z.strictObject({ findings: ids.max(1_000) });
const correctionScope = z.strictObject({
  findings: ids.max(CORRECTIONS_PER_CALL),
  seen: z.array(
    z.object({
      finding: z.string(),
      key: z.array(z.string()),
      kind: z.enum(['duplicate', 'amount']),
      expectedMinor: z.string().nullable(),
      actualMinor: z.string().nullable(),
      currency: z.string().nullable(),
      ledgerRows: z.number(),
    }),
  ),
});

export class Items {
  readonly #settings: ItemSettings;
  readonly #database: Database;
  readonly #logger: Logger;
  readonly #service: Service;
  readonly #counts: ReplayCounts;
  readonly #stop: AbortSignal;
  readonly #hardStop = new AbortController();
  #lastAnswerAt = Number.NEGATIVE_INFINITY;
  #lastTrouble: string | undefined;
  #outages = 0;

  constructor(
    settings: ItemSettings,
    context: {
      readonly database: Database;
      readonly logger: Logger;
      readonly service: Service;
      readonly counts: ReplayCounts;
      readonly stop: AbortSignal;
    },
  ) {
    this.#settings = settings;
    this.#database = context.database;
    this.#logger = context.logger;
    this.#service = context.service;
    this.#counts = context.counts;
    this.#stop = context.stop;
  }

  /**
   * Works until nothing is due (`once`), or until `stop`.
   * @throws RunFailure `endpoint_down` (once), `endpoint_refused`, or what the database reports
   */
  async run(): Promise<void> {
    const stop = this.#stop;
    let deadline: NodeJS.Timeout | undefined;
    const onStop = () => {
      deadline = setTimeout(() => this.#hardStop.abort(), this.#settings.drainMs);
    };
    stop.addEventListener('abort', onStop, { once: true });
    try {
      while (!stop.aborted) {
        await this.#takeRequests();
        await reclaimItems(this.#database);
        const worked = await this.#round();
        await this.#finish();
        if (worked) continue;
        if (this.#settings.mode === 'once') {
          // A run that ends with its last call unanswered has not done what it was started for.
          if (this.#lastTrouble !== undefined) throw this.#endpointDown();
          return;
        }
        await pause(this.#settings.pollMs, stop);
      }
    } finally {
      stop.removeEventListener('abort', onStop);
      clearTimeout(deadline);
    }
  }

  /** Makes items of all requests that may be taken; what cannot be understood is refused, once. */
  async #takeRequests(): Promise<void> {
    let after = '0';
    while (!this.#stop.aborted) {
      const request = await findItemRequest(this.#database, after);
      if (request === undefined) return;
      after = request.id;
      const problem = await this.#takeRequest(request);
      if (problem === undefined) continue;
      const { installation, runId } = this.#settings;
      await refuseRequest(this.#database, installation, request.id, runId, problem);
      this.#logger.warn({ requestId: request.id }, `a request for a ${request.kind} was refused: ${problem}`);
    }
  }

  /** Gives what is wrong with a request, or nothing where it was taken. */
  async #takeRequest(request: ItemRequest): Promise<string | undefined> {
    const scope = (request.kind === 'rebuild' ? rebuildScope : correctionScope).safeParse(request.scope);
    if (!scope.success) {
      return request.kind === 'rebuild'
        ? 'the scope must be {"findings": […]}, up to 1000 ids'
        : 'the scope must be what the function request makes of {"findings": […]}';
    }
    const { findings } = scope.data;
    const unfit = await findUnfitFindings(this.#database, request, findings);
    if (unfit.length > 0) return `no ${request.kind} can mend finding ${unfit.slice(0, 20).join(', ')}`;
    if (request.kind === 'correction' && this.#settings.correctionsUrl === undefined)
      return 'CF_CORRECTIONS_URL is not set: a person has to carry it out';
    await takeItemRequest(this.#database, request.id, this.#settings.runId, findings);
    this.#logger.info(
      { requestId: request.id, findings: findings.length },
      `a request for a ${request.kind} was taken`,
    );
    return undefined;
  }

  /** One claim of rebuilds and one of corrections; false where nothing was due. */
  async #round(): Promise<boolean> {
    const down = this.#service.endpoint() === 'down';
    if (down && this.#outages > 0) await this.#sitOut();
    if (this.#stop.aborted) return true;
    // While the endpoint is down, one call finds out whether it is back.
    const limit = down ? 1 : this.#settings.lanes;
    const rebuilds = await this.#claim('rebuild', limit);
    await this.#settleAll(rebuilds, async (token, items) => {
      await Promise.all(items.map(async (item) => await this.#rebuild(token, item)));
    });
    const corrections = this.#stop.aborted
      ? undefined
      : await this.#claim('correction', CORRECTIONS_PER_CALL);
    await this.#settleAll(corrections, async (token, items) => await this.#correct(token, items));
    const worked = (rebuilds?.items.length ?? 0) + (corrections?.items.length ?? 0) > 0;
    if (this.#service.endpoint() === 'up') {
      if (this.#outages > 0) this.#logger.info('the endpoint answers again');
      this.#outages = 0;
    } else if (worked) {
      if (this.#settings.mode === 'once') throw this.#endpointDown();
      this.#outages += 1;
    }
    return worked;
  }

  #endpointDown(): RunFailure {
    return new RunFailure(
      'endpoint_down',
      `the service gave no proper answer to requests (${this.#lastTrouble ?? 'no answer'}): look at the service; they stay open`,
    );
  }

  async #sitOut(): Promise<void> {
    const longest = this.#settings.policy.transportBackoffMaxMs;
    const pauseMs = Math.min(FIRST_OUTAGE_PAUSE_MS * 2 ** Math.min(this.#outages, 20), longest);
    await pause(pauseMs * (0.5 + Math.random() / 2), this.#stop);
  }

  async #claim(
    kind: ItemRequest['kind'],
    limit: number,
  ): Promise<{ readonly token: string; readonly items: readonly ClaimedItem[] }> {
    const token = randomUUID();
    const { claimedBy, leaseMs, callMs } = this.#settings;
    const claim = { token, claimedBy, leaseMs: Math.max(leaseMs, callMs + LEASE_MARGIN_MS), limit };
    return { token, items: await claimItems(this.#database, kind, claim) };
  }

  /** Works on a claim and gives back whatever it has not recorded, also where it fails. */
  async #settleAll(
    claim: { readonly token: string; readonly items: readonly ClaimedItem[] } | undefined,
    work: (token: string, items: readonly ClaimedItem[]) => Promise<void>,
  ): Promise<void> {
    if (claim === undefined || claim.items.length === 0) return;
    const { token } = claim;
    try {
      const open: ClaimedItem[] = [];
      for (const item of claim.items) {
        // Resolved or waived since it was asked for: there is nothing left to mend.
        if (item.finding_status !== 'open' && item.finding_status !== 'acknowledged') {
          await this.#end(token, item, { means: 'done', outcome: 'not_open' });
          continue;
        }
        // Counters may have grown while nobody looked: a run that was killed.
        const decision = this.#decide(item, undefined);
        if (decision.next === 'park') await this.#record(token, item, decision, decision.reason, undefined);
        else open.push(item);
      }
      if (open.length > 0) await work(token, open);
    } catch (error) {
      await releaseItems(this.#database, token, null).catch((lost: unknown) => {
        this.#logger.warn({ err: lost }, 'items were not given back: their leases run out');
      });
      throw error;
    }
  }

  async #rebuild(token: string, item: ClaimedItem): Promise<void> {
    const url = rebuildUrl(this.#settings.replayUrl, JSON.parse(item.key) as string[]);
    if (url === undefined) {
      // Of several columns nobody can say which one the service knows the fact by.
      await this.#end(token, item, { means: 'given_up', outcome: 'key_not_usable', error: undefined });
      return;
    }
    this.#counts.item_calls += 1;
    const result = await askForRebuild(this.#service, {
      url,
      deadlineMs: this.#settings.callMs,
      except: item.fact_changed,
      idempotencyKey: token,
      signal: this.#hardStop.signal,
    });
    if (result.kind === 'rebuilt') {
      this.#answered();
      await this.#end(token, item, result.answer);
    } else await this.#unanswered(token, [item], result, 'rebuild');
  }

  async #correct(token: string, items: readonly ClaimedItem[]): Promise<void> {
    const [first] = items;
    if (first === undefined) return;
    const { correctionsUrl } = this.#settings;
    const approval = await findApproval(this.#database, first.request_id);
    const scope = correctionScope.safeParse(approval?.scope);
    // Set when it was taken, by a run with other settings.
    if (correctionsUrl === undefined) return await this.#noRoute(first.request_id, 'no_url', 'correction');
    if (approval === undefined || !scope.success) {
      for (const item of items)
        await this.#end(token, item, { means: 'given_up', outcome: 'not_approved', error: undefined });
      return;
    }
    const seen = new Map<string, SeenFinding>(scope.data.seen.map((one) => [one.finding, one]));
    const asked = items.flatMap((item) => {
      const one = seen.get(item.finding_id);
      return one === undefined ? [] : [{ item, one }];
    });
    for (const item of items) {
      if (!seen.has(item.finding_id))
        await this.#end(token, item, { means: 'given_up', outcome: 'not_approved', error: undefined });
    }
    if (asked.length === 0) return;
    this.#counts.item_calls += 1;
    const result = await askForCorrections(this.#service, {
      url: correctionsUrl,
      idempotencyKey: token,
      signal: this.#hardStop.signal,
      request: {
        requestId: first.request_id,
        requestedBy: approval.requested_by,
        approvedBy: approval.approved_by,
        reason: approval.reason,
      },
      corrections: asked.map(({ one }) => one),
    });
    if (result.kind !== 'corrected')
      return await this.#unanswered(
        token,
        asked.map(({ item }) => item),
        result,
        'correction',
      );
    this.#answered();
    for (const { item, one } of asked) {
      const answer = result.answers.get(JSON.stringify(one.key)) ?? {
        means: 'tried',
        outcome: 'outcome_unknown',
        retryable: true,
        error: 'result_missing',
      };
      await this.#end(token, item, answer);
    }
  }

  #answered(): void {
    this.#lastAnswerAt = Date.now();
    this.#lastTrouble = undefined;
  }

  async #unanswered(
    token: string,
    items: readonly ClaimedItem[],
    result: NoAnswer,
    kind: ItemRequest['kind'],
  ): Promise<void> {
    switch (result.kind) {
      case 'refused': {
        const { code } = result;
        const [first] = items;
        if ((code === 'http_404' || code === 'http_405') && first !== undefined)
          return await this.#noRoute(first.request_id, code, kind);
        // 403 from the corrections is the service's own word on requester and approver.
        if (code === 'http_401' || /^http_3/.test(code) || (code === 'http_403' && kind === 'rebuild')) {
          throw new RunFailure(
            'endpoint_refused',
            `the service answered ${code} to a ${kind}: check CF_REPLAY_URL, CF_CORRECTIONS_URL and CF_REPLAY_TOKEN; the request stays open`,
          );
        }
        for (const item of items)
          await this.#end(token, item, { means: 'given_up', outcome: 'refused', error: code });
        return;
      }
      case 'unsent':
        this.#counts.item_calls -= 1;
        await releaseItems(
          this.#database,
          token,
          items.map((item) => item.finding_id),
        );
        return;
      case 'abandoned':
        for (const item of items)
          await this.#record(token, item, this.#decide(item, { kind: 'abandoned' }), 'abandoned', undefined);
        return;
      case 'unreached':
      case 'cut':
      case 'unclear': {
        this.#lastTrouble = result.code;
        const outcome = result.kind === 'unreached' ? 'unreached' : 'no_clear_answer';
        for (const item of items) {
          const decision = this.#decide(item, { kind: result.kind });
          await this.#record(token, item, decision, outcome, result.code);
        }
      }
    }
  }

  /** The service cannot do this at all: the findings are a person's, and nobody asks again by itself. */
  async #noRoute(requestId: string, code: string, kind: ItemRequest['kind']): Promise<void> {
    this.#counts.items_given_up += await giveUpRequest(this.#database, requestId, 'no_route', code);
    this.#logger.warn(
      { requestId, code },
      `the service has no route for a ${kind}: its findings are left to a person`,
    );
  }

  async #end(token: string, item: ClaimedItem, answer: ItemAnswer): Promise<void> {
    const attempts = attemptsOf(item);
    switch (answer.means) {
      case 'done':
        return await this.#record(token, item, { next: 'done', attempts }, answer.outcome, undefined);
      case 'given_up':
        return await this.#giveUp(token, item, attempts, answer.outcome, answer.error);
      case 'tried': {
        const { outcome, retryable, error } = answer;
        const decision = this.#decide(item, { kind: 'answered', outcome, retryable });
        return await this.#record(token, item, decision, outcome, error);
      }
    }
  }

  #decide(item: ClaimedItem, end: CallEnd | undefined): Decision {
    const lastAttemptAt = Date.now() - (item.last_attempt_age_ms ?? Number.POSITIVE_INFINITY);
    return decide(
      { eventId: item.finding_id, attempts: attemptsOf(item) },
      { endpointAnswered: this.#lastAnswerAt > lastAttemptAt },
      end,
      this.#settings.policy,
      { now: item.claimed_at_ms, chance: Math.random() },
    );
  }

  async #record(
    token: string,
    item: ClaimedItem,
    decision: Decision,
    outcome: string,
    error: string | undefined,
  ): Promise<void> {
    if (decision.next === 'park') {
      // The budget is the reason, and what was said last stands beside it.
      const last = decision.reason === outcome ? error : (error ?? outcome);
      return await this.#giveUp(token, item, decision.attempts, decision.reason, last);
    }
    const done = decision.next === 'done';
    if (done) this.#counts.items_done += 1;
    else this.#counts.items_waiting += 1;
    this.#logger.info(
      {
        requestId: item.request_id,
        finding: item.finding_id,
        key: JSON.parse(item.key) as (string | null)[],
        outcome,
        error,
      },
      done ? 'item done' : 'item not done yet: it is asked for again later',
    );
    await this.#write(token, {
      ...written(item, decision.attempts),
      status: done ? 'done' : 'due',
      next_attempt_at_ms: decision.next === 'wait' ? decision.until : null,
      outcome,
      error: error ?? null,
    });
  }

  async #giveUp(
    token: string,
    item: ClaimedItem,
    attempts: Decision['attempts'],
    outcome: string,
    error: string | undefined,
  ): Promise<void> {
    this.#counts.items_given_up += 1;
    this.#logger.warn(
      { requestId: item.request_id, finding: item.finding_id, outcome, error },
      'a finding was not mended and is not asked for again: it is left to a person',
    );
    await this.#write(token, {
      ...written(item, attempts),
      status: 'given_up',
      next_attempt_at_ms: null,
      outcome,
      error: error ?? null,
    });
  }

  async #write(token: string, outcome: ItemOutcome): Promise<void> {
    if ((await recordItems(this.#database, token, [outcome])) === 1) return;
    this.#counts.unrecorded += 1;
    this.#logger.warn(
      { requestId: outcome.request_id, finding: outcome.finding_id },
      'an outcome was not written: its claim has gone to someone else',
    );
  }

  async #finish(): Promise<void> {
    const { installation, runId } = this.#settings;
    const finished = await finishItemRequests(this.#database, installation, runId);
    this.#counts.requests += finished.length;
    for (const { id, status } of finished)
      this.#logger.info({ requestId: id, status }, 'a request for findings has ended');
  }
}

const attemptsOf = (item: ClaimedItem): Decision['attempts'] => ({
  handler: item.handler_attempts,
  transport: item.transport_attempts,
  unfinished: item.unfinished_calls,
});

const written = (item: ClaimedItem, attempts: Decision['attempts']) => ({
  request_id: item.request_id,
  finding_id: item.finding_id,
  handler_attempts: attempts.handler,
  transport_attempts: attempts.transport,
  unfinished_calls: attempts.unfinished,
});
