import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { type Bench, openBench, startInProcess } from '../../test/event-replay/bench.ts';
import { BY_INDEX } from '../runtime/database.ts';
import { claimDueEventsText, claimOldestOfEachAggregateText } from './claim-queries.ts';
import type { EventsTable } from './events-table.ts';
import { takeInOverdueEventsText, unparkForListenersText } from './intake-queries.ts';
import { finishRequestsText } from './request-queries.ts';

let bench: Bench;
beforeAll(async () => {
  bench = await openBench();
});
afterEach(async () => await bench.reset());
afterAll(async () => await bench.close());

const aClaim = ['00000000-0000-0000-0000-000000000001', 'test', 60_000, 200, true];
const sent = () => bench.endpoint.calls.flatMap((call) => call.eventIds);

/** Puts `count` events there that replay has parked; they stay pending in the service's table for ever. */
async function addParked(count: number): Promise<void> {
  await bench.database.query(
    `INSERT INTO event_backups (event_id, event_name, payload, status, created_at)
     SELECT 'parked' || i, 'n', '{}', 'pending', (now() AT TIME ZONE 'UTC') - interval '30 days' + i * interval '1 second'
       FROM generate_series(1, $1::integer) AS i`,
    [count],
  );
  await bench.database.query(
    `INSERT INTO counterfoil.replay_events (event_id, event_name, event_created_at, status, parked_reason, parked_at,
                                            next_attempt_at)
     SELECT 'parked' || i, 'n', now() - interval '30 days', 'parked', 'attempts_exhausted', now(),
            now() - interval '30 days'
       FROM generate_series(1, $1::integer) AS i`,
    [count],
  );
  await bench.database.query('ANALYZE counterfoil.replay_events, event_backups');
}

describe('50,000 due events', () => {
  it('are not all read for each claim, though the statistics know of none', async () => {
    // As after a quiet time: nothing was due when the statistics were made. This has to be the first test, since they stay.
    await bench.database.query('TRUNCATE counterfoil.replay_events');
    await bench.database.query('VACUUM ANALYZE counterfoil.replay_events');
    await bench.database.query(
      `INSERT INTO counterfoil.replay_events (event_id, event_name, event_created_at, next_attempt_at)
       SELECT 'due' || i, 'n', now() - i * interval '1 second', now() - i * interval '1 second'
         FROM generate_series(1, 50000) AS i`,
    );
    const most = (nodes: readonly PlanNode[]) =>
      Math.max(...nodes.map((node) => (node['Actual Rows'] ?? 0) + (node['Rows Removed by Filter'] ?? 0)));
    const claim = await explain(claimDueEventsText, aClaim);
    expect(claim.find((node) => node['Index Name'] === 'replay_events_due')).toMatchObject({
      'Actual Rows': 200,
    });
    expect(claim.map((node) => node['Node Type'])).toContain('Tid Scan');
    expect(most(claim)).toBe(200);
    // Left to itself the planner reads them all.
    expect(most(await explain(claimDueEventsText, aClaim, ''))).toBe(50_000);
  });
});

describe('100,000 parked events', () => {
  it('hold up neither the intake nor the claim', async () => {
    await addParked(100_000);
    await bench.addEvents(300);
    const run = await bench.run();
    expect(run.record).toMatchObject({
      outcome: 'succeeded',
      counts: { taken_in: 300, processed: 300, reopened: 0 },
    });
    expect(new Set(sent()).size).toBe(300);

    // What is due stands in an index of its own: few pages, and none of the parked rows among them.
    await bench.database.query(
      `INSERT INTO counterfoil.replay_events (event_id, event_name, event_created_at, next_attempt_at)
       SELECT 'due' || i, 'n', now() - interval '1 hour', now() - interval '1 hour' FROM generate_series(1, 1000) AS i`,
    );
    const nodes = await explain(claimDueEventsText, aClaim);
    const pick = nodes.find((node) => node['Index Name'] === 'replay_events_due');
    expect(pick).toMatchObject({ 'Actual Rows': 200 });
    expect(pick?.['Rows Removed by Filter'] ?? 0).toBe(0);
    expect(nodes.map((node) => node['Node Type'])).not.toContain('Seq Scan');
    // 200 rows: each found, locked, changed and entered in its indexes; nothing that grows with what is parked.
    expect(Number(nodes[0]?.['Shared Hit Blocks']) + Number(nodes[0]?.['Shared Read Blocks'])).toBeLessThan(
      200 * 25,
    );
  });

  it('are not looked through again when all that is due waits for later', async () => {
    await bench.database.query(
      `INSERT INTO counterfoil.replay_events (event_id, event_name, event_created_at, next_attempt_at)
       SELECT 'waiting' || i, 'n', now() - interval '1 day', now() + interval '1 hour' FROM generate_series(1, 20000) AS i`,
    );
    await bench.database.query('ANALYZE counterfoil.replay_events');
    const [top] = await explain(claimDueEventsText, aClaim);
    expect(Number(top?.['Shared Hit Blocks']) + Number(top?.['Shared Read Blocks'])).toBeLessThan(20);
  });
});

describe('the intake', () => {
  it('looks each event up by its key, and does not read all of replay_events, with 100,000 parked', async () => {
    await addParked(100_000);
    const events: EventsTable = {
      name: '"public"."event_backups"',
      idType: 'text',
      createdAtType: 'timestamp',
      timeZone: 'UTC',
      hasPublishedHash: false,
      aggregateKey: undefined,
      deliveries: undefined,
    };
    const nodes = await explain(takeInOverdueEventsText(events), [
      60_000,
      '-infinity',
      '',
      5_000,
      null,
      true,
    ]);
    const reads = nodes.filter(
      (node) => node['Relation Name'] === 'replay_events' && node.Plans === undefined,
    );
    expect(reads.map((node) => [node['Node Type'], node['Index Name']])).toEqual([
      [expect.stringMatching(/^Index/), 'replay_events_pkey'],
    ]);
    expect(reads[0]).toMatchObject({ 'Actual Loops': 5_000 });
    expect(nodes.filter((node) => node['Node Type'] === 'Seq Scan')).toEqual([]);
  });

  it('does not read the events of a request to see that some of them are open', async () => {
    await addParked(50_000);
    await bench.database.query(
      `INSERT INTO counterfoil.requests (kind, scope, reason, status) VALUES ('replay', '{}', 'x', 'taken')`,
    );
    await bench.database.query(
      `UPDATE counterfoil.replay_events SET request_id = (SELECT max(id) FROM counterfoil.requests),
              status = CASE WHEN event_id LIKE '%00' THEN 'due' ELSE 'parked' END,
              parked_reason = CASE WHEN event_id LIKE '%00' THEN NULL ELSE parked_reason END`,
    );
    await bench.database.query('VACUUM ANALYZE counterfoil.replay_events');
    const nodes = await explain(finishRequestsText, ['test', '00000000-0000-0000-0000-000000000001']);
    const read = nodes.filter((node) => node['Relation Name'] === 'replay_events' && node['Actual Loops']);
    expect(read).toHaveLength(1);
    expect(read[0]).toMatchObject({ 'Index Name': 'replay_events_request_open', 'Actual Rows': 1 });
  });
});

describe('20,000 events of one aggregate', () => {
  it('cost the claim no more than one', async () => {
    await bench.database.query(
      `INSERT INTO counterfoil.replay_events (event_id, event_name, event_created_at, next_attempt_at, aggregate_key)
       SELECT 'e' || i, 'n', now() - interval '1 day' + i * interval '1 s', now() - interval '1 day' + i * interval '1 s',
              CASE WHEN i > 20010 THEN NULL WHEN i > 20000 THEN 'other' || i ELSE 'one' END
         FROM generate_series(1, 20020) AS i`,
    );
    await bench.database.query('VACUUM ANALYZE counterfoil.replay_events');
    const nodes = await explain(claimOldestOfEachAggregateText, aClaim);
    // The oldest of the big one, the ten of other aggregates, and the ten of none.
    expect(nodes[0]).toMatchObject({ 'Actual Rows': 21 });
    const read = nodes
      .filter((node) => node['Relation Name'] === 'replay_events' && node['Actual Loops'])
      .map(
        (node) =>
          ((node['Actual Rows'] ?? 0) + (node['Rows Removed by Filter'] ?? 0)) * (node['Actual Loops'] ?? 0),
      );
    expect(read.reduce((sum, rows) => sum + rows, 0)).toBeLessThan(200);
    expect(nodes.map((node) => node['Node Type'])).not.toContain('Seq Scan');
  });
});

describe('the search for events that wait for other listeners', () => {
  it('reads those and no others, however many are parked', async () => {
    await addParked(100_000);
    await bench.database.query(
      `INSERT INTO counterfoil.replay_events (event_id, event_name, event_created_at, status, parked_reason, parked_at,
                                              refused_by_digests)
       SELECT 'unheard' || i, 'n', now(), 'parked', 'no_listener', now(), ARRAY['A', CASE WHEN i <= 50 THEN 'B' ELSE 'C' END]
         FROM generate_series(1, 100) AS i`,
    );
    await bench.database.query('ANALYZE counterfoil.replay_events');
    const nodes = await explain(unparkForListenersText, ['B', 5_000]);
    const pick = nodes.find((node) => node['Index Name'] === 'replay_events_for_listeners');
    expect(pick).toMatchObject({ 'Actual Rows': 50, 'Rows Removed by Filter': 50 });
    expect(nodes.map((node) => node['Node Type'])).not.toContain('Seq Scan');
  });
});

/** Runs one of our statements, and gives the nodes of its plan; nothing of it stays. */
async function explain(
  text: string,
  params: readonly unknown[],
  settings = text === claimDueEventsText ? BY_INDEX : '',
): Promise<PlanNode[]> {
  await bench.database.query('BEGIN');
  await bench.database.query(`SET LOCAL search_path = counterfoil; ${settings}`);
  const [explained] = await bench.database.query<{ 'QUERY PLAN': { Plan: PlanNode }[] }>(
    `EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) ${text}`,
    params,
  );
  await bench.database.query('ROLLBACK');
  const plan = explained?.['QUERY PLAN'][0]?.Plan;
  if (plan === undefined) throw new Error('no plan');
  return allNodes(plan);
}

interface PlanNode {
  readonly 'Node Type': string;
  readonly 'Relation Name'?: string;
  readonly 'Index Name'?: string;
  readonly 'Actual Loops'?: number;
  readonly 'Actual Rows'?: number;
  readonly 'Rows Removed by Filter'?: number;
  readonly 'Shared Hit Blocks'?: number;
  readonly 'Shared Read Blocks'?: number;
  readonly Plans?: readonly PlanNode[];
}

const allNodes = (node: PlanNode): PlanNode[] => [node, ...(node.Plans ?? []).flatMap(allNodes)];

describe('requests', () => {
  const ask = async (scope: unknown, reason = 'an incident') => {
    const [row] = await bench.database.query<{ id: string }>(
      `INSERT INTO counterfoil.requests (kind, scope, reason) VALUES ('replay', $1::jsonb, $2) RETURNING id`,
      [JSON.stringify(scope), reason],
    );
    return row?.id ?? '';
  };
  const request = async (id: string) => {
    const [row] = await bench.database.query<{ status: string; result: unknown }>(
      'SELECT status, result FROM counterfoil.requests WHERE id = $1',
      [id],
    );
    return row;
  };

  it('take in the named events whatever their age, and take up those that were parked', async () => {
    await bench.addEvents([
      { id: 'young', ageSeconds: 1 },
      { id: 'parked' },
      { id: 'other-parked' },
      { id: 'processed', status: 'processed' },
      { id: 'leased' },
    ]);
    await bench.database.query(
      `INSERT INTO event_deliveries (event_id, listener, status, lease_owner, lease_until, attempts)
       VALUES ('leased', 'l', 'running', 'pod', now() + interval '1 minute', 1)`,
    );
    await bench.database.query(
      `INSERT INTO counterfoil.replay_events (event_id, event_name, event_created_at, status, parked_reason, parked_at,
                                              handler_attempts)
       SELECT id, 'n', now(), 'parked', 'attempts_exhausted', now(), 5 FROM unnest(ARRAY['parked', 'other-parked']) AS id`,
    );
    const id = await ask({ event_ids: ['young', 'parked', 'processed', 'leased', 'nowhere'] });
    const run = await bench.run();
    expect(sent().sort()).toEqual(['parked', 'young']);
    expect(await request(id)).toEqual({
      status: 'done',
      result: {
        asked: 5,
        taken_in: 1,
        unparked: 1,
        already_due: 0,
        not_pending: 1,
        leased: 1,
        unknown: 1,
        done: 2,
        handed: 0,
        parked: 0,
      },
    });
    expect(await bench.status('parked')).toMatchObject({
      status: 'done',
      handler_attempts: 1,
      request_id: id,
    });
    expect(await bench.status('other-parked')).toMatchObject({ status: 'parked' });
    expect(run.record.counts).toMatchObject({ requests: 1, unparked: 1 });
    const [audit] = await bench.database.query(
      'SELECT action, reason, actor, counts FROM counterfoil.audit WHERE request_id = $1',
      [id],
    );
    expect(audit).toMatchObject({
      action: 'replay request',
      reason: 'an incident',
      actor: 'counterfoil_jobs',
      counts: { done: 2 },
    });
  });

  it('take in a range, from its begin up to but without its end, and leave the parked ones parked', async () => {
    await bench.database.query('ALTER TABLE event_backups ADD COLUMN IF NOT EXISTS published_hash text');
    const at = (minute: number) => new Date(Date.UTC(2026, 10, 1, 12, minute)).toISOString();
    await bench.database.query(
      `INSERT INTO event_backups (event_id, event_name, payload, created_at, published_hash)
       SELECT 'm' || m, 'n', '{}', timestamp '2026-11-01 12:00' + m * interval '1 minute',
              CASE WHEN m % 2 = 0 THEN 'even' ELSE 'odd' END
         FROM generate_series(0, 9) AS m`,
    );
    await bench.database.query(
      `INSERT INTO counterfoil.replay_events (event_id, event_name, event_created_at, status, parked_reason, parked_at)
       VALUES ('m4', 'n', now(), 'parked', 'attempts_exhausted', now())`,
    );
    const id = await ask({ from: at(2), to: at(8), published_hash: 'even' });
    await bench.run({ CF_GRACE_SECONDS: '86400', CF_LIMIT: '0' });
    const bad = await ask({ from: at(2), to: 'yesterday' });
    await bench.run({ CF_GRACE_SECONDS: '86400' });
    const [{ taken }] = (await bench.database.query(
      `SELECT array_agg(event_id ORDER BY event_id) AS taken FROM counterfoil.replay_events WHERE request_id = $1`,
      [id],
    )) as [{ taken: string[] }];
    expect(taken).toEqual(['m2', 'm6']);
    expect(await request(id)).toMatchObject({
      status: 'done',
      result: { pending: 3, taken_in: 2, parked: 2 },
    });
    // Published by an aborted version, and no check says what to compare.
    expect(await bench.status('m2')).toMatchObject({ parked_reason: 'fact_changed' });
    expect(await request(bad)).toMatchObject({ status: 'refused' });
  });

  it('are ended by a later run where an event of theirs has to wait', async () => {
    await bench.addEvents([{ id: 'slow', ageSeconds: 1 }]);
    bench.endpoint.handle = () => ({ outcome: 'failed' });
    const id = await ask({ event_ids: ['slow'] });
    await bench.run();
    expect(await request(id)).toMatchObject({ status: 'taken' });
    bench.endpoint.handle = () => undefined;
    await bench.database.query('UPDATE counterfoil.replay_events SET next_attempt_at = now()');
    await bench.run();
    expect(await request(id)).toMatchObject({ status: 'done', result: { taken_in: 1, done: 1, parked: 0 } });
    expect(await bench.status('slow')).toMatchObject({ handler_attempts: 2 });
  });

  it('are refused where they cannot be understood, and hold up neither the intake nor later requests', async () => {
    await bench.addEvents([{ id: 'overdue' }, { id: 'young', ageSeconds: 1 }]);
    const odd = await ask({ from: '2026-01-01T00:00:00+23:00', to: '2026-01-02T00:00:00Z' });
    const yearZero = await ask({ from: '0000-01-01T00:00:00Z', to: '2026-12-01T00:00:00Z' });
    const good = await ask({ event_ids: ['young'] });
    const run = await bench.run();
    expect(run.exitCode, run.log).toBe(0);
    expect(await request(odd)).toMatchObject({ status: 'done', result: { pending: 0 } });
    expect(await request(yearZero)).toEqual({
      status: 'refused',
      result: { problem: expect.stringContaining('1970 to 2199') },
    });
    expect(await request(good)).toMatchObject({ status: 'done', result: { taken_in: 1, done: 1 } });
    expect(sent().sort()).toEqual(['overdue', 'young']);
  });

  it('that fail are refused for a value, put off for anything else, and hold up nothing', async () => {
    await bench.addEvents([{ id: 'overdue' }, { id: 'value' }, { id: 'else' }]);
    await bench.database.query(`
      CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF new.event_id = 'value' THEN RAISE EXCEPTION 'a value' USING ERRCODE = '22008'; END IF;
        RAISE EXCEPTION 'something else'; END $$;
      CREATE TRIGGER fail BEFORE INSERT ON counterfoil.replay_events FOR EACH ROW
        WHEN (new.request_id IS NOT NULL) EXECUTE FUNCTION fail()`);
    const value = await ask({ event_ids: ['value'] });
    const other = await ask({ event_ids: ['else'] });
    const run = await bench.run();
    await bench.database.query('DROP TRIGGER fail ON counterfoil.replay_events; DROP FUNCTION fail()');
    expect(run.exitCode, run.log).toBe(0);
    expect(await request(value)).toMatchObject({
      status: 'refused',
      result: { problem: expect.any(String) },
    });
    expect(await request(other)).toMatchObject({ status: 'open' });
    expect(await bench.statuses()).toEqual({ done: 3 });
    await bench.run();
    expect(await request(other)).toMatchObject({ status: 'done' });
  });

  it('of a large range are taken in beside the calls, and no longer than until SIGTERM', async () => {
    await bench.database.query(
      `INSERT INTO event_backups (event_id, event_name, payload, status, created_at)
       SELECT 'r' || i, 'n', '{}', 'pending', now() AT TIME ZONE 'UTC' FROM generate_series(1, 60000) AS i`,
    );
    const id = await ask({ from: '2020-01-01T00:00:00Z', to: '2100-01-01T00:00:00Z' });
    const run = startInProcess(bench.environment({ CF_MODE: 'continuous', CF_GRACE_SECONDS: '86400' }));
    await bench.endpoint.arrived(1);
    expect(await request(id)).toMatchObject({ status: 'open' });
    run.stop();
    const { exitCode, log } = await run.ended;
    expect(exitCode, log).toBe(0);
    expect(await request(id)).toMatchObject({ status: 'open' });
  });
});

describe('a walk over many parked events', () => {
  it('does not pause before its end, so that a fresh event is taken in at once', async () => {
    await addParked(40_000);
    await bench.addEvents([{ id: 'fresh', ageSeconds: 100 }]);
    const startedAt = Date.now();
    const run = startInProcess(bench.environment({ CF_MODE: 'continuous', CF_POLL_SECONDS: '5' }));
    await bench.endpoint.arrived(1);
    expect(Date.now() - startedAt).toBeLessThan(8_000);
    run.stop();
    await run.ended;
  });
});
