import { OnBackedEvent } from '@counterfoil/nestjs';
import { Inject, Injectable } from '@nestjs/common';
import { eq } from 'drizzle-orm';
import type { Logger } from 'pino';
import { DATABASE, type Database } from '../database.module.js';
import { FaultInjector } from '../faults/fault-injector.js';
import { LOG } from '../service-log.js';
import { SESSION_COMPLETED, type SessionCompleted } from '../sessions/session-completed.js';
import { type Ledger, ledgers } from '../tables.js';

/** Bills completed sessions to what is owed to their mentors. */
@Injectable()
export class SessionBilling {
  constructor(
    @Inject(DATABASE) private readonly database: Database,
    @Inject(FaultInjector) private readonly faults: FaultInjector,
    @Inject(LOG) private readonly log: Logger,
  ) {}

  /** Writes the session's one ledger row; a repeat finds it by its key and returns the same row. */
  @OnBackedEvent(SESSION_COMPLETED)
  async createPerSessionBilling(event: SessionCompleted): Promise<Ledger> {
    return await this.faults.whileBilling(event, (bill, number) => this.writeLedger(bill, number));
  }

  /** Bill `number` of a session: the first, or a later one that follows a reversal. */
  async writeLedger(
    { sessionId, mentorId, amountMinor, currency }: SessionCompleted,
    number: number,
  ): Promise<Ledger> {
    const idempotencyKey = `session:${sessionId}:${number}`;
    const [created] = await this.database
      .insert(ledgers)
      .values({ sessionId, mentorId, amountMinor, currency, idempotencyKey })
      .onConflictDoNothing({ target: ledgers.idempotencyKey })
      .returning();
    if (created !== undefined) return created;
    const [existing] = await this.database
      .select()
      .from(ledgers)
      .where(eq(ledgers.idempotencyKey, idempotencyKey));
    if (existing === undefined)
      throw new Error(`ledger row ${idempotencyKey} was there and is gone: run it again`);
    this.log.info(
      { sessionId, ledgerId: existing.id },
      'Session is billed already; the same ledger row is returned',
    );
    return existing;
  }
}
