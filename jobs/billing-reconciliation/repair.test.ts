/** What reconciliation asks for by itself, when, and what it leaves to a person. */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { checksFile, sessionBilling } from '../../test/builders/checks.ts';
import { emptyTables, findingsOf, reconcile } from '../../test/builders/reconciliation.ts';
import {
  addBilledSession,
  addEvent,
  addLedgerRow,
  addSession,
  minutesAgo,
} from '../../test/builders/service.ts';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';

let database: TestDatabase;

beforeAll(async () => {
  database = await createTestDatabase();
});
afterAll(async () => {
  await database.drop();
});
beforeEach(async () => {
  await emptyTables(database);
});

const tail = (environment: Record<string, string> = {}) =>
  reconcile(database, { CF_MODE: 'tail', ...environment });
const full = (environment: Record<string, string> = {}) =>
  reconcile(database, { CF_MODE: 'full', ...environment });

describe('by replay', () => {
  test('nothing is asked of replay unless it is switched on', async () => {
    const session = await addSession(database);
    await addEvent(database, session.id);
    await full();
    await tail();
    expect(await database.query('SELECT 1 FROM counterfoil.requests')).toEqual([]);
  });

  /** Lost sessions whose events are pending; gives the ids of those events. */
  const lose = async (count: number): Promise<string[]> => {
    const ids: string[] = [];
    for (let position = 0; position < count; position += 1) {
      const session = await addSession(database, { completedAt: minutesAgo(100 - position) });
      ids.push(await addEvent(database, session.id));
    }
    return ids;
  };
  const repair = async (environment: Record<string, string> = {}) =>
    (await tail({ CF_REPAIR: 'true', ...environment })).counts.replays_requested;
  const finish = (status: 'done' | 'refused' = 'done') =>
    database.query(`UPDATE counterfoil.requests SET status = $1, finished_at = clock_timestamp()`, [status]);

  test('open findings with a pending event become one request, within the limit; suspected ones do not', async () => {
    const ids = await lose(3);
    await full({ CF_REPAIR: 'true' });
    expect(await database.query('SELECT 1 FROM counterfoil.requests')).toEqual([]);
    expect(await repair({ CF_REPAIR_LIMIT: '2' })).toBe(2);
    await finish();
    // What was finished without the bill may be asked for again.
    expect(await repair()).toBe(3);
    const requests = await database.query<{ scope: { event_ids: string[] }; kind: string }>(
      'SELECT kind, scope FROM counterfoil.requests ORDER BY id DESC LIMIT 1',
    );
    expect(requests[0]?.kind).toBe('replay');
    expect([...(requests[0]?.scope.event_ids ?? [])].sort()).toEqual(ids.sort());
  });

  test('the log names what was asked for, by its request, up to twenty; and says nothing where nothing was', async () => {
    const asked = async (environment: Record<string, string> = {}) =>
      (await tail({ CF_REPAIR: 'true', ...environment })).lines.filter(({ msg }) =>
        String(msg).startsWith('asked for a '),
      );
    const ids = await lose(21);
    await full();
    const [first, ...others] = await asked();
    expect(others).toEqual([]);
    const [request] = await database.query<{ id: string; events: string[] }>(
      `SELECT id, scope -> 'event_ids' AS events FROM counterfoil.requests`,
    );
    expect(first).toMatchObject({
      msg: 'asked for a replay: open findings whose event is still pending',
      check: 'session-billing',
      requestId: request?.id,
      eventIds: request?.events,
    });
    expect(await asked()).toEqual([]);
    await finish();
    const [second] = await asked();
    expect(second).toMatchObject({ count: 21 });
    const named = second?.eventIds as string[];
    expect(named).toHaveLength(20);
    expect(ids).toEqual(expect.arrayContaining(named));
  });

  test('ten events go first; the rest waits until they have ended and were judged again', async () => {
    await lose(13);
    await full();
    expect(await repair()).toBe(10);
    expect(await repair()).toBe(0);
    await finish();
    expect(await repair()).toBe(13);
  });

  test('a probe that was refused is followed by another probe', async () => {
    await lose(11);
    await full();
    expect(await repair()).toBe(10);
    await finish('refused');
    expect(await repair()).toBe(10);
  });

  test('what opens after the last request is another incident, which has a probe of its own', async () => {
    await lose(1);
    await full();
    expect(await repair()).toBe(1);
    await finish();
    await database.query(`UPDATE event_backups SET status = 'processed'`);
    await lose(11);
    await full();
    expect(await repair()).toBe(10);
  });

  test.each([
    ['duplicate', ['1000', '1000']],
    ['amount', ['1']],
  ])(
    'a new %s after the probe stops it until a person has decided, and the audit says so once',
    async (kind, bills) => {
      const checks = { CF_CHECKS_FILE: checksFile(sessionBilling()) };
      const old = await addBilledSession(database);
      await addLedgerRow(database, { sessionId: old.id });
      await lose(12);
      await full(checks);
      expect(await repair(checks)).toBe(10);
      const harmed = await addSession(database);
      for (const amountMinor of bills) await addLedgerRow(database, { sessionId: harmed.id, amountMinor });
      await full(checks);
      await finish();
      for (let run = 0; run < 2; run += 1) {
        const end = await tail({ CF_REPAIR: 'true', ...checks });
        expect(end.counts.replays_requested).toBe(0);
        expect(end.lines.filter(({ msg }) => String(msg).startsWith('repair is stopped'))).toHaveLength(1);
      }
      const found = (await findingsOf(database)).find(({ key }) => key.includes(harmed.id));
      expect(found?.kind).toBe(kind);
      expect(
        await database.query(
          `SELECT a.reason FROM counterfoil.audit a JOIN counterfoil.job_runs USING (run_id)
          WHERE a.action = 'repair_stopped'`,
        ),
      ).toEqual([{ reason: `first seen since: findings ${found?.id}` }]);
      await database.query(
        `UPDATE counterfoil.discrepancies SET status = 'acknowledged', acknowledged_until = now() + interval '1 hour' WHERE id = $1`,
        [found?.id],
      );
      expect(await repair(checks)).toBe(12);
    },
  );
});

describe('by rebuild', () => {
  const repair = async (environment: Record<string, string> = {}) =>
    (await tail({ CF_REPAIR: 'true', ...environment })).counts.rebuilds_requested;
  /** What event-replay makes of the open requests: each finding with this outcome. */
  const finish = async (status: 'done' | 'given_up', outcome: string) => {
    await database.query(
      `INSERT INTO counterfoil.request_items (request_id, finding_id, status, outcome, finished_at)
       SELECT q.id, f.id::bigint, $1, $2, clock_timestamp()
         FROM counterfoil.requests AS q CROSS JOIN jsonb_array_elements_text(q.scope -> 'findings') AS f (id)
        WHERE q.kind = 'rebuild' AND q.status = 'open'`,
      [status, outcome],
    );
    await database.query(
      `UPDATE counterfoil.requests AS q
          SET status = 'done', finished_at = clock_timestamp(),
              result = jsonb_build_object('done', (SELECT count(*) FROM counterfoil.request_items AS i
                                                    WHERE i.request_id = q.id AND i.status = 'done'))
        WHERE q.status = 'open'`,
    );
  };
  /** Sessions without an event, beside one old event that shows how far back events are kept. */
  const neverPublish = async (count: number): Promise<void> => {
    const old = await addBilledSession(database, { completedAt: minutesAgo(600) });
    await addEvent(database, old.id, { status: 'processed', createdAt: minutesAgo(600) });
    for (let position = 0; position < count; position += 1)
      await addSession(database, { completedAt: minutesAgo(100 - position) });
  };

  test('what was never published, or processed without a bill, is asked for; other causes and kinds are not', async () => {
    await neverPublish(1);
    const processed = await addSession(database);
    await addEvent(database, processed.id, { status: 'processed' });
    const pending = await addSession(database);
    await addEvent(database, pending.id);
    const unknown = await addSession(database, { completedAt: minutesAgo(60 * 24 * 30) });
    const parked = await addSession(database);
    const event = await addEvent(database, parked.id);
    await database.query(
      `INSERT INTO counterfoil.replay_events (event_id, event_name, event_created_at, status, parked_reason)
       VALUES ($1, 'n', now(), 'parked', 'not_retryable')`,
      [event],
    );
    await addLedgerRow(database);
    const twice = await addBilledSession(database);
    await addLedgerRow(database, { sessionId: twice.id });
    await full();
    const end = await tail({ CF_REPAIR: 'true' });
    expect(end.counts).toMatchObject({ replays_requested: 1, rebuilds_requested: 2 });
    const requests = await database.query<{ kind: string; causes: string[] }>(
      `SELECT q.kind, array_agg(d.cause ORDER BY d.cause) AS causes
         FROM counterfoil.requests AS q
         JOIN counterfoil.discrepancies AS d
           ON q.scope -> 'findings' @> to_jsonb(d.id) OR q.scope -> 'event_ids' ? d.event_id
        GROUP BY q.kind ORDER BY q.kind`,
    );
    expect(requests).toEqual([
      { kind: 'rebuild', causes: ['never_published', 'processed_without_ledger'] },
      { kind: 'replay', causes: ['event_pending'] },
    ]);
    const left = (await findingsOf(database)).filter(({ key }) => key.includes(unknown.id));
    expect(left).toMatchObject([{ cause: 'unknown', status: 'open' }]);
    const audits = await database.query(
      `SELECT action FROM counterfoil.audit JOIN counterfoil.job_runs USING (run_id) WHERE action LIKE '%_requested' ORDER BY 1`,
    );
    expect(audits).toEqual([{ action: 'rebuild_requested' }, { action: 'replay_requested' }]);
  });

  test('both kinds together keep to the limit of the run', async () => {
    await neverPublish(3);
    for (let position = 0; position < 3; position += 1)
      await addEvent(database, (await addSession(database)).id);
    await full();
    const end = await tail({ CF_REPAIR: 'true', CF_REPAIR_LIMIT: '4' });
    expect(end.counts).toMatchObject({ replays_requested: 3, rebuilds_requested: 1 });
  });

  test('ten go first; the rest waits until they have ended and mended something', async () => {
    await neverPublish(23);
    await full();
    expect(await repair()).toBe(10);
    expect(await repair()).toBe(0);
    await finish('given_up', 'refused');
    // None of the ten was rebuilt: that proves nothing, and they are not asked for again.
    expect(await repair()).toBe(10);
    await finish('done', 'rebuilt');
    expect(await repair()).toBe(13);
  });

  test('what was given up is not asked for again, until it is another incident', async () => {
    await neverPublish(1);
    await full();
    expect(await repair()).toBe(1);
    await finish('given_up', 'refused');
    expect(await repair()).toBe(0);
    await database.query(
      `UPDATE counterfoil.discrepancies SET opened_at = clock_timestamp() WHERE status = 'open'`,
    );
    expect(await repair()).toBe(1);
  });

  test('what was rebuilt three times without a bill is left to a person', async () => {
    await neverPublish(1);
    await full();
    for (let rebuild = 1; rebuild <= 3; rebuild += 1) {
      expect(await repair()).toBe(1);
      await finish('done', 'rebuilt');
    }
    expect(await repair()).toBe(0);
  });

  test('a second bill after a rebuild stops replays too', async () => {
    await neverPublish(12);
    await full();
    expect(await repair()).toBe(10);
    await finish('done', 'rebuilt');
    const harmed = await addBilledSession(database);
    await addLedgerRow(database, { sessionId: harmed.id });
    await addEvent(database, (await addSession(database)).id);
    await full();
    const end = await tail({ CF_REPAIR: 'true' });
    expect(end.counts).toMatchObject({ rebuilds_requested: 0, replays_requested: 0 });
    expect(end.log).toContain('repair is stopped');
  });

  test('an event that waits for its bill in the outbox is not asked for', async () => {
    const session = await addSession(database);
    const event = await addEvent(database, session.id);
    await full();
    await database.query(
      `INSERT INTO counterfoil.replay_events (event_id, event_name, event_created_at, status, handed_at)
       VALUES ($1, 'n', now(), 'handed_to_outbox', now())`,
      [event],
    );
    expect((await tail({ CF_REPAIR: 'true' })).counts.replays_requested).toBe(0);
    await database.query(`UPDATE counterfoil.replay_events SET status = 'due'`);
    expect((await tail({ CF_REPAIR: 'true' })).counts.replays_requested).toBe(1);
  });
});

describe('a waiver', () => {
  const statuses = async () => (await findingsOf(database)).map(({ status }) => status);
  const waive = async (filter: object, until = `now() + interval '1 hour'`) => {
    const [row] = await database.query<{ id: string }>(
      `INSERT INTO counterfoil.waivers (check_name, filter, reason, waived_until)
       VALUES ('session-billing', $1, 'agreed', ${until}) RETURNING id`,
      [filter],
    );
    return row?.id;
  };
  /** The check has to be there before anything can be waived. */
  const declare = async () => await tail();

  test('what it covers is recorded as waived when it is found; its neighbour is suspected', async () => {
    await declare();
    const waiver = await waive({ kind: 'missing', from: minutesAgo(90) });
    await addSession(database, { completedAt: minutesAgo(60) });
    await addSession(database, { completedAt: minutesAgo(120) });
    const end = await full();
    expect(end.counts).toMatchObject({ waived: 1, suspected: 1 });
    expect(
      await database.query(
        `SELECT status, waiver_id, status_reason FROM counterfoil.discrepancies ORDER BY status`,
      ),
    ).toEqual([
      { status: 'suspected', waiver_id: null, status_reason: null },
      { status: 'waived', waiver_id: waiver, status_reason: `falls under waiver ${waiver}` },
    ]);
    await full();
    expect((await statuses()).sort()).toEqual(['open', 'waived']);
  });

  test('one that has ended, or of another check, covers nothing', async () => {
    await declare();
    await waive({ kind: 'missing' }, `now() - interval '1 second'`);
    await database.query(`UPDATE counterfoil.waivers SET check_name = 'session-billing'`);
    await addSession(database);
    await full();
    expect(await statuses()).toEqual(['suspected']);
  });

  test('when it ends, its findings come back: open where they were so before, else suspected, or resolved', async () => {
    const opened = await addSession(database, { completedAt: minutesAgo(60) });
    await full();
    await tail();
    await waive({ kind: 'missing' });
    const mended = await addSession(database, { completedAt: minutesAgo(50) });
    const found = await addSession(database, { completedAt: minutesAgo(40) });
    await full();
    expect(await statuses()).toEqual(['waived', 'waived', 'waived']);
    await addLedgerRow(database, { sessionId: mended.id });
    await tail();
    expect(await statuses()).toEqual(['waived', 'waived', 'waived']);
    await database.query(`UPDATE counterfoil.waivers SET waived_until = clock_timestamp()`);
    await tail();
    const byKey = Object.fromEntries(
      (await findingsOf(database)).map(({ key, status }) => [(JSON.parse(key) as string[])[0], status]),
    );
    expect(byKey).toEqual({ [opened.id]: 'open', [mended.id]: 'resolved', [found.id]: 'suspected' });
    await tail();
    expect((await statuses()).sort()).toEqual(['open', 'open', 'resolved']);
  });

  test('another one that is alive takes them over', async () => {
    await declare();
    const first = await waive({ kind: 'missing' });
    await addSession(database);
    await full();
    const second = await waive({ cause: 'unknown' });
    await database.query(`UPDATE counterfoil.waivers SET ended_at = now() WHERE id = $1`, [first]);
    await tail();
    expect(await database.query('SELECT status, waiver_id FROM counterfoil.discrepancies')).toEqual([
      { status: 'waived', waiver_id: second },
    ]);
  });

  test('an acknowledgement that ends under it is waived, and not opened', async () => {
    await addSession(database);
    await full();
    await tail();
    await database.query(
      `UPDATE counterfoil.discrepancies SET status = 'acknowledged', acknowledged_until = clock_timestamp()`,
    );
    await waive({ kind: 'missing' });
    await tail();
    expect(await statuses()).toEqual(['waived']);
  });
});
