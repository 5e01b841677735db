import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { addCheck, addFinding, addRun, scrapeOf } from '../../test/builders/exporter.ts';
import { openDatabase } from '../../test/builders/open-database.ts';
import { emptyTables } from '../../test/builders/reconciliation.ts';
import { nonZero, parseSeries, sampleOf } from '../../test/builders/scrape.ts';
import { minutesAgo } from '../../test/builders/service.ts';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';
import type { Database } from '../runtime/database.ts';
import { StateCollection } from './state.ts';

let postgres: TestDatabase;
let database: Database;
beforeAll(async () => {
  postgres = await createTestDatabase();
  database = openDatabase(postgres.urlAs('counterfoil_exporter'));
});
afterAll(async () => {
  await database.close();
  await postgres.drop();
});
beforeEach(async () => {
  await emptyTables(postgres);
  await postgres.query('TRUNCATE counterfoil.freezes, counterfoil.replay_source');
});

const open = (installation = 'counterfoil') =>
  new StateCollection(database, { installation, statementTimeoutMs: 1_000 });

const scrape = async (state = open()): Promise<string> =>
  await scrapeOf('state', await state.read(AbortSignal.timeout(10_000)));

const seconds = (time: string) => Date.parse(time) / 1000;

describe('an empty state', () => {
  test('shows every set of closed words at 0, and no time that has not come', async () => {
    await addCheck(postgres);
    const series = parseSeries(await scrape());
    const declared = 'counterfoil_check_declared_timestamp_seconds';
    expect(
      series.filter(
        ({ name, value }) => value !== 0 && name !== declared && !/_collection_|_info/.test(name),
      ),
    ).toEqual([]);
    const count = (name: string) => series.filter((one) => one.name === name).length;
    expect(count('billing_discrepancy_count')).toBe(5 + 3);
    expect(count('billing_discrepancy_total')).toBe(4);
    expect(count('counterfoil_findings')).toBe(4 * 3);
    expect(count('counterfoil_parked_events')).toBe(7);
    expect(count('counterfoil_replay_events')).toBe(3);
    expect(count('counterfoil_open_requests')).toBe(4 * 2);
    const times = series.map(({ name }) => name).filter((name) => name.endsWith('_timestamp_seconds'));
    expect(times.filter((name) => !name.startsWith('counterfoil_collection'))).toEqual([
      declared,
      'counterfoil_frozen_until_timestamp_seconds',
    ]);
  });

  test('says nothing of a check that no run has seen, which would look as if it were clean', async () => {
    expect(nonZero(await scrape(), 'billing_discrepancy_count')).toEqual([]);
    expect(sampleOf(await scrape(), 'counterfoil_implausible')).toBeUndefined();
  });
});

describe('findings', () => {
  test('that are open are counted by cause, and suspected, resolved and waived ones are not', async () => {
    await addCheck(postgres);
    await addFinding(postgres, { cause: 'event_pending' });
    await addFinding(postgres, { cause: 'event_pending' });
    await addFinding(postgres, { cause: 'never_published' });
    await addFinding(postgres, { cause: null });
    await addFinding(postgres, { kind: 'duplicate' });
    await addFinding(postgres, { status: 'suspected', cause: 'event_parked' });
    await addFinding(postgres, { status: 'resolved', cause: 'event_parked' });
    await addFinding(postgres, { status: 'waived', cause: 'event_parked' });
    const text = await scrape();
    expect(nonZero(text, 'billing_discrepancy_count')).toEqual([
      'session-billing duplicate none: 1',
      'session-billing missing event_pending: 2',
      'session-billing missing never_published: 1',
      'session-billing missing unknown: 1',
    ]);
    expect(nonZero(text, 'counterfoil_findings')).toEqual([
      'session-billing duplicate open: 1',
      'session-billing missing open: 4',
      'session-billing missing suspected: 1',
    ]);
  });

  test('that somebody has acknowledged do not page, until the acknowledgement ends', async () => {
    await addCheck(postgres);
    const until = new Date(Date.now() + 600_000).toISOString();
    await addFinding(postgres, { kind: 'orphan', status: 'acknowledged', acknowledgedUntil: until });
    const before = await scrape();
    expect(nonZero(before, 'billing_discrepancy_count')).toEqual([]);
    expect(sampleOf(before, 'counterfoil_next_acknowledgement_end_timestamp_seconds')).toBeCloseTo(
      seconds(until),
      2,
    );
    expect(sampleOf(before, 'counterfoil_findings_for_a_person')).toBe(0);
    await postgres.query(`UPDATE counterfoil.discrepancies SET acknowledged_until = now()`);
    const after = await scrape();
    // No run has come by yet: it pages all the same.
    expect(nonZero(after, 'billing_discrepancy_count')).toEqual(['session-billing orphan none: 1']);
    expect(sampleOf(after, 'counterfoil_next_acknowledgement_end_timestamp_seconds')).toBeUndefined();
    expect(sampleOf(after, 'counterfoil_findings_for_a_person')).toBe(1);
  });

  test('are counted for ever: opened, opened again, and resolved', async () => {
    await addCheck(postgres);
    const state = open();
    const total = async () => {
      const text = await scrape(state);
      return [
        sampleOf(text, 'billing_discrepancy_total', { kind: 'missing' }),
        sampleOf(text, 'counterfoil_findings_resolved_total'),
      ];
    };
    await addFinding(postgres, { status: 'suspected' });
    expect(await total()).toEqual([0, 0]);
    const id = await addFinding(postgres, { status: 'open' });
    expect(await total()).toEqual([1, 0]);
    const become = async (status: string, reopened: number) => {
      await postgres.query(
        `UPDATE counterfoil.discrepancies SET status = $2, reopen_count = $3 WHERE id = $1`,
        [id, status, reopened],
      );
    };
    await become('resolved', 0);
    expect(await total()).toEqual([1, 1]);
    // Seen again, once: a total never goes back, or it would look like a counter that was reset.
    await become('suspected', 0);
    expect(await total()).toEqual([1, 1]);
    await become('open', 1);
    expect(await total()).toEqual([2, 1]);
    await become('resolved', 1);
    expect(await total()).toEqual([2, 2]);
    await become('waived', 1);
    expect(await total()).toEqual([2, 2]);
  });

  test('that are open tell since when, whatever is only suspected before them', async () => {
    await addCheck(postgres);
    const at = minutesAgo(30);
    await addFinding(postgres, { factAt: at });
    await addFinding(postgres, { factAt: minutesAgo(20) });
    await addFinding(postgres, { factAt: minutesAgo(90), status: 'suspected' });
    expect(sampleOf(await scrape(), 'counterfoil_oldest_open_finding_timestamp_seconds')).toBeCloseTo(
      seconds(at),
      2,
    );
  });

  test('need a person unless a job is at work on them', async () => {
    await addCheck(postgres);
    const person = async () => sampleOf(await scrape(), 'counterfoil_findings_for_a_person');
    await addFinding(postgres, { cause: 'event_pending' });
    await addFinding(postgres, { status: 'suspected', kind: 'orphan' });
    expect(await person()).toBe(0);
    await addFinding(postgres, { cause: 'event_parked' });
    const rebuilt = await addFinding(postgres, { cause: 'never_published' });
    const wrong = await addFinding(postgres, { kind: 'amount' });
    await addFinding(postgres, { kind: 'orphan' });
    expect(await person()).toBe(4);
    await postgres.query(
      `INSERT INTO counterfoil.requests (kind, scope, check_name, reason, requested_by)
       VALUES ('rebuild', '{"findings": []}', 'session-billing', 'x', 'job'),
              ('correction', jsonb_build_object('findings', jsonb_build_array($1::bigint)), 'session-billing', 'x', 'ann')`,
      [wrong],
    );
    // The rebuild is asked for; the correction still waits for another person.
    expect(await person()).toBe(3);
    await postgres.query(
      `UPDATE counterfoil.requests SET approved_by = 'ben', approved_at = now() WHERE kind = 'correction'`,
    );
    expect(await person()).toBe(2);
    await postgres.query(
      `INSERT INTO counterfoil.request_items (request_id, finding_id, status, outcome, finished_at)
       VALUES (1, $1, 'given_up', 'refused', now() + interval '1 second')`,
      [rebuilt],
    );
    expect(await person()).toBe(3);
  });
});

describe('money at risk', () => {
  test('is told per currency, and what nobody knows is counted and never 0', async () => {
    await addCheck(postgres);
    await addFinding(postgres, { expectedMinor: '214130', currency: 'EUR' });
    await addFinding(postgres, { expectedMinor: '70', currency: 'EUR' });
    await addFinding(postgres, { expectedMinor: '500', currency: 'JPY' });
    await addFinding(postgres, {
      kind: 'duplicate',
      expectedMinor: '100',
      actualMinor: '200',
      currency: 'EUR',
    });
    await addFinding(postgres, { kind: 'orphan', actualMinor: '1', currency: 'EUR' });
    await addFinding(postgres, { expectedMinor: null, currency: 'EUR' });
    await addFinding(postgres, { kind: 'amount', expectedMinor: '5', actualMinor: '5', currency: 'USD' });
    await addFinding(postgres, { expectedMinor: '900', currency: 'EUR', status: 'suspected' });
    await addFinding(postgres, { expectedMinor: '900', currency: 'EUR', status: 'acknowledged' });
    const text = await scrape();
    expect(nonZero(text, 'counterfoil_money_at_risk_minor')).toEqual([
      'session-billing EUR: 214301',
      'session-billing JPY: 500',
    ]);
    expect(sampleOf(text, 'counterfoil_findings_of_unknown_amount')).toBe(2);
  });

  test('of a currency that is none becomes no label', async () => {
    await addCheck(postgres);
    await addFinding(postgres, { expectedMinor: '5', currency: 'Erika Mustermann' });
    const text = await scrape();
    expect(text).not.toContain('Erika');
    expect(sampleOf(text, 'counterfoil_findings_of_unknown_amount')).toBe(1);
  });

  test('of more currencies than there may be series is unknown, and not left out', async () => {
    await addCheck(postgres);
    for (let n = 0; n < 53; n += 1) await addFinding(postgres, { expectedMinor: '5', currency: `X${n}` });
    const text = await scrape();
    expect(nonZero(text, 'counterfoil_money_at_risk_minor')).toHaveLength(50);
    expect(sampleOf(text, 'counterfoil_findings_of_unknown_amount')).toBe(3);
  });
});

describe('checks', () => {
  test('tell how far they are verified, and what holds them back', async () => {
    await addCheck(postgres, { verifiedThrough: '2026-11-27T10:00:00Z', heldBackBy: 'pid 1' });
    await addCheck(postgres, { name: 'never-verified' });
    const text = await scrape();
    const through = 'counterfoil_verified_through_timestamp_seconds';
    expect(sampleOf(text, through, { check: 'session-billing' })).toBe(seconds('2026-11-27T10:00:00Z'));
    expect(sampleOf(text, through, { check: 'never-verified' })).toBeUndefined();
    expect(sampleOf(text, 'counterfoil_check_declared_timestamp_seconds', { check: 'never-verified' })).toBe(
      seconds('2026-01-02T00:00:00Z'),
    );
    expect(nonZero(text, 'counterfoil_check_held_back')).toEqual(['session-billing: 1']);
  });

  test('of another installation are left to its own exporter, with their findings and requests', async () => {
    await addCheck(postgres, { name: 'theirs', installation: 'other' });
    await addFinding(postgres, { check: 'theirs', kind: 'orphan' });
    await postgres.query(
      `INSERT INTO counterfoil.requests (kind, scope, check_name, reason) VALUES ('rebuild', '{"findings": [1]}', 'theirs', 'x')`,
    );
    await addRun(postgres, { installation: 'other' });
    await postgres.query(
      `INSERT INTO counterfoil.replay_source (installation, events_table) VALUES ('other', 'theirs')`,
    );
    await postgres.query(
      `INSERT INTO counterfoil.replay_events (event_id, event_name, event_created_at) VALUES ('a', 'b', now())`,
    );
    expect(await scrape()).not.toContain('theirs');
    expect(nonZero(await scrape(), 'counterfoil_open_requests')).toEqual([]);
    expect(nonZero(await scrape(), 'counterfoil_replay_events')).toEqual([]);
    expect(sampleOf(await scrape(), 'counterfoil_job_last_start_timestamp_seconds')).toBeUndefined();
    const theirs = await scrape(open('other'));
    expect(nonZero(theirs, 'billing_discrepancy_count')).toEqual(['theirs orphan none: 1']);
    expect(nonZero(theirs, 'counterfoil_open_requests')).toEqual(['rebuild no: 1']);
    expect(nonZero(theirs, 'counterfoil_replay_events')).toEqual(['due: 1']);
  });
});

describe('runs', () => {
  const labels = { counterfoil_job: 'billing-reconciliation', mode: 'tail' };
  const since = 'counterfoil_job_runs_since_success';

  test('tell the outcome of the newest that has ended, and when one last succeeded', async () => {
    await addRun(postgres, { outcome: 'succeeded', secondsAgo: 400 });
    await addRun(postgres, { outcome: 'failed', secondsAgo: 300 });
    await addRun(postgres, { outcome: 'skipped', secondsAgo: 200 });
    await addRun(postgres, { outcome: 'partial', secondsAgo: 100 });
    await addRun(postgres, { mode: 'incremental', outcome: 'refused', secondsAgo: 50 });
    const text = await scrape();
    expect(nonZero(text, 'counterfoil_job_last_outcome')).toEqual([
      'billing-reconciliation incremental refused: 1',
      'billing-reconciliation tail partial: 1',
    ]);
    expect(parseSeries(text).filter(({ name }) => name === 'counterfoil_job_last_outcome')).toHaveLength(14);
    const now = Date.now() / 1000;
    expect(sampleOf(text, 'counterfoil_job_last_success_timestamp_seconds', labels)).toBeCloseTo(
      now - 399,
      -1,
    );
    expect(sampleOf(text, 'counterfoil_job_last_start_timestamp_seconds', labels)).toBeCloseTo(now - 100, -1);
    expect(sampleOf(text, 'counterfoil_job_last_duration_seconds', labels)).toBe(1);
    // The one that stood by counts for nothing.
    expect(sampleOf(text, since, labels)).toBe(2);
    expect(
      sampleOf(text, 'counterfoil_job_last_success_timestamp_seconds', { mode: 'incremental' }),
    ).toBeUndefined();
    expect(sampleOf(text, since, { mode: 'incremental' })).toBe(1);
  });

  test('that are at work tell their last sign of life, and one that was killed no longer than until the next', async () => {
    const seen = async () => sampleOf(await scrape(), 'counterfoil_job_seen_timestamp_seconds', labels);
    await addRun(postgres, { outcome: 'succeeded', secondsAgo: 600 });
    expect(await seen()).toBeUndefined();
    await addRun(postgres, { outcome: 'running', secondsAgo: 500 });
    expect(await seen()).toBeCloseTo(Date.now() / 1000 - 499, -1);
    await addRun(postgres, { outcome: 'skipped', secondsAgo: 400 });
    expect(await seen()).toBeDefined();
    await addRun(postgres, { outcome: 'failed', secondsAgo: 300 });
    expect(await seen()).toBeUndefined();
  });

  test('that found more than can be true say so until one of the same mode finds otherwise', async () => {
    await addCheck(postgres);
    const implausible = async () => sampleOf(await scrape(), 'counterfoil_implausible');
    await addRun(postgres, { mode: 'incremental', outcome: 'implausible', secondsAgo: 500 });
    await addRun(postgres, { mode: 'incremental', outcome: 'skipped', secondsAgo: 400 });
    await addRun(postgres, { mode: 'tail', outcome: 'succeeded', secondsAgo: 300 });
    expect(await implausible()).toBe(1);
    await addRun(postgres, { mode: 'incremental', outcome: 'succeeded', secondsAgo: 200 });
    expect(await implausible()).toBe(0);
  });

  test('are found however many there are of each', async () => {
    await postgres.query(
      `INSERT INTO counterfoil.job_runs (run_id, job, mode, installation, outcome, pod, version, started_at, finished_at)
       SELECT gen_random_uuid(), 'job-' || n % 3, 'mode-' || n % 2, 'counterfoil', 'failed', 'p', '1',
              now() - n * interval '1 minute', now()
         FROM generate_series(1, 30000) AS n`,
    );
    const text = await scrape();
    expect(nonZero(text, 'counterfoil_job_last_outcome')).toHaveLength(6);
    expect(sampleOf(text, since, { counterfoil_job: 'job-0', mode: 'mode-0' })).toBe(5000);
  });
});

describe('replay', () => {
  const addReplayed = async (id: string, columns: string, values: string) => {
    await postgres.query(
      `INSERT INTO counterfoil.replay_events (event_id, event_name, event_created_at, ${columns}) VALUES ($1, 'e', now(), ${values})`,
      [id],
    );
  };

  test('shows what it has in hand, and what it has given up by reason', async () => {
    await addReplayed('due-1', 'status', `'due'`);
    await addReplayed('due-2', 'status', `'due'`);
    await addReplayed('claimed', 'status, claim_token, lease_until', `'claimed', gen_random_uuid(), now()`);
    await addReplayed('handed', 'status, handed_at', `'handed_to_outbox', '2026-11-27T08:00:00Z'`);
    await addReplayed(
      'parked-1',
      'status, parked_at, parked_reason',
      `'parked', '2026-11-27T07:00:00Z', 'no_listener'`,
    );
    await addReplayed('parked-2', 'status, parked_at, parked_reason', `'parked', now(), 'fact_changed'`);
    const text = await scrape();
    expect(nonZero(text, 'counterfoil_replay_events')).toEqual([
      'claimed: 1',
      'due: 2',
      'handed_to_outbox: 1',
    ]);
    expect(nonZero(text, 'counterfoil_parked_events')).toEqual(['fact_changed: 1', 'no_listener: 1']);
    expect(sampleOf(text, 'counterfoil_oldest_parked_event_timestamp_seconds')).toBe(
      seconds('2026-11-27T07:00:00Z'),
    );
    expect(sampleOf(text, 'counterfoil_oldest_handed_event_timestamp_seconds')).toBe(
      seconds('2026-11-27T08:00:00Z'),
    );
  });

  test('counts what it brings to its end, and never back when rows are purged', async () => {
    const state = open();
    const total = async () => sampleOf(await scrape(state), 'counterfoil_replayed_events_total');
    await addReplayed('before', 'status, finished_at', `'done', now() - interval '1 day'`);
    expect(await total()).toBe(0);
    await addReplayed('one', 'status, finished_at', `'done', clock_timestamp()`);
    await addReplayed('two', 'status, finished_at', `'done', clock_timestamp()`);
    expect(await total()).toBe(2);
    await postgres.query(`DELETE FROM counterfoil.replay_events WHERE event_id <> 'two'`);
    expect(await total()).toBe(2);
  });
});

describe('requests and freezes', () => {
  test('that are not done are counted, those that wait for an approval apart', async () => {
    await postgres.query(
      `INSERT INTO counterfoil.requests (kind, scope, reason, requested_by, approved_by, status, requested_at)
       VALUES ('replay', '{}', 'x', 'ann', NULL, 'open', '2026-11-27T06:00:00Z'),
              ('replay', '{}', 'x', 'ann', NULL, 'taken', '2026-11-27T07:00:00Z'),
              ('replay', '{}', 'x', 'ann', NULL, 'done', '2026-11-27T05:00:00Z'),
              ('correction', '{}', 'x', 'ann', NULL, 'open', now()),
              ('correction', '{}', 'x', 'ann', 'ben', 'open', now()),
              ('verify', '{}', 'x', 'ann', NULL, 'refused', now())`,
    );
    const text = await scrape();
    expect(nonZero(text, 'counterfoil_open_requests')).toEqual([
      'correction no: 1',
      'correction yes: 1',
      'replay no: 2',
    ]);
    const oldest = 'counterfoil_oldest_open_request_timestamp_seconds';
    expect(sampleOf(text, oldest, { kind: 'replay' })).toBe(seconds('2026-11-27T06:00:00Z'));
    expect(sampleOf(text, oldest, { kind: 'verify' })).toBeUndefined();
  });

  test('a freeze that lives tells its end, and one that has ended or was released does not', async () => {
    const until = async () => sampleOf(await scrape(), 'counterfoil_frozen_until_timestamp_seconds');
    await postgres.query(
      `INSERT INTO counterfoil.freezes (reason, frozen_until, released_at)
       VALUES ('x', now() - interval '1 second', NULL), ('x', now() + interval '1 hour', now())`,
    );
    expect(await until()).toBe(0);
    const end = new Date(Date.now() + 600_000).toISOString();
    await postgres.query(`INSERT INTO counterfoil.freezes (reason, frozen_until) VALUES ('x', $1)`, [end]);
    expect(await until()).toBeCloseTo(seconds(end), 2);
  });
});

test('none of it can be written with this role, and reading takes no write', async () => {
  await expect(
    database.transaction({}, async (transaction) => await transaction.execute('DELETE FROM discrepancies')),
  ).rejects.toMatchObject({ id: 'grant_missing' });
});
