import { readFileSync } from 'node:fs';
import { Injectable } from '@nestjs/common';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';
import type { SqlRunner } from './driver.js';
import { type BackedDelivery, OnBackedEvent } from './on-backed-event.js';
import { claimListeners, closeEvent, markListeners } from './statements.js';
import { deliveryRows, eventRow, isProcessed, storePending } from './testing/stored-events.js';
import { EVENT, eventually, startTrial, type Trial } from './testing/trial-app.js';

const sqlFile = (name: string): string => readFileSync(new URL(`../sql/${name}`, import.meta.url), 'utf8');

const TRACE = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';
const OWN = {
  publishedBy: 'pod-1',
  publishedHash: 'abc123',
  serviceVersion: '1.2.3',
  traceparent: () => TRACE,
};

let bill: (delivery: BackedDelivery) => void;
let notices = 0;

@Injectable()
class Listeners {
  @OnBackedEvent(EVENT)
  bill(_payload: unknown, delivery: BackedDelivery): void {
    bill(delivery);
  }
  @OnBackedEvent(EVENT)
  notify(): void {
    notices += 1;
  }
}

/** Applies files as psql does: each statement on its own, since some take no transaction around them. */
async function apply(database: TestDatabase, ...names: string[]): Promise<void> {
  for (const name of names) {
    const text = sqlFile(name).replace(/--.*$/gm, '');
    const statements = name.includes('indexes') ? text.split(';').filter((one) => one.trim() !== '') : [text];
    for (const statement of statements) await database.query(statement);
  }
}

describe.each([
  ['the minimal table', ['event_backups.minimal.sql', 'event_deliveries.sql'], {}],
  [
    'the full table',
    ['event_backups.sql', 'event_backups.extend.sql', 'event_deliveries.sql'],
    { published_by: 'pod-1', published_hash: 'abc123', service_version: '1.2.3', traceparent: TRACE },
  ],
  [
    'a minimal table extended later',
    [
      'event_backups.minimal.sql',
      'event_backups.extend.sql',
      'event_backups.indexes.sql',
      'event_deliveries.sql',
    ],
    { published_by: 'pod-1', published_hash: 'abc123', service_version: '1.2.3', traceparent: TRACE },
  ],
  [
    'a table partitioned by day',
    ['event_backups.partitioned.sql'],
    { published_by: 'pod-1', published_hash: 'abc123', service_version: '1.2.3', traceparent: TRACE },
  ],
])('on %s', (_title, files, columns) => {
  let database: TestDatabase;
  const trials: Trial[] = [];
  const start = async () => {
    const trial = await startTrial(database.url, [Listeners], OWN);
    trials.push(trial);
    return trial;
  };
  beforeAll(async () => {
    database = await createTestDatabase({ template: 'template0' });
    await apply(database, ...files);
  });
  afterAll(async () => {
    await database?.drop();
  });
  beforeEach(() => {
    bill = () => undefined;
    notices = 0;
  });
  afterEach(async () => {
    for (const trial of trials.splice(0)) await trial.stop();
  });

  test('an event is published and processed, and what the table has columns for is kept with it', async () => {
    const trial = await start();
    const attempts: number[] = [];
    bill = ({ attempt }) => attempts.push(attempt);
    const eventId = await trial.publish({ sessionId: 's-1' });
    await eventually('processed', () => isProcessed(database, eventId));
    const [row] = await database.query<Record<string, unknown>>(
      'select to_jsonb(b) as row from event_backups b where event_id = $1',
      [eventId],
    );
    const { published_by, published_hash, service_version, traceparent } = (row?.row ?? {}) as Record<
      string,
      unknown
    >;
    expect({ published_by, published_hash, service_version, traceparent }).toEqual({
      published_by: undefined,
      published_hash: undefined,
      service_version: undefined,
      traceparent: undefined,
      ...columns,
    });
    expect(attempts).toEqual([1]);
  });

  test('an event published before other statements is claimed after the commit', async () => {
    const trial = await start();
    const eventId = await trial.publisher.transaction(async (tx) => {
      const id = await trial.publisher.publish(tx, { name: EVENT, payload: {} });
      await tx.run('select 1', []);
      return id;
    });
    await eventually('processed', () => isProcessed(database, eventId));
  });

  test('a failed listener leaves the event pending, and a replay runs it alone, within the trace', async () => {
    const trial = await start();
    bill = () => {
      throw new Error('not now');
    };
    const eventId = await trial.publish({});
    await eventually('both recorded', async () => {
      const rows = await deliveryRows(database, eventId);
      return rows.length === 2 && rows.every(({ status }) => status !== 'running');
    });
    expect(await eventRow(database, eventId)).toEqual({ status: 'pending', processed: false });
    let traceparent: string | undefined;
    bill = (delivery) => {
      traceparent = delivery.traceparent;
    };
    expect((await trial.replay([eventId])).body.results).toEqual([{ eventId, outcome: 'processed' }]);
    expect(notices).toBe(1);
    expect(traceparent).toBe('traceparent' in columns ? TRACE : undefined);
  });

  test('two processes asked at once for a hundred events run each listener once', async () => {
    const [one, other] = [await start(), await start()];
    const runs = new Map<string, number>();
    bill = ({ eventId }) => runs.set(eventId, (runs.get(eventId) ?? 0) + 1);
    const ids = Array.from({ length: 100 }, (_, index) => `lost-${index}`);
    for (const id of ids) await storePending(database, id, EVENT);
    await Promise.all([one.replay(ids), other.replay([...ids].reverse())]);
    await eventually('all processed', async () => {
      const rows = await database.query(
        `select 1 from event_backups where event_id like 'lost-%' and status = 'pending'`,
      );
      return rows.length === 0;
    });
    expect([...runs.values()].filter((count) => count !== 1)).toEqual([]);
    expect(runs.size).toBe(100);
  });
});

describe.each([
  ['without statistics', false],
  ['with statistics', true],
])('%s', (_title, analyzed) => {
  test('claims and outcomes reach their rows by key, however much is parked', async () => {
    const database = await createTestDatabase({ template: 'template0' });
    try {
      await apply(database, 'event_backups.sql', 'event_deliveries.sql');
      for (const table of ['event_backups', 'event_deliveries']) {
        await database.query(`alter table ${table} set (autovacuum_enabled = off)`);
      }
      await database.query(`insert into event_backups (event_id, event_name, payload)
        select 'parked-' || n, 'a.b.v1', '{}' from generate_series(1, 50000) n`);
      await database.query(`insert into event_deliveries (event_id, listener, status, attempts)
        select event_id, 'bill', 'failed', 5 from event_backups`);
      if (analyzed) await database.query('analyze');
      const plans: string[] = [];
      const explaining: SqlRunner = {
        async run(sql, params) {
          const rows = await database.query(`explain (costs off) ${sql}`, params);
          plans.push(rows.map((row) => row['QUERY PLAN']).join('\n'));
          return { rows: [] };
        },
      };
      const ids = Array.from({ length: 20 }, (_, n) => `parked-${n + 1}`);
      await claimListeners(
        explaining,
        ids.map((eventId) => ({ eventId, listeners: ['bill'], leaseOwner: `me/${eventId}` })),
        30_000,
      );
      await markListeners(
        explaining,
        ids.map((eventId) => ({
          eventId,
          listener: 'bill',
          leaseOwner: `me/${eventId}`,
          status: 'succeeded' as const,
          error: null,
        })),
      );
      await closeEvent(explaining, 'parked-1');
      expect(plans).toHaveLength(3);
      for (const plan of plans) {
        expect(plan).toContain('event_backups_pkey');
        expect(plan).not.toMatch(/Seq Scan on event_|event_backups_pending/);
      }
    } finally {
      await database.drop();
    }
  });
});

describe('a table partitioned by day', () => {
  let database: TestDatabase;
  beforeAll(async () => {
    database = await createTestDatabase({ template: 'template0' });
    await apply(database, 'event_backups.partitioned.sql');
    // Three days of the past, as if they had been made in time.
    await database.query(`do $$ begin
      for n in 1..3 loop
        execute format('create table event_backups_%s partition of event_backups for values from (%L) to (%L)',
          to_char(localtimestamp::date - n, 'YYYYMMDD'), localtimestamp::date - n, localtimestamp::date - n + 1);
      end loop; end $$`);
    await database.query(
      `insert into event_backups (event_id, event_name, payload, status, created_at)
       select 'day-' || n, $1, '{}', case n when 2 then 'pending' else 'processed' end, localtimestamp::date - n
       from generate_series(1, 3) n`,
      [EVENT],
    );
    await database.query(
      `insert into event_deliveries (event_id, listener, status, attempts)
       select 'day-' || n, 'bill', 'succeeded', 1 from generate_series(1, 3) n`,
    );
  });
  afterAll(async () => {
    await database?.drop();
  });

  const drop = async (keep: string): Promise<string | null> => {
    const [row] = await database.query<{ name: string | null }>(
      'select event_backups_drop_day($1::interval) as name',
      [keep],
    );
    return row?.name ?? null;
  };
  const left = async (table: string): Promise<string[]> =>
    (
      await database.query<{ event_id: string }>(
        `select event_id from ${table} where event_id like 'day-%' order by 1`,
      )
    ).map(({ event_id }) => event_id);

  test('is made for the days to come, and a second time makes none', async () => {
    const rows = await database.query<{ n: number }>(
      `select count(*)::integer as n from pg_inherits where inhparent = 'event_backups'::regclass`,
    );
    expect(rows).toEqual([{ n: 8 + 3 + 1 }]);
    expect(await database.query('select * from event_backups_create_days(7)')).toEqual([]);
    expect(await database.query('select * from event_backups_create_days(8)')).toHaveLength(1);
  });

  test('loses days of which every event is processed, oldest first, and never one with a pending event', async () => {
    expect(await drop('7 days')).toBeNull();
    expect(await drop('0 days')).toMatch(/^event_backups_\d{8}$/);
    expect(await left('event_backups')).toEqual(['day-1', 'day-2']);
    expect(await left('event_deliveries')).toEqual(['day-1', 'day-2']);
    expect(await drop('0 days')).toMatch(/^event_backups_\d{8}$/);
    expect(await drop('0 days')).toBeNull();
    expect(await left('event_backups')).toEqual(['day-2']);
  });

  test('takes events for which there is no day, and deletes the processed ones of them', async () => {
    await database.query(
      `insert into event_backups (event_id, event_name, payload, status, created_at)
       values ('day-old', $1, '{}', 'processed', localtimestamp - interval '90 days'),
              ('day-old-pending', $1, '{}', 'pending', localtimestamp - interval '90 days'),
              ('day-far', $1, '{}', 'processed', localtimestamp + interval '12 days')`,
      [EVENT],
    );
    expect(await drop('30 days')).toBeNull();
    expect(await left('event_backups')).toEqual(['day-2', 'day-far', 'day-old-pending']);
    // A day whose rows stand in the default partition is left there, and holds up no other.
    const made = await database.query('select * from event_backups_create_days(13)');
    expect(made).toHaveLength(4);
  });
});

describe('a table changed under load', () => {
  let database: TestDatabase;
  let trial: Trial;
  const published: string[] = [];
  const refused: unknown[] = [];
  let ended = false;
  let load: Promise<unknown>;
  const filled = async (column: string): Promise<number> => {
    const [row] = await database.query<{ n: number }>(
      `select count(*)::integer as n from event_backups b where to_jsonb(b) ->> $1 is not null`,
      [column],
    );
    return row?.n ?? 0;
  };

  beforeAll(async () => {
    database = await createTestDatabase({ template: 'template0' });
    await apply(database, 'event_backups.minimal.sql', 'event_deliveries.sql');
    trial = await startTrial(database.url, [Listeners], { ...OWN, maxWaiting: 10_000 });
    bill = () => undefined;
    const publishOn = async () => {
      for (let n = 0; !ended; n += 1) {
        await trial.publish({ n }).then(
          (id) => published.push(id),
          (error) => refused.push((error as { code?: string }).code),
        );
      }
    };
    load = Promise.all([publishOn(), publishOn(), publishOn(), publishOn()]);
  });
  afterAll(async () => {
    ended = true;
    await load;
    await trial?.stop();
    await database?.drop();
  });

  test('is filled from then on without a restart, refuses no event and loses none', async () => {
    await eventually('some events', () => published.length > 50);
    for (const file of ['event_backups.extend.sql', 'event_backups.indexes.sql']) {
      // A lock that is not had within a second is asked for again, as the file says.
      await eventually(file, () =>
        apply(database, file).then(
          () => true,
          () => database.query('rollback').then(() => false),
        ),
      );
    }
    const before = published.length;
    await waitUntilFilled('service_version');
    expect(published.length).toBeGreaterThan(before);
    expect(refused).toEqual([]);
  });

  test('fails, when a column is dropped, only the transactions that met it', async () => {
    await database.query('alter table event_backups drop column service_version');
    const before = published.length;
    await eventually('more events', () => published.length > before + 50);
    expect(refused.length).toBeGreaterThan(0);
    expect(new Set(refused)).toEqual(new Set(['42703']));
    // At most one for each transaction that was on its way.
    expect(refused.length).toBeLessThanOrEqual(4);
    expect(await filled('published_by')).toBeGreaterThan(0);
    ended = true;
    await load;
    await eventually('all processed', async () => {
      const rows = await database.query(`select 1 from event_backups where status = 'pending' limit 1`);
      return rows.length === 0;
    });
    const rows = await database.query<{ event_id: string }>('select event_id from event_backups');
    expect(rows.map(({ event_id }) => event_id).sort()).toEqual([...published].sort());
  });

  /** Longer than the module takes to look again. */
  async function waitUntilFilled(column: string): Promise<void> {
    for (const endsAt = performance.now() + 20_000; performance.now() < endsAt; ) {
      if ((await filled(column)) > 0) return;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    throw new Error(`${column} was never filled`);
  }
});
