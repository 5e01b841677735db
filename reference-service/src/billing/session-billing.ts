import { Inject, Injectable } from '@nestjs/common';
import { CONTRACT_SIGNED, type ContractSigned } from '../contracts/contract-events.js';
import { DATABASE, type Database } from '../database.module.js';
import { FaultInjector } from '../faults/fault-injector.js';
import { OnServiceEvent } from '../request-context.js';
import {
  SESSION_COMPLETED,
  SESSION_EVALUATED,
  type SessionCompleted,
  type SessionEvaluated,
} from '../sessions/session-events.js';
import { type Ledger, mentorPayableAccounts } from '../tables.js';
import { MentorPayables } from './mentor-payables.js';

/** The financial domain's listeners. */
@Injectable()
export class SessionBilling {
  constructor(
    @Inject(DATABASE) private readonly database: Database,
    @Inject(MentorPayables) private readonly payables: MentorPayables,
    @Inject(FaultInjector) private readonly faults: FaultInjector,
  ) {}

  /** Writes the session's one ledger row; a repeat returns the same row. */
  @OnServiceEvent(SESSION_COMPLETED)
  async createPerSessionBilling(event: SessionCompleted): Promise<Ledger> {
    return await this.faults.whileBilling(event, (bill, number) => this.payables.bill(bill, number));
  }

  /** Makes sure that the bill exists: an evaluation that comes before its completion bills the session instead. */
  @OnServiceEvent(SESSION_EVALUATED)
  async ensureSessionBilled({ score: _, ...event }: SessionEvaluated): Promise<Ledger> {
    return await this.faults.whileBilling(event, (bill, number) => this.payables.bill(bill, number));
  }

  /** Opens the account to which the contract's sessions are owed. */
  @OnServiceEvent(CONTRACT_SIGNED)
  async openPayableAccount({ contractId, mentorId, currency }: ContractSigned): Promise<void> {
    await this.database
      .insert(mentorPayableAccounts)
      .values({ contractId, mentorId, currency })
      .onConflictDoNothing();
  }
}
