import { execFile } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { is } from 'drizzle-orm';
import { getTableConfig, PgTable } from 'drizzle-orm/pg-core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';
import { MIGRATIONS, migrateDatabase } from './migrations.js';
import * as tables from './tables.js';

/** Everything a table is, as Postgres itself says it; none for a table that is not there. */
const ALL_OF_A_TABLE = `
  select 'column ' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
      || case when a.attnotnull then ' not null' else '' end || coalesce(' default ' || pg_get_expr(d.adbin, d.adrelid), '')
      || a.attidentity::text as line
    from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
   where a.attrelid = to_regclass($1) and a.attnum > 0 and not a.attisdropped
  union all
  select 'constraint ' || conname || ' ' || pg_get_constraintdef(oid) from pg_constraint where conrelid = to_regclass($1)
  union all
  select 'with ' || unnest(reloptions) from pg_class where oid = to_regclass($1)
  union all
  select 'index ' || pg_get_indexdef(indexrelid) from pg_index where indrelid = to_regclass($1)
  order by line`;

const linesOf = async (database: TestDatabase, table: string): Promise<string[]> =>
  (await database.query<{ line: string }>(ALL_OF_A_TABLE, [table])).map(({ line }) => line);

/** What drizzle believes of a table, in the words of `inDatabase`. */
function inCode(table: PgTable): string[] {
  const { columns, primaryKeys } = getTableConfig(table);
  const keys = new Set(primaryKeys.flatMap((key) => key.columns.map(({ name }) => name)));
  return columns
    .map((column) => {
      const isKey = column.primary || keys.has(column.name);
      return [
        column.name,
        column.getSQLType(),
        column.notNull || isKey ? 'not null' : 'null',
        column.hasDefault || column.generatedIdentity !== undefined ? 'default' : 'none',
        isKey ? 'key' : '',
        column.isUnique ? 'unique' : '',
      ].join(' ');
    })
    .sort();
}

async function inDatabase(database: TestDatabase, name: string): Promise<string[]> {
  const rows = await database.query<{ line: string }>(
    `select concat_ws(' ', a.attname, format_type(a.atttypid, a.atttypmod),
        case when a.attnotnull then 'not null' else 'null' end,
        case when a.atthasdef or a.attidentity <> '' then 'default' else 'none' end,
        case when exists (select from pg_index i where i.indrelid = a.attrelid and i.indisprimary
          and a.attnum = any(i.indkey)) then 'key' else '' end,
        case when exists (select from pg_index i where i.indrelid = a.attrelid and i.indisunique
          and not i.indisprimary and i.indnatts = 1 and i.indkey[0] = a.attnum) then 'unique' else '' end) as line
       from pg_attribute a where a.attrelid = to_regclass($1) and a.attnum > 0 and not a.attisdropped`,
    [name],
  );
  return rows.map(({ line }) => line).sort();
}

const ownTables = Object.values(tables as Record<string, unknown>).filter((table) => is(table, PgTable));

let migrated: TestDatabase;
beforeAll(async () => {
  migrated = await createTestDatabase({ template: 'template0' });
  await migrateDatabase(migrated.url);
});
afterAll(async () => {
  await migrated?.drop();
});

test.each(ownTables.map((table) => [getTableConfig(table).name, table] as const))(
  'the code and the migrated database agree about %s',
  async (name, table) => {
    expect(inCode(table)).toEqual(await inDatabase(migrated, name));
  },
);

test('a column that only one side has is seen', async () => {
  await migrated.query('alter table sessions add column note text');
  expect(inCode(tables.sessions)).not.toEqual(await inDatabase(migrated, 'sessions'));
  await migrated.query('alter table sessions drop column note');
  expect(inCode(tables.sessions)).toEqual(await inDatabase(migrated, 'sessions'));
});

test('there is no table that the code does not know, but those of the module and of drizzle', async () => {
  const rows = await migrated.query<{ name: string }>(
    `select relname as name from pg_class where relkind in ('r', 'p') and relnamespace = 'public'::regnamespace`,
  );
  const known = [
    ...ownTables.map((table) => getTableConfig(table).name),
    'event_backups',
    'event_deliveries',
  ];
  expect(rows.map(({ name }) => name).sort()).toEqual(known.sort());
});

describe('the tables of the module', () => {
  const OPTIONAL = ['published_by', 'published_hash', 'service_version', 'traceparent'].map(
    (name) => `column ${name} text`,
  );
  let shipped: TestDatabase;
  beforeAll(async () => {
    shipped = await createTestDatabase({ template: 'template0' });
    for (const name of ['event_backups', 'event_deliveries'])
      await shipped.query(readFileSync(new URL(`../../nestjs/sql/${name}.sql`, import.meta.url), 'utf8'));
  });
  afterAll(async () => {
    await shipped?.drop();
  });

  test.each(['event_backups', 'event_deliveries'])(
    '%s is migrated as nestjs/sql ships it, with the optional columns',
    async (name) => {
      const lines = await linesOf(migrated, name);
      expect(lines.length).toBeGreaterThan(5);
      const withoutOptional = (all: string[]) => all.filter((line) => !OPTIONAL.includes(line));
      expect(withoutOptional(lines)).toEqual(withoutOptional(await linesOf(shipped, name)));
      if (name === 'event_backups') expect(lines).toEqual(expect.arrayContaining(OPTIONAL));
    },
  );
});

test('sql/schema.sql is the migrations in one file; `npm run schema` mends it', () => {
  const own = readdirSync(MIGRATIONS).filter(
    (file) => file.endsWith('.sql') && !file.includes('_events.sql'),
  );
  const texts = own.sort().map((file) => readFileSync(`${MIGRATIONS}/${file}`, 'utf8'));
  const schema = readFileSync(new URL('../sql/schema.sql', import.meta.url), 'utf8');
  expect(schema.split('\n').slice(1).join('\n')).toBe(texts.map((text) => `\n${text}`).join(''));
});

test('a database migrated already is left alone, and two migrations at once do not get into each other’s way', async () => {
  const database = await createTestDatabase({ template: 'template0' });
  try {
    await Promise.all([migrateDatabase(database.url), migrateDatabase(database.url)]);
    await migrateDatabase(database.url);
    const journal = JSON.parse(readFileSync(`${MIGRATIONS}/meta/_journal.json`, 'utf8')) as {
      entries: unknown[];
    };
    const [done] = await database.query(
      'select count(*)::integer as count from drizzle.__drizzle_migrations',
    );
    expect(done).toEqual({ count: journal.entries.length });
  } finally {
    await database.drop();
  }
});

describe('node dist/migrate.js', () => {
  const run = (databaseUrl: string) =>
    promisify(execFile)(process.execPath, [fileURLToPath(new URL('../dist/migrate.js', import.meta.url))], {
      env: { PATH: process.env.PATH, DATABASE_URL: databaseUrl },
    });

  test('migrates and ends with exit code 0', async () => {
    const database = await createTestDatabase({ template: 'template0' });
    try {
      expect((await run(database.url)).stdout).toContain('"Migrated"');
      expect(await linesOf(database, 'sessions')).not.toEqual([]);
    } finally {
      await database.drop();
    }
  });

  test('ends with exit code 1 where there is no database, and shows no password', async () => {
    const failure = await run('postgres://me:hunter2@127.0.0.1:1/none').catch((error: unknown) => error);
    expect(failure).toMatchObject({ code: 1, stdout: expect.stringContaining('ECONNREFUSED') });
    expect(JSON.stringify(failure)).not.toContain('hunter2');
  });

  test('ends with exit code 1 without DATABASE_URL, and names it', async () => {
    const failure = await run('').catch((error: unknown) => error);
    expect(failure).toMatchObject({
      code: 1,
      stdout: expect.stringContaining('settings refused: DATABASE_URL'),
    });
  });
});
