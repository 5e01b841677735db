/** How the statement of a portion reaches its rows, with and without statistics: a plan that reads a whole table is no portion. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { useTables } from '../../test/builders/retention.ts';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';
import { readChecks } from '../checks/parse.ts';
import { holdsOf } from './holds.ts';
import { type Cursor, type PortionRequest, portion } from './queries.ts';
import type { Walked } from './tables.ts';

const limit = new Date(Date.now() - 30 * 86_400_000).toISOString();
const table = (override: Partial<Walked> = {}): Walked => ({
  name: 'public.event_backups',
  idType: 'text',
  createdAtType: 'timestamp',
  processedAtType: 'timestamp',
  readsPayload: true,
  hasTimeIndex: true,
  blocks: 0,
  timeZone: 'UTC',
  deliveries: undefined,
  day: undefined,
  ...override,
});
const request = (cursor: Cursor): PortionRequest => ({
  limit,
  cursor,
  size: 100,
  requests: holdsOf([]),
  findings: [],
  checks: readChecks(undefined),
  takes: 'events',
});
const from = (createdAt: string): Cursor => ({ by: 'time', createdAt, eventId: 'e-1' });

let database: TestDatabase;
const explain = async (walked: Walked, cursor: Cursor): Promise<string> => {
  const { text, params } = portion(walked, request(cursor));
  const rows = await database.query<Record<string, string>>(`EXPLAIN (COSTS OFF) ${text}`, params);
  return rows.map((row) => row['QUERY PLAN']).join('\n');
};
const fill = async () => {
  await database.query(
    `INSERT INTO event_backups (event_id, event_name, payload, status, created_at)
     SELECT 'e-' || n, 'services.session.completed.v1', jsonb_build_object('sessionId', n::text), 'processed',
            now() - interval '60 days' + n * interval '1 second' FROM generate_series(1, 20000) AS n`,
  );
  await database.query(
    `INSERT INTO counterfoil.replay_events (event_id, event_name, event_created_at, status, finished_at)
     SELECT 'r-' || n, 'e', now(), 'done', now() FROM generate_series(1, 20000) AS n ON CONFLICT DO NOTHING`,
  );
};

beforeAll(async () => {
  database = await createTestDatabase();
  await database.query('SET search_path = counterfoil, public');
  await database.query(`SET TimeZone = 'UTC'`);
  for (const name of ['event_backups', 'event_deliveries', 'counterfoil.replay_events'])
    await database.query(`ALTER TABLE ${name} SET (autovacuum_enabled = off)`);
});
afterAll(async () => {
  await database.drop();
});

describe.each([
  ['without statistics', false],
  ['with statistics', true],
])('%s', (_title, analyzed) => {
  beforeAll(async () => {
    await database.query('TRUNCATE event_backups CASCADE');
    await fill();
    if (analyzed) await database.query('ANALYZE event_backups; ANALYZE counterfoil.replay_events');
  });

  test('by time, the index on created_at leads to the page and the key to what is deleted and to what holds it', async () => {
    const plan = await explain(table(), from('2026-01-01 00:00:00'));
    expect(plan).toContain('event_backups_created_at');
    expect(plan).toContain('replay_events_pkey');
    expect(plan).not.toMatch(/Seq Scan on (event_backups|replay_events)/);
  });

  test('without that index, only the blocks of the page are read', async () => {
    const plan = await explain(table({ hasTimeIndex: false }), { by: 'block', block: 3 });
    expect(plan).toContain('Tid Range Scan on event_backups');
    expect(plan).not.toMatch(/Seq Scan on (event_backups|replay_events)/);
  });
});

test('a day of a partitioned table is read alone', async () => {
  await database.query('SET search_path = public');
  await useTables(database, 'nestjs/sql/event_backups.partitioned.sql');
  await database.query(
    `CREATE TABLE event_backups_20260901 PARTITION OF event_backups FOR VALUES FROM ('2026-09-01') TO ('2026-09-02');
     CREATE TABLE event_backups_20260902 PARTITION OF event_backups FOR VALUES FROM ('2026-09-02') TO ('2026-09-03')`,
  );
  await database.query('SET search_path = counterfoil, public');
  const { text, params } = portion(table({ day: '2026-09-01' }), {
    ...request({ by: 'time', createdAt: undefined }),
    takes: 'nothing',
  });
  const rows = await database.query<Record<string, string>>(`EXPLAIN (COSTS OFF) ${text}`, params);
  const plan = rows.map((row) => row['QUERY PLAN']).join('\n');
  expect(plan).toContain('event_backups_20260901');
  expect(plan).not.toContain('event_backups_20260902');
  expect(plan).not.toContain('event_backups_default');
});
