import { pgDriver } from '@counterfoil/nestjs';
import { Pool } from 'pg';
import { databaseUrl, serve } from './service.js';

const pool = new Pool({ connectionString: databaseUrl() });

void serve({
  driver: pgDriver(pool),
  insert: (client, table, id) => client.query(`insert into ${table} (id) values ($1)`, [id]),
  close: () => pool.end(),
});
