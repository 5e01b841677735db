import { readdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { Client } from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { waitFor } from '../../test/builders/wait-for.ts';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';
import { MODULE, type PackedModule, packModule } from './packed-module.ts';
import { readAdoption } from './readme.ts';
import { type AdoptingService, adopt, type RunningService } from './testing/adopting-service.ts';

const TOKEN = 'the-token-of-the-adopting-service';

let packed: PackedModule;
let database: TestDatabase;
let service: AdoptingService;
let running: RunningService;
beforeAll(async () => {
  [packed, database] = await Promise.all([packModule(), createTestDatabase({ template: 'template0' })]);
  await database.query(readFileSync(new URL('service/tables.sql', import.meta.url), 'utf8'));
  service = await adopt(packed.tarball, (text) => database.query(text));
}, 120_000);
afterAll(async () => {
  await running?.end('SIGKILL');
  service?.remove();
  packed?.remove();
  await database?.drop();
});

const start = async (): Promise<void> => {
  running = await service.start({
    DATABASE_URL: database.url,
    REPLAY_TOKEN: TOKEN,
    SERVICE_VERSION: '4.5.6',
  });
};

/** A curl line of the README, with the session in question, sent as it stands. */
const send = async (part: string, sessionId = '') => {
  const line = readAdoption().commands.find(
    (command) => command.startsWith('curl ') && command.includes(part),
  );
  if (line === undefined) throw new Error(`the README has no curl line with ${part}`);
  const values: Record<string, string> = {
    PORT: String(running.port),
    SESSION_ID: sessionId,
    REPLAY_TOKEN: TOKEN,
  };
  const words = [
    ...line.replaceAll(/\$([A-Z_]+)/g, (_text, name) => values[name] ?? '').matchAll(/"([^"]*)"|(\S+)/g),
  ].map(([, quoted, plain]) => quoted ?? plain ?? '');
  const headers = words.flatMap((word, index) =>
    words[index - 1] === '-H' ? [word.split(': ') as [string, string]] : [],
  );
  const method = words[words.indexOf('-X') + 1];
  const response = await fetch(words.at(-1) as string, {
    method: words.includes('-X') ? (method as string) : 'GET',
    headers,
  });
  return { status: response.status, text: await response.text() };
};
const get = async (path: string) => {
  const response = await fetch(`http://localhost:${running.port}/${path}`);
  return { status: response.status, body: await response.json() };
};
const addSession = (id: string) =>
  database.query(`insert into sessions (id, amount_minor, currency) values ($1, 4200, 'EUR')`, [id]);
const bills = async (id: string) =>
  await database.query<{ key: string; event_id: string }>(
    'select idempotency_key as key, event_id from mentor_payable_ledgers where session_id = $1',
    [id],
  );
const events = async (id: string) =>
  await database.query<{ event_id: string; status: string }>(
    `select event_id, status from event_backups where payload ->> 'sessionId' = $1 order by created_at`,
    [id],
  );
describe('the tarball', () => {
  test('holds what is compiled from the sources, the SQL, the README and the licence, and nothing else', () => {
    const sources = readdirSync(join(MODULE, 'src'), { recursive: true, encoding: 'utf8' }).filter(
      (path) => path.endsWith('.ts') && !path.endsWith('.test.ts') && !path.startsWith('testing'),
    );
    const compiled = sources.flatMap((path) =>
      ['.d.ts', '.js', '.js.map'].map((ending) => `dist/${path.slice(0, -'.ts'.length)}${ending}`),
    );
    const sql = readdirSync(join(MODULE, 'sql'), { recursive: true, encoding: 'utf8' })
      .filter((path) => path.endsWith('.sql'))
      .map((path) => `sql/${path}`);
    expect(packed.files).toEqual(['LICENSE', 'README.md', 'package.json', ...compiled, ...sql].sort());
  });

  test('has each file that its package.json names', () => {
    const manifest = JSON.parse(readFileSync(join(MODULE, 'package.json'), 'utf8')) as {
      main: string;
      types: string;
      exports: Record<string, Record<string, string> | string>;
    };
    const named = [
      manifest.main,
      manifest.types,
      ...Object.values(manifest.exports).flatMap((entry) =>
        typeof entry === 'string' ? [entry] : Object.values(entry),
      ),
    ].filter((path) => !path.includes('*'));
    expect(named.length).toBeGreaterThan(5);
    for (const path of named) expect(packed.files).toContain(path.replace('./', ''));
  });

  test('lets a migration find the SQL by the package’s name', () => {
    const { resolve } = createRequire(join(service.folder, 'package.json'));
    expect(readFileSync(resolve('@counterfoil/nestjs/sql/event_backups.sql'), 'utf8')).toBe(
      readFileSync(join(MODULE, 'sql/event_backups.sql'), 'utf8'),
    );
    expect(() => resolve('@counterfoil/nestjs/dist/deliveries.js')).toThrow('not defined by "exports"');
  });

  test('has the licence of the repository', () => {
    expect(readFileSync(join(MODULE, 'LICENSE'), 'utf8')).toBe(
      readFileSync(join(MODULE, '../LICENSE'), 'utf8'),
    );
  });
});

describe('a service that follows the README', () => {
  test('starts, is ready, and has every metric at 0', async () => {
    await start();
    expect(await get('health/live')).toMatchObject({ status: 200, body: { counterfoil: { status: 'up' } } });
    expect(await get('health/ready')).toMatchObject({ status: 200, body: { counterfoil: { status: 'up' } } });
    const { text } = await send('/metrics');
    const event = 'event_type="services.session.completed.v1"';
    for (const line of [
      `event_published_total{${event},status="committed"} 0`,
      `event_processed_total{${event},status="processed"} 0`,
      `event_duration_seconds_count{${event}} 0`,
      'event_publish_error_total 0',
      'counterfoil_service_info{service_version="4.5.6"} 1',
    ]) {
      expect(text).toContain(line);
    }
  });

  test('publishes in a transaction and bills at once', async () => {
    await addSession('s-1');
    expect((await send('/complete', 's-1')).status).toBe(201);
    await waitFor('billed', async () => (await events('s-1'))[0]?.status === 'processed');
    expect(await bills('s-1')).toEqual([
      { key: 'session:s-1:1', event_id: (await events('s-1'))[0]?.event_id },
    ]);
    expect((await send('/complete', 's-1')).status).toBe(404);
    expect(await events('s-1')).toHaveLength(1);
    const { text } = await send('/metrics');
    const event = 'event_type="services.session.completed.v1"';
    expect(text).toContain(`event_published_total{${event},status="committed"} 1`);
    expect(text).toContain(`event_processed_total{${event},status="processed"} 1`);
    expect(text).toContain(`event_duration_seconds_count{${event}} 1`);
  });

  test('killed while its listener runs, it has the event left, and the next one bills it by a replay', async () => {
    await addSession('s-2');
    // The listener waits at its own insert: the kill comes before it ends.
    const holder = new Client({ connectionString: database.url });
    await holder.connect();
    await holder.query('begin');
    await holder.query('lock table mentor_payable_ledgers in access exclusive mode');
    expect((await send('/complete', 's-2')).status).toBe(201);
    const waiting = `from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`;
    await waitFor(
      'the listener waits',
      async () => (await database.query(`select 1 ${waiting}`)).length === 1,
    );
    expect(await running.end('SIGKILL')).toEqual({ code: null, signal: 'SIGKILL' });
    // The server would finish the statement of a client that is gone.
    await database.query(`select pg_terminate_backend(pid) ${waiting}`);
    await holder.query('rollback');
    await holder.end();

    await start();
    const [left] = await events('s-2');
    expect(left?.status).toBe('pending');
    expect(await bills('s-2')).toEqual([]);
    const early = JSON.parse((await send('/admin/events/replay', 's-2')).text);
    expect(early.results).toEqual([{ eventId: left?.event_id, outcome: 'in_flight', retryable: true }]);
    // The lease of the process that is gone runs out, as time would have it.
    await database.query(
      `update event_deliveries set lease_until = clock_timestamp() - interval '1 second' where status = 'running'`,
    );
    const answer = await send('/admin/events/replay', 's-2');
    expect(answer.status).toBe(200);
    expect(JSON.parse(answer.text)).toMatchObject({
      serviceVersion: '4.5.6',
      sessionId: 's-2',
      rebuild: 'not_asked',
      results: [{ eventId: left?.event_id, outcome: 'processed' }],
    });
    expect(await bills('s-2')).toEqual([{ key: 'session:s-2:1', event_id: left?.event_id }]);
    expect((await send('/metrics')).text).toContain(
      'counterfoil_replay_results_total{outcome="processed"} 1',
    );
  });

  test('an event that was never published is rebuilt from the fact, once', async () => {
    await addSession('s-3');
    await database.query(`update sessions set completed_at = now() where id = 's-3'`);
    const eventId = 'rebuild:services.session.completed.v1:s-3:1';
    expect(JSON.parse((await send('/admin/events/replay', 's-3')).text)).toMatchObject({
      rebuild: 'rebuilt',
      results: [{ eventId, outcome: 'processed' }],
    });
    expect(JSON.parse((await send('/admin/events/replay', 's-3')).text)).toMatchObject({
      rebuild: 'not_needed',
      results: [],
    });
    expect(await bills('s-3')).toEqual([{ key: 'session:s-3:1', event_id: eventId }]);
    expect(JSON.parse((await send('/admin/events/replay', 'nowhere')).text).rebuild).toBe('not_found');
  });

  test('SIGTERM drains it and ends with exit code 0', async () => {
    expect(await running.end('SIGTERM')).toEqual({ code: 0, signal: null });
    expect(running.output()).toContain('Every event in work is done');
  });
});
