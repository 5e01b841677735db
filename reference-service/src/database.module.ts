import { Global, Module } from '@nestjs/common';
import { drizzle, type NodePgDatabase } from 'drizzle-orm/node-postgres';
import { Pool } from 'pg';
import { SETTINGS, type Settings } from './settings.js';
import * as tables from './tables.js';

/** The service's database, with the pool under it as `$client`. */
export type Database = NodePgDatabase<typeof tables> & { $client: Pool };

/** A drizzle transaction on it. */
export type ServiceTransaction = Parameters<Parameters<Database['transaction']>[0]>[0];

/** Injection token of the Database. */
export const DATABASE = Symbol('database');

/** No statement of this service takes longer unless something is wrong; in a transaction the server then gives it up. */
export const STATEMENT_TIMEOUT_MS = 10_000;

@Global()
@Module({
  providers: [
    {
      provide: DATABASE,
      inject: [SETTINGS],
      useFactory: ({ databaseUrl, poolSize, poolWaitMs, podName }: Settings): Database => {
        const pool = new Pool({
          connectionString: databaseUrl,
          max: poolSize,
          application_name: `reference-service ${podName}`.slice(0, 63),
          connectionTimeoutMillis: poolWaitMs,
          // No statement_timeout: it is sent with the connection, where PgBouncer refuses it. Later than the server's
          // own limit in a transaction; a single statement that runs into this one loses its connection.
          query_timeout: STATEMENT_TIMEOUT_MS + 5_000,
          keepAlive: true,
        });
        return drizzle(pool, { schema: tables }) as Database;
      },
    },
  ],
  exports: [DATABASE],
})
export class DatabaseModule {}
