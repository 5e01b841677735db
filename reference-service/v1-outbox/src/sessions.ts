import { randomUUID } from 'node:crypto';
import type { Pool, PoolClient } from 'pg';
import { z } from 'zod';
import type { Metrics } from './metrics.js';
import { SESSION_COMPLETED, type SessionCompleted } from './session-completed.js';

/** Postgres takes no NUL in a text and no lone surrogate in a payload. */
const name = z
  .string()
  .min(1)
  .max(200)
  .refine((text) => text.isWellFormed() && !text.includes('\u0000'), 'a character that cannot be stored');

/** The body of `POST /sessions`. */
export const newSession = z.strictObject({
  id: z.guid().optional(),
  contractId: name,
  mentorId: name,
  amountMinor: z.int().min(0),
  currency: z.string().regex(/^[A-Z]{3}$/, 'three capital letters, such as EUR'),
});

/** A session as it is answered. */
export interface Session {
  id: string;
  contractId: string;
  mentorId: string;
  amountMinor: number;
  currency: string;
  createdAt: Date;
  completedAt: Date | null;
}

interface SessionRow extends Omit<Session, 'amountMinor'> {
  /** bigint arrives as text. */
  amountMinor: string;
}

const toSession = (row: SessionRow): Session => ({ ...row, amountMinor: Number(row.amountMinor) });

/** Creates and completes sessions; a completion and its event are one transaction. */
export class Sessions {
  constructor(
    private readonly pool: Pool,
    private readonly metrics: Metrics,
  ) {}

  /** The new session, or `taken` where the id is in use. */
  async create({ id = randomUUID(), ...session }: z.infer<typeof newSession>): Promise<Session | 'taken'> {
    const { rows } = await this.pool.query<SessionRow>(
      `/* v1-outbox create-session */
insert into sessions (id, contract_id, mentor_id, amount_minor, currency)
values ($1::uuid, $2::text, $3::text, $4::bigint, $5::text)
on conflict do nothing
returning id, contract_id as "contractId", mentor_id as "mentorId", amount_minor as "amountMinor", currency,
  created_at as "createdAt", completed_at as "completedAt"`,
      [id, session.contractId, session.mentorId, session.amountMinor, session.currency],
    );
    return rows[0] === undefined ? 'taken' : toSession(rows[0]);
  }

  /** The session, completed now or before, or `not_found`. Only who completes it writes the event. */
  async complete(id: string): Promise<Session | 'not_found'> {
    const client = await this.pool.connect();
    let publishing = false;
    try {
      await client.query('begin');
      // One of many concurrent calls changes the row; the others wait for it here and then find nothing to change.
      const { rows } = await client.query<SessionRow>(
        `/* v1-outbox complete-session */
update sessions set completed_at = now() where id = $1::uuid and completed_at is null
returning id, contract_id as "contractId", mentor_id as "mentorId", amount_minor as "amountMinor", currency,
  created_at as "createdAt", completed_at as "completedAt"`,
        [id],
      );
      if (rows[0] === undefined) {
        await client.query('rollback');
        client.release();
        return await this.find(id);
      }
      const session = toSession(rows[0]);
      publishing = true;
      await insertEvent(client, session);
      await client.query('commit');
      client.release();
      this.metrics.published('committed');
      return session;
    } catch (error) {
      if (publishing) this.metrics.published('failed');
      // Not to be used again: nobody knows how far it got.
      client.release(true);
      throw error;
    }
  }

  private async find(id: string): Promise<Session | 'not_found'> {
    const { rows } = await this.pool.query<SessionRow>(
      `/* v1-outbox find-session */
select id, contract_id as "contractId", mentor_id as "mentorId", amount_minor as "amountMinor", currency,
  created_at as "createdAt", completed_at as "completedAt"
from sessions where id = $1::uuid`,
      [id],
    );
    return rows[0] === undefined ? 'not_found' : toSession(rows[0]);
  }
}

async function insertEvent(client: PoolClient, session: Session): Promise<void> {
  const payload: SessionCompleted = {
    sessionId: session.id,
    contractId: session.contractId,
    mentorId: session.mentorId,
    amountMinor: session.amountMinor,
    currency: session.currency,
  };
  await client.query(
    `/* v1-outbox insert-event */
insert into domain_events (event_type, aggregate_id, payload) values ($1::text, $2::text, $3::jsonb)`,
    [SESSION_COMPLETED, session.id, JSON.stringify(payload)],
  );
}
