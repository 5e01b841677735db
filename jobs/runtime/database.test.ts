import { appendFileSync, chmodSync, chownSync, copyFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../../scripts/embedded-postgres.ts';
import { collectLog, openDatabase } from '../../test/builders/open-database.ts';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';
import { startProxy } from '../../test/postgres/proxy.ts';
import { type Database, quoteIdentifier, type Transaction } from './database.ts';
import type { FailureId } from './failures.ts';

const raise = (code: string) => `DO $$ BEGIN RAISE EXCEPTION 'on purpose' USING ERRCODE = '${code}'; END $$`;

async function failureOf(work: Promise<unknown>): Promise<FailureId> {
  const error = await work.then(
    () => undefined,
    (thrown: unknown) => thrown as { id: FailureId },
  );
  if (error === undefined) throw new Error('no failure');
  return error.id;
}

let test1: TestDatabase;
const opened: Database[] = [];
const open = (...given: Parameters<typeof openDatabase>): Database => {
  const database = openDatabase(...given);
  opened.push(database);
  return database;
};

beforeAll(async () => {
  test1 = await createTestDatabase();
  await test1.query('CREATE TABLE counterfoil.marks (id text)');
});
afterAll(async () => {
  for (const database of opened) await database.close();
  await test1.drop();
});

const marks = async (id: string): Promise<number> =>
  Number((await test1.query('SELECT id FROM counterfoil.marks WHERE id = $1', [id])).length);
const mark = async (transaction: Transaction, id: string) =>
  await transaction.execute('INSERT INTO marks (id) VALUES ($1::text)', [id]);

describe('a transaction', () => {
  test('is committed when its work ends, and leaves nothing when its work throws', async () => {
    const database = open(test1.url);
    await database.transaction({}, async (transaction) => await mark(transaction, 'kept'));
    const failing = database.transaction({}, async (transaction) => {
      await mark(transaction, 'undone');
      throw new TypeError('a defect');
    });
    expect(await failureOf(failing)).toBe('internal');
    expect([await marks('kept'), await marks('undone')]).toEqual([1, 0]);
  });

  test('leaves no setting, prepared name or temporary table on the connection', async () => {
    const database = open(test1.url, { poolSize: 1 });
    await database.transaction({ statementTimeoutMs: 777 }, async (transaction) => {
      const [inside] = await transaction.query<Record<string, string>>(
        `SELECT current_setting('statement_timeout') AS statement_timeout,
                current_setting('lock_timeout') AS lock_timeout, current_setting('search_path') AS search_path,
                current_setting('TimeZone') AS zone`,
      );
      expect(inside).toEqual({
        statement_timeout: '777ms',
        lock_timeout: '200ms',
        search_path: 'counterfoil, pg_temp',
        zone: 'UTC',
      });
      await transaction.script('COMMIT');
      // What is read now is what the next user of this connection would find.
      const left = await transaction.query(`SELECT name FROM pg_settings WHERE source = 'session'`);
      const names = await transaction.query('SELECT name FROM pg_prepared_statements');
      expect([left, names]).toEqual([[], []]);
    });
  });

  test('looks names up in our schema alone, or by the role’s own path where the names are a user’s', async () => {
    const database = open(test1.url);
    const path = async (transaction: Transaction) =>
      (await transaction.query<{ path: string }>(`SELECT current_setting('search_path') AS path`))[0]?.path;
    expect(await database.read(path)).toBe('counterfoil, pg_temp');
    expect(await database.read(path, { userSearchPath: true })).toBe('"$user", public');
  });

  test('for a read refuses a write, whatever the statement says', async () => {
    const database = open(test1.url);
    expect(await failureOf(database.read(async (transaction) => await mark(transaction, 'no')))).toBe(
      'database_read_only',
    );
    expect(await marks('no')).toBe(0);
  });

  test('ends a statement at its time limit; the connection can be used afterwards', async () => {
    const database = open(test1.url, { poolSize: 1, retryMs: 60_000 });
    let pid = 0;
    const slow = database.read(
      async (transaction) => {
        [{ pid } = { pid: 0 }] = await transaction.query<{ pid: number }>('SELECT pg_backend_pid() AS pid');
        await transaction.query('SELECT pg_sleep(30)');
      },
      { statementTimeoutMs: 50 },
    );
    // Not tried again although there is time for it: the same statement would run into its limit again.
    expect(await failureOf(slow)).toBe('database_busy');
    const [after] = await database.read(
      async (transaction) => await transaction.query<{ pid: number }>('SELECT pg_backend_pid() AS pid'),
    );
    expect(after?.pid).toBe(pid);
  });

  test('refuses a statement limit that the client could not tell from a lost connection', async () => {
    const database = open(test1.url);
    for (const statementTimeoutMs of [0, 60_001]) {
      expect(await failureOf(database.read(async () => undefined, { statementTimeoutMs }))).toBe('internal');
    }
  });

  test('waits for a lock no longer than the lock limit', async () => {
    const database = open(test1.url, { lockTimeoutMs: 50 });
    await test1.query('BEGIN');
    await test1.query('LOCK TABLE counterfoil.marks');
    const waiting = database.transaction({}, async (transaction) => await mark(transaction, 'locked'));
    expect(await failureOf(waiting)).toBe('database_busy');
    await test1.query('ROLLBACK');
  });

  test('whose failed statement was passed over is rolled back by Postgres, and that is an error', async () => {
    const database = open(test1.url);
    const work = database.transaction({}, async (transaction) => {
      await mark(transaction, 'passed-over');
      await transaction.query('SELECT 1 / 0').catch(() => undefined);
    });
    await expect(work).rejects.toMatchObject({
      id: 'internal',
      message: expect.stringContaining('rolled back by the server at its COMMIT'),
    });
    expect(await marks('passed-over')).toBe(0);
  });

  test('refused at its COMMIT is a clear no: it is not tried again', async () => {
    await test1.query(
      'CREATE TABLE counterfoil.deferred (id int, CONSTRAINT once UNIQUE (id) DEFERRABLE INITIALLY DEFERRED)',
    );
    const database = open(test1.url, { retryMs: 60_000 });
    let calls = 0;
    const work = database.transaction({ repeatable: true }, async (transaction) => {
      calls += 1;
      await transaction.execute('INSERT INTO deferred VALUES (1), (1)');
    });
    expect(await failureOf(work)).toBe('database_error');
    expect(calls).toBe(1);
  });

  test('gives times as text in UTC, and wide numbers as text', async () => {
    const database = open(test1.url);
    const [row] = await database.read(
      async (transaction) =>
        await transaction.query(
          `SELECT 9007199254740993::bigint AS bigint, 0.10::numeric AS numeric, '2026-10-25'::date AS date,
                  '2026-10-25 02:30:00.123456+02'::timestamptz AS timestamptz,
                  '2026-10-25 02:30:00.123456'::timestamp AS timestamp, 7 AS integer, true AS boolean,
                  '{"a":1}'::jsonb AS jsonb`,
        ),
    );
    expect(row).toEqual({
      bigint: '9007199254740993',
      numeric: '0.10',
      date: '2026-10-25',
      timestamptz: '2026-10-25 00:30:00.123456+00',
      timestamp: '2026-10-25 02:30:00.123456',
      integer: 7,
      boolean: true,
      jsonb: { a: 1 },
    });
  });

  test('counts the rows it changed', async () => {
    const database = open(test1.url);
    const counts = await database.transaction({}, async (transaction) => [
      await transaction.execute(`INSERT INTO marks VALUES ('two'), ('two')`),
      await transaction.execute(`DELETE FROM marks WHERE id = 'nobody'`),
      await transaction.execute('CREATE TABLE no_rows ()'),
    ]);
    expect(counts).toEqual([2, 0, 0]);
  });
});

describe('tries again', () => {
  test.each(['40001', '40P01', '55P03', '57P01', '08006'])('after %s, until it works', async (code) => {
    const log = collectLog();
    const database = open(test1.url, { retryMs: 20_000 }, log);
    let calls = 0;
    await database.transaction({}, async (transaction) => {
      calls += 1;
      await mark(transaction, code);
      if (calls < 2) await transaction.script(raise(code));
    });
    expect([calls, await marks(code)]).toEqual([2, 1]);
    expect(log.entries()[0]).toMatchObject({ level: 'warn', code, attempt: 1 });
  });

  test.each([
    ['23505', 'database_error'],
    ['42501', 'grant_missing'],
    ['42P01', 'table_missing'],
    ['42703', 'column_missing'],
  ])('not after %s: the run ends as %s', async (code, failure) => {
    const database = open(test1.url, { retryMs: 60_000 });
    let calls = 0;
    const work = database.transaction({ repeatable: true }, async (transaction) => {
      calls += 1;
      await transaction.script(raise(code));
    });
    expect([await failureOf(work), calls]).toEqual([failure, 1]);
  });

  test('no longer than it was given time for', async () => {
    const database = open(test1.url, { retryMs: 300 });
    let calls = 0;
    const work = database.transaction({}, async (transaction) => {
      calls += 1;
      await transaction.script(raise('40001'));
    });
    expect(await failureOf(work)).toBe('database_busy');
    expect(calls).toBeGreaterThan(0);
    expect(calls).toBeLessThan(5);
  });

  test('not once the run is told to stop, be it before or during the wait', async () => {
    const log = collectLog();
    const database = open(test1.url, { retryMs: 600_000 }, log);
    const stopped = new AbortController();
    stopped.abort();
    const during = new AbortController();
    for (const { signal, stop } of [
      { signal: stopped.signal, stop: () => undefined },
      { signal: during.signal, stop: () => setImmediate(() => setTimeout(() => during.abort(), 20)) },
    ]) {
      const work = database.transaction({ signal }, async (transaction) => {
        stop();
        await transaction.script(raise('40001'));
      });
      expect(await failureOf(work)).toBe('database_busy');
    }
  });

  test('after its connection was ended by an administrator', async () => {
    const database = open(test1.url, { retryMs: 20_000 });
    let calls = 0;
    await database.transaction({}, async (transaction) => {
      calls += 1;
      await mark(transaction, 'terminated');
      if (calls === 1) {
        const [{ pid } = { pid: 0 }] = await transaction.query<{ pid: number }>(
          'SELECT pg_backend_pid() AS pid',
        );
        await test1.query('SELECT pg_terminate_backend($1::int)', [pid]);
        await transaction.query('SELECT 1');
      }
    });
    expect([calls, await marks('terminated')]).toEqual([2, 1]);
  });
});

describe('a connection lost during COMMIT', () => {
  const isCommit = (chunk: string) => chunk.startsWith('Q') && chunk.includes('COMMIT');

  async function runThrough(
    fate: 'cut' | 'deliver-and-cut',
    id: string,
    options: { repeatable?: boolean; access?: 'read' },
  ): Promise<{ calls: number; failure: FailureId | undefined }> {
    let lost = 0;
    const proxy = await startProxy(test1.url, (chunk) => {
      if (!isCommit(chunk) || lost > 0) return 'pass';
      lost += 1;
      return fate;
    });
    const database = openDatabase(proxy.url, { retryMs: 20_000 });
    let calls = 0;
    const failure = await database
      .transaction(options, async (transaction) => {
        calls += 1;
        if (options.access !== 'read') await mark(transaction, id);
      })
      .then(
        () => undefined,
        (error: { id: FailureId }) => error.id,
      );
    await database.close();
    await proxy.close();
    expect(lost).toBe(1);
    return { calls, failure };
  }

  test('is not tried again where that could do the work twice, committed or not', async () => {
    expect(await runThrough('deliver-and-cut', 'committed', {})).toEqual({
      calls: 1,
      failure: 'database_unreachable',
    });
    expect(await runThrough('cut', 'uncommitted', {})).toEqual({
      calls: 1,
      failure: 'database_unreachable',
    });
    expect([await marks('committed'), await marks('uncommitted')]).toEqual([1, 0]);
  });

  test('is tried again where the work may be done twice', async () => {
    expect(await runThrough('deliver-and-cut', 'twice', { repeatable: true })).toEqual({
      calls: 2,
      failure: undefined,
    });
    expect(await marks('twice')).toBe(2);
  });

  test('keeps its name when the run is told to stop before it is tried again', async () => {
    const stop = new AbortController();
    const proxy = await startProxy(test1.url, (chunk) => {
      if (!isCommit(chunk)) return 'pass';
      setTimeout(() => stop.abort(), 20);
      return 'cut';
    });
    const database = openDatabase(proxy.url, { retryMs: 600_000 });
    const work = database.transaction(
      { repeatable: true, signal: stop.signal },
      async (transaction) => await mark(transaction, 'stopped'),
    );
    expect(await failureOf(work)).toBe('database_unreachable');
    await database.close();
    await proxy.close();
  });

  test('is tried again after a read', async () => {
    expect(await runThrough('cut', '', { access: 'read' })).toEqual({ calls: 2, failure: undefined });
  });
});

test('a connection that answers no more is given up after the statement limit and a margin', async () => {
  let silenced = 0;
  const proxy = await startProxy(test1.url, (chunk) => {
    if (!chunk.includes('SELECT 42') || silenced > 0) return 'pass';
    silenced += 1;
    return 'silence';
  });
  const database = openDatabase(proxy.url, { retryMs: 20_000 });
  const rows = await database.read(async (transaction) => await transaction.query('SELECT 42 AS answer'), {
    statementTimeoutMs: 100,
  });
  expect([rows, silenced]).toEqual([[{ answer: 42 }], 1]);
  await database.close();
  await proxy.close();
});

test('close ends all connections, may be called twice, and nothing is tried after it', async () => {
  const database = openDatabase(test1.url, { applicationName: 'counterfoil-closing', retryMs: 60_000 });
  await database.read(async (transaction) => await transaction.query('SELECT 1'));
  await database.close();
  await database.close();
  await expect(database.read(async () => undefined)).rejects.toMatchObject({ name: 'RunFailure' });
});

test('quotes what a user gave as a name, and refuses a NUL', () => {
  expect(quoteIdentifier('Ledger "2026"')).toBe('"Ledger ""2026"""');
  expect(() => quoteIdentifier('a\0b')).toThrow('NUL');
});

describe('a login', () => {
  const changed = (change: (url: URL) => void): string => {
    const url = new URL(test1.url);
    change(url);
    return url.href;
  };
  const failureFor = async (url: string): Promise<[FailureId, string]> => {
    const database = openDatabase(url, { connectTimeoutMs: 5_000 });
    const error = await database
      .read(async () => undefined)
      .then(
        () => undefined,
        (thrown: { id: FailureId; message: string }) => thrown,
      );
    await database.close();
    return [error?.id ?? 'internal', error?.message ?? ''];
  };

  test.each<[string, (url: URL) => void, FailureId]>([
    ['with a wrong password', (url) => (url.password = 'canary'), 'database_refused'],
    ['without a password', (url) => (url.password = ''), 'database_refused'],
    ['as an unknown role', (url) => (url.username = 'nobody_at_all'), 'database_refused'],
    ['to an unknown database', (url) => (url.pathname = '/nowhere'), 'database_refused'],
    ['to a port where nobody listens', (url) => (url.port = '1'), 'database_unreachable'],
    ['to an unknown host', (url) => (url.hostname = 'nowhere.invalid'), 'database_unreachable'],
  ])('%s fails as what it is', async (_, change, failure) => {
    const [id, message] = await failureFor(changed(change));
    expect(id).toBe(failure);
    expect(message).not.toContain('canary');
  });
});

test('a login that the client itself gives up leaves no connection open after close', async () => {
  const url = new URL(test1.url);
  url.password = '';
  const proxy = await startProxy(url.href, () => 'pass');
  const database = openDatabase(proxy.url);
  expect(await failureOf(database.read(async () => undefined))).toBe('database_refused');
  await database.close();
  await expect.poll(() => proxy.connections()).toBe(0);
  await proxy.close();
});

describe('a server of its own', () => {
  let server: EmbeddedPostgres;
  beforeAll(async () => {
    server = await startEmbeddedPostgres({
      settings: { max_connections: '6', superuser_reserved_connections: '1', max_wal_senders: '0' },
    });
  });
  afterAll(async () => {
    await server.stop();
  });

  test('without TLS is refused where the URL asks for it', async () => {
    const database = openDatabase(`${server.url}?sslmode=require`);
    await expect(database.read(async () => undefined)).rejects.toMatchObject({
      id: 'database_refused',
      message: expect.stringContaining('does not support SSL'),
    });
    await database.close();
  });

  test('that restarts in the middle is waited for, and an idle connection that it ended harms nobody', async () => {
    const log = collectLog();
    const database = openDatabase(server.url, { retryMs: 30_000, schema: 'public' }, log);
    await database.transaction({}, async (transaction) => {
      await transaction.script('CREATE TABLE ticks (n int PRIMARY KEY)');
    });
    let ticks = 0;
    const tick = async () =>
      await database.transaction({ repeatable: true }, async (transaction) => {
        await transaction.execute('INSERT INTO ticks VALUES ($1::int) ON CONFLICT DO NOTHING', [ticks]);
      });
    let restarted = false;
    const restart = server.restart().then(() => {
      restarted = true;
    });
    while (!restarted) {
      await tick();
      ticks += 1;
    }
    await restart;
    await tick();
    const [row] = await database.read(
      async (transaction) => await transaction.query<{ n: string }>('SELECT count(*) AS n FROM ticks'),
    );
    expect(Number(row?.n)).toBe(ticks + 1);
    const idleLost = 'an idle database connection was lost';
    await server.restart();
    await expect.poll(() => log.messages()).toContain(idleLost);
    await tick();
    await database.close();
  });

  test('with no connection left is waited for, and named when the time is up', async () => {
    const holders = await Promise.all(
      Array.from({ length: 6 }, async () => {
        // Connections of the test before may still be on their way out.
        const holder = openDatabase(server.url, { poolSize: 1, retryMs: 30_000 });
        await holder.read(async () => undefined);
        return holder;
      }),
    );
    const impatient = openDatabase(server.url);
    expect(await failureOf(impatient.read(async () => undefined))).toBe('database_busy');
    const patient = openDatabase(server.url, { retryMs: 30_000 });
    const waiting = patient.read(async () => 'served');
    for (const holder of holders) await holder.close();
    expect(await waiting).toBe('served');
    await impatient.close();
    await patient.close();
  });

  describe('with TLS', () => {
    const fixture = (name: string) =>
      fileURLToPath(new URL(`../../test/postgres/tls/${name}`, import.meta.url));
    const localhost = (query: string) => {
      const url = new URL(server.url);
      url.hostname = 'localhost';
      return `${url.href}?${query}`;
    };
    const isEncrypted = async (url: string): Promise<boolean | undefined> => {
      const database = openDatabase(url);
      try {
        const [row] = await database.read(
          async (transaction) =>
            await transaction.query<{ ssl: boolean }>(
              'SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()',
            ),
        );
        return row?.ssl;
      } finally {
        await database.close();
      }
    };

    beforeAll(async () => {
      const admin = openDatabase(server.url);
      const [row] = await admin.read(
        async (transaction) =>
          await transaction.query<{ folder: string }>(`SELECT current_setting('data_directory') AS folder`),
      );
      const folder = row?.folder ?? '';
      appendFileSync(join(folder, 'postgresql.conf'), 'ssl = on\n');
      const { uid, gid } = statSync(folder);
      for (const name of ['server.crt', 'server.key']) {
        const copy = join(folder, name);
        copyFileSync(fixture(name), copy);
        chmodSync(copy, 0o600);
        chownSync(copy, uid, gid);
      }
      await admin.close();
      await server.restart();
    });

    test('sslmode=require encrypts and does not ask who signed, as in libpq', async () => {
      expect(await isEncrypted(localhost('sslmode=require'))).toBe(true);
      expect(await isEncrypted(server.url)).toBe(false);
      expect(await isEncrypted(localhost('sslmode=disable'))).toBe(false);
    });

    test('sslmode=verify-full takes the right authority and the right name', async () => {
      expect(await isEncrypted(localhost(`sslmode=verify-full&sslrootcert=${fixture('ca.crt')}`))).toBe(true);
    });

    test.each([
      ['another authority', () => localhost(`sslmode=verify-full&sslrootcert=${fixture('other-ca.crt')}`)],
      ['no authority', () => localhost('sslmode=verify-full')],
      ['another name', () => `${server.url}?sslmode=verify-full&sslrootcert=${fixture('ca.crt')}`],
      [
        'another authority, by verify-ca',
        () => localhost(`sslmode=verify-ca&sslrootcert=${fixture('other-ca.crt')}`),
      ],
    ])('%s is refused for good', async (_, url) => {
      expect(await failureOf(isEncrypted(url()))).toBe('database_refused');
    });

    test('sslmode=verify-ca does not ask for the name', async () => {
      expect(await isEncrypted(`${server.url}?sslmode=verify-ca&sslrootcert=${fixture('ca.crt')}`)).toBe(
        true,
      );
    });
  });
});
