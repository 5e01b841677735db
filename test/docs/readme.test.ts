/** The audit of README.md, done as written: its SQL, its file of checks, its command, on a real database. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createTestDatabase, type TestDatabase } from '../postgres/database.ts';

const repository = fileURLToPath(new URL('../..', import.meta.url));
const readme = readFileSync(join(repository, 'README.md'), 'utf8');
const audit = readme.slice(readme.indexOf('## Audit your own'), readme.indexOf('## Run it beside'));

/** The first block of a language, without its indentation. */
function block(language: string): string {
  const [, indent = '', body = ''] =
    new RegExp(`^( *)\`\`\`${language}\\n([\\s\\S]*?)^ *\`\`\``, 'm').exec(audit) ?? [];
  return body.replaceAll(new RegExp(`^${indent}`, 'gm'), '');
}

let postgres: TestDatabase;
const folder = mkdtempSync(join(tmpdir(), 'counterfoil-readme-'));
beforeAll(async () => {
  postgres = await createTestDatabase();
  await postgres.query('DROP SCHEMA counterfoil CASCADE');
  // Roles belong to the server, which another run of the tests may have left as it was.
  await postgres.query('DROP ROLE IF EXISTS counterfoil_audit');
  await postgres.query(block('sql'));
  writeFileSync(join(folder, 'checks.yaml'), block('yaml'));
});
afterAll(async () => {
  await postgres.query('DROP OWNED BY counterfoil_audit');
  await postgres.query('DROP ROLE counterfoil_audit');
  await postgres.drop();
  rmSync(folder, { recursive: true, force: true });
});

interface Entry {
  readonly msg: string;
  readonly kind?: string;
  readonly cause?: string;
  readonly exitCode?: number;
}

/** Runs the command of the README, against this database and in a folder of its own. */
function runAudit(extra: Record<string, string> = {}): { status: number | null; log: Entry[] } {
  const url = new URL(postgres.url);
  url.username = 'counterfoil_audit';
  url.password = 'change-me';
  const command = block('sh')
    .replace(/^npm ci\n/, '')
    .replace(/postgresql:[^']+/, url.href)
    .replace('CF_CHECKS_FILE=checks.yaml', `CF_CHECKS_FILE=${join(folder, 'checks.yaml')}`);
  const { stdout, status } = spawnSync('bash', ['-c', command], {
    cwd: repository,
    env: { PATH: process.env.PATH ?? '', HOME: folder, ...extra },
    encoding: 'utf8',
  });
  return {
    status,
    log: stdout
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as Entry),
  };
}

test('finds each kind of discrepancy, writes nothing, and ends with 3; clean, it ends with 0', async () => {
  await postgres.query(
    `INSERT INTO sessions (id, contract_id, mentor_id, amount_minor, currency, completed_at)
     SELECT ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, 'c', 'm', 5000, 'EUR', now() - interval '2 hours'
       FROM generate_series(1, 5) n`,
  );
  await postgres.query(
    `INSERT INTO mentor_payable_ledgers (session_id, mentor_id, amount_minor, currency, idempotency_key, created_at)
     SELECT id, mentor_id, amount_minor, currency, id, completed_at FROM sessions`,
  );
  const clean = runAudit();
  expect(clean.log.at(-1)).toMatchObject({ msg: 'run finished', exitCode: 0 });
  expect(clean.status).toBe(0);

  const session = (n: number) => `'00000000-0000-4000-8000-00000000000${n}'::uuid`;
  await postgres.query(`DELETE FROM mentor_payable_ledgers WHERE session_id = ${session(1)}`);
  await postgres.query(
    `INSERT INTO event_backups (event_id, event_name, payload, created_at)
     SELECT 'event-1', 'services.session.completed.v1', jsonb_build_object('sessionId', id), completed_at at time zone 'UTC'
       FROM sessions WHERE id = ${session(1)}`,
  );
  await postgres.query(
    `INSERT INTO mentor_payable_ledgers (session_id, mentor_id, amount_minor, currency, idempotency_key, created_at)
     SELECT session_id, mentor_id, amount_minor, currency, 'again', created_at
       FROM mentor_payable_ledgers WHERE session_id = ${session(2)}`,
  );
  await postgres.query(`UPDATE mentor_payable_ledgers SET amount_minor = 1 WHERE session_id = ${session(3)}`);
  await postgres.query(`UPDATE sessions SET completed_at = NULL WHERE id = ${session(4)}`);
  const { status, log } = runAudit();
  expect(status).toBe(3);
  const findings = log.filter((entry) => entry.msg === 'finding open');
  expect(findings.map((entry) => [entry.kind, entry.cause]).sort()).toEqual([
    ['amount', undefined],
    ['duplicate', undefined],
    ['missing', 'event_pending'],
    ['orphan', undefined],
  ]);
  const [ours] = await postgres.query(`SELECT to_regnamespace('counterfoil') AS schema`);
  expect(ours).toEqual({ schema: null });
});

test('says what is missing and how to mend it, and ends with 2', async () => {
  await postgres.query('DROP INDEX mentor_payable_ledgers_created_at');
  const { status, log } = runAudit();
  expect(status).toBe(2);
  expect(log.at(-1)?.msg).toContain('CREATE INDEX CONCURRENTLY ON "public"."mentor_payable_ledgers"');
});

test('refuses a misspelt setting by name', () => {
  const { status, log } = runAudit({ CF_MOED: 'full' });
  expect(status).toBe(2);
  expect(log.at(-1)?.msg).toContain('CF_MOED');
});
