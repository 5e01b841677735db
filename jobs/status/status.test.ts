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
    'TRUNCATE counterfoil.checks, counterfoil.discrepancies, counterfoil.replay_events, counterfoil.job_runs, counterfoil.requests, counterfoil.request_items, counterfoil.freezes CASCADE',
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
    expect((await show()).text).toMatch(
      /1 × approve or refuse the correction that \w+ asks for: SELECT counterfoil.approve\(\d+, '…'\)/,
    );
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

describe('what needs a person', () => {
  const steps = async () =>
    (JSON.parse((await show(['--json'])).text) as { forAPerson: { count: number; text: string }[] })
      .forAPerson;
  const request = async (kind: string, key: string, more: { status?: string; approvedBy?: string } = {}) =>
    await database.query(
      `INSERT INTO counterfoil.requests (kind, scope, check_name, reason, requested_by, approved_by, approved_at, status)
       SELECT $1, jsonb_build_object('findings', array_agg(id)), 'session-billing', 'x', 'ann', $3,
              CASE WHEN $3::text IS NOT NULL THEN now() END, $4
         FROM counterfoil.discrepancies WHERE key = $2`,
      [kind, key, more.approvedBy ?? null, more.status ?? 'open'],
    );
  const giveUp = async (key: string, outcome: string, error: string | null) =>
    await database.query(
      `INSERT INTO counterfoil.request_items (request_id, finding_id, status, outcome, error, finished_at)
       SELECT 1, id, 'given_up', $2, $3, clock_timestamp() FROM counterfoil.discrepancies WHERE key = $1`,
      [key, outcome, error],
    );

  it('is no pending event, and no rebuild while the jobs are at it', async () => {
    await addCheck();
    await addFinding({ kind: 'missing', key: '["1"]', cause: 'event_pending' });
    await addFinding({ kind: 'missing', key: '["2"]', cause: 'never_published' });
    await addFinding({ kind: 'missing', key: '["3"]', cause: 'processed_without_ledger' });
    await request('rebuild', '["2"]');
    expect(await steps()).toEqual([]);
  });

  it('is a rebuild that nobody asks for, and one that was given up, with its reason', async () => {
    await addCheck();
    await addFinding({ kind: 'missing', key: '["1"]', cause: 'never_published' });
    expect(await steps()).toEqual([
      { count: 1, text: 'no event was ever written: switch the repair on (CF_REPAIR), or request a rebuild' },
    ]);
    await request('rebuild', '["1"]');
    await giveUp('["1"]', 'refused', 'bill_was_reversed');
    expect(await steps()).toEqual([
      {
        count: 1,
        text: 'no event was ever written, and the service did not rebuild it (refused:bill_was_reversed): bill it from the session',
      },
    ]);
    // Of an incident before this one.
    await database.query(`UPDATE counterfoil.discrepancies SET opened_at = clock_timestamp()`);
    expect(await steps()).toEqual([]);
  });

  it('is a wrong bill until a correction waits for approval, then the approval, and nothing once it is approved', async () => {
    await addCheck();
    await addFinding({ kind: 'duplicate', key: '["1"]' });
    await addFinding({ kind: 'amount', key: '["2"]' });
    expect((await steps()).map(({ text }) => text)).toEqual([
      'billed a wrong amount: request a correction, which another person approves',
      'billed more than once: request a correction, which another person approves',
    ]);
    await request('correction', '["1"]');
    await request('correction', '["2"]', { approvedBy: 'ben' });
    expect(await steps()).toEqual([
      { count: 1, text: expect.stringMatching(/^approve or refuse the correction that ann asks for/) },
    ]);
    await database.query(`UPDATE counterfoil.requests SET status = 'refused'`);
    await giveUp('["1"]', 'no_route', 'http_404');
    expect((await steps()).map(({ text }) => text)).toContain(
      'billed more than once, and the correction was not made (no_route:http_404): correct it by hand, or request it anew',
    );
  });

  it('is an orphan, and a bill of which no event row is left', async () => {
    await addCheck();
    await addFinding({ kind: 'orphan', key: '["1"]' });
    await addFinding({ kind: 'missing', key: '["2"]', cause: 'unknown' });
    await addFinding({ kind: 'orphan', key: '["3"]', status: 'acknowledged' });
    expect((await steps()).map(({ count }) => count)).toEqual([1, 1]);
  });

  it('is a parked event, counted once, and none that waits for a release', async () => {
    await addCheck();
    await addFinding({ kind: 'missing', key: '["1"]', cause: 'event_parked' });
    await database.query(`UPDATE counterfoil.discrepancies SET event_id = 'billed'`);
    await database.query(
      `INSERT INTO counterfoil.replay_events (event_id, event_name, event_created_at, status, parked_at, parked_reason)
       VALUES ('billed', 'n', now(), 'parked', now(), 'fact_changed'),
              ('other', 'n', now(), 'parked', now(), 'not_retryable'),
              ('waits', 'n', now(), 'parked', now(), 'unknown_version')`,
    );
    expect(await steps()).toEqual([
      { count: 1, text: 'see why the event was parked, mend that, then unpark it' },
      { count: 1, text: 'see why the event was parked (not_retryable), mend that, then unpark it' },
    ]);
    const { text } = await show();
    for (const reason of ['fact_changed', 'not_retryable', 'unknown_version'])
      expect(text).toContain(`1 parked (${reason})`);
  });

  it('is what was given to the outbox more than an hour ago, and not a moment before', async () => {
    await database.query(
      `INSERT INTO counterfoil.replay_events (event_id, event_name, event_created_at, status, handed_at)
       VALUES ('e', 'n', now(), 'handed_to_outbox', now() - interval '59 minutes')`,
    );
    expect(await steps()).toEqual([]);
    expect((await show()).text).toMatch(/1 handed to the outbox, oldest .*, waiting for a bill for 59 min/);
    await database.query(`UPDATE counterfoil.replay_events SET handed_at = now() - interval '61 minutes'`);
    expect(await steps()).toMatchObject([
      { count: 1, text: expect.stringContaining('look at its publisher') },
    ]);
  });

  it('is shown beside what the service’s database holds up', async () => {
    await database.query(
      `INSERT INTO counterfoil.replay_events (event_id, event_name, event_created_at, last_outcome, last_error)
       VALUES ('a', 'n', now(), 'in_flight', '42501'), ('b', 'n', now(), 'in_flight', NULL),
              ('c', 'n', now(), 'in_flight', 'at_capacity')`,
    );
    expect((await show()).text).toContain("1 held up by the service's database");
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

  it('is asked for in the pod of the exporter, by its port, and elsewhere only by an address', async () => {
    answer = { status: 200, body: JSON.stringify({ version: '2.1.0', weight: 10, phase: 'Paused' }) };
    const port = String((server.address() as AddressInfo).port);
    const line = (shown: Shown) => shown.text.split('\n').find((text) => text.startsWith('Release'));
    expect(line(await show([], { CF_LISTEN_PORT: port }))).toBe(
      'Release: version 2.1.0, canary weight 10 %, rollout Paused',
    );
    expect(
      line(await show([], { CF_LISTEN_PORT: '1', CF_EXPORTER_URL: `http://127.0.0.1:${port}` })),
    ).toContain('2.1.0');
    expect(line(await show())).toContain('version unknown');
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
