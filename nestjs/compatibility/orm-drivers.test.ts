import { Pool } from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, inject, test } from 'vitest';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.js';
import { type Fate, type PostgresProxy, startProxy } from '../../test/postgres/proxy.js';
import type { DriverTransaction } from '../src/driver.js';
import { type BackedDelivery, OnBackedEvent } from '../src/index.js';
import { pgDriver } from '../src/pg-driver.js';
import { deliveryRows, eventRow, isProcessed } from '../src/testing/stored-events.js';
import { EVENT, eventually, startTrial, type Trial } from '../src/testing/trial-app.js';
import { BEDS, type Bed, type Foreign, type OpenBed } from './beds.js';

let database: TestDatabase;
beforeAll(async () => {
  database = await createTestDatabase();
  await database.query('create table completions (id text primary key)');
});
afterAll(async () => {
  await database?.drop();
});

const completed = async (): Promise<unknown[]> =>
  (await database.query<{ id: string }>('select id from completions order by id')).map(({ id }) => id);

describe.each(BEDS)('%s', (_name, open) => {
  let bed: Bed;
  let trial: Trial;
  let proxy: PostgresProxy;
  let fate: (chunk: string) => Fate;
  let delivered: string[];

  class Billing {
    @OnBackedEvent(EVENT)
    bill(_payload: unknown, { eventId }: BackedDelivery): void {
      delivered.push(eventId);
    }
  }

  beforeEach(async () => {
    delivered = [];
    fate = () => 'pass';
    await database.query('delete from completions');
    await database.query('delete from event_backups');
    proxy = await startProxy(database.url, (chunk) => fate(chunk));
    bed = await open(inject('environments'), proxy.url);
    trial = await startTrial(database.url, [Billing], { driver: bed.driver });
  });
  afterEach(async () => {
    await trial?.stop();
    await bed?.close();
    await proxy?.close();
  });

  type Tx = DriverTransaction<unknown>;
  const transaction = <Result>(work: (tx: Tx) => Promise<Result>): Promise<Result> =>
    trial.publisher.transaction(work as never);
  const publish = (tx: Tx, eventId: string): Promise<string> =>
    trial.publisher.publish(tx, { name: EVENT, payload: { a: 1 }, eventId });
  /** What follows is delivered: the one connection is free and usable. */
  const expectGoesOn = async (): Promise<void> => {
    await transaction((tx) => publish(tx, 'afterwards'));
    await eventually('the next event is processed', () => isProcessed(database, 'afterwards'));
  };

  test('commits the rows and the event together, and delivers after that', async () => {
    const result = await transaction(async (tx) => {
      await bed.insert(tx.handle, 'one');
      await publish(tx, 'committed');
      // The listeners' claims need the one connection as well.
      expect(delivered).toEqual([]);
      return 'the result';
    });
    expect(result).toBe('the result');
    await eventually('the event is processed', () => isProcessed(database, 'committed'));
    expect(await completed()).toEqual(['one']);
    expect(delivered).toEqual(['committed']);
    expect(await deliveryRows(database, 'committed')).toEqual([
      { listener: 'bill', status: 'succeeded', attempts: 1, error: null },
    ]);
  });

  test('writes and delivers nothing of work that throws, and gives its error', async () => {
    const error = new Error('no');
    await expect(
      transaction(async (tx) => {
        await bed.insert(tx.handle, 'one');
        await publish(tx, 'rolled-back');
        throw error;
      }),
    ).rejects.toBe(error);
    await expectGoesOn();
    expect(await completed()).toEqual([]);
    expect(delivered).toEqual(['afterwards']);
    expect(await eventRow(database, 'rolled-back')).toBeUndefined();
  });

  test('delivers nothing of a nested transaction that was rolled back, and what was published around it', async () => {
    await transaction(async (tx) => {
      await publish(tx, 'around');
      const nested = bed.nested(tx.handle, async (inner) => {
        await bed.insert(inner, 'inner');
        await publish(tx, 'inside');
        throw new Error('undo');
      });
      await expect(nested).rejects.toThrow('undo');
      await bed.insert(tx.handle, 'outer');
    });
    await eventually('the event around is processed', () => isProcessed(database, 'around'));
    await expectGoesOn();
    expect(delivered).toEqual(['around', 'afterwards']);
    expect(await eventRow(database, 'inside')).toBeUndefined();
    expect(await completed()).toEqual(['outer']);
  });

  test('rejects where COMMIT is answered with ROLLBACK, which the ORM itself takes for a commit', async () => {
    const swallow = async (handle: unknown): Promise<void> => {
      await bed.insert(handle, 'one');
      await bed.raw(handle, 'select 1/0').catch(() => undefined);
    };
    await expect(bed.ownTransaction(swallow)).resolves.toBeUndefined();
    await expect(
      transaction(async (tx) => {
        await publish(tx, 'refused');
        await swallow(tx.handle);
      }),
    ).rejects.toMatchObject({ name: 'CommitRefusedError' });
    await expectGoesOn();
    expect(delivered).toEqual(['afterwards']);
    expect(await completed()).toEqual([]);
    expect(await eventRow(database, 'refused')).toBeUndefined();
  });

  test('starts nothing where the answer to COMMIT is lost, and a replay does', async () => {
    fate = (chunk) => (/commit/i.test(chunk) ? 'deliver-and-cut' : 'pass');
    await expect(
      transaction(async (tx) => {
        await bed.insert(tx.handle, 'one');
        await publish(tx, 'unknown');
      }),
    ).rejects.toThrow();
    fate = () => 'pass';
    await expectGoesOn();
    expect(await completed()).toEqual(['one']);
    expect(await eventRow(database, 'unknown')).toEqual({ status: 'pending', processed: false });
    expect(await deliveryRows(database, 'unknown')).toEqual([]);

    const { body } = await trial.replay(['unknown']);
    expect(body.results).toEqual([{ eventId: 'unknown', outcome: 'processed' }]);
    expect(delivered).toEqual(['afterwards', 'unknown']);
  });

  test('starts nothing where COMMIT never arrives', async () => {
    fate = (chunk) => (/commit/i.test(chunk) ? 'cut' : 'pass');
    await expect(
      transaction(async (tx) => {
        await bed.insert(tx.handle, 'one');
        await publish(tx, 'cut');
      }),
    ).rejects.toThrow();
    fate = () => 'pass';
    await expectGoesOn();
    expect(await completed()).toEqual([]);
    expect(delivered).toEqual(['afterwards']);
    expect(await eventRow(database, 'cut')).toBeUndefined();
  });

  test('outlives the loss of its connection, idle and inside a transaction', async () => {
    const backend = 'select pg_backend_pid() as pid';
    const terminate = (pid: unknown): Promise<unknown> =>
      database.query('select pg_terminate_backend($1)', [pid]);
    const idle = await bed.driver.run(backend, []);
    await terminate(idle.rows[0]?.pid);
    await eventually('the lost connection is replaced', async () => {
      const now = await bed.driver.run(backend, []).catch(() => undefined);
      return now !== undefined && now.rows[0]?.pid !== idle.rows[0]?.pid;
    });
    await expect(
      transaction(async (tx) => {
        await publish(tx, 'lost');
        await terminate((await tx.run(backend, [])).rows[0]?.pid);
        await tx.run('select 1', []);
      }),
    ).rejects.toThrow();
    await expectGoesOn();
    expect(delivered).toEqual(['afterwards']);
  });

  test('refuses the transaction once it is over', async () => {
    const tx = await transaction(async (open) => open);
    await expect(tx.run('select 1', [])).rejects.toMatchObject({ name: 'TransactionOverError' });
    expect(() => tx.afterCommit(() => undefined)).toThrow('the transaction is over');
    await expect(publish(tx, 'late')).rejects.toMatchObject({ name: 'TransactionOverError' });
    expect(await eventRow(database, 'late')).toBeUndefined();
  });

  test('does not take a callback that fails after the commit for a failed transaction', async () => {
    const result = await transaction(async (tx) => {
      tx.afterCommit(() => {
        throw Object.assign(new Error('secret'), { code: 'ECALLBACK' });
      });
      await bed.insert(tx.handle, 'one');
      return 'stands';
    });
    expect(result).toBe('stands');
    expect(await completed()).toEqual(['one']);
    const lines = trial.log.lines.filter((line) => line.includes('A callback failed after the commit'));
    expect(lines.at(-1)).toContain('ECALLBACK');
    expect(lines.at(-1)).not.toContain('secret');
  });

  test('gives the rows that pg gives', async () => {
    const pool = new Pool({ connectionString: database.url });
    const sql = `select 1::integer as i, 2::bigint as b, true as t, 'x?'::text as x, null::text as n,
array['a', 'b'] as a, '{"a":1}'::jsonb as j, $1::text[] as p, $2::integer as q, $3::text as r, $4::text is null as z`;
    const params = [['a,"b', "{c} d'\\", null], 5, '?', null];
    const expected = (await pgDriver(pool).run(sql, params)).rows;
    await pool.end();
    expect((await bed.driver.run(sql, params)).rows).toEqual(expected);
    expect((await transaction((tx) => tx.run(sql, params))).rows).toEqual(expected);
    // Where an ORM gives the count of rows beside them, or in their place.
    const write = `insert into completions (id) values ('w')`;
    expect((await bed.driver.run(write, [])).rows).toEqual([]);
    const update = `update completions set id = 'v' where id = 'w'`;
    expect((await bed.driver.run(update, [])).rows).toEqual([]);
    expect((await bed.driver.run(`delete from completions returning id`, [])).rows).toEqual([{ id: 'v' }]);
  });

  test("rejects with the database's own code, and holds no parameter where a log would show it", async () => {
    const failure = async (sql: string): Promise<unknown> =>
      await bed.driver.run(sql, ['a-planted-value']).catch((error: unknown) => error);
    await bed.driver.run('insert into completions (id) values ($1::text)', ['a-planted-value']);
    const duplicate = await failure('insert into completions (id) values ($1::text)');
    expect(duplicate).toMatchObject({ code: '23505' });
    expect((duplicate as Error).message).not.toContain('a-planted-value');
    expect(duplicate).not.toHaveProperty('parameters');
    expect(await failure('select $1::text, nothing from completions')).toMatchObject({ code: '42703' });
    await expect(
      transaction((tx) => tx.run('insert into completions (id) values ($1::text)', ['a-planted-value'])),
    ).rejects.toMatchObject({ code: '23505' });
  });
});

describe.each(BEDS)('%s with statementTimeoutMs', (_name, open) => {
  test('limits statements in its transactions, and nothing after them', async () => {
    const bed = await open(inject('environments'), database.url, { statementTimeoutMs: 200 });
    try {
      await expect(
        bed.driver.transaction((tx) => tx.run('select 1 as one from pg_sleep(10)', [])),
      ).rejects.toMatchObject({ code: '57014' });
      const shown = `select current_setting('statement_timeout') as limited`;
      const within = await bed.driver.transaction((tx) => tx.run(shown, []));
      expect(within.rows).toEqual([{ limited: '200ms' }]);
      expect((await bed.driver.run(shown, [])).rows).toEqual([{ limited: '0' }]);
    } finally {
      await bed.close();
    }
  });

  test('refuses at once a limit that is none', async () => {
    await expect(
      open(inject('environments'), database.url, { statementTimeoutMs: Number.NaN }),
    ).rejects.toThrow(/statementTimeoutMs/);
  });
});

const openOf = (name: string): OpenBed => {
  const found = BEDS.find(([bed]) => bed === name);
  if (found === undefined) throw new Error(`no bed ${name}`);
  return found[1];
};

/** Opens one ORM for one test. */
async function withBed(
  name: string,
  work: (bed: Bed) => Promise<void>,
  options?: Parameters<OpenBed>[2],
): Promise<void> {
  const bed = await openOf(name)(inject('environments'), database.url, options);
  try {
    await work(bed);
  } finally {
    await bed.close();
  }
}

describe("a transaction that the service ends by the ORM's own means", () => {
  const endings: readonly (readonly [string, string, (handle: Foreign) => Promise<unknown>])[] = [
    ['commit', 'TypeORM 1', (manager) => manager.queryRunner.commitTransaction()],
    ['rollback', 'TypeORM 1', (manager) => manager.queryRunner.rollbackTransaction()],
    ['savepoint left open', 'TypeORM 1', (manager) => manager.queryRunner.startTransaction()],
    ['commit', 'Knex', (trx) => trx.commit()],
  ];
  test.each(endings)('is refused, and calls nothing after it: %s of %s', async (_how, name, end) => {
    await withBed(name, async (bed) => {
      let called = false;
      const ended = bed.driver.transaction(async (tx) => {
        tx.afterCommit(() => {
          called = true;
        });
        await end(tx.handle);
      });
      await expect(ended).rejects.toMatchObject({ name: 'TransactionEndedEarlyError' });
      expect(called).toBe(false);
      expect(await bed.driver.transaction(async () => 'usable')).toBe('usable');
    });
  });

  test.each([endings[0], endings[1], endings[3]] as typeof endings)(
    'writes nothing outside it: %s of %s',
    async (_how, name, end) => {
      await database.query('delete from completions');
      await withBed(name, async (bed) => {
        let late: unknown;
        const ended = bed.driver.transaction(async (tx) => {
          await end(tx.handle);
          late = await tx.run(`insert into completions (id) values ('late')`, []).catch((error) => error);
        });
        await expect(ended).rejects.toThrow();
        expect(await bed.driver.transaction(async () => 'usable')).toBe('usable');
        expect(late).toMatchObject({ name: 'TransactionOverError' });
        expect(await completed()).toEqual([]);
      });
    },
  );

  test('a rollback by the handle of Knex is no success', async () => {
    await withBed('Knex', async (bed) => {
      await expect(bed.driver.transaction((tx) => (tx.handle as Foreign).rollback())).rejects.toThrow();
      expect(await bed.driver.transaction(async () => 'usable')).toBe('usable');
    });
  });
});

describe.each(['TypeORM 0.3', 'TypeORM 1'])('subscribers of %s', (name) => {
  test('hear of a commit, not of one that was answered with a rollback', async () => {
    await withBed(name, async (bed) => {
      const heard: string[] = [];
      bed.orm.subscribers.push({
        afterTransactionCommit: () => heard.push('commit'),
        afterTransactionRollback: () => heard.push('rollback'),
      });
      await bed.driver.transaction((tx) => tx.run('select 1', []));
      expect(heard).toEqual(['commit']);
      const refused = bed.driver.transaction((tx) => tx.run('select 1/0', []).catch(() => undefined));
      await expect(refused).rejects.toMatchObject({ name: 'CommitRefusedError' });
      expect(heard).toEqual(['commit', 'rollback']);
    });
  });

  test('that fail after the commit do not make it look undone', async () => {
    await withBed(name, async (bed) => {
      bed.orm.subscribers.push({
        afterTransactionCommit: () => Promise.reject(new Error('after the commit')),
      });
      let called = false;
      const result = await bed.driver.transaction(async (tx) => {
        tx.afterCommit(() => {
          called = true;
        });
        return 'stands';
      });
      expect([result, called]).toEqual(['stands', true]);
    });
  });

  test('that fail before the commit roll it back', async () => {
    await withBed(name, async (bed) => {
      const error = new Error('before the commit');
      bed.orm.subscribers.push({ beforeTransactionCommit: () => Promise.reject(error) });
      await expect(bed.driver.transaction(async () => 'undone')).rejects.toBe(error);
    });
  });
});

describe('limits of Prisma', () => {
  test('a transaction over its time is rolled back and calls nothing', async () => {
    await withBed(
      'Prisma',
      async (bed) => {
        let called = false;
        const late = bed.driver.transaction(async (tx) => {
          tx.afterCommit(() => {
            called = true;
          });
          await tx.run('select 1 as one from pg_sleep(0.3)', []);
        });
        await expect(late).rejects.toMatchObject({ code: 'P2028' });
        expect(called).toBe(false);
      },
      { timeoutMs: 100 },
    );
  });

  test('a transaction waits for a connection no longer than it may', async () => {
    await withBed(
      'Prisma',
      async (bed) => {
        // Connects: what waits below waits for nothing else.
        await bed.driver.run('select 1 as one', []);
        await bed.driver.transaction(async () => {
          await expect(bed.driver.transaction(async () => undefined)).rejects.toMatchObject({
            code: 'P2028',
          });
        });
      },
      { maxWaitMs: 500 },
    );
  });
});
