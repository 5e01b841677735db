import type { SqlRunner } from '@counterfoil/nestjs';

/** What must be billed, as the service's own row says it. */
export interface SessionFact {
  id: string;
  contractId: string;
  mentorId: string;
  /** A text: minor units of any size. */
  amountMinor: string;
  currency: string;
  isCompleted: boolean;
}

/** A session as a fact; undefined where there is none. */
export async function selectFact(sql: SqlRunner, sessionId: string): Promise<SessionFact | undefined> {
  const { rows } = await sql.run(
    `/* reference-service select-session-fact */
select id, contract_id as "contractId", mentor_id as "mentorId", amount_minor::text as "amountMinor", currency,
  completed_at is not null as "isCompleted"
from sessions where id = $1::uuid`,
    [sessionId],
  );
  return rows[0] as unknown as SessionFact | undefined;
}

/** The same, locked: corrections of one session follow each other, and each reads what the last one has left. */
export async function lockFact(sql: SqlRunner, sessionId: string): Promise<SessionFact | undefined> {
  const { rows } = await sql.run(
    `/* reference-service lock-session-fact */
select id, contract_id as "contractId", mentor_id as "mentorId", amount_minor::text as "amountMinor", currency,
  completed_at is not null as "isCompleted"
from sessions where id = $1::uuid for no key update`,
    [sessionId],
  );
  return rows[0] as unknown as SessionFact | undefined;
}
