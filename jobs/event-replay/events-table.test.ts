import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { openDatabase } from '../../test/builders/open-database.ts';
import { type Bench, openBench } from '../../test/event-replay/bench.ts';
import { normalizeIds } from './events-table.ts';
import { takeInOverdueEvents } from './intake-queries.ts';
import { firstCursor } from './statement-parts.ts';

let bench: Bench;
beforeAll(async () => {
  bench = await openBench();
});
afterEach(async () => await bench.reset());
afterAll(async () => await bench.close());

const sent = () => bench.endpoint.calls.flatMap((call) => call.eventIds);
const script = async (text: string) => await bench.database.query(text);

describe('ids', () => {
  const big = ['9007199254740993', '9223372036854775807', '-5'];
  it.each([
    ['uuid', ['0B0E7A1C-0000-4000-8000-00000000000F', '00000000-0000-0000-0000-000000000000']],
    ['bigint', big],
    ['integer', ['2147483647', '-1']],
    ['text', ["it's", 'a"b', 'Ärger ☕', '--;', 'e-1']],
    ['varchar(50)', ['v1']],
  ])('of the type %s are sent as the database writes them', async (type, ids) => {
    await script(`CREATE SCHEMA IF NOT EXISTS "Odd Schema"; GRANT USAGE ON SCHEMA "Odd Schema" TO counterfoil_jobs;
      CREATE TABLE "Odd Schema"."Event.Backups" (event_id ${type} PRIMARY KEY, event_name text, payload jsonb,
        status text DEFAULT 'pending', created_at timestamptz DEFAULT now() - interval '1 hour');
      GRANT SELECT ON "Odd Schema"."Event.Backups" TO counterfoil_jobs`);
    try {
      for (const id of ids) {
        await bench.database.query(
          'INSERT INTO "Odd Schema"."Event.Backups" (event_id, event_name) VALUES ($1, $2)',
          [id, 'n'],
        );
      }
      const settings = { CF_EVENTS_TABLE: '"Odd Schema"."Event.Backups"' };
      const run = await bench.run(settings);
      expect(run.exitCode, run.log).toBe(0);
      const written = ids.map((id) => (type === 'uuid' ? id.toLowerCase() : id));
      expect(sent().sort()).toEqual([...written].sort());
      expect(await bench.statuses()).toEqual({ done: ids.length });
      // Named by a person, in a form of their own.
      const named = await bench.run({
        ...settings,
        CF_EVENT_IDS: `${ids[0]},not-an-id,99999999999999999999`,
      });
      expect(named.record.counts).toMatchObject({ processed: 0, already_processed: 1 });
    } finally {
      await script('DROP SCHEMA "Odd Schema" CASCADE');
    }
  });

  it('are read in the form of their type, each once', () => {
    expect(normalizeIds(['007', '7', '9223372036854775808', 'x', ''], 'bigint')).toEqual(['7']);
    expect(normalizeIds(['A0000000-0000-0000-0000-000000000000', 'nonsense'], 'uuid')).toEqual([
      'a0000000-0000-0000-0000-000000000000',
    ]);
    expect(normalizeIds(['a', 'a', 'b'], 'text')).toEqual(['a', 'b']);
  });
});

describe('payloads', () => {
  it('that hold what no text can hold are replayed, and refused where a field of them would have to be read', async () => {
    await script(`CREATE TABLE json_events (event_id text PRIMARY KEY, event_name text, payload json,
        status text DEFAULT 'pending', created_at timestamptz DEFAULT now() - interval '1 hour');
      INSERT INTO json_events (event_id, event_name, payload) VALUES ('nul', 'n', '{"a":"\\u0000"}'), ('surrogate', 'n', '{"a":"\\ud800"}');
      GRANT SELECT ON json_events TO counterfoil_jobs`);
    try {
      await expect(script(`SELECT payload ->> 'a' FROM json_events`)).rejects.toMatchObject({
        code: '22P05',
      });
      const run = await bench.run({ CF_EVENTS_TABLE: 'json_events' });
      expect(run.record.counts, run.log).toMatchObject({ processed: 2 });
      const ordered = await bench.run({ CF_EVENTS_TABLE: 'json_events', CF_AGGREGATE_KEY: 'a' });
      expect(ordered.exitCode).toBe(2);
      expect(ordered.record.message).toContain('make it jsonb');
    } finally {
      await script('DROP TABLE json_events');
    }
  });

  it('of 1 MB, or with escapes that break naive readers, are never touched', async () => {
    await bench.addEvents([
      { id: 'large', payload: { text: 'x'.repeat(1_000_000) } },
      { id: 'escapes', payload: { text: '\\u0000 \\ud800 "quoted" \\\\' } },
      { id: 'scalar', payload: 7 },
    ]);
    const run = await bench.run();
    expect(run.record.counts).toMatchObject({ processed: 3 });
  });

  it('are not even readable where no order is asked for: the column is not needed', async () => {
    await bench.addEvents(2);
    await script(`REVOKE SELECT ON event_backups FROM counterfoil_jobs;
      GRANT SELECT (event_id, event_name, status, created_at) ON event_backups TO counterfoil_jobs`);
    try {
      expect((await bench.run()).record.counts).toMatchObject({ processed: 2 });
      const ordered = await bench.run({ CF_AGGREGATE_KEY: 'contractId' });
      expect(ordered.record).toMatchObject({ failure_id: 'grant_missing' });
      expect(ordered.record.message).toContain(
        'GRANT SELECT ON "public"."event_backups" TO counterfoil_jobs',
      );
    } finally {
      await script('GRANT SELECT ON event_backups TO counterfoil_jobs');
    }
  });
});

describe('times', () => {
  it('without a time zone are read in the zone of the service, whatever zone the server is in', async () => {
    await script(`ALTER DATABASE ${bench.database.name} SET timezone = 'Asia/Kathmandu'`);
    await script(
      `INSERT INTO event_backups (event_id, event_name, payload, created_at)
       VALUES ('young', 'n', '{}', (now() - interval '50 seconds') AT TIME ZONE 'America/Sao_Paulo'),
              ('old', 'n', '{}', (now() - interval '70 seconds') AT TIME ZONE 'America/Sao_Paulo')`,
    );
    try {
      await bench.run({ CF_SERVICE_TIME_ZONE: 'America/Sao_Paulo' });
      expect(sent()).toEqual(['old']);
      const [row] = await bench.database.query<{ age: number }>(
        `SELECT extract(epoch FROM now() - event_created_at)::double precision AS age FROM counterfoil.replay_events`,
      );
      expect(row?.age).toBeGreaterThan(69);
      expect(row?.age).toBeLessThan(100);
    } finally {
      await script(`ALTER DATABASE ${bench.database.name} RESET timezone`);
    }
  });

  it('do not make a fresh event overdue in the night when clocks are set back', async () => {
    // Made so that this zone was set back 30 s ago: what was 60 s ago reads later than what is 10 s old.
    const [night] = await bench.database.query<{ zone: string; reads_later: boolean }>(
      `SELECT zone, (now() - interval '60 s') AT TIME ZONE zone > (now() - interval '10 s') AT TIME ZONE zone AS reads_later
         FROM (SELECT 'STD0DST,' || CASE WHEN extract(doy FROM at) > 100 THEN 'J1/0,J' ELSE 'J200/0,J' END
                      || CASE WHEN extract(doy FROM at) > 59 AND extract(day FROM make_date(extract(year FROM at)::integer, 3, 1) - 1) = 29
                              THEN extract(doy FROM at) - 1 ELSE extract(doy FROM at) END
                      || '/' || (extract(hour FROM at) + 1) || to_char(at, ':MI:SS') AS zone
                 FROM (SELECT now() AT TIME ZONE 'UTC' - interval '30 s' AS at) AS turn) AS made`,
    );
    expect(night?.reads_later).toBe(true);
    await script(
      `INSERT INTO event_backups (event_id, event_name, payload, created_at)
       VALUES ('fresh', 'n', '{}', (now() - interval '10 s') AT TIME ZONE '${night?.zone}'),
              ('old', 'n', '{}', (now() - interval '2 hours') AT TIME ZONE '${night?.zone}')`,
    );
    const database = openDatabase(bench.database.urlAs('counterfoil_jobs'));
    try {
      const page = await takeInOverdueEvents(
        database,
        {
          name: 'public.event_backups',
          idType: 'text',
          createdAtType: 'timestamp',
          timeZone: night?.zone ?? '',
          hasPublishedHash: false,
          aggregateKey: undefined,
          deliveries: undefined,
        },
        { after: firstCursor('text'), size: 10, graceMs: 60_000, reopensHanded: true },
      );
      expect(page).toMatchObject({ takenIn: 1, last: { eventId: 'old' } });
    } finally {
      await database.close();
    }
  });

  it('are refused in a zone that the database does not know', async () => {
    const run = await bench.run({ CF_SERVICE_TIME_ZONE: 'Mars/Olympus' });
    expect(run.exitCode).toBe(2);
    expect(run.record).toMatchObject({ failure_id: 'settings_invalid' });
  });
});

describe('what is missing', () => {
  const refused = async (settings: Record<string, string>, failureId: string, mend: string) => {
    const run = await bench.run(settings);
    expect(run.exitCode, run.log).toBe(2);
    expect(run.record).toMatchObject({ outcome: 'refused', failure_id: failureId });
    expect(run.record.message).toContain(mend);
  };

  it('is said by name: a table', async () => {
    await refused({ CF_EVENTS_TABLE: 'nowhere.at_all' }, 'table_missing', 'nowhere.at_all');
    await refused({ CF_EVENTS_TABLE: 'a.b.c' }, 'settings_invalid', 'CF_EVENTS_TABLE');
    await refused({ CF_EVENTS_TABLE: 'a"b' }, 'settings_invalid', 'CF_EVENTS_TABLE');
    await refused({ CF_EVENTS_TABLE: '"a' }, 'settings_invalid', 'CF_EVENTS_TABLE');
  });

  it('is said by name: a column, or a type that cannot be used', async () => {
    await script(`CREATE TABLE no_status (event_id text, event_name text, created_at timestamptz);
      CREATE TABLE odd_id (event_id jsonb, event_name text, status text, created_at timestamptz);
      GRANT SELECT ON no_status, odd_id TO counterfoil_jobs`);
    await refused(
      { CF_EVENTS_TABLE: 'no_status' },
      'column_missing',
      'ALTER TABLE "public"."no_status" ADD COLUMN status',
    );
    await refused({ CF_EVENTS_TABLE: 'odd_id' }, 'column_missing', 'text, uuid or bigint');
    await script('DROP TABLE no_status, odd_id');
  });

  it('is said by name: a grant, on the table or on its schema', async () => {
    await script(`CREATE SCHEMA closed; CREATE TABLE closed.events (LIKE event_backups);
      GRANT SELECT ON closed.events TO counterfoil_jobs`);
    await refused(
      { CF_EVENTS_TABLE: 'closed.events' },
      'grant_missing',
      'GRANT USAGE ON SCHEMA "closed" TO counterfoil_jobs',
    );
    await script('DROP SCHEMA closed CASCADE');
    await script('REVOKE SELECT ON event_backups FROM counterfoil_jobs');
    await refused({}, 'grant_missing', 'GRANT SELECT ON "public"."event_backups" TO counterfoil_jobs');
    await script('GRANT SELECT ON event_backups TO counterfoil_jobs');
  });

  it('is no table of deliveries: then age alone decides', async () => {
    await bench.addEvents(1);
    const run = await bench.run({ CF_DELIVERIES_TABLE: 'none_here' });
    expect(run.record.counts).toMatchObject({ processed: 1 });
    expect(run.log).toContain('age alone decides');
    await script('REVOKE SELECT ON event_deliveries FROM counterfoil_jobs');
    expect((await bench.run()).log).toContain('age alone decides');
    await script('GRANT SELECT ON event_deliveries TO counterfoil_jobs');
    await script(
      'CREATE TABLE untimed (event_id text, lease_until timestamp); GRANT SELECT ON untimed TO counterfoil_jobs',
    );
    expect((await bench.run({ CF_DELIVERIES_TABLE: 'untimed' })).log).toContain('age alone decides');
  });

  it('is any right to write to the service: Postgres refuses it to this role', async () => {
    const [rights] = await bench.database.query(
      `SELECT has_table_privilege('counterfoil_jobs', 'event_backups', 'INSERT, UPDATE, DELETE, TRUNCATE') AS events,
              has_table_privilege('counterfoil_jobs', 'event_deliveries', 'INSERT, UPDATE, DELETE, TRUNCATE') AS deliveries,
              has_table_privilege('counterfoil_jobs', 'counterfoil.audit', 'UPDATE, DELETE, TRUNCATE') AS audit`,
    );
    expect(rights).toEqual({ events: false, deliveries: false, audit: false });
  });
});

describe('a state schema', () => {
  it('belongs to one events table: a run for another one is refused, and touches nothing', async () => {
    await script(`CREATE TABLE other_backups (LIKE event_backups INCLUDING ALL);
      GRANT SELECT ON other_backups TO counterfoil_jobs`);
    try {
      await bench.addEvents([{ id: 'waiting' }]);
      bench.endpoint.handle = () => ({ outcome: 'in_flight' });
      const other = { CF_INSTALLATION: 'other', CF_EVENTS_TABLE: 'other_backups' };
      // A dry run declares nothing.
      expect((await bench.run({ ...other, CF_DRY_RUN: 'true' })).exitCode).toBe(0);
      await bench.run();
      await script(`UPDATE counterfoil.replay_events SET next_attempt_at = now()`);
      for (const changes of [{}, { CF_DRY_RUN: 'true' }, { CF_MODE: 'continuous' }]) {
        const run = await bench.run({ ...other, ...changes });
        expect(run.exitCode).toBe(2);
        expect(run.record).toMatchObject({ outcome: 'refused', failure_id: 'installation_conflict' });
        expect(run.record.message).toContain('"public"."event_backups"');
        expect(run.record.message).toContain('CF_SCHEMA');
      }
      expect(await bench.status('waiting')).toMatchObject({ status: 'due', last_outcome: 'in_flight' });
    } finally {
      await script('DROP TABLE other_backups');
    }
  });
});
