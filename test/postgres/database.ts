/** A database of its own for each test file, cloned from the migrated template of global-setup.ts. */
import { randomBytes } from 'node:crypto';
import { Client } from 'pg';
import { inject } from 'vitest';

export type TestRole =
  | 'counterfoil_owner'
  | 'counterfoil_jobs'
  | 'counterfoil_exporter'
  | 'counterfoil_retention';

export interface TestDatabase {
  /** Superuser URL. */
  readonly url: string;
  readonly name: string;
  /** The same database as one of our roles, with exactly the documented grants. */
  urlAs(role: TestRole): string;
  /** Runs one statement as superuser and gives its rows; times as Date, bigint as text. */
  query<Row = Record<string, unknown>>(text: string, params?: readonly unknown[]): Promise<Row[]>;
  /** Ends all its connections and removes it. */
  drop(): Promise<void>;
}

/**
 * A clone of the template: the service's tables (empty), our schema, roles and grants.
 * @param options.template `template0` for a database with nothing in it
 */
export async function createTestDatabase(
  options: { readonly template?: string } = {},
): Promise<TestDatabase> {
  const serverUrl = inject('serverUrl');
  const name = `counterfoil_test_${randomBytes(6).toString('hex')}`;
  const template = options.template ?? inject('templateName');
  await createFrom(serverUrl, name, template);
  const url = withPath(serverUrl, name);
  const client = new Client({ connectionString: url });
  // A test that restarts the server must not die of the lost connection of its own helper.
  client.on('error', () => undefined);
  await client.connect();
  return {
    url,
    name,
    urlAs(role) {
      const changed = new URL(url);
      changed.username = role;
      changed.password = inject('rolePassword');
      return changed.href;
    },
    async query<Row>(text: string, params: readonly unknown[] = []) {
      return (await client.query(text, [...params])).rows as Row[];
    },
    async drop() {
      await client.end();
      await onServer(serverUrl, `DROP DATABASE IF EXISTS ${name} WITH (FORCE)`);
    },
  };
}

/** Postgres clones one database at a time from a template: parallel files wait for each other. */
async function createFrom(serverUrl: string, name: string, template: string): Promise<void> {
  for (;;) {
    try {
      await onServer(serverUrl, `CREATE DATABASE ${name} TEMPLATE ${template}`);
      return;
    } catch (error) {
      // 55006 object_in_use: another file is cloning at this moment.
      if ((error as { code?: string }).code !== '55006') throw error;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
}

async function onServer(serverUrl: string, text: string): Promise<void> {
  const client = new Client({ connectionString: serverUrl });
  await client.connect();
  try {
    await client.query(text);
  } finally {
    await client.end();
  }
}

function withPath(url: string, name: string): string {
  const changed = new URL(url);
  changed.pathname = `/${name}`;
  return changed.href;
}
