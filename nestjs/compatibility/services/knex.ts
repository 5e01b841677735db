import { knexDriver } from '@counterfoil/nestjs/knex';
import { knex } from 'knex';
import { databaseUrl, serve } from './service.js';

const database = knex({ client: 'pg', connection: databaseUrl() });

void serve({
  driver: knexDriver(database),
  insert: (trx, table, id) => trx(table).insert({ id }),
  close: () => database.destroy(),
});
