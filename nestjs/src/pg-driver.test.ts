import { randomUUID } from 'node:crypto';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { drizzle } from 'drizzle-orm/node-postgres';
import pg, { Pool, type PoolConfig } from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';
import type { DriverTransaction, HeldWrite } from './driver.js';
import { drizzleDriver } from './drizzle-driver.js';
import { pgDriver } from './pg-driver.js';

let database: TestDatabase;
let pool: Pool;
beforeAll(async () => {
  database = await createTestDatabase();
  await database.query('create table notes (id text primary key)');
  // One connection: what is left of a transaction is seen by the next statement.
  pool = new Pool({ connectionString: database.url, max: 1 });
});
afterAll(async () => {
  await pool?.end();
  await database?.drop();
});

const limit = { statementTimeoutMs: 200 };

test.each([
  ['pgDriver', () => pgDriver(pool, undefined, limit)],
  ['drizzleDriver', () => drizzleDriver(drizzle({ client: pool }), limit)],
])('%s limits statements in its transactions, and nothing after them', async (_name, make) => {
  const driver = make();
  await expect(driver.transaction((tx) => tx.run('select pg_sleep(10)', []))).rejects.toMatchObject({
    code: '57014',
  });
  const within = await driver.transaction((tx) => tx.run('show statement_timeout', []));
  expect(within.rows).toEqual([{ statement_timeout: '200ms' }]);
  expect((await driver.run('show statement_timeout', [])).rows).toEqual([{ statement_timeout: '0' }]);
});

/** What a client has sent to the server, message by message: only the statements. */
interface Relay {
  url: string;
  /** The statements of each message, in order. */
  messages: string[][];
  close(): Promise<void>;
}

/** A relay before the server that notes what is sent, and may change it on its way. */
async function relay(change: (text: string) => string = (text) => text): Promise<Relay> {
  const target = new URL(database.url);
  const messages: string[][] = [];
  const sockets = new Set<Socket>();
  const server = createServer((client) => {
    const upstream = connect(Number(target.port), target.hostname);
    sockets.add(client).add(upstream);
    for (const socket of [client, upstream]) socket.on('error', () => socket.destroy());
    client.on('data', (chunk) => {
      const text = change(chunk.toString('latin1'));
      const statements = text.match(/begin|set local|select \d|commit|rollback|insert into \w+|savepoint/g);
      if (statements !== null) messages.push(statements);
      upstream.write(Buffer.from(text, 'latin1'));
    });
    upstream.on('data', (chunk) => client.write(chunk));
    client.on('close', () => upstream.destroy());
    upstream.on('close', () => client.destroy());
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const url = new URL(database.url);
  url.port = String((server.address() as AddressInfo).port);
  return {
    url: url.href,
    messages,
    async close() {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

const insertNote = `insert into notes (id) values ($1::text)`;

/** A write that is kept back, and what becomes of it. */
function heldNote(id: string): HeldWrite & { errors: unknown[] } {
  const errors: unknown[] = [];
  return {
    errors,
    beforeStatement: () => ({ sql: `/* before another */ ${insertNote}`, params: [id] }),
    withCommit: () => ({ sql: `/* last */ ${insertNote}`, params: [id] }),
    failed: (error) => errors.push(error),
  };
}

const notes = async (): Promise<string[]> =>
  (await database.query<{ id: string }>('select id from notes order by id')).map(({ id }) => id);

describe('round trips', () => {
  let through: Relay;
  let relayed: Pool;
  beforeEach(async () => {
    through = await relay();
    relayed = new Pool({ connectionString: through.url, max: 1 });
    await relayed.query('select');
  });
  afterEach(async () => {
    await relayed.end();
    await through.close();
  });

  test('BEGIN and its limit travel with the first statement', async () => {
    await pgDriver(relayed, undefined, limit).transaction((tx) => tx.run('select 1', []));
    expect(through.messages).toEqual([['begin', 'set local', 'select 1'], ['commit']]);
  });

  test('a write that is kept back travels with COMMIT, and BEGIN with both where nothing else was sent', async () => {
    const driver = pgDriver(relayed);
    const order: string[] = [];
    await driver.transaction(async (tx) => {
      await tx.run('select 1', []);
      tx.hold?.(heldNote('last'));
      tx.afterCommit(() => order.push('after'));
    });
    await driver.transaction(async (tx) => tx.hold?.(heldNote('alone')));
    expect(through.messages).toEqual([
      ['begin', 'select 1'],
      ['insert into notes', 'commit'],
      ['begin', 'insert into notes', 'commit'],
    ]);
    expect(order).toEqual(['after']);
    expect(await notes()).toEqual(expect.arrayContaining(['alone', 'last']));
  });

  test('a transaction without a statement sends nothing', async () => {
    expect(await pgDriver(relayed).transaction(async () => 'done')).toBe('done');
    await expect(
      pgDriver(relayed).transaction(async () => {
        throw new Error('nothing to undo');
      }),
    ).rejects.toThrow('nothing to undo');
    expect(through.messages).toEqual([]);
  });

  test('a write that is kept back keeps its place before a later statement of the service', async () => {
    await pgDriver(relayed).transaction(async (tx) => {
      tx.hold?.(heldNote('first'));
      const { rows } = await tx.handle.query('select count(*)::integer as n from notes where id = $1', [
        'first',
      ]);
      expect(rows).toEqual([{ n: 1 }]);
    });
    expect(through.messages.flat()).toEqual(['begin', 'insert into notes', 'commit']);
  });
});

describe('a BEGIN that fails', () => {
  test('lets no statement of its transaction commit by itself', async () => {
    const through = await relay((text) => text.replace('begin', 'bexin'));
    const broken = new Pool({ connectionString: through.url, max: 1 });
    broken.on('error', () => undefined);
    const driver = pgDriver(broken);
    try {
      await expect(driver.transaction((tx) => tx.run(insertNote, ['a']))).rejects.toMatchObject({
        code: '42601',
      });
      // Whatever the caller makes of the error, and however it sends its statements.
      await expect(
        driver.transaction(async (tx) => {
          await tx.handle.query(`insert into notes (id) values ('b')`).catch(() => undefined);
          await tx.handle.query(`insert into notes (id) values ('c')`).catch(() => undefined);
          await tx.run(insertNote, ['d']).catch(() => undefined);
          await new Promise((resolve) => tx.handle.query(insertNote, ['e'], resolve));
          const query = new pg.Query(`insert into notes (id) values ('f')`);
          await new Promise((resolve) => tx.handle.query(query).once('error', resolve));
        }),
      ).rejects.toMatchObject({ code: '42601' });
      const held = heldNote('g');
      await expect(driver.transaction(async (tx) => tx.hold?.(held))).rejects.toMatchObject({
        code: '42601',
      });
      expect(held.errors).toHaveLength(1);
      expect(await notes()).not.toEqual(expect.arrayContaining([expect.stringMatching(/^[a-g]$/)]));
    } finally {
      await broken.end();
      await through.close();
    }
  });
});

describe.each([
  ['one at a time', () => new Pool({ connectionString: database.url, max: 1 })],
  [
    'in pg’s pipeline mode',
    () => new Pool({ connectionString: database.url, max: 1, pipeline: true } as PoolConfig),
  ],
  [
    'on a client without messages of its own',
    () => {
      class Plain extends pg.Client {
        static readonly Query = undefined;
      }
      return new Pool({ connectionString: database.url, max: 1, Client: Plain as never });
    },
  ],
])('statements sent %s', (_title, makePool) => {
  let other: Pool;
  beforeEach(() => {
    other = makePool();
  });
  afterEach(async () => {
    await other.end();
  });

  test('are in the transaction, in whatever form the service sends them', async () => {
    const ids = ['text', 'parameters', 'callback', 'two-1', 'two-2'].map((id) => `${id}-${randomUUID()}`);
    const work = pgDriver(other, undefined, limit).transaction(async (tx) => {
      await tx.handle.query(`insert into notes (id) values ('${ids[0]}')`);
      await tx.handle.query({ text: insertNote, values: [ids[1]] });
      await new Promise<void>((resolve, reject) => {
        tx.handle.query(insertNote, [ids[2]], (error) => (error ? reject(error) : resolve()));
      });
      await tx.handle.query(
        `insert into notes (id) values ('${ids[3]}'); insert into notes (id) values ('${ids[4]}')`,
      );
      const { rows } = await tx.run('select count(*)::integer as n from notes where id = any($1::text[])', [
        ids,
      ]);
      expect(rows).toEqual([{ n: 5 }]);
      throw new Error('undone');
    });
    await expect(work).rejects.toThrow('undone');
    expect((await notes()).filter((id) => ids.includes(id))).toEqual([]);
  });

  test('may begin with a callback, or with several at once', async () => {
    const ids: string[] = [1, 2, 3].map(() => randomUUID());
    await pgDriver(other).transaction(async (tx) => {
      const first = new Promise<void>((resolve, reject) => {
        tx.handle.query(insertNote, [ids[0]], (error) => (error ? reject(error) : resolve()));
      });
      await Promise.all([first, tx.run(insertNote, [ids[1]]), tx.handle.query(insertNote, [ids[2]])]);
    });
    expect((await notes()).filter((id) => ids.includes(id))).toHaveLength(3);
  });
});

test('a statement sent while its transaction commits is refused, and the client is free for others', async () => {
  const answers: unknown[] = [];
  await pgDriver(pool).transaction(async (tx) => {
    const held = heldNote('committed-meanwhile');
    tx.hold?.({
      ...held,
      withCommit: () => {
        answers.push(tx.handle.query(insertNote, ['too-late']).catch((error: Error) => error.name));
        tx.handle.query(insertNote, ['too-late'], (error) => answers.push(error?.name));
        return held.withCommit();
      },
    });
  });
  expect(await Promise.all(answers)).toEqual(['TransactionOverError', 'TransactionOverError']);
  expect((await pool.query('select 1 as alive')).rows).toEqual([{ alive: 1 }]);
  expect(await notes()).not.toContain('too-late');
});

describe('a write that is kept back and refused', () => {
  const twice = 'written-twice';
  beforeAll(async () => {
    await database.query(`insert into notes (id) values ($1)`, [twice]);
  });

  test('makes the transaction reject with its error, and nothing is committed', async () => {
    const held = heldNote(twice);
    const work = pgDriver(pool).transaction(async (tx) => {
      await tx.run(insertNote, ['beside-it']);
      tx.hold?.(held);
    });
    await expect(work).rejects.toMatchObject({ code: '23505' });
    expect(held.errors).toMatchObject([{ code: '23505' }]);
    expect(await notes()).not.toContain('beside-it');
  });

  test('gives its error to the statement that follows it', async () => {
    const work = pgDriver(pool).transaction(async (tx) => {
      tx.hold?.(heldNote(twice));
      await expect(tx.run('select 1', [])).rejects.toMatchObject({ code: '23505' });
    });
    await expect(work).rejects.toMatchObject({ code: '23505' });
  });

  test('can be undone with a savepoint', async () => {
    const held = heldNote(twice);
    await pgDriver(pool).transaction(async (tx) => {
      await tx.run(insertNote, ['kept']);
      await tx.handle.query('savepoint before_it');
      tx.hold?.(held);
      await tx.handle.query('rollback to savepoint before_it');
    });
    expect(held.errors).toHaveLength(1);
    expect(await notes()).toContain('kept');
  });

  test('is not kept back in a transaction that is over', async () => {
    let left: DriverTransaction | undefined;
    await pgDriver(pool).transaction(async (tx) => {
      left = tx;
    });
    expect(() => left?.hold?.(heldNote('never'))).toThrow(
      expect.objectContaining({ name: 'TransactionOverError' }),
    );
  });
});

test('a connection lost at the commit leaves the outcome unknown, and calls nothing back', async () => {
  const lost = await relay();
  const own = new Pool({ connectionString: lost.url, max: 1 });
  const held = heldNote('lost');
  let called = false;
  try {
    const work = pgDriver(own).transaction(async (tx) => {
      const { rows } = await tx.run('select pg_backend_pid() as pid', []);
      tx.hold?.(held);
      tx.afterCommit(() => {
        called = true;
      });
      await database.query('select pg_terminate_backend($1)', [rows[0]?.pid]);
    });
    await expect(work).rejects.toThrow();
    expect(held.errors).toHaveLength(1);
    expect(called).toBe(false);
  } finally {
    await own.end();
    await lost.close();
  }
});

test('a limit that is none is refused at once', () => {
  expect(() => pgDriver(pool, undefined, { statementTimeoutMs: Number.NaN })).toThrow(/statementTimeoutMs/);
});
