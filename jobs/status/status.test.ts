import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';
import { readRolloutState } from './rollout-state.ts';
import { showStatus } from './show-status.ts';

let database: TestDatabase;

beforeAll(async () => {
  database = await createTestDatabase();
});
afterAll(async () => {
  await database.drop();
});
beforeEach(async () => {
  await database.query(
    'TRUNCATE counterfoil.checks, counterfoil.discrepancies, counterfoil.replay_events, counterfoil.job_runs, counterfoil.requests, counterfoil.freezes CASCADE',
  );
});

interface Shown {
  code: number;
  text: string;
  errors: string;
}

async function show(args: string[] = [], more: Record<string, string> = {}, colour = false): Promise<Shown> {
  let text = '';
  let errors = '';
  const environment = {
    DATABASE_URL: database.urlAs('counterfoil_exporter'),
    CF_INSTALLATION: 'test',
    ...more,
  };
  const code = await showStatus(args, environment, {
    write: (part) => {
      text += part;
    },
    writeError: (part) => {
      errors += part;
    },
    colour,
  });
  return { code, text, errors };
}

async function addCheck(
  verifiedThrough: string | null = new Date(Date.now() - 600_000).toISOString(),
): Promise<void> {
  await database.query(
    `INSERT INTO counterfoil.checks (name, installation, definition_hash, definition, verified_through)
     VALUES ('session-billing', 'test', 'h', '{}', $1)`,
    [verifiedThrough],
  );
}

interface Finding {
  kind: string;
  key: string;
  status?: string;
  cause?: string | null;
  expected?: number | null;
  actual?: number | null;
  currency?: string | null;
}

async function addFinding(finding: Finding): Promise<void> {
  const status = finding.status ?? 'open';
  await database.query(
    `INSERT INTO counterfoil.discrepancies
       (check_name, kind, key, status, cause, ledger_rows, expected_minor, actual_minor, currency, fact_at,
        first_run_id, opened_at, acknowledged_until)
     VALUES ('session-billing', $1, $2, $3, $4, 0, $5, $6, $7, '2026-11-20 09:00:00+00',
             '00000000-0000-0000-0000-000000000001', now(), $8)`,
    [
      finding.kind,
      finding.key,
      status,
      finding.cause ?? null,
      finding.expected ?? null,
      finding.actual ?? null,
      finding.currency ?? null,
      status === 'acknowledged' ? '2999-01-01' : null,
    ],
  );
}

describe('the verdict', () => {
  it('says NOT VERIFIED, and never clean, while no check has run', async () => {
    expect((await show()).text).toContain('NOT VERIFIED');
    await addCheck(null);
    expect((await show()).text).toContain('NOT VERIFIED');
  });

  it('says CLEAN once a check has verified and nothing is open', async () => {
    await addCheck();
    await addFinding({ kind: 'missing', key: '["1"]', status: 'resolved', cause: 'event_pending' });
    const { text, code } = await show();
    expect(text).toContain('CLEAN');
    expect(text).toContain('Does it need you?  No.');
    expect(code).toBe(0);
  });

  it('says NOT VERIFIED when the last look is more than two hours old, and CLEAN just before', async () => {
    await addCheck(new Date(Date.now() - 7_260_000).toISOString());
    expect((await show()).text).toContain('NOT VERIFIED');
    await database.query(`UPDATE counterfoil.checks SET verified_through = now() - interval '119 minutes'`);
    expect((await show()).text).toContain('CLEAN');
  });

  it('says SUSPECTED, and not clean, while findings wait for their second look', async () => {
    await addCheck();
    await addFinding({ kind: 'missing', key: '["1"]', cause: 'event_pending', status: 'suspected' });
    const { text } = await show();
    expect(text).toContain('1 SUSPECTED');
    expect(text).not.toContain('CLEAN');
  });

  it('counts open discrepancies, and neither suspected nor acknowledged ones', async () => {
    await addCheck();
    await addFinding({ kind: 'missing', key: '["1"]', cause: 'event_pending' });
    await addFinding({ kind: 'missing', key: '["2"]', cause: 'event_pending' });
    await addFinding({ kind: 'missing', key: '["3"]', cause: 'event_pending', status: 'suspected' });
    await addFinding({ kind: 'orphan', key: '["4"]', status: 'acknowledged' });
    expect((await show()).text).toContain('2 OPEN DISCREPANCIES');
  });
});

describe('the screen', () => {
  it('answers in the order in which somebody at 3 a.m. asks', async () => {
    await addCheck();
    await addFinding({
      kind: 'missing',
      key: '["1"]',
      cause: 'never_published',
      expected: 4200,
      currency: 'EUR',
    });
    await database.query(
      `INSERT INTO counterfoil.job_runs (run_id, job, mode, installation, outcome, pod, version, finished_at)
       VALUES (gen_random_uuid(), 'billing-reconciliation', 'tail', 'test', 'succeeded', 'p', '1', now())`,
    );
    const { text } = await show();
    const order = [
      '1 OPEN DISCREPANCY',
      'Money at risk',
      'how many',
      'In the last hour',
      'What the machine is doing',
      'Does it need you?  Yes',
      'Release: version',
      'Look closer',
    ];
    const places = order.map((words) => text.indexOf(words));
    expect(places).toEqual([...places].sort((a, b) => a - b));
    expect(places[0]).toBeGreaterThan(-1);
    expect(text).toContain('Money at risk: 42.00 EUR');
    expect(text).toContain('1 × no event was ever written');
    expect(text).toContain('billing-reconciliation tail: succeeded');
  });

  it('says that the money is unknown, and never 0, where no amounts are compared', async () => {
    await addCheck();
    await addFinding({ kind: 'missing', key: '["1"]', cause: 'event_pending' });
    const { text } = await show();
    expect(text).toMatch(/event_pending +unknown/);
    expect(text).toContain('Money at risk: unknown for 1');
  });

  it('keeps currencies apart and counts what is too much for a wrong amount', async () => {
    await addCheck();
    await addFinding({ kind: 'amount', key: '["1"]', expected: 100, actual: 130, currency: 'EUR' });
    await addFinding({ kind: 'amount', key: '["2"]', expected: 100, actual: 90, currency: 'EUR' });
    await addFinding({ kind: 'orphan', key: '["3"]', actual: 500, currency: 'JPY' });
    const { text } = await show();
    expect(text).toContain('0.40 EUR');
    expect(text).toContain('Money at risk: 0.40 EUR, 500 JPY');
  });

  it('names how many amounts are unknown beside those that are known', async () => {
    await addCheck();
    await addFinding({ kind: 'missing', key: '["1"]', cause: 'unknown', expected: 4200, currency: 'EUR' });
    await addFinding({ kind: 'missing', key: '["2"]', cause: 'unknown', currency: 'EUR' });
    // Of the same number in another currency: by how much it is wrong, nobody can tell.
    await addFinding({ kind: 'amount', key: '["3"]', expected: 100, actual: 100, currency: 'EUR' });
    const { text } = await show();
    expect(text).toContain('Money at risk: 42.00 EUR, unknown for 2');
    expect(text).not.toContain('0.00 EUR');
  });

  it('says that replay has never run while findings wait for it', async () => {
    await addCheck();
    await addFinding({ kind: 'missing', key: '["1"]', cause: 'event_pending' });
    expect((await show()).text).toContain('nothing taken in, 1 findings wait for it, and it has never run');
  });

  it('shows minor units where the currency is not one that has a known number of digits', async () => {
    await addCheck();
    await addFinding({ kind: 'orphan', key: '["1"]', actual: 1_234_567, currency: 'points' });
    await addFinding({ kind: 'orphan', key: '["2"]', actual: 1_234_567, currency: 'KWD' });
    const { text } = await show();
    expect(text).toContain('1234567 points (minor units)');
    expect(text).toContain('1,234.567 KWD');
  });

  it('leaves to the machine what replay mends by itself', async () => {
    await addCheck();
    await addFinding({ kind: 'missing', key: '["1"]', cause: 'event_pending' });
    expect((await show()).text).toContain('Does it need you?  No.');
  });

  it('asks for approval of a correction that has none', async () => {
    await database.query(
      `INSERT INTO counterfoil.requests (kind, scope, reason) VALUES ('correction', '{}', 'wrong amount')`,
    );
    expect((await show()).text).toContain('1 × approve or refuse the correction request');
  });

  it('shows a freeze until it ends or is released', async () => {
    await database.query(
      `INSERT INTO counterfoil.freezes (reason, frozen_until) VALUES ('rollback of v2', now() + interval '1 hour')`,
    );
    expect((await show()).text).toMatch(/FROZEN until .* rollback of v2/);
    await database.query('UPDATE counterfoil.freezes SET released_at = now()');
    expect((await show()).text).not.toContain('FROZEN');
  });

  it('shows what is parked with its reason and what is held back by whom', async () => {
    await addCheck();
    await database.query(`UPDATE counterfoil.checks SET held_back_by = 'pid 7, application report'`);
    await database.query(
      `INSERT INTO counterfoil.replay_events (event_id, event_name, event_created_at, status, parked_at, parked_reason)
       VALUES ('e1', 'n', now(), 'parked', now(), 'no_listener'), ('e2', 'n', now(), 'due', null, null)`,
    );
    const { text } = await show();
    expect(text).toContain('1 parked (no_listener)');
    expect(text).toContain('1 due');
    expect(text).toContain('held back by pid 7, application report');
  });

  it('tells a run that is still going from one that has not given a sign for long', async () => {
    await database.query(
      `INSERT INTO counterfoil.job_runs (run_id, job, mode, installation, outcome, pod, version, started_at, seen_at)
       VALUES (gen_random_uuid(), 'event-replay', 'once', 'test', 'running', 'p', '1', now() - interval '3 days', now() - interval '3 days')`,
    );
    expect((await show()).text).toContain('event-replay once: running, last sign 3 d ago');
  });

  it('leaves out the runs of another installation', async () => {
    await database.query(
      `INSERT INTO counterfoil.job_runs (run_id, job, mode, installation, outcome, pod, version, finished_at)
       VALUES (gen_random_uuid(), 'event-replay', 'once', 'other', 'failed', 'p', '1', now())`,
    );
    expect((await show()).text).toContain('no run has been recorded');
  });

  it('uses colours on a terminal alone', async () => {
    const startOfColour = String.fromCharCode(27);
    expect((await show([], {}, true)).text).toContain(`${startOfColour}[1m`);
    expect((await show()).text).not.toContain(startOfColour);
  });
});

describe('the command', () => {
  it('prints one JSON object with --json', async () => {
    await addCheck();
    const status = JSON.parse((await show(['--json'])).text);
    expect(status.verdict).toBe('clean');
    expect(status.rollout).toEqual({ version: 'unknown', weight: 'unknown', phase: 'unknown' });
  });

  it('ends with 3 for open discrepancies only where that was asked for', async () => {
    await addCheck();
    await addFinding({ kind: 'duplicate', key: '["1"]' });
    expect((await show()).code).toBe(0);
    expect((await show([], { CF_EXIT_ON_FINDINGS: 'true' })).code).toBe(3);
    await database.query(`UPDATE counterfoil.discrepancies SET status = 'resolved'`);
    expect((await show([], { CF_EXIT_ON_FINDINGS: 'true' })).code).toBe(0);
  });

  it('works among the settings of another process', async () => {
    expect((await show([], { CF_GRACE_SECONDS: '5', CF_REPLAY_TOKEN: 'x' })).code).toBe(0);
  });

  it('explains itself with --help and refuses an unknown flag', async () => {
    expect((await show(['--help'])).text).toContain('node jobs/status/main.ts');
    const refused = await show(['--nonsense']);
    expect(refused.code).toBe(2);
    expect(refused.errors).toContain('--nonsense');
  });

  it('says what is wrong with the settings, and never their values', async () => {
    const refused = await show([], { DATABASE_URL: 'canary-secret' });
    expect(refused.code).toBe(2);
    expect(refused.errors).toContain('DATABASE_URL');
    expect(refused.errors).not.toContain('canary');
  });

  it('says that the state schema is not there, with an exit code that a retry may follow', async () => {
    const refused = await show([], { CF_SCHEMA: 'not_there' });
    expect(refused.code).toBe(1);
    expect(refused.errors).toContain('schema_absent');
  });
});

describe('the state of the release', () => {
  let server: Server;
  let answer: { status: number; body: string };

  beforeAll(async () => {
    server = createServer((_request, response) => {
      response.writeHead(answer.status, { 'content-type': 'application/json' }).end(answer.body);
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  });
  afterAll(async () => {
    await new Promise((resolve) => server.close(resolve));
  });
  const ask = () => readRolloutState(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);

  it('comes from the exporter where there is one', async () => {
    answer = { status: 200, body: JSON.stringify({ version: '2.1.0', weight: 10, phase: 'Paused' }) };
    expect(await ask()).toEqual({ version: '2.1.0', weight: '10 %', phase: 'Paused' });
  });

  it.each([
    ['an error', { status: 500, body: '{}' }],
    ['garbage', { status: 200, body: 'not json' }],
    ['something else', { status: 200, body: '{"version": 2}' }],
  ])('reads "unknown" when the exporter answers %s', async (_what, given) => {
    answer = given;
    expect((await ask()).version).toBe('unknown');
  });

  it('reads "unknown" when the exporter is not there', async () => {
    expect((await readRolloutState('http://127.0.0.1:1')).weight).toBe('unknown');
  });
});
