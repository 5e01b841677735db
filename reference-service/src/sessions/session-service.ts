import { randomUUID } from 'node:crypto';
import { type DriverTransaction, EventPublisher } from '@counterfoil/nestjs';
import { ConflictException, Inject, Injectable, NotFoundException } from '@nestjs/common';
import { eq } from 'drizzle-orm';
import { DATABASE, type Database, type ServiceTransaction } from '../database.module.js';
import { FaultInjector } from '../faults/fault-injector.js';
import { type Session, type SessionEvaluation, sessionEvaluations, sessions } from '../tables.js';
import {
  SESSION_COMPLETED,
  SESSION_EVALUATED,
  type SessionCompleted,
  type SessionEvaluated,
} from './session-events.js';

/** A session to create. */
export interface NewSession {
  /** A new UUID by default. */
  id?: string | undefined;
  contractId: string;
  mentorId: string;
  amountMinor: number;
  currency: string;
}

/** Creates, completes and evaluates sessions. */
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
      const completed = await complete(tx, id);
      if (completed === undefined) return await findSession(tx.handle, id);
      const payload: SessionCompleted = billable(completed);
      await this.faults.whilePublishing(tx, SESSION_COMPLETED, payload, (publishing, published) =>
        this.events.publish(publishing, { name: SESSION_COMPLETED, payload: published }),
      );
      return completed;
    });
  }

  /**
   * Records what a completed session was worth and publishes that. Evaluated already, the first evaluation is returned
   * and published no second time. 404 where there is no such session, 409 where it is not completed.
   */
  async evaluateSession(id: string, score: number): Promise<SessionEvaluation> {
    return await this.events.transaction(async (tx) => {
      const session = await findSession(tx.handle, id);
      if (session.completedAt === null) throw new ConflictException(`session ${id} is not completed`);
      const [evaluated] = await tx.handle
        .insert(sessionEvaluations)
        .values({ sessionId: id, score })
        .onConflictDoNothing()
        .returning();
      if (evaluated === undefined) return await findEvaluation(tx.handle, id);
      const payload: SessionEvaluated = { ...billable(session), score };
      await this.faults.whilePublishing(tx, SESSION_EVALUATED, payload, (publishing, published) =>
        this.events.publish(publishing, { name: SESSION_EVALUATED, payload: published }),
      );
      return evaluated;
    });
  }
}

/**
 * Completes the session where it is not; one of many concurrent calls changes the row, the others wait for it here and
 * then find nothing to change. Plain text and not drizzle's builder, which costs as much CPU as the rest of it all.
 */
async function complete(tx: DriverTransaction, id: string): Promise<Session | undefined> {
  const { rows } = await tx.run(
    `/* reference-service complete-session */
update sessions set completed_at = now() where id = $1::uuid and completed_at is null
returning id, contract_id as "contractId", mentor_id as "mentorId", amount_minor as "amountMinor", currency,
  created_at as "createdAt", completed_at as "completedAt"`,
    [id],
  );
  const row = rows[0] as (Omit<Session, 'amountMinor'> & { amountMinor: string }) | undefined;
  return row && { ...row, amountMinor: Number(row.amountMinor) };
}

const billable = ({ id, contractId, mentorId, amountMinor, currency }: Session): SessionCompleted => ({
  sessionId: id,
  contractId,
  mentorId,
  amountMinor,
  currency,
});

async function findSession(tx: ServiceTransaction, id: string): Promise<Session> {
  const [session] = await tx.select().from(sessions).where(eq(sessions.id, id));
  if (session === undefined) throw new NotFoundException(`there is no session ${id}`);
  return session;
}

async function findEvaluation(tx: ServiceTransaction, id: string): Promise<SessionEvaluation> {
  const [evaluation] = await tx.select().from(sessionEvaluations).where(eq(sessionEvaluations.sessionId, id));
  if (evaluation === undefined) throw new NotFoundException(`there is no evaluation of session ${id}`);
  return evaluation;
}
