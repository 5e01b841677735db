import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openDatabase } from '../../test/builders/open-database.ts';
import { createTestDatabase, type TestDatabase, type TestRole } from '../../test/postgres/database.ts';
import type { Database } from '../runtime/database.ts';

let postgres: TestDatabase;
const as = {} as Record<TestRole, Database>;
beforeAll(async () => {
  postgres = await createTestDatabase();
  for (const role of [
    'counterfoil_owner',
    'counterfoil_jobs',
    'counterfoil_exporter',
    'counterfoil_retention',
  ] as const)
    as[role] = openDatabase(postgres.urlAs(role));
  await postgres.query(
    `INSERT INTO counterfoil.audit (installation, actor, action) VALUES ('test', 'somebody', 'replay')`,
  );
});
afterAll(async () => {
  for (const database of Object.values(as)) await database.close();
  await postgres.drop();
});

/** Privileges of a role on the tables of a schema, as `table: SELECT INSERT`. */
const privileges = async (role: TestRole, schema: string): Promise<string[]> =>
  (
    await postgres.query<{ line: string }>(
      `SELECT format('%s: %s', table_name, string_agg(privilege_type, ' ' ORDER BY privilege_type)) AS line
         FROM information_schema.role_table_grants WHERE grantee = $1 AND table_schema = $2
        GROUP BY table_name ORDER BY table_name COLLATE "C"`,
      [role, schema],
    )
  ).map((row) => row.line);

/** What a role may do with single columns of `requests`. */
const columnPrivileges = async (role: TestRole): Promise<string[]> =>
  (
    await postgres.query<{ line: string }>(
      `SELECT format('%s: %s', privilege_type, string_agg(column_name, ' ' ORDER BY column_name)) AS line
         FROM information_schema.role_column_grants
        WHERE grantee = $1 AND table_schema = 'counterfoil' AND table_name = 'requests' AND privilege_type <> 'SELECT'
        GROUP BY privilege_type ORDER BY privilege_type`,
      [role],
    )
  ).map((row) => row.line);

const statement = async (role: TestRole, text: string) =>
  await as[role].transaction({}, async (transaction) => await transaction.script(text));

describe('counterfoil_jobs', () => {
  test('has exactly these rights on our tables', async () => {
    expect(await privileges('counterfoil_jobs', 'counterfoil')).toEqual([
      'audit: INSERT SELECT',
      'checks: INSERT SELECT UPDATE',
      'discrepancies: INSERT SELECT UPDATE',
      'freezes: SELECT',
      'horizon_snapshots: DELETE INSERT SELECT UPDATE',
      'job_leases: DELETE INSERT SELECT UPDATE',
      'job_runs: INSERT SELECT UPDATE',
      'reconciliation_windows: DELETE INSERT SELECT UPDATE',
      'replay_events: DELETE INSERT SELECT UPDATE',
      'replay_source: INSERT SELECT',
      'request_items: INSERT SELECT UPDATE',
      'requests: SELECT',
      'schema_version: SELECT',
      'waivers: SELECT',
    ]);
  });

  test('may ask and answer in requests, and never say who asked or who approved', async () => {
    expect(await columnPrivileges('counterfoil_jobs')).toEqual([
      'INSERT: check_name kind reason scope',
      'UPDATE: finished_at result run_id status',
    ]);
  });

  test('may read the service’s tables and nothing more', async () => {
    for (const line of await privileges('counterfoil_jobs', 'public')) expect(line).toMatch(/^\w+: SELECT$/);
    expect(await privileges('counterfoil_jobs', 'public')).toContain('sessions: SELECT');
  });

  test.each([
    `INSERT INTO public.sessions DEFAULT VALUES`,
    `UPDATE public.mentor_payable_ledgers SET session_id = session_id`,
    `DELETE FROM public.event_backups`,
    `UPDATE public.event_backups SET status = 'processed'`,
    `TRUNCATE public.sessions`,
    `SELECT 1 FROM public.event_backups FOR UPDATE`,
    `CREATE TABLE public.own ()`,
    `CREATE TABLE counterfoil.own ()`,
    `DELETE FROM counterfoil.discrepancies`,
    `DELETE FROM counterfoil.job_runs`,
    `INSERT INTO counterfoil.waivers (check_name, filter, reason) VALUES ('x', '{}', 'x')`,
    `INSERT INTO counterfoil.freezes (reason, frozen_until) VALUES ('x', now())`,
    `UPDATE counterfoil.schema_version SET min_compatible_code = 0`,
    `INSERT INTO counterfoil.requests (kind, scope, reason, requested_by) VALUES ('replay', '{}', 'x', 'ann')`,
    `UPDATE counterfoil.requests SET approved_by = 'ann', approved_at = now()`,
    `INSERT INTO counterfoil.requests (kind, scope, reason) VALUES ('correction', '{}', 'x')`,
    `SELECT counterfoil.approve(1, 'x')`,
    `SELECT counterfoil.release(1, 'x')`,
  ])('is refused by Postgres: %s', async (text) => {
    await expect(statement('counterfoil_jobs', text)).rejects.toMatchObject({ id: 'grant_missing' });
  });
});

describe('counterfoil_exporter', () => {
  test('reads our tables and asks by requests, and writes nothing else', async () => {
    const lines = await privileges('counterfoil_exporter', 'counterfoil');
    expect(lines).toContain('requests: SELECT');
    expect(await columnPrivileges('counterfoil_exporter')).toEqual(['INSERT: check_name kind reason scope']);
    expect(lines).toContain('audit: INSERT SELECT');
    const others = lines.filter((line) => !/^(requests|audit):/.test(line));
    expect(others.every((line) => line.endsWith(': SELECT'))).toBe(true);
    expect(others.length).toBeGreaterThan(8);
  });

  test.each([
    `INSERT INTO public.sessions DEFAULT VALUES`,
    `UPDATE public.event_backups SET status = 'processed'`,
    `DELETE FROM public.event_deliveries`,
    `SELECT 1 FROM public.event_backups FOR UPDATE`,
    `CREATE TABLE counterfoil.own ()`,
    `UPDATE counterfoil.discrepancies SET status = 'resolved'`,
    `DELETE FROM counterfoil.replay_events`,
    `INSERT INTO counterfoil.job_runs (run_id) VALUES (gen_random_uuid())`,
    `INSERT INTO counterfoil.freezes (reason, frozen_until) VALUES ('x', now())`,
    `INSERT INTO counterfoil.requests (kind, scope, reason, requested_by) VALUES ('replay', '{}', 'x', 'ann')`,
    `INSERT INTO counterfoil.requests (kind, scope, reason) VALUES ('correction', '{}', 'x')`,
    `UPDATE counterfoil.requests SET status = 'done'`,
    `SELECT counterfoil.approve(1, 'x')`,
    `SELECT counterfoil.unpark(ARRAY['a'], 'x')`,
  ])('is refused by Postgres: %s', async (text) => {
    await expect(statement('counterfoil_exporter', text)).rejects.toMatchObject({ id: 'grant_missing' });
  });
});

describe('counterfoil_retention', () => {
  test('has exactly these rights on whole tables, and on the service’s those on events alone', async () => {
    expect(await privileges('counterfoil_retention', 'counterfoil')).toEqual([
      'freezes: SELECT',
      'job_leases: DELETE INSERT SELECT UPDATE',
      'job_runs: DELETE INSERT SELECT UPDATE',
      'replay_events: SELECT',
      'schema_version: SELECT',
    ]);
    expect(await privileges('counterfoil_retention', 'public')).toEqual(['event_backups: DELETE SELECT']);
  });

  test.each([
    `DELETE FROM public.sessions`,
    `DELETE FROM public.mentor_payable_ledgers`,
    `SELECT 1 FROM public.sessions`,
    `SELECT 1 FROM public.mentor_payable_ledgers`,
    `UPDATE public.event_backups SET status = 'processed'`,
    `INSERT INTO public.event_backups (event_id, event_name, payload) VALUES ('x', 'x', '{}')`,
    `TRUNCATE public.event_backups CASCADE`,
    `DELETE FROM public.event_deliveries`,
    `DELETE FROM counterfoil.replay_events`,
    `UPDATE counterfoil.replay_events SET status = 'due'`,
    `DELETE FROM counterfoil.discrepancies`,
    `SELECT currency FROM counterfoil.discrepancies`,
    `DELETE FROM counterfoil.reconciliation_windows`,
    `DELETE FROM counterfoil.requests`,
    `SELECT reason FROM counterfoil.requests`,
    `DELETE FROM counterfoil.checks`,
    `SELECT 1 FROM counterfoil.audit`,
    `INSERT INTO counterfoil.audit (installation, actor, action) VALUES ('x', 'x', 'x')`,
    `DELETE FROM counterfoil.audit`,
    `SELECT counterfoil.release(1, 'x')`,
  ])('is refused by Postgres: %s', async (text) => {
    await expect(statement('counterfoil_retention', text)).rejects.toMatchObject({ id: 'grant_missing' });
  });
});

describe('the audit', () => {
  test.each(['counterfoil_owner', 'counterfoil_jobs', 'counterfoil_exporter'] as const)(
    'takes rows from %s and never gives one up',
    async (role) => {
      await statement(
        role,
        `INSERT INTO audit (installation, actor, action) VALUES ('test', '${role}', 'replay')`,
      );
      for (const text of ['UPDATE audit SET reason = NULL', 'DELETE FROM audit', 'TRUNCATE audit'])
        await expect(statement(role, text)).rejects.toMatchObject({ id: 'grant_missing' });
    },
  );

  test('binds even the administrator, who would have to take the trigger off first', async () => {
    for (const text of [
      'UPDATE counterfoil.audit SET reason = NULL',
      'DELETE FROM counterfoil.audit WHERE false',
      'TRUNCATE counterfoil.audit',
    ])
      await expect(postgres.query(text)).rejects.toThrow('append-only');
  });
});
