import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { collectLog, openDatabase } from '../../test/builders/open-database.ts';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';
import type { Database } from '../runtime/database.ts';
import { runJob } from '../runtime/run-job.ts';
import { CODE_LEVEL, checkSchemaVersion } from '../runtime/schema-level.ts';
import { migrate } from './migrate.ts';
import { schemaJob } from './schema-job.ts';

const allLevels = Array.from({ length: CODE_LEVEL }, (_, index) => index + 1);

let postgres: TestDatabase;
let owner: Database;
const opened: Database[] = [];
const openAs = (url: string): Database => {
  const database = openDatabase(url, { retryMs: 30_000, lockTimeoutMs: 1_000 });
  opened.push(database);
  return database;
};
const log = () => collectLog().logger;

/** What an administrator does before the first schema job: the part of roles.sql that is ours. */
beforeEach(async () => {
  postgres = await createTestDatabase({ template: 'template0' });
  await postgres.query('CREATE SCHEMA counterfoil AUTHORIZATION counterfoil_owner');
  owner = openAs(postgres.urlAs('counterfoil_owner'));
});
afterEach(async () => {
  for (const database of opened.splice(0)) await database.close();
  await postgres.drop();
});

const tables = async (schema = 'counterfoil') =>
  (
    await postgres.query<{ name: string }>(
      `SELECT relname AS name FROM pg_class WHERE relnamespace = to_regnamespace($1) AND relkind = 'r'
        ORDER BY relname`,
      [schema],
    )
  ).map((row) => row.name);

describe('the migration', () => {
  test('makes the schema, by an owner who may not create one, in the schema that was made for it', async () => {
    expect(await migrate(owner, log(), 'counterfoil')).toEqual({ applied: allLevels, level: CODE_LEVEL });
    expect(await tables()).toContain('job_runs');
    const [version] = await postgres.query(
      'SELECT level, min_compatible_code FROM counterfoil.schema_version',
    );
    expect(version).toMatchObject({ level: CODE_LEVEL });
  });

  test('finds nothing to do the second time', async () => {
    await migrate(owner, log(), 'counterfoil');
    expect(await migrate(owner, log(), 'counterfoil')).toEqual({ applied: [], level: CODE_LEVEL });
  });

  test('that starts three times at once is applied once, and all three succeed', async () => {
    const results = await Promise.all(
      Array.from({ length: 3 }, () =>
        migrate(openAs(postgres.urlAs('counterfoil_owner')), log(), 'counterfoil'),
      ),
    );
    expect(results.map((result) => result.applied).sort((a, b) => a.length - b.length)).toEqual([
      [],
      [],
      allLevels,
    ]);
  });

  test('makes a schema of another name where the role may', async () => {
    const admin = openDatabase(postgres.url, { schema: 'counterfoil_eu' });
    opened.push(admin);
    await migrate(admin, log(), 'counterfoil_eu');
    expect(await tables('counterfoil_eu')).toContain('audit');
    expect(await tables()).toEqual([]);
  });

  test('is refused where the schema is not there and the role may not create it', async () => {
    await postgres.query('DROP SCHEMA counterfoil');
    await expect(migrate(owner, log(), 'counterfoil')).rejects.toMatchObject({ id: 'grant_missing' });
  });

  test('that fails leaves nothing behind, and says what went wrong', async () => {
    await postgres.query('CREATE TABLE counterfoil.requests (id int)');
    await expect(migrate(owner, log(), 'counterfoil')).rejects.toMatchObject({
      id: 'migration_failed',
      exitCode: 1,
      message: expect.stringContaining('"requests" already exists (42P07)'),
    });
    expect(await tables()).toEqual(['requests']);
    await postgres.query('DROP TABLE counterfoil.requests');
    expect(await migrate(owner, log(), 'counterfoil')).toMatchObject({ applied: allLevels });
  });

  test('whose file was changed after it was applied is noticed', async () => {
    await migrate(owner, log(), 'counterfoil');
    await postgres.query(`UPDATE counterfoil.schema_migrations SET md5 = 'another' WHERE version = 1`);
    await expect(migrate(owner, log(), 'counterfoil')).rejects.toMatchObject({ id: 'migration_failed' });
  });

  test('leaves no setting on the connection', async () => {
    const single = openDatabase(postgres.urlAs('counterfoil_owner'), { poolSize: 1 });
    opened.push(single);
    await migrate(single, log(), 'counterfoil');
    const [row] = await single.read(
      async (transaction) =>
        await transaction.query<{ path: string; locks: string }>(
          `SELECT current_setting('search_path') AS path,
                  (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()) AS locks`,
        ),
      { userSearchPath: true },
    );
    expect(row).toEqual({ path: '"$user", public', locks: '0' });
  });
});

describe('a schema that older code has migrated', () => {
  test('is refused with an exit code that a retry may follow, and admits the older code once it is migrated', async () => {
    await migrate(owner, log(), 'counterfoil');
    const [version] = await postgres.query(
      'SELECT min_compatible_code AS oldest FROM counterfoil.schema_version',
    );
    // Level 2 only added: a rollback of the chart to code of level 1 goes through.
    expect(version).toEqual({ oldest: 1 });
    await postgres.query('UPDATE counterfoil.schema_version SET level = $1', [CODE_LEVEL - 1]);
    await expect(checkSchemaVersion(owner)).rejects.toMatchObject({ id: 'schema_older', exitCode: 1 });
    await postgres.query('UPDATE counterfoil.schema_version SET level = $1', [CODE_LEVEL]);
    await checkSchemaVersion(owner);
  });
});

describe('a schema that newer code has migrated', () => {
  const migrateByNewerCode = async (minCompatibleCode: number) => {
    await migrate(owner, log(), 'counterfoil');
    await postgres.query(`INSERT INTO counterfoil.schema_migrations (version, name) VALUES (99, 'newer')`);
    await postgres.query('UPDATE counterfoil.schema_version SET level = 99, min_compatible_code = $1', [
      minCompatibleCode,
    ]);
  };

  test('is left alone while it admits this code, so that a rollback of the chart goes through', async () => {
    await migrateByNewerCode(CODE_LEVEL);
    const collected = collectLog();
    expect(await migrate(owner, collected.logger, 'counterfoil')).toEqual({ applied: [], level: 99 });
    expect(collected.entries()[0]).toMatchObject({ level: 'info', schemaLevel: 99, codeLevel: CODE_LEVEL });
    expect((await postgres.query('SELECT level FROM counterfoil.schema_version'))[0]).toEqual({ level: 99 });
  });

  test('is refused once it has dropped what this code needs', async () => {
    await migrateByNewerCode(CODE_LEVEL + 1);
    await expect(migrate(owner, log(), 'counterfoil')).rejects.toMatchObject({
      id: 'schema_newer',
      exitCode: 2,
    });
  });
});

test('the schema job says how far the schema is', async () => {
  const { lines, messages, entries } = collectLog();
  const environment = { DATABASE_URL: postgres.urlAs('counterfoil_owner') };
  const logDestination = { write: (line: string) => lines.push(line) };
  expect(await runJob(schemaJob, { environment, logDestination })).toBe(0);
  expect(await runJob(schemaJob, { environment, logDestination })).toBe(0);
  expect(messages()).toEqual(['the state schema was migrated', 'the state schema is up to date']);
  expect(entries()[1]).toMatchObject({ counts: { applied: 0, level: CODE_LEVEL } });
});

describe('the schema job as a process', () => {
  const runMain = (environment: Record<string, string>) => {
    const main = fileURLToPath(new URL('main.ts', import.meta.url));
    const { status, stdout } = spawnSync(process.execPath, [main], {
      env: { PATH: process.env.PATH ?? '', ...environment },
      encoding: 'utf8',
    });
    const lines = stdout.trimEnd().split('\n');
    return { status, log: lines.map((line) => JSON.parse(line) as Record<string, unknown>) };
  };

  test('ends with 0, migrated or up to date', () => {
    const environment = { DATABASE_URL: postgres.urlAs('counterfoil_owner') };
    expect(runMain(environment)).toMatchObject({
      status: 0,
      log: [{ msg: 'the state schema was migrated', counts: { applied: CODE_LEVEL, level: CODE_LEVEL } }],
    });
    expect(runMain(environment)).toMatchObject({
      status: 0,
      log: [{ msg: 'the state schema is up to date', counts: { applied: 0 } }],
    });
  });

  test('ends with 2 for settings that cannot be used', () => {
    expect(runMain({ CF_SCHEMA: 'No' })).toMatchObject({ status: 2, log: [{ exitCode: 2 }] });
  });
});

test('roles.sql may be run again', async () => {
  const roles = readFileSync(new URL('roles.sql', import.meta.url), 'utf8');
  await postgres.query('CREATE TABLE sessions (); ');
  await postgres.query('CREATE TABLE mentor_payable_ledgers ()');
  await postgres.query(roles);
  await postgres.query(roles);
  const [row] = await postgres.query<{ may: boolean }>(
    `SELECT has_table_privilege('counterfoil_jobs', 'public.sessions', 'SELECT') AS may`,
  );
  expect(row?.may).toBe(true);
});
