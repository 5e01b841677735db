import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { sessionBilling } from '../../test/builders/checks.ts';
import { addCheck, addFinding } from '../../test/builders/exporter.ts';
import { openDatabase } from '../../test/builders/open-database.ts';
import { emptyTables } from '../../test/builders/reconciliation.ts';
import { minutesAgo } from '../../test/builders/service.ts';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';
import { parseChecks } from '../checks/parse.ts';
import type { Database } from '../runtime/database.ts';
import type { RolloutView } from './collection.ts';
import { Gate, type GateAnswer, GateBusy, type GateEvidence, judge } from './gate.ts';
import { ServiceTables } from './service-tables.ts';

const thresholds = { billingShare: 0.01, lossShare: 0.005, minimumBad: 3, minimumJudged: 400, sample: 149 };

/** What was seen of a good version, with what matters to a test. */
function evidence(
  seen: {
    readonly published?: number;
    readonly lost?: number;
    readonly judged?: number;
    readonly missing?: number;
    readonly duplicate?: number;
    readonly amount?: number | null;
    readonly open?: number;
    readonly suspected?: number;
    readonly notMeasured?: readonly string[];
  } = {},
): GateEvidence {
  return {
    hash: 'v',
    at: null,
    windowSeconds: 60,
    windowWhole: true,
    events: {
      published: seen.published ?? 1_000,
      lost: seen.lost ?? 0,
      firstAt: null,
      firstAgeSeconds: null,
    },
    billing: [
      {
        check: 'a',
        judged: seen.judged ?? 1_000,
        discrepancies: {
          missing: seen.missing ?? 0,
          duplicate: seen.duplicate ?? 0,
          amount: seen.amount === undefined ? 0 : seen.amount,
        },
        findings: { suspected: seen.suspected ?? 0, open: seen.open ?? 0 },
        verifiedThrough: null,
        verifiedThroughAgeSeconds: null,
      },
    ],
    notMeasured: seen.notMeasured ?? [],
    thresholds,
    rollout: null,
  };
}

describe('the verdict', () => {
  test.each<[string, Parameters<typeof evidence>[0], string]>([
    ['nothing is wrong', {}, 'pass'],
    ['exactly the share of wrong bills that is allowed', { missing: 10 }, 'pass'],
    ['one wrong bill more', { missing: 11 }, 'fail'],
    ['wrong bills of several kinds add up', { missing: 4, duplicate: 4, amount: 3 }, 'fail'],
    ['amounts that nobody compares count for nothing', { missing: 10, amount: null }, 'pass'],
    ['what is on record counts although all is well now', { open: 11 }, 'fail'],
    ['suspected and open ones together', { open: 6, suspected: 5 }, 'fail'],
    ['the same bill, wrong now and on record, counts once', { missing: 10, open: 10 }, 'pass'],
    ['exactly the share of lost events that is allowed', { lost: 5 }, 'pass'],
    ['one lost event more', { lost: 6 }, 'fail'],
    ['two bad ones of 400, which is no share to judge by', { judged: 400, missing: 2 }, 'pass'],
    ['five of 400', { judged: 400, missing: 5 }, 'fail'],
    ['five of 399: too few to fail, and too bad to pass', { judged: 399, missing: 5 }, 'not_enough_data'],
    ['two of 150: too few to say so', { judged: 150, missing: 2 }, 'not_enough_data'],
    ['149 judged and nothing wrong', { judged: 149 }, 'pass'],
    ['148 judged and nothing wrong', { judged: 148 }, 'not_enough_data'],
    ['enough bills and too few events', { published: 148 }, 'not_enough_data'],
    ['nothing at all', { published: 0, judged: 0 }, 'not_enough_data'],
    ['something that is not measured', { notMeasured: ['no index'] }, 'not_measured'],
    ['a loss that is sure, although bills are not measured', { lost: 50, notMeasured: ['x'] }, 'fail'],
    [
      'a loss of too few, and bills not measured',
      { published: 10, lost: 9, notMeasured: ['x'] },
      'not_measured',
    ],
  ])('%s', (_, seen, verdict) => {
    expect(judge(evidence(seen)).verdict).toBe(verdict);
  });

  test('says what it rests on', () => {
    expect(judge(evidence({ missing: 11, lost: 6 })).reasons).toEqual([
      'lost events: 6 of 1000',
      'wrong bills of a: 11 of 1000',
    ]);
    expect(judge(evidence({ judged: 10 })).reasons).toEqual([
      'wrong bills of a: 0 of 10: too few to pass (at least 149)',
    ]);
  });

  test('does not wait for a check whose events this version never publishes', () => {
    const one = evidence();
    const [billing] = one.billing;
    if (billing === undefined) throw new Error('no evidence');
    const other = { ...billing, check: 'b', judged: 0 };
    expect(judge({ ...one, billing: [billing, other] }).verdict).toBe('pass');
    const bad = { ...billing, check: 'b', discrepancies: { missing: 50, duplicate: 0, amount: 0 } };
    expect(judge({ ...one, billing: [billing, bad] }).verdict).toBe('fail');
  });
});

describe('asked of the database', () => {
  let postgres: TestDatabase;
  let database: Database;
  beforeAll(async () => {
    postgres = await createTestDatabase();
    await postgres.query(
      readFileSync(new URL('../../nestjs/sql/event_backups.extend.sql', import.meta.url), 'utf8'),
    );
    database = openDatabase(postgres.urlAs('counterfoil_exporter'), { poolSize: 4 });
  });
  afterAll(async () => {
    await database.close();
    await postgres.drop();
  });
  beforeEach(async () => {
    await emptyTables(postgres);
    await postgres.query('TRUNCATE event_deliveries');
  });

  const gateOf = (
    override: {
      readonly eventsTable?: string;
      readonly check?: object;
      readonly view?: Partial<RolloutView>;
    } = {},
  ) =>
    new Gate(
      database,
      new ServiceTables(
        database,
        {
          eventsTable: override.eventsTable ?? 'event_backups',
          deliveriesTable: 'event_deliveries',
          timeZone: 'UTC',
        },
        parseChecks({ checks: [override.check ?? sessionBilling()] }),
      ),
      {
        installation: 'counterfoil',
        windowMs: 3_600_000,
        lossDelayMs: 60_000,
        statementTimeoutMs: 5_000,
        thresholds,
      },
      () =>
        override.view === undefined
          ? undefined
          : {
              rollout: 'shop',
              version: 'v',
              weight: 1,
              phase: 'Paused',
              stableHash: 'good',
              canaryHash: 'v',
              aborted: false,
              canaryStartedAt: minutesAgo(50),
              canaryJudgedSince: undefined,
              ...override.view,
            },
    );

  const ask = async (hash: string, gate = gateOf()): Promise<GateAnswer> =>
    await gate.ask(hash, AbortSignal.timeout(10_000));

  /** Sessions that this version has completed, each with its event and its right bill. */
  const complete = async (
    hash: string,
    sessions: number,
    row: {
      readonly at?: string;
      readonly billed?: boolean;
      readonly bills?: number;
      readonly billedMinor?: number;
      readonly status?: 'pending' | 'processed';
    } = {},
  ): Promise<void> => {
    await postgres.query(
      `WITH made AS (
         INSERT INTO sessions (id, contract_id, mentor_id, amount_minor, currency, completed_at)
         SELECT gen_random_uuid(), 'c', 'm', 1000, 'EUR', $3::timestamptz FROM generate_series(1, $2::int) RETURNING id
       ), published AS (
         INSERT INTO event_backups (event_id, event_name, payload, status, created_at, published_hash)
         SELECT 'e-' || id, 'services.session.completed.v1', jsonb_build_object('sessionId', id), $4,
                $3::timestamptz AT TIME ZONE 'UTC', $1 FROM made
       )
       INSERT INTO mentor_payable_ledgers (session_id, mentor_id, amount_minor, currency, idempotency_key, created_at)
       SELECT id, 'm', $6::int, 'EUR', id || '-' || n, $3::timestamptz FROM made, generate_series(1, $5::int) AS n`,
      [
        hash,
        sessions,
        row.at ?? minutesAgo(10),
        row.status ?? 'processed',
        row.billed === false ? 0 : (row.bills ?? 1),
        row.billedMinor ?? 1000,
      ],
    );
  };

  test('a good version passes, with its evidence', async () => {
    await addCheck(postgres, { verifiedThrough: minutesAgo(5) });
    await complete('good', 200);
    await complete('other', 50, { billed: false });
    const answer = await ask('good');
    expect(answer).toMatchObject({
      verdict: 'pass',
      hash: 'good',
      windowWhole: true,
      events: { published: 200, lost: 0 },
      billing: [
        {
          check: 'session-billing',
          judged: 200,
          discrepancies: { missing: 0, duplicate: 0, amount: 0 },
          findings: { suspected: 0, open: 0 },
        },
      ],
      notMeasured: [],
      thresholds,
      rollout: null,
    });
    expect(answer.events.firstAgeSeconds).toBeGreaterThanOrEqual(599);
    expect(answer.billing[0]?.verifiedThroughAgeSeconds).toBeGreaterThanOrEqual(299);
    expect(answer.at).toMatch(/^\d{4}-\d{2}-\d{2}T[\d:.]+Z$/);
  });

  test('wrong bills of each kind fail it, and its neighbour passes', async () => {
    await complete('good', 400);
    await complete('bad', 400);
    await complete('bad', 2, { billed: false });
    await complete('bad', 2, { bills: 2 });
    await complete('bad', 2, { billedMinor: 1 });
    expect(await ask('good')).toMatchObject({ verdict: 'pass' });
    expect(await ask('bad')).toMatchObject({
      verdict: 'fail',
      billing: [{ judged: 406, discrepancies: { missing: 2, duplicate: 2, amount: 2 } }],
      reasons: ['wrong bills of session-billing: 6 of 406'],
    });
  });

  test('lost events fail it; those under a lease, and those too young to be lost, do not', async () => {
    await complete('lossy', 400);
    await complete('lossy', 5, { status: 'pending' });
    await complete('lossy', 100, { status: 'pending', at: minutesAgo(0.5) });
    expect(await ask('lossy')).toMatchObject({ verdict: 'fail', events: { published: 405, lost: 5 } });
    await postgres.query(
      `INSERT INTO event_deliveries (event_id, listener, status, lease_owner, lease_until, attempts)
       SELECT event_id, 'a', 'running', 'pod', now() + interval '1 minute', 1 FROM event_backups WHERE status = 'pending'`,
    );
    expect(await ask('lossy')).toMatchObject({ verdict: 'pass', events: { published: 405, lost: 0 } });
  });

  test('a hash that nobody has published has not enough data', async () => {
    await complete('good', 200);
    expect(await ask('nobody')).toMatchObject({
      verdict: 'not_enough_data',
      events: { published: 0, lost: 0, firstAt: null },
    });
  });

  test('findings from before its first event are left out, acknowledged and settled ones too', async () => {
    await addCheck(postgres);
    await complete('v', 400, { at: minutesAgo(10) });
    const found = async (firstSeenAt: string, status: 'open' | 'suspected' | 'acknowledged' | 'resolved') => {
      await addFinding(postgres, { hash: 'v', firstSeenAt, status });
    };
    for (let n = 0; n < 10; n += 1) {
      await found(minutesAgo(11), 'open');
      await found(minutesAgo(5), 'acknowledged');
      await found(minutesAgo(5), 'resolved');
      await addFinding(postgres, { hash: 'another' });
    }
    expect(await ask('v')).toMatchObject({
      verdict: 'pass',
      billing: [{ findings: { suspected: 0, open: 0 } }],
    });
    for (let n = 0; n < 3; n += 1) await found(minutesAgo(9), 'open');
    await found(minutesAgo(9), 'suspected');
    await found(minutesAgo(9), 'suspected');
    expect(await ask('v')).toMatchObject({
      verdict: 'fail',
      billing: [{ findings: { suspected: 2, open: 3 } }],
    });
  });

  test('an acknowledgement that has ended counts again', async () => {
    await addCheck(postgres);
    await complete('v', 400);
    for (let n = 0; n < 5; n += 1)
      await addFinding(postgres, { hash: 'v', status: 'acknowledged', acknowledgedUntil: minutesAgo(1) });
    expect(await ask('v')).toMatchObject({ verdict: 'fail', billing: [{ findings: { open: 5 } }] });
  });

  test('what lies before the window is not judged', async () => {
    await complete('old', 400, { at: minutesAgo(61), billed: false });
    expect(await ask('old')).toMatchObject({ verdict: 'not_enough_data', events: { published: 0 } });
  });

  test('a canary that is tried again leaves its past behind: neither its losses nor its sample count', async () => {
    await addCheck(postgres);
    await complete('v', 400, { at: minutesAgo(30) });
    await complete('v', 5, { at: minutesAgo(30), status: 'pending', billed: false });
    await addFinding(postgres, { hash: 'v', firstSeenAt: minutesAgo(25), status: 'open' });
    const again = { view: { canaryJudgedSince: minutesAgo(20) } };
    expect(await ask('v', gateOf())).toMatchObject({ verdict: 'fail' });
    expect(await ask('v', gateOf(again))).toMatchObject({
      verdict: 'not_enough_data',
      events: { published: 0, lost: 0 },
    });
    await complete('v', 200, { at: minutesAgo(10) });
    expect(await ask('v', gateOf(again))).toMatchObject({
      verdict: 'pass',
      events: { published: 200, lost: 0 },
      billing: [{ judged: 200, findings: { open: 0 } }],
    });
    await complete('v', 400, { at: minutesAgo(9), billed: false });
    expect(await ask('v', gateOf(again))).toMatchObject({ verdict: 'fail' });
  });

  test.each([
    ['is judged for the first time', { canaryJudgedSince: minutesAgo(50) }],
    ['is not the canary of now', { canaryHash: 'other', canaryJudgedSince: minutesAgo(20) }],
    ['has no known begin', {}],
  ])('a version that %s keeps all of its past', async (_, view) => {
    await complete('v', 400, { at: minutesAgo(30) });
    await complete('v', 5, { at: minutesAgo(30), status: 'pending' });
    expect(await ask('v', gateOf({ view }))).toMatchObject({
      verdict: 'fail',
      events: { published: 405, lost: 5 },
    });
  });

  test('without the column, the index or the table it is not measured, and never passes', async () => {
    await complete('v', 400);
    const variant = async (name: string, change: string) => {
      await postgres.query(`CREATE TABLE ${name} (LIKE event_backups INCLUDING INDEXES)`);
      await postgres.query(`INSERT INTO ${name} SELECT * FROM event_backups`);
      await postgres.query(change);
      await postgres.query(`GRANT SELECT ON ${name} TO counterfoil_exporter`);
      return await ask('v', gateOf({ eventsTable: name }));
    };
    expect(await variant('same', 'SELECT 1')).toMatchObject({ verdict: 'pass' });
    expect(
      await variant('without_hash', 'ALTER TABLE without_hash DROP COLUMN published_hash'),
    ).toMatchObject({
      verdict: 'not_measured',
      notMeasured: [expect.stringContaining('published_hash')],
    });
    expect(await variant('without_index', 'DROP INDEX without_index_created_at_idx')).toMatchObject({
      verdict: 'not_measured',
    });
    expect(await ask('v', gateOf({ eventsTable: 'nothing' }))).toMatchObject({ verdict: 'not_measured' });
    expect(await ask('v', gateOf({ check: sessionBilling({ event: null }) }))).toMatchObject({
      verdict: 'not_measured',
      notMeasured: ['no check says how its facts are found in the events'],
    });
  });

  test('without amounts, wrong ones read as not compared', async () => {
    await complete('v', 200, { billedMinor: 1 });
    const plain = sessionBilling({
      facts: { table: 'sessions', key: ['id'], at: 'completed_at' },
      ledger: { table: 'mentor_payable_ledgers', key: ['session_id'], at: 'created_at' },
    });
    expect(await ask('v', gateOf({ check: plain }))).toMatchObject({
      verdict: 'pass',
      billing: [{ discrepancies: { missing: 0, duplicate: 0, amount: null } }],
    });
  });

  test('the same question within five seconds is answered once, and too many different ones are told to wait', async () => {
    await complete('v', 200);
    const gate = gateOf();
    const [one, other] = await Promise.all([ask('v', gate), ask('v', gate)]);
    expect(other).toBe(one);
    const asked = ['a', 'b', 'c'].map(async (hash) => await ask(hash, gate));
    const ends = await Promise.allSettled(asked);
    expect(ends.map(({ status }) => status)).toEqual(['fulfilled', 'fulfilled', 'rejected']);
    expect(ends[2]).toMatchObject({ reason: expect.any(GateBusy) });
    expect(await ask('c', gate)).toMatchObject({ verdict: 'not_enough_data' });
  });

  test('while the database is away it throws, and does not remember that', async () => {
    const gone = openDatabase('postgresql://nobody:x@127.0.0.1:1/none');
    const settings = { eventsTable: 'event_backups', deliveriesTable: 'event_deliveries', timeZone: 'UTC' };
    const gate = new Gate(
      gone,
      new ServiceTables(gone, settings, parseChecks({ checks: [sessionBilling()] })),
      {
        installation: 'counterfoil',
        windowMs: 60_000,
        lossDelayMs: 1_000,
        statementTimeoutMs: 1_000,
        thresholds,
      },
      () => undefined,
    );
    for (let n = 0; n < 3; n += 1)
      await expect(ask('v', gate)).rejects.toMatchObject({ id: 'database_unreachable' });
    await gone.close();
  });

  test('a personal text in the rows never gets into the answer', async () => {
    await addCheck(postgres);
    await complete('v', 200);
    await postgres.query(
      `UPDATE event_backups SET payload = payload || '{"mentor": "Erika Mustermann"}', event_name = event_name;`,
    );
    await postgres.query(`UPDATE sessions SET mentor_id = 'Erika Mustermann'`);
    await addFinding(postgres, { hash: 'v', key: '["Erika Mustermann"]' });
    expect(JSON.stringify(await ask('v'))).not.toContain('Erika');
  });
});
