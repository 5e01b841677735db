/** The server of a chaos run: the service's tables, our roles, our schema. */
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { Client } from 'pg';
import { type EmbeddedPostgres, startEmbeddedPostgres } from './embedded-postgres.ts';

export type Query = <Row>(text: string, params?: readonly unknown[]) => Promise<Row[]>;

export interface ChaosDatabase {
  readonly server: EmbeddedPostgres;
  /** As `counterfoil_jobs`. */
  readonly jobsUrl: string;
  /** One statement as superuser on a connection of its own: it does not matter what became of the last one. */
  readonly query: Query;
}

const PASSWORD = 'only-in-chaos';
const root = (name: string) => fileURLToPath(new URL(`../${name}`, import.meta.url));

export async function startChaosDatabase(): Promise<ChaosDatabase> {
  const server = await startEmbeddedPostgres();
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
  for (const name of [
    'reference-service/sql/schema.sql',
    'nestjs/sql/event_backups.sql',
    // Whose event it was: each start of the service is a pod of its own.
    'nestjs/sql/event_backups.extend.sql',
    'nestjs/sql/event_deliveries.sql',
    'jobs/schema/roles.sql',
  ]) {
    await query(readFileSync(root(name), 'utf8'));
  }
  for (const role of ['counterfoil_owner', 'counterfoil_jobs']) {
    await query(`alter role ${role} login password '${PASSWORD}'`);
  }
  await query('grant pg_read_all_stats to counterfoil_jobs');
  const urlAs = (role: string) => {
    const url = new URL(server.url);
    url.username = role;
    url.password = PASSWORD;
    return url.href;
  };
  await promisify(execFile)(process.execPath, [root('jobs/schema/main.ts')], {
    env: { PATH: process.env.PATH, DATABASE_URL: urlAs('counterfoil_owner') },
  });
  return { server, jobsUrl: urlAs('counterfoil_jobs'), query };
}
