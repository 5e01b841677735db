/**
 * Every block of every runbook, run: SQL by a person's login on a migrated database, commands in the image's folder. The
 * kubectl around them runs on a cluster: test/cluster/runbooks.test.ts.
 */
import { execFile } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { Client } from 'pg';
import { afterAll, beforeAll, expect, inject, test } from 'vitest';
import { createTestDatabase, type TestDatabase } from '../postgres/database.ts';
import { type Block, blocksOf, commandProblem, innerCommand } from './runbook-blocks.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const folder = join(root, 'docs/runbooks');
const runbooks = readdirSync(folder).filter((name) => name !== 'README.md');
const blocks = runbooks.flatMap((name) =>
  blocksOf(readFileSync(join(folder, name), 'utf8')).map((block) => ({ name, ...block })),
);

let database: TestDatabase;
let person: Client;

beforeAll(async () => {
  database = await createTestDatabase();
  const role = `ann_${database.name.slice(-6)}`;
  const password = inject('rolePassword');
  await database.query(`CREATE ROLE ${role} LOGIN PASSWORD '${password}' IN ROLE counterfoil_people`);
  const url = new URL(database.url);
  url.username = role;
  url.password = password;
  person = new Client({ connectionString: url.href });
  await person.connect();
  await plant();
});
afterAll(async () => {
  await person.end();
  await database.query(`DROP ROLE ann_${database.name.slice(-6)}`);
  await database.drop();
});

/** One of each thing that a runbook names or looks for. */
async function plant(): Promise<void> {
  await database.query(
    `INSERT INTO counterfoil.checks (name, installation, definition_hash, definition, verified_through)
     VALUES ('session-billing', 'counterfoil', 'h', '{}', now() - interval '11 minutes')`,
  );
  await database.query(
    `INSERT INTO counterfoil.discrepancies (id, check_name, kind, key, status, cause, ledger_rows, expected_minor,
       actual_minor, currency, fact_at, first_run_id, opened_at, published_hash, acknowledged_by, acknowledged_until)
     OVERRIDING SYSTEM VALUE
     SELECT id, 'session-billing', kind, format('["s-%s"]', id), status, cause, rows, 500, actual, 'EUR', now(),
            '00000000-0000-0000-0000-000000000001', now(), '7d4b9c6f55', CASE status WHEN 'acknowledged' THEN 'ann' END,
            CASE status WHEN 'acknowledged' THEN now() + interval '1 hour' END
       FROM (VALUES (17, 'missing', 'open', 'never_published', 0, NULL::numeric), (18, 'duplicate', 'open', NULL, 2, 1000),
                    (19, 'missing', 'acknowledged', 'unknown', 0, NULL), (20, 'amount', 'open', NULL, 1, 400))
         AS f (id, kind, status, cause, rows, actual)`,
  );
  await database.query(
    `INSERT INTO counterfoil.replay_events (event_id, event_name, event_created_at, status, parked_at, parked_reason, handed_at)
     VALUES ('event-1', 'services.session.completed.v1', now(), 'parked', now(), 'attempts_exhausted', NULL),
            ('event-2', 'services.session.completed.v1', now(), 'handed_to_outbox', NULL, NULL, now())`,
  );
  await database.query(
    `INSERT INTO counterfoil.requests (id, kind, scope, check_name, requested_by, reason) OVERRIDING SYSTEM VALUE
     SELECT 5, 'correction', jsonb_build_object('findings', '[20]'::jsonb, 'seen', counterfoil.correction_facts('{20}')),
            'session-billing', 'ben', 'wrong amount'
     UNION ALL SELECT 6, 'replay', '{"event_ids": ["event-1"]}', NULL, 'ben', 'again'`,
  );
  await database.query(`SELECT setval(pg_get_serial_sequence('counterfoil.requests', 'id'), 100)`);
  await database.query(
    `INSERT INTO counterfoil.freezes (id, reason, frozen_until) OVERRIDING SYSTEM VALUE VALUES (3, 'restore', now() + interval '1 hour')`,
  );
  await database.query(
    `INSERT INTO counterfoil.job_runs (run_id, job, mode, installation, outcome, pod, version, finished_at, exit_code)
     VALUES (gen_random_uuid(), 'billing-reconciliation', 'incremental', 'counterfoil', 'succeeded', 'p', '1', now(), 0),
            (gen_random_uuid(), 'event-replay', 'once', 'counterfoil', 'endpoint_down', 'p', '1', now(), 1)`,
  );
}

/** As a person would run it, and undone after; gives how many rows it gave. */
async function runSql(text: string): Promise<number> {
  await person.query('BEGIN');
  try {
    return (await person.query(text)).rowCount ?? 0;
  } finally {
    await person.query('ROLLBACK');
  }
}

const distinct = (language: string) => [
  ...new Map(
    blocks.filter((block) => block.language === language).map((block) => [block.text, block]),
  ).values(),
];

test('every runbook has a first look that can be copied', () => {
  for (const name of runbooks) {
    const look = /^## First look\n([\s\S]*?)^## /m.exec(readFileSync(join(folder, name), 'utf8'))?.[1] ?? '';
    expect([name, blocksOf(look).length > 0]).toEqual([name, true]);
  }
});

test('blocks are SQL or commands, and nothing else', () => {
  expect(blocks.filter(({ language }) => language !== 'sql' && language !== 'sh')).toEqual([]);
  expect(distinct('sql').length).toBeGreaterThan(20);
});

test.each(distinct('sql'))(
  'a person runs the SQL of $name, and it finds what is there: $text',
  async ({ text }) => {
    expect(await runSql(text)).toBeGreaterThan(0);
  },
);

test('SQL that names what is not there, or asks for more than a person may, is refused', async () => {
  await expect(runSql('SELECT colour FROM counterfoil.discrepancies')).rejects.toThrow(/colour/);
  await expect(runSql("UPDATE counterfoil.requests SET status = 'done'")).rejects.toThrow(
    /permission denied/,
  );
  await expect(runSql("SELECT counterfoil.unpark(ARRAY['event-3'], 'x')")).rejects.toThrow(/event-3/);
});

const lines = (block: Block) => block.text.split('\n');

test('every command is one that on-call can copy', () => {
  const problems = distinct('sh').flatMap((block) =>
    lines(block).flatMap((line) => {
      const problem = commandProblem(line);
      return problem === undefined ? [] : [`${block.name}: ${line}: ${problem}`];
    }),
  );
  expect(problems).toEqual([]);
});

test.each([
  ['node jobs/status/main.ts', 'not a kubectl command: on-call has no clone'],
  ['kubectl get pods', 'no namespace'],
  ['kubectl delete pods -n counterfoil', 'no verb that the runbooks use'],
  ['kubectl get secrets -n counterfoil', 'not what get is used for: secrets'],
  ['kubectl create job -n counterfoil --from=cronjob/counterfoil-gone now', 'there is no job gone'],
])('%s would be noticed', (line, problem) => {
  expect(commandProblem(line)).toBe(problem);
});

test('what runs in the pod runs', async () => {
  const commands = new Set(
    distinct('sh')
      .flatMap(lines)
      .flatMap((line) => innerCommand(line) ?? []),
  );
  expect([...commands]).toEqual(['node jobs/status/main.ts']);
  for (const command of commands) {
    const [, ...args] = command.split(' ');
    const { stdout } = await promisify(execFile)(process.execPath, args, {
      cwd: root,
      env: { DATABASE_URL: database.urlAs('counterfoil_exporter') },
    });
    expect(stdout).toMatch(/3 OPEN DISCREPANCIES/);
    expect(stdout).toContain('FROZEN');
  }
});
