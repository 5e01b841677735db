import { afterAll, beforeAll, expect, test } from 'vitest';
import { type CollectedLog, collectLog, openDatabase } from '../../test/builders/open-database.ts';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';
import { startProxy } from '../../test/postgres/proxy.ts';
import type { Database } from './database.ts';
import { acquireLease, type Lease } from './job-lock.ts';

let postgres: TestDatabase;
let database: Database;
let url: string;
beforeAll(async () => {
  postgres = await createTestDatabase();
  url = postgres.urlAs('counterfoil_jobs');
  database = openDatabase(url, { poolSize: 4 });
});
afterAll(async () => {
  await database.close();
  await postgres.drop();
});

const never = new AbortController().signal;
let names = 0;
const freshName = () => {
  names += 1;
  return `lease-${names}`;
};

const take = async (
  name: string,
  options: {
    ttlMs?: number;
    waitMs?: number;
    signal?: AbortSignal;
    from?: Database;
    log?: CollectedLog;
  } = {},
): Promise<Lease | undefined> =>
  await acquireLease(options.from ?? database, (options.log ?? collectLog()).logger, {
    name,
    holder: 'run-1',
    ttlMs: options.ttlMs ?? 30_000,
    waitMs: options.waitMs ?? 0,
    signal: options.signal ?? never,
  });

const holderRow = async (name: string) =>
  (
    await postgres.query<{ token: string; seconds: number }>(
      `SELECT token, extract(epoch FROM expires_at - clock_timestamp())::float8 AS seconds
         FROM counterfoil.job_leases WHERE name = $1`,
      [name],
    )
  )[0];

/** As if the holder had been gone for longer than the lease. */
const expire = async (name: string) =>
  await postgres.query(
    `UPDATE counterfoil.job_leases SET expires_at = clock_timestamp() - interval '1 ms' WHERE name = $1`,
    [name],
  );

const lost = async (lease: Lease): Promise<void> => {
  if (lease.lost.aborted) return;
  await new Promise((resolve) => lease.lost.addEventListener('abort', resolve, { once: true }));
};

test('of several that ask at once one gets the lease', async () => {
  const name = freshName();
  const leases = await Promise.all(Array.from({ length: 8 }, () => take(name)));
  const held = leases.filter((lease) => lease !== undefined);
  expect(held).toHaveLength(1);
  held[0]?.check();
  await held[0]?.release();
});

test('another name is another lease', async () => {
  const [one, other] = [await take(freshName()), await take(freshName())];
  expect([one, other]).not.toContain(undefined);
  await one?.release();
  await other?.release();
});

test('a lease that is held is waited for, and taken once it is given back', async () => {
  const name = freshName();
  const first = await take(name);
  const second = take(name, { waitMs: 20_000 });
  await first?.release();
  expect(await second).toBeDefined();
  await (await second)?.release();
  expect(await holderRow(name)).toBeUndefined();
});

test('whoever waited in vain gets nothing', async () => {
  const name = freshName();
  const first = await take(name);
  expect(await take(name, { waitMs: 100 })).toBeUndefined();
  await first?.release();
});

test('waiting ends when the run is told to stop', async () => {
  const name = freshName();
  const first = await take(name);
  const stop = new AbortController();
  const waiting = take(name, { waitMs: 600_000, signal: stop.signal });
  setImmediate(() => stop.abort());
  expect(await waiting).toBeUndefined();
  expect(await take(freshName(), { signal: stop.signal })).toBeUndefined();
  await first?.release();
});

test('a lease is renewed while it is held: nobody takes it over after its first end', async () => {
  const name = freshName();
  const first = await take(name, { ttlMs: 600 });
  expect(await take(name, { waitMs: 1_500 })).toBeUndefined();
  first?.check();
  expect(first?.lost.aborted).toBe(false);
  await first?.release();
});

test('a lease past its end is taken over; the old holder notices, and takes nothing from the new one', async () => {
  const name = freshName();
  const log = collectLog();
  const old = await take(name, { ttlMs: 600, log });
  if (old === undefined) throw new Error('no lease');
  await expire(name);
  const taker = await take(name);
  const row = await holderRow(name);
  await lost(old);
  expect(() => old.check()).toThrow(`the lease ${name} was lost`);
  expect(log.messages()).toEqual(['the lease of this run was taken over by another run: stopping']);
  await old.release();
  expect((await holderRow(name))?.token).toBe(row?.token);
  taker?.check();
  await taker?.release();
  expect(await holderRow(name)).toBeUndefined();
});

test('one second before its end a lease is not taken over', async () => {
  const name = freshName();
  const first = await take(name);
  await postgres.query(
    `UPDATE counterfoil.job_leases SET expires_at = clock_timestamp() + interval '1 s' WHERE name = $1`,
    [name],
  );
  expect(await take(name)).toBeUndefined();
  await first?.release();
});

test('when renewals do not get through, the holder stops by itself before the lease can be taken over', async () => {
  const name = freshName();
  const proxy = await startProxy(url, () => 'pass');
  const away = openDatabase(proxy.url);
  const log = collectLog();
  const lease = await take(name, { ttlMs: 900, from: away, log });
  if (lease === undefined) throw new Error('no lease');
  await proxy.close();
  await lost(lease);
  expect((await holderRow(name))?.seconds).toBeGreaterThan(-0.2);
  expect(() => lease.check()).toThrow('was lost');
  expect(log.messages()).toContain('the lease could not be renewed: trying again');
  expect(log.messages().at(-1)).toBe('the lease of this run could not be renewed in time: stopping');
  // Giving back fails too; the row runs out by itself.
  await expect(lease.release()).rejects.toMatchObject({ id: 'database_unreachable' });
  await away.close();
});

test('a renewal that hangs is no renewal', async () => {
  const name = freshName();
  const patient = openDatabase(url, { lockTimeoutMs: 5_000 });
  const lease = await take(name, { ttlMs: 600, from: patient });
  if (lease === undefined) throw new Error('no lease');
  await postgres.query('BEGIN');
  await postgres.query('SELECT 1 FROM counterfoil.job_leases WHERE name = $1 FOR UPDATE', [name]);
  await lost(lease);
  await postgres.query('ROLLBACK');
  await lease.release();
  await patient.close();
});

test('whoever got the lease and lost the answer finds it is theirs', async () => {
  const name = freshName();
  let cut = 0;
  let inserting = false;
  const proxy = await startProxy(url, (chunk) => {
    inserting ||= chunk.includes('runtime: tryAcquire');
    if (!inserting || !chunk.includes('COMMIT') || cut > 0) return 'pass';
    cut += 1;
    return 'deliver-and-cut';
  });
  const shaky = openDatabase(proxy.url, { retryMs: 20_000 });
  const lease = await take(name, { from: shaky });
  expect([cut, lease === undefined]).toEqual([1, false]);
  await lease?.release();
  await shaky.close();
  await proxy.close();
});
