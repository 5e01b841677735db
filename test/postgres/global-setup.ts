/** One server for all test files, and in it a template database that each file clones. */
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { Client } from 'pg';
import type { TestProject } from 'vitest/node';
import { Database } from '../../jobs/runtime/database.ts';
import { createLogger } from '../../jobs/runtime/logger.ts';
import { migrate } from '../../jobs/schema/migrate.ts';
import { startEmbeddedPostgres } from '../../scripts/embedded-postgres.ts';

declare module 'vitest' {
  interface ProvidedContext {
    /** Superuser URL of the server. */
    serverUrl: string;
    /** The migrated database that each test file clones. */
    templateName: string;
    /** Password of our roles in tests. */
    rolePassword: string;
  }
}

export const ROLE_PASSWORD = 'only-in-tests';

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const given = process.env.TEST_DATABASE_URL;
  const server = given === undefined ? await startEmbeddedPostgres() : undefined;
  const serverUrl = given ?? server?.url ?? '';
  const templateName = `counterfoil_template_${randomBytes(6).toString('hex')}`;
  await onServer(serverUrl, async (client) => {
    await client.query(`CREATE DATABASE ${templateName}`);
  });
  const templateUrl = withDatabase(serverUrl, templateName);
  await onServer(templateUrl, async (client) => {
    for (const path of [
      'reference-service/sql/schema.sql',
      'nestjs/sql/event_backups.sql',
      'nestjs/sql/event_deliveries.sql',
      'jobs/schema/roles.sql',
      'jobs/schema/retention-role.sql',
    ]) {
      await client.query(readFileSync(new URL(`../../${path}`, import.meta.url), 'utf8'));
    }
    for (const role of [
      'counterfoil_owner',
      'counterfoil_jobs',
      'counterfoil_exporter',
      'counterfoil_retention',
    ]) {
      await client.query(`ALTER ROLE ${role} LOGIN PASSWORD '${ROLE_PASSWORD}'`);
    }
  });
  const logger = createLogger({ job: 'test', level: 'warn', installation: 'test' });
  const database = new Database(
    {
      url: asRole(templateUrl, 'counterfoil_owner'),
      applicationName: 'counterfoil-test-template',
      schema: 'counterfoil',
      poolSize: 2,
      connectTimeoutMs: 10_000,
      lockTimeoutMs: 1_000,
      retryMs: 0,
    },
    logger,
  );
  await migrate(database, logger, 'counterfoil');
  await database.close();
  project.provide('serverUrl', serverUrl);
  project.provide('templateName', templateName);
  project.provide('rolePassword', ROLE_PASSWORD);
  return async () => {
    await onServer(serverUrl, async (client) => {
      await client.query(`DROP DATABASE IF EXISTS ${templateName} WITH (FORCE)`);
    });
    await server?.stop();
  };
}

async function onServer(url: string, work: (client: Client) => Promise<void>): Promise<void> {
  const client = new Client({ connectionString: url });
  await client.connect();
  try {
    await work(client);
  } finally {
    await client.end();
  }
}

function withDatabase(url: string, name: string): string {
  const changed = new URL(url);
  changed.pathname = `/${name}`;
  return changed.href;
}

function asRole(url: string, role: string): string {
  const changed = new URL(url);
  changed.username = role;
  changed.password = ROLE_PASSWORD;
  return changed.href;
}
