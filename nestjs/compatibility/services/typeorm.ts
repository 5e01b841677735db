import { typeormDriver } from '@counterfoil/nestjs/typeorm';
import { DataSource, EntitySchema } from 'typeorm';
import { databaseUrl, serve } from './service.js';

const entity = (name: string) =>
  new EntitySchema<{ id: string }>({
    name,
    tableName: name,
    columns: { id: { type: 'text', primary: true } },
  });
const entities = { completions: entity('completions'), bills: entity('bills') };
const dataSource = new DataSource({
  type: 'postgres',
  url: databaseUrl(),
  entities: Object.values(entities),
});

async function start(): Promise<void> {
  await dataSource.initialize();
  await serve({
    driver: typeormDriver(dataSource),
    insert: (manager, table, id) => manager.insert(entities[table], { id }),
    close: () => dataSource.destroy(),
  });
}

void start();
