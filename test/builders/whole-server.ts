/** A server of its own with the service's tables and our schema, for tests that crash it or make it a standby. */
import { readFileSync } from 'node:fs';
import { Client } from 'pg';
import { Database } from '../../jobs/runtime/database.ts';
import { createLogger } from '../../jobs/runtime/logger.ts';
import { migrate } from '../../jobs/schema/migrate.ts';

/** Makes the service's tables, our roles and our schema on an empty server. */
export async function prepareServer(url: string): Promise<void> {
  for (const path of [
    'reference-service/sql/schema.sql',
    'nestjs/sql/event_backups.sql',
    'jobs/schema/roles.sql',
  ])
    await runScript(url, readFileSync(new URL(`../../${path}`, import.meta.url), 'utf8'));
  const logger = createLogger({ job: 'test', level: 'error', installation: 'test' });
  const owner = new Database(
    {
      url,
      applicationName: 'test',
      schema: 'counterfoil',
      poolSize: 2,
      connectTimeoutMs: 5000,
      lockTimeoutMs: 1000,
      retryMs: 0,
    },
    logger,
  );
  await migrate(owner, logger, 'counterfoil');
  await owner.close();
}

/** Runs a script on a server and gives the number of rows of its last statement. */
export async function runScript(url: string, text: string): Promise<number> {
  const client = new Client({ connectionString: url });
  await client.connect();
  const result = await client.query(text);
  await client.end();
  return result.rowCount ?? 0;
}
