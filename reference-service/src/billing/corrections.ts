import { type DriverTransaction, EventPublisher, errorCode, type SqlRunner } from '@counterfoil/nestjs';
import { Inject, Injectable } from '@nestjs/common';
import type { Logger } from 'pino';
import { z } from 'zod';
import type { ServiceTransaction } from '../database.module.js';
import { FaultInjector } from '../faults/fault-injector.js';
import { LOG } from '../service-log.js';
import { type LedgerRow, selectBySession } from './ledger-rows.js';
import { LedgerChangedError, MentorPayables } from './mentor-payables.js';
import { lockFact, type SessionFact } from './session-facts.js';

/** What came of a correction, each with its meaning. */
export const CORRECTION_OUTCOMES = {
  corrected: 'wrong rows are reversed and the session has its one right bill, by this request now or before',
  would_correct: 'a dry run: it would be corrected, and reversedIds says which rows would be reversed',
  already_corrected: 'the session has its one right bill already; nothing was written',
  changed:
    'fact or ledger is no longer what was approved; nothing was written: look again and ask for a new approval',
  not_found: 'there is no such session; nothing was written',
  failed:
    'the database failed, or the approval does not say enough; retryable says whether asking again may help',
} as const;

/** One of the words in CORRECTION_OUTCOMES. */
export type CorrectionOutcome = keyof typeof CORRECTION_OUTCOMES;

/** What the approver saw of one session. */
export interface Correction {
  /** The session's id. */
  key: [string];
  kind: 'duplicate' | 'amount';
  /** The fact's amount in minor units, and the sum of its live bills; null where the check compares no amounts. */
  expectedMinor: string | null;
  actualMinor: string | null;
  currency: string | null;
  /** How many live bills there were. */
  ledgerRows: number;
}

/** An approved request. */
export interface CorrectionRequest {
  requestId: string;
  requestedBy: string;
  approvedBy: string;
  reason: string;
  dryRun: boolean;
  corrections: readonly Correction[];
}

/** The answer for one session. */
export interface CorrectionResult {
  key: [string];
  outcome: CorrectionOutcome;
  /** The rows that were reversed; they themselves are as they were. */
  reversedIds: string[];
  /** The bill written anew; null where one of the old ones was right. */
  billedId: string | null;
  retryable?: boolean;
  /** A class or code; never a message. */
  error?: string;
}

type Finding = Omit<CorrectionResult, 'key'>;

/** Longer than any ordinary write to a session takes, and short enough for a hundred of them in one request. */
const LOCK_TIMEOUT = '2s';

/**
 * Corrects bills that a person has approved to be corrected. One transaction for each session, with its row locked:
 * what the approver saw must still be so, else nothing is written. Wrong rows are reversed by rows of their own, never
 * changed; of several right ones the oldest stays; where none is right the session is billed anew from the fact. What
 * was done is recorded with it, so that a request asked again, after a crash or an answer that was lost, is answered as
 * before.
 */
@Injectable()
export class Corrections {
  constructor(
    @Inject(EventPublisher) private readonly events: EventPublisher<ServiceTransaction>,
    @Inject(MentorPayables) private readonly payables: MentorPayables,
    @Inject(FaultInjector) private readonly faults: FaultInjector,
    @Inject(LOG) private readonly log: Logger,
  ) {}

  /** Corrects one session after the other; exactly one result for each, in their order. */
  async correct(request: CorrectionRequest): Promise<CorrectionResult[]> {
    const results: CorrectionResult[] = [];
    let away: Finding | undefined;
    for (const correction of request.corrections) {
      const finding = away ?? (await this.correctOne(request, correction));
      // Without a connection the next one would wait for the same timeout: a hundred of them, for minutes.
      if (finding.error !== undefined && !isFromDatabase(finding.error) && finding.retryable) away = finding;
      results.push({ key: correction.key, ...finding });
    }
    const counts: Partial<Record<CorrectionOutcome, number>> = {};
    for (const { outcome } of results) counts[outcome] = (counts[outcome] ?? 0) + 1;
    const { requestId, dryRun } = request;
    this.log.info({ correctionRequest: requestId, dryRun, counts }, 'Corrections answered');
    return results;
  }

  private async correctOne(request: CorrectionRequest, correction: Correction): Promise<Finding> {
    const [sessionId] = correction.key;
    if (!z.guid().safeParse(sessionId).success) return nothing('not_found');
    try {
      return await this.events.transaction((tx) => this.within(tx, request, correction));
    } catch (thrown) {
      if (thrown instanceof LedgerChangedError) return nothing('changed');
      const error = errorCode(thrown);
      this.log.error(
        { sessionId, correctionRequest: request.requestId, error },
        'Bill could not be corrected',
      );
      // Values and constraints stay as they are, however often they are tried.
      return { ...nothing('failed'), retryable: !/^2[23]...$/.test(error), error };
    }
  }

  private async within(
    tx: DriverTransaction,
    request: CorrectionRequest,
    correction: Correction,
  ): Promise<Finding> {
    await limitLockWait(tx);
    const [sessionId] = correction.key;
    const fact = await lockFact(tx, sessionId);
    if (fact === undefined) return nothing('not_found');
    const done = await selectCorrection(tx, request.requestId, fact.id);
    if (done !== undefined) {
      if (done.kind !== correction.kind) return nothing('changed');
      const { reversedIds, billedId } = done;
      return { outcome: request.dryRun ? 'already_corrected' : 'corrected', reversedIds, billedId };
    }
    const rows = await selectBySession(tx, fact.id);
    const plan = planCorrection(fact, rows, correction);
    if (plan.reversed === undefined) return plan.finding;
    const { reversed } = plan;
    const reversedIds = reversed.map(({ id }) => id);
    if (request.dryRun) return { outcome: 'would_correct', reversedIds, billedId: null };

    await this.payables.reverse(tx, reversed);
    const billed = plan.billAnew
      ? await this.payables.billAnew(
          tx,
          {
            sessionId: fact.id,
            mentorId: fact.mentorId,
            amountMinor: fact.amountMinor,
            currency: fact.currency,
          },
          rows,
        )
      : undefined;
    const billedId = billed === undefined ? null : String(billed.id);
    await insertCorrection(tx, request, correction, fact.id, reversedIds, billedId);
    this.faults.whileCorrecting(tx);
    return { outcome: 'corrected', reversedIds, billedId };
  }
}

const nothing = (outcome: CorrectionOutcome): Finding => ({ outcome, reversedIds: [], billedId: null });

const isFromDatabase = (error: string): boolean => /^[0-9A-Z]{5}$/.test(error);

/** What is to be done about a session; or why nothing is. */
export type CorrectionPlan =
  | { reversed: readonly LedgerRow[]; billAnew: boolean }
  | { reversed?: undefined; finding: Finding };

/** Pure: what is to be done about a session whose fact and rows are these, if what was approved is still so. */
export function planCorrection(
  fact: SessionFact,
  rows: readonly LedgerRow[],
  approved: Correction,
): CorrectionPlan {
  if (!fact.isCompleted) return { finding: nothing('changed') };
  const live = rows.filter(({ isLive }) => isLive);
  const isRight = (row: LedgerRow) =>
    BigInt(row.amountMinor) === BigInt(fact.amountMinor) && row.currency === fact.currency;
  const kept = live.find(isRight);
  if (kept !== undefined && live.length === 1) return { finding: nothing('already_corrected') };
  if (approved.kind === 'amount' && (approved.expectedMinor === null || approved.actualMinor === null)) {
    return { finding: { ...nothing('failed'), retryable: false, error: 'amounts_not_approved' } };
  }
  const billed = live.reduce((sum, { amountMinor }) => sum + BigInt(amountMinor), 0n);
  const isAsApproved =
    live.length === approved.ledgerRows &&
    live.length >= (approved.kind === 'duplicate' ? 2 : 1) &&
    isOrNull(approved.expectedMinor, BigInt(fact.amountMinor)) &&
    isOrNull(approved.actualMinor, billed) &&
    (approved.currency === null || approved.currency === fact.currency);
  if (!isAsApproved) return { finding: nothing('changed') };
  return { reversed: live.filter((row) => row !== kept), billAnew: kept === undefined };
}

/** Amounts are compared as they are written: a fraction of a minor unit is no amount of this ledger. */
const isOrNull = (approved: string | null, amount: bigint): boolean =>
  approved === null || approved === String(amount);

async function limitLockWait(tx: SqlRunner): Promise<void> {
  await tx.run(`/* reference-service limit-lock-wait */ select set_config('lock_timeout', $1::text, true)`, [
    LOCK_TIMEOUT,
  ]);
}

interface RecordedCorrection {
  kind: string;
  reversedIds: string[];
  billedId: string | null;
}

async function selectCorrection(
  tx: SqlRunner,
  requestId: string,
  sessionId: string,
): Promise<RecordedCorrection | undefined> {
  const { rows } = await tx.run(
    `/* reference-service select-correction */
select kind, reversed_ids::text[] as "reversedIds", billed_id::text as "billedId"
from billing_corrections where request_id = $1::text and session_id = $2::uuid`,
    [requestId, sessionId],
  );
  return rows[0] as unknown as RecordedCorrection | undefined;
}

async function insertCorrection(
  tx: SqlRunner,
  { requestId, requestedBy, approvedBy, reason }: CorrectionRequest,
  { kind }: Correction,
  sessionId: string,
  reversedIds: readonly string[],
  billedId: string | null,
): Promise<void> {
  await tx.run(
    `/* reference-service insert-correction */
insert into billing_corrections
  (request_id, session_id, kind, requested_by, approved_by, reason, reversed_ids, billed_id)
values ($1::text, $2::uuid, $3::text, $4::text, $5::text, $6::text, $7::bigint[], $8::bigint)`,
    [requestId, sessionId, kind, requestedBy, approvedBy, reason, reversedIds, billedId],
  );
}
