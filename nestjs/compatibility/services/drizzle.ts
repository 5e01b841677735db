import { drizzleDriver } from '@counterfoil/nestjs/drizzle';
import { drizzle } from 'drizzle-orm/node-postgres';
import { pgTable, text } from 'drizzle-orm/pg-core';
import { Pool } from 'pg';
import { databaseUrl, serve } from './service.js';

const tables = {
  completions: pgTable('completions', { id: text('id').primaryKey() }),
  bills: pgTable('bills', { id: text('id').primaryKey() }),
};
const pool = new Pool({ connectionString: databaseUrl() });

void serve({
  driver: drizzleDriver(drizzle({ client: pool })),
  insert: (tx, table, id) => tx.insert(tables[table]).values({ id }),
  close: () => pool.end(),
});
