import type { ExtractTablesWithRelations } from 'drizzle-orm';
import { type NodePgDatabase, NodePgSession, NodePgTransaction } from 'drizzle-orm/node-postgres';
import type { Pool, PoolClient } from 'pg';
import type { CounterfoilDriver } from './driver.js';
import { type PgDriverOptions, pgDriver } from './pg-driver.js';

/** What drizzle keeps to itself of a database object, and what a transaction on our own client is made from. */
interface DrizzleInternals {
  dialect: ConstructorParameters<typeof NodePgSession>[1];
  session: {
    schema: ConstructorParameters<typeof NodePgSession>[2];
    options: NonNullable<ConstructorParameters<typeof NodePgSession>[3]>;
  };
}

/**
 * The driver for drizzle on node-postgres; the handle is a drizzle transaction, whose nested `transaction` is a
 * savepoint. The module begins and commits on the pool itself: drizzle's own `db.transaction` hides whether a commit
 * was answered with a rollback, and does not release a client on which `begin` failed.
 */
export function drizzleDriver<Schema extends Record<string, unknown>>(
  db: NodePgDatabase<Schema> & { $client: Pool },
  options?: PgDriverOptions,
): CounterfoilDriver<NodePgTransaction<Schema, ExtractTablesWithRelations<Schema>>> {
  const { dialect, session } = db as unknown as DrizzleInternals;
  const handle = (client: PoolClient) => {
    const own = new NodePgSession(client, dialect, session.schema, session.options);
    return new NodePgTransaction<Schema, ExtractTablesWithRelations<Schema>>(
      ...([dialect, own, session.schema] as unknown as ConstructorParameters<
        typeof NodePgTransaction<Schema, ExtractTablesWithRelations<Schema>>
      >),
    );
  };
  return pgDriver(db.$client, handle, options);
}
