import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { type Bench, openBench } from '../../test/event-replay/bench.ts';

let bench: Bench;
beforeAll(async () => {
  bench = await openBench();
});
afterEach(async () => await bench.reset());
afterAll(async () => await bench.close());

const sent = () => bench.endpoint.calls.flatMap((call) => call.eventIds);
/** Makes what waits due now, as time would. */
const passTime = async () =>
  await bench.database.query(
    `UPDATE counterfoil.replay_events SET next_attempt_at = now() WHERE status = 'due'`,
  );

describe('what is sent', () => {
  it('sends what is pending and overdue, oldest first, and records it as done', async () => {
    const ids = await bench.addEvents(30);
    const run = await bench.run({ CF_BATCH_SIZE: '10', CF_LANES: '1' });
    expect(run.exitCode, run.log).toBe(0);
    expect(run.record).toMatchObject({
      outcome: 'succeeded',
      counts: { taken_in: 30, processed: 30, calls: 3, sent: 30 },
    });
    expect(sent()).toEqual(ids);
    expect(await bench.statuses()).toEqual({ done: 30 });
    expect(bench.endpoint.calls[0]?.headers['idempotency-key']).toMatch(/^[0-9a-f-]{36}:1$/);
    expect(bench.endpoint.calls[0]?.deadlineMs).toBe(5_000);
  });

  it('leaves an event alone that is younger than the grace, and sends one that is older', async () => {
    await bench.addEvents([
      { id: 'young', ageSeconds: 50 },
      { id: 'old', ageSeconds: 70 },
      { id: 'processed', status: 'processed' },
    ]);
    await bench.run({ CF_GRACE_SECONDS: '60' });
    expect(sent()).toEqual(['old']);
  });

  it('leaves an event alone whose handler is at work under a live lease, and sends one whose lease ran out', async () => {
    await bench.addEvents([{ id: 'live' }, { id: 'expired' }]);
    await bench.database.query(
      `INSERT INTO event_deliveries (event_id, listener, status, lease_owner, lease_until, attempts)
       VALUES ('live', 'l', 'running', 'pod', now() + interval '1 minute', 1),
              ('expired', 'l', 'running', 'pod', now() - interval '1 second', 1)`,
    );
    await bench.run();
    expect(sent()).toEqual(['expired']);
  });

  it('does not send what was processed, or removed, since it was taken in', async () => {
    await bench.addEvents([{ id: 'meanwhile', status: 'processed' }, { id: 'unchanged' }]);
    await bench.database.query(
      `INSERT INTO counterfoil.replay_events (event_id, event_name, event_created_at, next_attempt_at)
       SELECT id, 'n', now() - interval '1 hour', now() - interval '1 hour'
         FROM unnest(ARRAY['meanwhile', 'removed', 'unchanged']) AS id`,
    );
    const run = await bench.run();
    expect(sent()).toEqual(['unchanged']);
    expect(run.record.counts).toMatchObject({ already_processed: 1, gone: 1, processed: 1 });
    expect(run.lines).toContainEqual(
      expect.objectContaining({
        eventId: 'meanwhile',
        msg: 'event was processed meanwhile: it is not sent',
      }),
    );
    expect(await bench.status('meanwhile')).toMatchObject({
      status: 'done',
      last_outcome: 'already_processed',
    });
    expect(await bench.status('removed')).toMatchObject({ status: 'done', last_outcome: 'gone' });
  });

  it('sends an event again that was done and is pending again, once it has been so for longer than the grace', async () => {
    await bench.addEvents([{ id: 'reopened' }, { id: 'just-done' }, { id: 'hopeless' }]);
    await bench.database.query(
      `INSERT INTO counterfoil.replay_events (event_id, event_name, event_created_at, status, finished_at, handler_attempts)
       VALUES ('reopened', 'n', now(), 'done', now() - interval '2 minutes', 1),
              ('just-done', 'n', now(), 'done', now() - interval '30 seconds', 1),
              ('hopeless', 'n', now(), 'done', now() - interval '2 minutes', 5)`,
    );
    const run = await bench.run();
    expect(sent()).toEqual(['reopened']);
    expect(run.record.counts).toMatchObject({ reopened: 2, parked: 1 });
    expect(await bench.status('hopeless')).toMatchObject({
      status: 'parked',
      parked_reason: 'attempts_exhausted',
    });
  });

  it('parks an event after its last attempt that the service calls processed and that stays pending', async () => {
    await bench.addEvents([{ id: 'stubborn' }]);
    bench.endpoint.finished.set('stubborn', 1);
    for (let run = 1; run <= 4; run += 1) {
      await bench.run({ CF_HANDLER_ATTEMPTS: '3' });
      await bench.database.query(
        `UPDATE counterfoil.replay_events SET finished_at = now() - interval '2 minutes' WHERE status = 'done'`,
      );
    }
    expect(sent()).toEqual(['stubborn', 'stubborn', 'stubborn']);
    expect(await bench.status('stubborn')).toMatchObject({
      status: 'parked',
      parked_reason: 'attempts_exhausted',
    });
  });

  it('ends what is parked once it is processed elsewhere or gone, and leaves what is pending parked', async () => {
    await bench.addEvents([{ id: 'elsewhere', status: 'processed' }, { id: 'still' }]);
    await bench.database.query(
      `INSERT INTO counterfoil.replay_events (event_id, event_name, event_created_at, status, parked_reason, parked_at)
       SELECT id, 'n', now(), 'parked', 'not_retryable', now()
         FROM unnest(ARRAY['elsewhere', 'still', 'nowhere']) AS id`,
    );
    const run = await bench.run();
    expect(run.record.counts).toMatchObject({ parked_ended: 2, sent: 0 });
    expect(await bench.statuses()).toEqual({ done: 2, parked: 1 });
    expect(await bench.status('elsewhere')).toMatchObject({
      last_outcome: 'already_processed',
      parked_reason: null,
    });
    expect(await bench.status('nowhere')).toMatchObject({ last_outcome: 'gone' });
    expect(await bench.status('still')).toMatchObject({ status: 'parked', parked_reason: 'not_retryable' });
  });

  it('ends what is parked and not pending when it is named', async () => {
    await bench.addEvents([{ id: 'elsewhere', status: 'processed' }]);
    await bench.database.query(
      `INSERT INTO counterfoil.replay_events (event_id, event_name, event_created_at, status, parked_reason, parked_at)
       SELECT id, 'n', now(), 'parked', 'not_retryable', now() FROM unnest(ARRAY['elsewhere', 'nowhere', 'other']) AS id`,
    );
    await bench.run({ CF_EVENT_IDS: 'elsewhere nowhere' });
    expect(await bench.status('elsewhere')).toMatchObject({
      status: 'done',
      last_outcome: 'already_processed',
    });
    expect(await bench.status('nowhere')).toMatchObject({ status: 'done', last_outcome: 'gone' });
    expect(await bench.status('other')).toMatchObject({ status: 'parked' });
  });

  it('ends at once when nothing is pending, and leaves no line in the audit', async () => {
    const audited = async () => await bench.database.query('SELECT count(*) FROM counterfoil.audit');
    const before = await audited();
    const run = await bench.run();
    expect(run.record).toMatchObject({ outcome: 'succeeded', counts: { sent: 0 } });
    expect(bench.endpoint.calls).toHaveLength(0);
    expect(await audited()).toEqual(before);
  });

  it('goes through a backlog of several pages, in order, with at most three statements per claimed batch', async () => {
    const ids = await bench.addEvents(11_000);
    const run = await bench.run({ CF_LANES: '4', CF_BATCH_SIZE: '100', CF_CLAIM_SIZE: '500' });
    const { counts } = run.record;
    expect(counts).toMatchObject({ taken_in: 11_000, processed: 11_000, calls: 110 });
    expect(new Set(sent())).toEqual(new Set(ids));
    // The last claims find nothing or part of a batch; outcomes that were a tenth of a second old were not held back.
    const batches = 22;
    const statements =
      (counts.claim_statements ?? 0) + (counts.start_statements ?? 0) + (counts.record_statements ?? 0);
    expect(statements).toBeLessThanOrEqual(3 * batches + 30);
    expect(await bench.statuses()).toEqual({ done: 11_000 });
  });
});

describe('what a handler may answer', () => {
  it('sends a failed event again later, counted from its last attempt, and parks it after its last attempt', async () => {
    await bench.addEvents([{ id: 'failing' }, { id: 'healthy' }]);
    bench.endpoint.handle = (id) =>
      id === 'failing' ? { outcome: 'failed', retryable: true, error: 'BillingError' } : undefined;
    const first = await bench.run({ CF_HANDLER_ATTEMPTS: '2' });
    expect(first.record).toMatchObject({ outcome: 'succeeded', counts: { processed: 1, waiting: 1 } });
    // Whoever searches the log for an event finds what became of it.
    const told = first.lines.filter((line) => 'eventId' in line);
    expect(told.map(({ eventId, outcome, error, msg }) => [eventId, outcome, error, msg])).toEqual(
      expect.arrayContaining([
        ['failing', 'failed', 'BillingError', 'event not replayed yet: it is sent again later'],
        [expect.not.stringMatching('failing'), 'processed', undefined, 'event replayed'],
      ]),
    );
    expect(told).toHaveLength(2);
    const waiting = await bench.status('failing');
    expect(waiting).toMatchObject({
      status: 'due',
      handler_attempts: 1,
      last_outcome: 'failed',
      last_error: 'BillingError',
    });
    const waitMs = Number(waiting?.next_attempt_at) - Number(waiting?.last_attempt_at);
    expect(waitMs).toBeGreaterThanOrEqual(15_000);
    expect(waitMs).toBeLessThanOrEqual(31_000);
    // Not yet due: the next run leaves it alone.
    await bench.run({ CF_HANDLER_ATTEMPTS: '2' });
    expect(sent().filter((id) => id === 'failing')).toHaveLength(1);
    await passTime();
    const last = await bench.run({ CF_HANDLER_ATTEMPTS: '2' });
    expect(last.record.counts).toMatchObject({ parked: 1 });
    expect(last.lines).toContainEqual(
      expect.objectContaining({
        level: 'warn',
        eventId: 'failing',
        eventName: 'services.session.completed.v1',
        reason: 'attempts_exhausted',
      }),
    );
    await passTime();
    await bench.run({ CF_HANDLER_ATTEMPTS: '2' });
    expect(sent().filter((id) => id === 'failing')).toHaveLength(2);
    expect(await bench.status('failing')).toMatchObject({
      status: 'parked',
      parked_reason: 'attempts_exhausted',
    });
  });

  it('parks what can never succeed at its first attempt, and only that', async () => {
    await bench.addEvents([{ id: 'final' }, { id: 'broken' }, { id: 'healthy' }]);
    bench.endpoint.handle = (id) =>
      id === 'final'
        ? { outcome: 'failed', retryable: false }
        : id === 'broken'
          ? { outcome: 'invalid_payload' }
          : undefined;
    await bench.run();
    expect(await bench.status('final')).toMatchObject({ status: 'parked', parked_reason: 'not_retryable' });
    expect(await bench.status('broken')).toMatchObject({
      status: 'parked',
      parked_reason: 'invalid_payload',
    });
    expect(await bench.status('healthy')).toMatchObject({ status: 'done', service_version: '1.2.3' });
  });

  it('waits for a handler that is at work elsewhere without burning an attempt', async () => {
    await bench.addEvents([{ id: 'busy' }]);
    bench.endpoint.handle = () => ({ outcome: 'in_flight' });
    await bench.run();
    expect(await bench.status('busy')).toMatchObject({
      status: 'due',
      handler_attempts: 0,
      last_outcome: 'in_flight',
    });
  });

  it('takes a missing result for an unknown outcome of that event alone', async () => {
    await bench.addEvents([{ id: 'answered' }, { id: 'forgotten' }]);
    bench.endpoint.misbehave = (_asked, response) => {
      response.end(
        JSON.stringify({
          serviceVersion: '1',
          listenersDigest: 'd',
          results: [
            { eventId: 'answered', outcome: 'processed' },
            { eventId: 'never-asked', outcome: 'processed' },
          ],
        }),
      );
      return true;
    };
    const run = await bench.run();
    expect(run.record.outcome).toBe('succeeded');
    expect(run.lines).toContainEqual(expect.objectContaining({ level: 'warn', results: 1 }));
    expect(await bench.status('answered')).toMatchObject({ status: 'done' });
    expect(await bench.status('forgotten')).toMatchObject({
      status: 'due',
      handler_attempts: 1,
      last_outcome: 'outcome_unknown',
      last_error: 'result_missing',
    });
    expect(await bench.status('never-asked')).toBeUndefined();
  });

  it('parks an id that the endpoint would refuse, instead of letting it refuse the whole call', async () => {
    await bench.addEvents([{ id: 'x'.repeat(201) }, { id: 'healthy' }]);
    await bench.run();
    expect(sent()).toEqual(['healthy']);
    expect(await bench.statuses()).toEqual({ done: 1, parked: 1 });
  });

  it('does not let poison at the head starve what is healthy', async () => {
    await bench.addEvents(100);
    const poison = (id: string) => Number(id.slice(1)) <= 40;
    bench.endpoint.handle = (id) => (poison(id) ? { outcome: 'failed' } : undefined);
    const settings = { CF_BATCH_SIZE: '10', CF_LANES: '2', CF_CLAIM_SIZE: '20' };
    await bench.run(settings);
    expect(await bench.statuses()).toEqual({ done: 60, due: 40 });
    // New events go before those that wait, even when those have become due.
    await bench.addEvents(Array.from({ length: 20 }, (_, index) => ({ id: `new${index}`, ageSeconds: 100 })));
    await passTime();
    bench.endpoint.calls.length = 0;
    await bench.run(settings);
    expect(
      sent()
        .slice(0, 20)
        .every((id) => id.startsWith('new')),
    ).toBe(true);
  });
});

describe('listeners of another version', () => {
  it('parks what no listener takes, and takes it up when the service has other listeners', async () => {
    await bench.addEvents([{ id: 'a' }, { id: 'b' }, { id: 'c' }]);
    bench.endpoint.handle = (id) =>
      id === 'a'
        ? { outcome: 'no_listener' }
        : id === 'b'
          ? { outcome: 'unknown_version' }
          : { outcome: 'invalid_payload' };
    await bench.run();
    expect(await bench.statuses()).toEqual({ parked: 3 });
    expect(await bench.status('a')).toMatchObject({
      parked_reason: 'no_listener',
      listeners_digest: 'digest-1',
    });
    // The same listeners: one of them asks, and both stay parked.
    bench.endpoint.calls.length = 0;
    await bench.run();
    expect(sent()).toHaveLength(1);
    expect(await bench.statuses()).toEqual({ parked: 3 });
    // Other listeners: the one that asks learns it for both; what is parked for other reasons stays.
    bench.endpoint.listenersDigest = 'digest-2';
    bench.endpoint.handle = () => undefined;
    const run = await bench.run();
    expect(run.record.counts).toMatchObject({ unparked: 1, processed: 2 });
    expect(await bench.statuses()).toEqual({ done: 2, parked: 1 });
    expect(await bench.status('c')).toMatchObject({ parked_reason: 'invalid_payload' });
  });

  it('takes up what it has parked itself when another version answers in the same run', async () => {
    await bench.addEvents([{ id: 'first' }, { id: 'second' }]);
    bench.endpoint.handle = (id) => {
      if (bench.endpoint.calls.length > 1) bench.endpoint.listenersDigest = 'digest-2';
      return id === 'first' && bench.endpoint.calls.length === 1 ? { outcome: 'no_listener' } : undefined;
    };
    const run = await bench.run({ CF_LANES: '1', CF_BATCH_SIZE: '1' });
    expect(run.record.counts).toMatchObject({ parked: 1, unparked: 1, processed: 2 });
    expect(await bench.status('first')).toMatchObject({ status: 'done', refused_by_digests: ['digest-1'] });
  });

  it('offers an event to each version once, and fresh events before those that were refused', async () => {
    await bench.addEvents(50);
    await bench.database.query(
      `INSERT INTO counterfoil.replay_events (event_id, event_name, event_created_at, status, parked_reason, parked_at,
                                              refused_by_digests)
       SELECT event_id, 'n', now() - interval '1 day', 'parked', 'no_listener', now(), ARRAY['digest-old']
         FROM event_backups`,
    );
    let call = 0;
    bench.endpoint.handle = (id) => (id === 'fresh' ? undefined : { outcome: 'no_listener' });
    bench.endpoint.misbehave = async () => {
      call += 1;
      bench.endpoint.listenersDigest = `digest-${call % 2}`;
      if (call === 10) {
        await bench.database.query(
          `WITH fresh AS (INSERT INTO event_backups (event_id, event_name, payload, created_at)
                          VALUES ('fresh', 'n', '{}', (now() AT TIME ZONE 'UTC') - interval '61 s'))
           INSERT INTO counterfoil.replay_events (event_id, event_name, event_created_at, next_attempt_at)
           VALUES ('fresh', 'n', now() - interval '61 s', now() - interval '61 s')`,
        );
      }
      return false;
    };
    const one = { CF_LANES: '1', CF_BATCH_SIZE: '1', CF_CLAIM_SIZE: '8' };
    const run = await bench.run(one);
    expect(run.record.outcome).toBe('succeeded');
    expect(await bench.statuses()).toEqual({ done: 1, parked: 50 });
    // What was claimed before it came is sent before it, and nothing else.
    expect(sent().indexOf('fresh')).toBeLessThan(10 + 3 * 8);
    expect(sent().length).toBeLessThanOrEqual(1 + 50 + 50 + 1);

    const notRefused = await bench.database.query<{ event_id: string }>(
      `SELECT event_id FROM counterfoil.replay_events
        WHERE status = 'parked' AND NOT 'digest-1' = ANY (refused_by_digests)`,
    );
    expect(notRefused.length).toBeGreaterThan(5);
    bench.endpoint.calls.length = 0;
    bench.endpoint.misbehave = () => false;
    bench.endpoint.listenersDigest = 'digest-1';
    await bench.run();
    // The first call is the question for the digest, with whatever was parked longest.
    const asked = sent()[0];
    const others = (ids: (string | undefined)[]) => ids.filter((id) => id !== asked).sort();
    expect(others(sent())).toEqual(others(notRefused.map((row) => row.event_id)));
  });
});

describe('order per aggregate', () => {
  it('sends the events of one aggregate one at a time and oldest first, and others beside them', async () => {
    await bench.addEvents(
      Array.from({ length: 12 }, (_, index) => ({ payload: { contractId: `c${index % 3}`, other: 'x' } })),
    );
    const atWork = new Set<string>();
    const order: Record<string, string[]> = { c0: [], c1: [], c2: [] };
    bench.endpoint.handle = async (id) => {
      const aggregate = `c${(Number(id.slice(1)) - 1) % 3}`;
      if (atWork.has(aggregate)) throw new Error('two at once');
      atWork.add(aggregate);
      order[aggregate]?.push(id);
      await new Promise((resolve) => setImmediate(resolve));
      atWork.delete(aggregate);
      return undefined;
    };
    const run = await bench.run({ CF_AGGREGATE_KEY: 'contractId', CF_BATCH_SIZE: '1' });
    expect(run.record.counts).toMatchObject({ processed: 12 });
    expect(order).toEqual({
      c0: ['e0001', 'e0004', 'e0007', 'e0010'],
      c1: ['e0002', 'e0005', 'e0008', 'e0011'],
      c2: ['e0003', 'e0006', 'e0009', 'e0012'],
    });
  });

  it('holds the later events of an aggregate back while an older one waits, and no other', async () => {
    await bench.addEvents([
      { id: 'first', payload: { contractId: 'c1' } },
      { id: 'second', payload: { contractId: 'c1' } },
      { id: 'other', payload: { contractId: 'c2' } },
      { id: 'keyless', payload: [] },
    ]);
    bench.endpoint.handle = (id) => (id === 'first' ? { outcome: 'failed' } : undefined);
    await bench.run({ CF_AGGREGATE_KEY: 'contractId' });
    expect(sent().sort()).toEqual(['first', 'keyless', 'other']);
    expect(await bench.status('second')).toMatchObject({ status: 'due', handler_attempts: 0 });
  });
});

describe('what a person may ask of one run', () => {
  it('sends only the events that were named, whatever their age, and reports the unknown ones', async () => {
    await bench.addEvents([
      { id: 'young', ageSeconds: 1 },
      { id: 'parked' },
      { id: 'other' },
      { id: 'done', status: 'processed' },
    ]);
    await bench.database.query(
      `INSERT INTO counterfoil.replay_events (event_id, event_name, event_created_at, status, parked_reason, parked_at,
                                              handler_attempts)
       VALUES ('parked', 'n', now(), 'parked', 'attempts_exhausted', now(), 5)`,
    );
    const run = await bench.run({
      CF_EVENT_IDS: 'young, parked\ndone nowhere',
      CF_REASON: 'incident 7',
    });
    expect(sent().sort()).toEqual(['parked', 'young']);
    expect(run.lines).toContainEqual(expect.objectContaining({ level: 'warn', eventId: 'nowhere' }));
    expect(await bench.status('other')).toBeUndefined();
    const [audit] = await bench.database.query(
      `SELECT actor, reason, scope, counts FROM counterfoil.audit WHERE action = 'replay' ORDER BY id DESC LIMIT 1`,
    );
    expect(audit).toMatchObject({
      actor: 'counterfoil_jobs',
      reason: 'incident 7',
      scope: { mode: 'once', event_ids: ['young', 'parked', 'done', 'nowhere'] },
      counts: { sent: 2, processed: 2 },
    });
  });

  it('sends no more than CF_LIMIT, and the oldest of all', async () => {
    const ids = await bench.addEvents(50);
    const run = await bench.run({ CF_LIMIT: '7', CF_BATCH_SIZE: '5' });
    expect(run.record).toMatchObject({ outcome: 'succeeded', message: expect.stringContaining('CF_LIMIT') });
    expect(sent().sort()).toEqual(ids.slice(0, 7));
    expect(await bench.statuses()).toEqual({ done: 7, due: 43 });
  });

  it('says in a dry run what it would send, sends nothing and writes nothing but its own run', async () => {
    await bench.addEvents([
      { id: 'overdue' },
      { id: 'young', ageSeconds: 5 },
      { id: 'waiting' },
      { id: 'due' },
    ]);
    await bench.database.query(
      `INSERT INTO counterfoil.replay_events (event_id, event_name, event_created_at, next_attempt_at)
       VALUES ('waiting', 'n', now(), now() + interval '1 hour'), ('due', 'n', now(), now())`,
    );
    const before = await bench.database.query('SELECT * FROM counterfoil.replay_events ORDER BY event_id');
    const run = await bench.run({ CF_DRY_RUN: 'true' });
    expect(run.record).toMatchObject({ outcome: 'succeeded', counts: { would_send: 2, would_take_in: 1 } });
    const named = run.lines.filter(({ msg }) => msg === 'would be sent').map(({ eventId }) => eventId);
    expect(named.sort()).toEqual(['due', 'overdue']);
    expect(bench.endpoint.calls).toHaveLength(0);
    expect(await bench.database.query('SELECT * FROM counterfoil.replay_events ORDER BY event_id')).toEqual(
      before,
    );
    expect(await bench.database.query('SELECT * FROM counterfoil.job_leases')).toEqual([]);

    const one = await bench.run({ CF_DRY_RUN: 'true', CF_EVENT_IDS: 'young,nowhere' });
    expect(one.record.counts).toEqual({ would_send: 1, would_take_in: 1, not_pending: 1 });
  });

  it('refuses to run continuously for named events, and refuses settings it does not know', async () => {
    const run = await bench.run({ CF_MODE: 'continuous', CF_EVENT_IDS: 'a' });
    expect(run.exitCode).toBe(2);
    expect(run.record).toMatchObject({ outcome: 'refused', failure_id: 'settings_invalid' });
  });

  it('does not run beside another run, and says so', async () => {
    await bench.addEvents(1);
    await bench.database.query(
      `INSERT INTO counterfoil.job_leases VALUES ('event-replay', 'other', gen_random_uuid(), now(), now() + interval '1 hour')`,
    );
    const run = await bench.run({ CF_LEASE_SECONDS: '2' });
    expect(run.exitCode).toBe(0);
    expect(run.record).toMatchObject({ outcome: 'skipped' });
    expect(bench.endpoint.calls).toHaveLength(0);
  });
});

describe('what never leaves the events table', () => {
  it('shows no payload and no free text of the service in log, state or audit', async () => {
    const canary = 'CANARY Jane Doe 4711';
    await bench.addEvents([
      { id: 'ok', payload: { [canary]: canary, contractId: 'c1' } },
      { id: 'fails', payload: { name: canary } },
    ]);
    bench.endpoint.handle = (id) =>
      id === 'fails' ? { outcome: 'failed', retryable: false, error: `cannot bill ${canary}` } : undefined;
    const run = await bench.run({ CF_LOG_LEVEL: 'debug' });
    expect(run.record.counts).toMatchObject({ processed: 1, parked: 1 });
    const state = await bench.database.query<{ text: string }>(
      `SELECT (SELECT string_agg(r::text, ' ') FROM counterfoil.replay_events AS r)
           || (SELECT string_agg(r::text, ' ') FROM counterfoil.job_runs AS r)
           || (SELECT string_agg(r::text, ' ') FROM counterfoil.audit AS r) AS text`,
    );
    expect(`${run.log}${state[0]?.text}`).not.toContain('CANARY');
    expect(await bench.status('fails')).toMatchObject({ last_error: 'error_text_withheld' });
  });
});
