/**
 * `CF_GATE_SINCE` as a point in time. One that says how long before now is settled once per run and by the database's
 * clock, as all else: the checks of a run are asked about the same time, and a pod with a wrong clock changes nothing.
 */
import type { Database } from '../runtime/database.ts';
import { RunFailure } from '../runtime/failures.ts';
import { addMs, formatInstant, parseInstant } from './instant.ts';

/** How long before now: a whole number and its unit. */
export const AGE = /^(\d{1,6})([smhd])$/;

const unitMs: Readonly<Record<string, number>> = { s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };

export async function settleGateSince(database: Database, since: string): Promise<string> {
  const [, count, unit = ''] = AGE.exec(since) ?? [];
  if (count === undefined) return since;
  const [clock] = await database.read(
    async (transaction) =>
      await transaction.query<{ now: string }>(
        `-- billing-reconciliation: settleGateSince
         SELECT clock_timestamp() AS now`,
      ),
  );
  if (clock === undefined) throw new RunFailure('internal', 'the database did not tell its time');
  return formatInstant(addMs(parseInstant(clock.now), -Number(count) * (unitMs[unit] ?? Number.NaN)));
}
