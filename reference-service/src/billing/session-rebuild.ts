import type { RebuildAnswer, SqlRunner } from '@counterfoil/nestjs';
import { z } from 'zod';
import type { Database } from '../database.module.js';
import { SESSION_COMPLETED } from '../sessions/session-events.js';
import { selectBySession } from './ledger-rows.js';
import { selectFact } from './session-facts.js';

/**
 * The module's `rebuild`: decides whether the event of a session may be made anew from the fact, for a session that was
 * completed and whose event was never published, or was processed without a bill. Writes nothing: the module stores and
 * delivers what is rebuilt, and the bill's key holds it to one. Never after a reversal: only an approved correction
 * bills again.
 */
export function rebuildFrom(database: Database): (sessionId: string) => Promise<RebuildAnswer> {
  const pool: SqlRunner = { run: (sql, params) => database.$client.query(sql, [...params]) };
  return async (sessionId) => {
    if (!z.guid().safeParse(sessionId).success) return { outcome: 'not_found' };
    const fact = await selectFact(pool, sessionId);
    if (fact?.isCompleted !== true) return { outcome: 'not_found' };
    const rows = await selectBySession(pool, fact.id);
    if (rows.some(({ isLive }) => isLive)) return { outcome: 'not_needed' };
    if (rows.length > 0) return { outcome: 'refused', code: 'bill_was_reversed' };
    const { id, contractId, mentorId, amountMinor, currency } = fact;
    // Such an amount would come out of JSON as another one.
    if (!Number.isSafeInteger(Number(amountMinor))) return { outcome: 'refused', code: 'amount_too_large' };
    const payload = { sessionId: id, contractId, mentorId, amountMinor: Number(amountMinor), currency };
    return { outcome: 'rebuilt', event: { name: SESSION_COMPLETED, payload } };
  };
}
