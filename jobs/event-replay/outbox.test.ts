/** A function instead of the endpoint: events are given to the outbox of the predecessor, and followed to their bill. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { checksFile, sessionBilling } from '../../test/builders/checks.ts';
import { addLedgerRow, addSession } from '../../test/builders/service.ts';
import { type Bench, openBench } from '../../test/event-replay/bench.ts';

let bench: Bench;
beforeAll(async () => {
  bench = await openBench();
  await bench.database.query(
    'CREATE TABLE outbox (event_id text PRIMARY KEY, calls integer NOT NULL DEFAULT 1)',
  );
});
beforeEach(async () => {
  await bench.database.query(`
    CREATE OR REPLACE FUNCTION hand_over(id text) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER
      SET search_path = public, pg_temp AS $$
    BEGIN
      IF id LIKE 'broken%' THEN RAISE EXCEPTION 'no' USING ERRCODE = 'XX001'; END IF;
      IF id LIKE 'unheard%' THEN RAISE EXCEPTION 'no' USING ERRCODE = '0A000'; END IF;
      INSERT INTO outbox VALUES (id) ON CONFLICT (event_id) DO UPDATE SET calls = outbox.calls + 1;
      RETURN true;
    END $$`);
  await bench.database.query('REVOKE EXECUTE ON FUNCTION hand_over(text) FROM PUBLIC');
  await bench.database.query('GRANT EXECUTE ON FUNCTION hand_over(text) TO counterfoil_jobs');
});
afterEach(async () => {
  await bench.database.query('TRUNCATE outbox');
  await bench.reset();
});
afterAll(async () => await bench.close());

const toOutbox = (changes: Record<string, string> = {}) =>
  bench.run({ CF_REPUBLISH_FUNCTION: 'hand_over', CF_REPLAY_URL: '', CF_REPLAY_TOKEN: '', ...changes });

/** A session and its lost event. */
async function lose(id: string, name = 'services.session.completed.v1'): Promise<string> {
  const session = await addSession(bench.database);
  await bench.addEvents([{ id, name, payload: { sessionId: session.id } }]);
  return session.id;
}
const outbox = async () => await bench.database.query('SELECT event_id, calls FROM outbox ORDER BY 1');
const bill = async (sessionId: string) => await addLedgerRow(bench.database, { sessionId });

describe('with a function in place of the endpoint', () => {
  it('an event is handed to the outbox once, and done when its bill is seen', async () => {
    const session = await lose('e1');
    await lose('e2');
    const first = await toOutbox();
    expect(first.record).toMatchObject({ outcome: 'succeeded', counts: { handed: 2, processed: 0 } });
    expect(await bench.statuses()).toEqual({ handed_to_outbox: 2 });
    expect(await bench.status('e1')).toMatchObject({ last_outcome: 'handed_to_outbox' });
    await bill(session);
    const second = await toOutbox();
    expect(second.record.counts).toMatchObject({ handed: 0, handed_settled: 1, handed_overdue: 0 });
    expect(await bench.status('e1')).toMatchObject({ status: 'done', last_outcome: 'billed_by_outbox' });
    expect(await bench.status('e2')).toMatchObject({ status: 'handed_to_outbox' });
    // Pending in the events table for good, since the predecessor marks nothing: not handed over again.
    await bench.database.query(
      `UPDATE counterfoil.replay_events SET finished_at = finished_at - interval '1 day'`,
    );
    await toOutbox();
    expect(await outbox()).toEqual([
      { event_id: 'e1', calls: 1 },
      { event_id: 'e2', calls: 1 },
    ]);
    expect(bench.endpoint.calls).toEqual([]);
  });

  it('a bill that was reversed does not count', async () => {
    const session = await lose('e1');
    await toOutbox();
    const id = await bill(session);
    await addLedgerRow(bench.database, { sessionId: session, reversesId: id });
    await toOutbox({ CF_CHECKS_FILE: checksFile(sessionBilling()) });
    expect(await bench.status('e1')).toMatchObject({ status: 'handed_to_outbox' });
  });

  it('what stays unbilled for too long is counted and said; a moment before, it is not', async () => {
    await lose('e1');
    await toOutbox();
    const early = await toOutbox({ CF_HANDED_GRACE_SECONDS: '60' });
    expect(early.record.counts).toMatchObject({ handed_overdue: 0 });
    const late = await toOutbox({ CF_HANDED_GRACE_SECONDS: '0' });
    expect(late.record.counts).toMatchObject({ handed_overdue: 1 });
    expect(late.log).toContain('are not billed in time');
    expect(await bench.status('e1')).toMatchObject({ status: 'handed_to_outbox' });
  });

  it('an event that the function refuses costs the others nothing', async () => {
    await bench.addEvents([{ id: 'broken1' }, { id: 'fine1' }, { id: 'unheard1' }, { id: 'fine2' }]);
    const run = await toOutbox();
    expect(run.record.counts).toMatchObject({ handed: 2, waiting: 1, parked: 1 });
    expect(await bench.status('broken1')).toMatchObject({
      status: 'due',
      last_error: 'XX001',
      handler_attempts: 1,
    });
    expect(await bench.status('unheard1')).toMatchObject({ status: 'parked', parked_reason: 'no_listener' });
    // The endpoint may have a listener: it is offered there once it is the target again.
    await bench.addEvents([{ id: 'later' }]);
    await bench.run();
    expect(await bench.status('unheard1')).toMatchObject({ status: 'done' });
  });

  it('an event that is named while it waits for its bill is left alone, and a person may take it up', async () => {
    await lose('e1');
    await toOutbox();
    await toOutbox({ CF_EVENT_IDS: 'e1' });
    expect(await outbox()).toEqual([{ event_id: 'e1', calls: 1 }]);
    await bench.database.query(`SELECT counterfoil.unpark(ARRAY['e1'], 'the outbox lost it')`);
    await toOutbox();
    expect(await outbox()).toEqual([{ event_id: 'e1', calls: 2 }]);
  });

  it('requests for a rebuild wait for the endpoint', async () => {
    await bench.database.query(
      `INSERT INTO counterfoil.requests (kind, scope, reason) VALUES ('rebuild', '{"findings":[1]}', 'x')`,
    );
    await toOutbox();
    expect(await bench.database.query('SELECT status FROM counterfoil.requests')).toEqual([
      { status: 'open' },
    ]);
  });

  it.each([
    ['no_such_function', 'function_missing', 'there is no function no_such_function(text)'],
    ['nowhere.hand_over', 'function_missing', 'there is no function nowhere.hand_over(text)'],
  ])('the name %s is refused: %s', async (name, failure, message) => {
    const run = await toOutbox({ CF_REPUBLISH_FUNCTION: name });
    expect(run.record).toMatchObject({ failure_id: failure, message: expect.stringContaining(message) });
    expect(run.exitCode).toBe(2);
  });

  it('a role that may not call it is told which grant it lacks', async () => {
    await bench.database.query('REVOKE EXECUTE ON FUNCTION hand_over(text) FROM counterfoil_jobs');
    const run = await toOutbox({ CF_REPUBLISH_FUNCTION: 'public.hand_over' });
    expect(run.record).toMatchObject({
      failure_id: 'grant_missing',
      message: expect.stringContaining(
        'GRANT EXECUTE ON FUNCTION "public"."hand_over"(text) TO counterfoil_jobs',
      ),
    });
  });

  it('a function that is dropped under the run ends it, and gives the events back', async () => {
    await lose('e1');
    await bench.database.query(`
      CREATE OR REPLACE FUNCTION hand_over(id text) RETURNS boolean LANGUAGE plpgsql AS $$
      BEGIN PERFORM gone_under_us(id); RETURN true; END $$`);
    const run = await toOutbox();
    expect(run.exitCode).toBe(1);
    expect(run.record).toMatchObject({ failure_id: 'database_error' });
    expect(await bench.status('e1')).toMatchObject({ status: 'due', handler_attempts: 0 });
    expect(await outbox()).toEqual([]);
  });
});

describe('with the endpoint back', () => {
  it('what has no bill after the grace goes there; what is billed, or may still be, does not', async () => {
    await lose('unbilled');
    const session = await lose('billed');
    await lose('unknown', 'services.other.thing.v1');
    await toOutbox();
    await bill(session);
    const early = await bench.run({ CF_HANDED_GRACE_SECONDS: '60' });
    expect(early.record.counts).toMatchObject({ handed_settled: 1, handed_due_again: 0, sent: 0 });
    const late = await bench.run({ CF_HANDED_GRACE_SECONDS: '0' });
    expect(late.record.counts).toMatchObject({ handed_due_again: 1, handed_overdue: 1 });
    expect(bench.endpoint.calls.flatMap((call) => call.eventIds)).toEqual(['unbilled']);
    // Of the event that no check knows, nobody can say whether it was billed: a person decides.
    expect(await bench.status('unknown')).toMatchObject({ status: 'handed_to_outbox' });
  });

  it('an event that the outbox has billed is delivered once more in time, which marks it', async () => {
    const session = await lose('e1');
    await toOutbox();
    await bill(session);
    await toOutbox();
    await bench.database.query(
      `UPDATE counterfoil.replay_events SET finished_at = finished_at - interval '1 day'`,
    );
    await bench.run();
    expect(await bench.status('e1')).toMatchObject({
      status: 'done',
      last_outcome: 'processed',
      handed_at: null,
    });
    expect(await bench.database.query('SELECT status FROM event_backups')).toEqual([{ status: 'processed' }]);
  });

  it('an event that was processed elsewhere is done, and one that is gone too', async () => {
    await lose('processed');
    await lose('gone');
    await toOutbox();
    await bench.database.query(`UPDATE event_backups SET status = 'processed' WHERE event_id = 'processed'`);
    await bench.database.query(`DELETE FROM event_backups WHERE event_id = 'gone'`);
    await bench.run();
    expect(await bench.status('processed')).toMatchObject({
      status: 'done',
      last_outcome: 'already_processed',
    });
    expect(await bench.status('gone')).toMatchObject({ status: 'done', last_outcome: 'gone' });
  });
});

describe('what has been done for long', () => {
  it('is removed, oldest first; what is younger, pending again or ended by the outbox is kept', async () => {
    await bench.addEvents([{ id: 'pending' }]);
    await bench.database.query(
      `INSERT INTO counterfoil.replay_events (event_id, event_name, event_created_at, status, finished_at, handed_at)
       VALUES ('old', 'n', now(), 'done', now() - interval '31 days', NULL),
              ('young', 'n', now(), 'done', now() - interval '29 days', NULL),
              ('handed', 'n', now(), 'done', now() - interval '31 days', now())`,
    );
    const run = await bench.run();
    expect(run.record.counts).toMatchObject({ purged: 1 });
    expect(
      (await bench.database.query('SELECT event_id FROM counterfoil.replay_events ORDER BY 1')).map(
        (row) => row.event_id,
      ),
    ).toEqual(['handed', 'pending', 'young']);
    await bench.database.query(
      `UPDATE counterfoil.replay_events SET finished_at = now() - interval '1 year'`,
    );
    expect((await bench.run({ CF_KEEP_DONE_DAYS: '0' })).record.counts).toMatchObject({ purged: 0 });
  });
});

describe('the settings', () => {
  it('ask for the endpoint and its token unless a function stands in for them', async () => {
    const run = await toOutbox({ CF_REPUBLISH_FUNCTION: '' });
    expect(run.record).toMatchObject({
      failure_id: 'settings_invalid',
      message:
        'CF_REPLAY_URL: is required unless CF_REPUBLISH_FUNCTION is set; CF_REPLAY_TOKEN: is required unless CF_REPUBLISH_FUNCTION is set',
    });
  });
});
