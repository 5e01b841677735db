/** A Postgres server of a test's own, with the service's tables, our roles and our schema: for what breaks servers. */
import { readFileSync } from 'node:fs';
import { Client } from 'pg';
import { Database } from '../../jobs/runtime/database.ts';
import { createLogger } from '../../jobs/runtime/logger.ts';
import { migrate } from '../../jobs/schema/migrate.ts';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../../scripts/embedded-postgres.ts';

export interface OwnServer {
  readonly server: EmbeddedPostgres;
  /** As `counterfoil_jobs`. */
  readonly jobsUrl: string;
  /** One statement as superuser, on a connection of its own: it does not matter what became of the last one. */
  query<Row = Record<string, unknown>>(text: string, params?: readonly unknown[]): Promise<Row[]>;
}

const PASSWORD = 'only-in-tests';
const files = [
  'reference-service/sql/schema.sql',
  'nestjs/sql/event_backups.sql',
  'nestjs/sql/event_deliveries.sql',
  'jobs/schema/roles.sql',
];

export async function startOwnServer(settings: Readonly<Record<string, string>> = {}): Promise<OwnServer> {
  const server = await startEmbeddedPostgres({ settings });
  const query = async <Row>(text: string, params: readonly unknown[] = []) => {
    const client = new Client({ connectionString: server.url });
    client.on('error', () => undefined);
    await client.connect();
    try {
      return (await client.query(text, [...params])).rows as Row[];
    } finally {
      await client.end();
    }
  };
  for (const path of files) await query(readFileSync(new URL(`../../${path}`, import.meta.url), 'utf8'));
  for (const role of ['counterfoil_owner', 'counterfoil_jobs', 'counterfoil_exporter']) {
    await query(`ALTER ROLE ${role} LOGIN PASSWORD '${PASSWORD}'`);
  }
  const urlAs = (role: string) => {
    const url = new URL(server.url);
    url.username = role;
    url.password = PASSWORD;
    return url.href;
  };
  const logger = createLogger({ job: 'test', level: 'warn', installation: 'test' });
  const owner = new Database(
    {
      url: urlAs('counterfoil_owner'),
      applicationName: 'counterfoil-test',
      schema: 'counterfoil',
      poolSize: 2,
      connectTimeoutMs: 10_000,
      lockTimeoutMs: 1_000,
      retryMs: 0,
    },
    logger,
  );
  await migrate(owner, logger, 'counterfoil');
  await owner.close();
  return { server, jobsUrl: urlAs('counterfoil_jobs'), query };
}
