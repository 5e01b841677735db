import { randomUUID } from 'node:crypto';
import { EventPublisher } from '@counterfoil/nestjs';
import { ConflictException, Inject, Injectable, NotFoundException } from '@nestjs/common';
import { and, eq, isNull, sql } from 'drizzle-orm';
import type { ServiceTransaction } from '../database.module.js';
import { DATABASE, type Database } from '../database.module.js';
import { FaultInjector } from '../faults/fault-injector.js';
import { type Session, sessions } from '../tables.js';
import { SESSION_COMPLETED, type SessionCompleted } from './session-completed.js';

/** A session to create. */
export interface NewSession {
  /** A new UUID by default. */
  id?: string | undefined;
  contractId: string;
  mentorId: string;
  amountMinor: number;
  currency: string;
}

/** Creates and completes sessions. */
@Injectable()
export class SessionService {
  constructor(
    @Inject(DATABASE) private readonly database: Database,
    @Inject(EventPublisher) private readonly events: EventPublisher<ServiceTransaction>,
    @Inject(FaultInjector) private readonly faults: FaultInjector,
  ) {}

  /** Creates a session; 409 where the id is taken. */
  async createSession({ id = randomUUID(), ...session }: NewSession): Promise<Session> {
    const [created] = await this.database
      .insert(sessions)
      .values({ id, ...session })
      .onConflictDoNothing()
      .returning();
    if (created === undefined) throw new ConflictException(`session ${id} exists already`);
    return created;
  }

  /**
   * Completes a session and publishes that in the same transaction; billing follows after the commit. A session
   * already completed is returned as it is and published no second time. 404 where there is no such session.
   */
  async completeSession(id: string): Promise<Session> {
    return await this.events.transaction(async (tx) => {
      // One of many concurrent calls changes the row; the others wait for it here and then find nothing to change.
      const [completed] = await tx.handle
        .update(sessions)
        .set({ completedAt: sql`now()` })
        .where(and(eq(sessions.id, id), isNull(sessions.completedAt)))
        .returning();
      if (completed === undefined) return await this.findSession(tx.handle, id);
      const payload: SessionCompleted = {
        sessionId: completed.id,
        contractId: completed.contractId,
        mentorId: completed.mentorId,
        amountMinor: completed.amountMinor,
        currency: completed.currency,
      };
      await this.faults.whilePublishing(tx, (publishing) =>
        this.events.publish(publishing, { name: SESSION_COMPLETED, payload }),
      );
      return completed;
    });
  }

  private async findSession(tx: ServiceTransaction, id: string): Promise<Session> {
    const [session] = await tx.select().from(sessions).where(eq(sessions.id, id));
    if (session === undefined) throw new NotFoundException(`there is no session ${id}`);
    return session;
  }
}
