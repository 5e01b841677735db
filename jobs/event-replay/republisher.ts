/**
 * Gives events to the outbox of the service's predecessor, by a function that the service's owner has installed, where
 * the stable release has no replay endpoint. The role may call that function and nothing else of the outbox.
 */
import { type Database, quoteIdentifier } from '../runtime/database.ts';
import { RunFailure } from '../runtime/failures.ts';
import { errorCode } from '../runtime/sqlstates.ts';
import type { EventAnswer, Publisher } from './publisher.ts';

/**
 * @param name as in the settings, found by the role's own search_path unless it names a schema
 * @throws RunFailure `function_missing`, `grant_missing`
 */
export async function findFunction(database: Database, name: string): Promise<string> {
  const [last = '', schema] = name.split('.').reverse();
  const [found] = await database.read(
    async (transaction) =>
      await transaction.query<{ schema: string; callable: boolean; role: string }>(
        `-- event-replay: findFunction
         SELECT n.nspname::text AS schema, quote_ident(current_user) AS role,
                has_schema_privilege(n.oid, 'USAGE') AND has_function_privilege(p.oid, 'EXECUTE') AS callable
           FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
          WHERE p.proname = $2::text AND p.prokind = 'f' AND p.pronargs = 1 AND p.proargtypes[0] = 'text'::regtype
            AND CASE WHEN $1::text IS NULL THEN n.nspname = ANY (current_schemas(false)) ELSE n.nspname = $1::text END
          ORDER BY array_position(current_schemas(false), n.nspname)
          LIMIT 1`,
        [schema ?? null, last],
      ),
    { userSearchPath: true },
  );
  if (found === undefined) {
    throw new RunFailure(
      'function_missing',
      `there is no function ${name}(text): install it, or name the right one in CF_REPUBLISH_FUNCTION`,
    );
  }
  const qualified = `${quoteIdentifier(found.schema)}.${quoteIdentifier(last)}`;
  if (!found.callable) {
    throw new RunFailure(
      'grant_missing',
      `this role may not call ${qualified}(text): GRANT USAGE ON SCHEMA ${quoteIdentifier(found.schema)} TO ${found.role}; ` +
        `GRANT EXECUTE ON FUNCTION ${qualified}(text) TO ${found.role}`,
    );
  }
  return qualified;
}

/** What the function says of one event by an error of its own; anything else may pass. */
const outcomeByCode: Readonly<Record<string, EventAnswer['outcome']>> = {
  '0A000': 'no_listener', // feature_not_supported: the outbox takes no event of this type
  P0002: 'not_found', // no_data_found
};
/** Nothing that another event could change: the run ends. */
const endsTheRun = new Set(['grant_missing', 'table_missing', 'column_missing', 'database_refused']);

/** @param qualified as `findFunction` gives it */
export function publishByFunction(database: Database, qualified: string): Publisher {
  const handOver = async (eventIds: readonly string[]): Promise<void> => {
    // Inserts what is not there yet, so that it may be repeated.
    await database.transaction({ repeatable: true }, async (transaction) => {
      await transaction.query(
        `-- event-replay: handOver
         SELECT ${qualified}(w.event_id) FROM unnest($1::text[]) AS w (event_id)`,
        [eventIds],
      );
    });
  };
  const answerOf = async (eventId: string): Promise<EventAnswer> => {
    try {
      await handOver([eventId]);
      return handed;
    } catch (error) {
      const code = failedStatement(error);
      return { outcome: outcomeByCode[code] ?? 'failed', retryable: true, error: code };
    }
  };
  return {
    async publish(eventIds, _idempotencyKey, signal) {
      if (signal.aborted) return { kind: 'abandoned' };
      const answers = new Map<string, EventAnswer>();
      try {
        await handOver(eventIds);
        for (const eventId of eventIds) answers.set(eventId, handed);
      } catch (error) {
        failedStatement(error);
        // One of them: each on its own, so that it costs the others nothing.
        for (const eventId of eventIds) answers.set(eventId, await answerOf(eventId));
      }
      return { kind: 'answered', service: undefined, answers, strangers: 0 };
    },
    endpoint: () => 'up',
  };
}

const handed: EventAnswer = { outcome: 'handed_to_outbox', retryable: true, error: undefined };

/**
 * The code with which the function refused an event.
 * @throws what is no matter of one event
 */
function failedStatement(error: unknown): string {
  const code = error instanceof RunFailure ? errorCode(error.cause) : undefined;
  // 42883, undefined_function: dropped since it was looked for.
  if (!(error instanceof RunFailure) || code === undefined || code === '42883' || endsTheRun.has(error.id))
    throw error;
  if (error.id === 'database_unreachable' || error.id === 'database_read_only') throw error;
  return code;
}
