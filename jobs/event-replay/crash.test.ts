/** The real process, killed or told to stop at each gap between claim, call and record. */

import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import {
  type Bench,
  type Child,
  eventually,
  holdUp,
  openBench,
  startChild,
  startInProcess,
} from '../../test/event-replay/bench.ts';
import { startProxy } from '../../test/postgres/proxy.ts';

let bench: Bench;
const children: Child[] = [];
beforeAll(async () => {
  bench = await openBench();
});
afterEach(async () => {
  for (const child of children.splice(0)) {
    child.process.kill('SIGKILL');
    await child.exited;
  }
  await bench.reset();
});
afterAll(async () => await bench.close());

const LEASE_SECONDS = 3;
const LANES = 2;
const BATCH = 5;
const CLAIM = 20;
const small = {
  CF_LEASE_SECONDS: String(LEASE_SECONDS),
  CF_LANES: String(LANES),
  CF_BATCH_SIZE: String(BATCH),
  CF_CLAIM_SIZE: String(CLAIM),
  CF_DATABASE_RETRY_SECONDS: '10',
};

function start(changes: Record<string, string> = {}): Child {
  const child = startChild(bench.environment({ ...small, ...changes }));
  children.push(child);
  return child;
}

async function kill(child: Child): Promise<void> {
  child.process.kill('SIGKILL');
  await child.exited;
}

const doneIds = async () =>
  new Set(
    (
      await bench.database.query<{ event_id: string }>(
        `SELECT event_id FROM counterfoil.replay_events WHERE status = 'done'`,
      )
    ).map((row) => row.event_id),
  );
const claimed = async () =>
  Number(
    (
      await bench.database.query<{ events: string }>(
        `SELECT count(*) AS events FROM counterfoil.replay_events WHERE status = 'claimed'`,
      )
    )[0]?.events,
  );
/** Whether a session of the job waits for a lock. */
const isBlocked = async () =>
  (
    await bench.database.query(
      `SELECT 1 FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'counterfoil-event-replay'
          AND wait_event_type = 'Lock'`,
    )
  ).length > 0;

/** Makes every change of an event for which `when` is true wait for an advisory lock that a test may hold. */
const GATE = 4711;
async function withGate(when: string, work: () => Promise<void>): Promise<void> {
  await bench.database.query(`
    CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS
      $$ BEGIN PERFORM pg_advisory_xact_lock_shared(${GATE}); RETURN new; END $$;
    CREATE TRIGGER gate BEFORE UPDATE ON counterfoil.replay_events FOR EACH ROW
      WHEN (${when}) EXECUTE FUNCTION gate()`);
  try {
    await work();
  } finally {
    await bench.database.query('DROP TRIGGER gate ON counterfoil.replay_events; DROP FUNCTION gate()');
  }
}
const isClaimed = "old.status = 'due' AND new.status = 'claimed'";
const isRecorded = "old.status = 'claimed' AND new.status = 'done'";

/** After a kill: one more run brings everything back within the lease, and repeats no more than it must. */
async function expectRecovery(total: number): Promise<void> {
  const recorded = await doneIds();
  const callsBefore = bench.endpoint.calls.length;
  const finishedBefore = new Set(bench.endpoint.finished.keys());
  const startedAt = Date.now();
  const run = await bench.run(small);
  expect(run.exitCode, run.log).toBe(0);
  expect(await bench.statuses()).toEqual({ done: total });
  for (const [id, times] of bench.endpoint.finished) expect(times, id).toBe(1);
  const again = bench.endpoint.calls.slice(callsBefore).flatMap(({ eventIds }) => eventIds);
  expect(again.filter((id) => recorded.has(id))).toEqual([]);
  // One flush is what was answered and not written: at most a claim, beside what was in flight.
  const repeats = again.filter((id) => finishedBefore.has(id));
  expect(repeats.length).toBeLessThanOrEqual(LANES * BATCH + CLAIM);
  // The lease of the run and the claims run side by side; the rest is the work itself.
  expect(Date.now() - startedAt).toBeLessThan(2 * LEASE_SECONDS * 1_000 + 5_000);
}

describe('kill -9', () => {
  it('after the claim, before any call: nothing was sent, and all comes back', async () => {
    await bench.addEvents(100);
    await withGate("old.status = 'claimed' AND new.call_started_at IS NOT NULL", async () => {
      const letGo = await holdUp(bench.database.url, `SELECT pg_advisory_xact_lock(${GATE})`);
      const child = start();
      await eventually(isBlocked);
      await kill(child);
      await letGo();
      await eventually(async () => !(await isBlocked()));
    });
    expect(bench.endpoint.calls).toHaveLength(0);
    await expectRecovery(100);
  });

  it('after the calls were sent, before their answers', async () => {
    await bench.addEvents(100);
    let release = () => {};
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    bench.endpoint.handle = async () => {
      await held;
      return undefined;
    };
    const child = start();
    await bench.endpoint.arrived(LANES);
    await kill(child);
    release();
    await eventually(async () => bench.endpoint.finished.size === LANES * BATCH);
    await expectRecovery(100);
  });

  it('after an answer, before it is written', async () => {
    await bench.addEvents(100);
    const child = start();
    await bench.endpoint.arrived(3);
    await kill(child);
    await expectRecovery(100);
  });

  it('while outcomes are being written', async () => {
    await withGate(isRecorded, async () => {
      await bench.addEvents(100);
      const letGo = await holdUp(bench.database.url, `SELECT pg_advisory_xact_lock(${GATE})`);
      const child = start();
      await eventually(isBlocked);
      await kill(child);
      await letGo();
      // A server that goes on with the statement of a dead client may commit it or not; both are right.
      await eventually(async () => !(await isBlocked()));
      await expectRecovery(100);
    });
  });

  it('three times in the same call: the event is parked and the others are not', async () => {
    await bench.addEvents(3);
    bench.endpoint.misbehave = ({ eventIds }) => {
      if (!eventIds.includes('e0002')) return false;
      children.at(-1)?.process.kill('SIGKILL');
      return true;
    };
    for (let run = 1; run <= 3; run += 1) {
      const child = start();
      await child.exited;
      bench.endpoint.cut();
    }
    const last = await bench.run(small);
    expect(last.record).toMatchObject({ outcome: 'succeeded', counts: { parked: 1 } });
    expect(await bench.statuses()).toEqual({ done: 2, parked: 1 });
    expect(await bench.status('e0002')).toMatchObject({
      parked_reason: 'crashes_the_service',
      unfinished_calls: 3,
    });
  });
});

describe('two replicas', () => {
  it('share the work without sending anything twice, even when a lost lease lets both run', async () => {
    const ids = await bench.addEvents(400);
    let dropped = false;
    bench.endpoint.handle = async () => {
      if (!dropped) {
        dropped = true;
        await bench.database.query(`DELETE FROM counterfoil.job_leases WHERE name = 'event-replay'`);
      }
      return undefined;
    };
    const first = startInProcess(bench.environment({ ...small, CF_LEASE_SECONDS: '30' }));
    const second = startInProcess(bench.environment({ ...small, CF_LEASE_SECONDS: '30' }));
    const ends = await Promise.all([first.ended, second.ended]);
    expect(ends.map(({ exitCode }) => exitCode)).toEqual([0, 0]);
    const sent = bench.endpoint.calls.flatMap(({ eventIds }) => eventIds);
    expect(sent.length).toBe(ids.length);
    expect(new Set(sent)).toEqual(new Set(ids));
    expect(await bench.statuses()).toEqual({ done: 400 });
  });

  it('take over from each other: the one that stood by works within the lease of the one that died', async () => {
    const continuous = { CF_MODE: 'continuous', CF_LEASE_SECONDS: '2' };
    const first = start(continuous);
    await bench.addEvents([{ id: 'before' }]);
    await eventually(async () => (await bench.statuses()).done === 1);
    const second = startInProcess(bench.environment({ ...small, ...continuous }));
    await kill(first);
    const killedAt = Date.now();
    await bench.addEvents([{ id: 'after' }]);
    await eventually(async () => (await bench.statuses()).done === 2);
    expect(Date.now() - killedAt).toBeLessThan(2_000 + 4_000);
    second.stop();
    const { exitCode, log } = await second.ended;
    expect(exitCode, log).toBe(0);
    const runs = await bench.database.query<{ outcome: string }>(
      'SELECT outcome FROM counterfoil.job_runs ORDER BY started_at',
    );
    expect(runs.map(({ outcome }) => outcome)).toEqual(['running', 'succeeded']);
  });
});

describe('SIGTERM', () => {
  it('while nothing is due ends a continuous run at once', async () => {
    const run = startInProcess(bench.environment({ ...small, CF_MODE: 'continuous' }));
    await bench.addEvents(1);
    await eventually(async () => (await bench.statuses()).done === 1);
    run.stop();
    const { exitCode, log } = await run.ended;
    expect(exitCode, log).toBe(0);
    const [row] = await bench.database.query('SELECT outcome, counts FROM counterfoil.job_runs');
    expect(row).toMatchObject({ outcome: 'succeeded', counts: { processed: 1 } });
    const [audit] = await bench.database.query(
      `SELECT counts FROM counterfoil.audit WHERE action = 'replay' ORDER BY id DESC LIMIT 1`,
    );
    expect(audit).toMatchObject({ counts: { processed: 1 } });
  });

  it('during calls: lets them end, gives the rest back at once, and exits 0 as partial', async () => {
    await bench.addEvents(100);
    let release = () => {};
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    bench.endpoint.handle = async () => {
      await held;
      return undefined;
    };
    const child = start({ CF_LEASE_SECONDS: '60' });
    await bench.endpoint.arrived(LANES);
    child.process.kill('SIGTERM');
    // The rest is back before the calls have ended.
    await eventually(async () => (await claimed()) === LANES * BATCH);
    release();
    expect(await child.exited).toEqual({ code: 0, signal: null });
    expect(await bench.statuses()).toEqual({ done: LANES * BATCH, due: 100 - LANES * BATCH });
    const untouched = await bench.database.query(
      `SELECT 1 FROM counterfoil.replay_events
        WHERE status = 'due' AND (handler_attempts + unfinished_calls > 0 OR call_started_at IS NOT NULL)`,
    );
    expect(untouched).toEqual([]);
    const [row] = await bench.database.query('SELECT outcome, exit_code FROM counterfoil.job_runs');
    expect(row).toEqual({ outcome: 'partial', exit_code: 0 });
    expect(bench.endpoint.calls).toHaveLength(LANES);
  });

  it('during a call that does not end: cuts it within the deadline, and holds nothing against the event', async () => {
    await bench.addEvents(1);
    bench.endpoint.handle = async () => await new Promise(() => undefined);
    const run = startInProcess(
      bench.environment({ ...small, CF_SHUTDOWN_SECONDS: '1', CF_CALL_SECONDS: '30' }),
    );
    await bench.endpoint.arrived(1);
    run.stop();
    const { exitCode, log } = await run.ended;
    expect(exitCode, log).toBe(0);
    expect(await bench.status('e0001')).toMatchObject({
      status: 'due',
      claim_token: null,
      handler_attempts: 0,
      unfinished_calls: 0,
      last_outcome: 'abandoned',
    });
    bench.endpoint.cut();
  });

  it('with the database away: ends as failed before it would be cut off', async () => {
    await bench.addEvents(50);
    const proxy = await startProxy(bench.database.urlAs('counterfoil_jobs'), () => 'pass');
    let release = () => {};
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    bench.endpoint.handle = async () => {
      await held;
      return undefined;
    };
    const run = startInProcess(
      bench.environment({
        ...small,
        DATABASE_URL: proxy.url,
        CF_MODE: 'continuous',
        CF_LEASE_SECONDS: '60',
        CF_SHUTDOWN_SECONDS: '4',
        CF_DATABASE_RETRY_SECONDS: '60',
      }),
    );
    await bench.endpoint.arrived(LANES);
    await proxy.close();
    run.stop();
    const stoppedAt = Date.now();
    release();
    const { exitCode, log } = await run.ended;
    expect(Date.now() - stoppedAt).toBeLessThan(4_000);
    expect(exitCode).toBe(1);
    expect(log).toContain('database_unreachable');
    expect(log).not.toContain('deadline_exceeded');
  });

  it('during a claim: gives back what it brings', async () => {
    await bench.addEvents(50);
    await withGate(isClaimed, async () => {
      const letGo = await holdUp(bench.database.url, `SELECT pg_advisory_xact_lock(${GATE})`);
      const run = startInProcess(bench.environment(small));
      await eventually(isBlocked);
      run.stop();
      await letGo();
      const { exitCode, log } = await run.ended;
      expect(exitCode, log).toBe(0);
    });
    expect(await bench.statuses()).toEqual({ due: 50 });
    expect(bench.endpoint.calls).toHaveLength(0);
  });

  it('during a record: writes it to its end', async () => {
    await withGate(isRecorded, async () => {
      await bench.addEvents(10);
      const letGo = await holdUp(bench.database.url, `SELECT pg_advisory_xact_lock(${GATE})`);
      const run = startInProcess(bench.environment(small));
      await eventually(isBlocked);
      run.stop();
      await letGo();
      const { exitCode, log } = await run.ended;
      expect(exitCode, log).toBe(0);
      expect(await bench.statuses()).toEqual({ done: 10 });
    });
  });
});

describe('a freeze', () => {
  it('stops a continuous run while it lasts, and no longer', async () => {
    const run = startInProcess(bench.environment({ ...small, CF_MODE: 'continuous' }));
    await bench.addEvents([{ id: 'before' }]);
    await eventually(async () => (await bench.statuses()).done === 1);
    await bench.database.query(
      `INSERT INTO counterfoil.freezes (reason, frozen_until) VALUES ('a rollback', now() + interval '1 hour')`,
    );
    await eventually(async () => run.log().includes('frozen: nothing is sent'));
    await bench.addEvents([{ id: 'during' }]);
    await bench.database.query('UPDATE counterfoil.freezes SET released_at = now()');
    await eventually(async () => (await bench.statuses()).done === 2);
    run.stop();
    expect((await run.ended).exitCode).toBe(0);
  });
});

describe('writes that lead nowhere', () => {
  it('end a single run instead of letting it turn in circles', async () => {
    await bench.addEvents([{ id: 'stubborn' }]);
    bench.endpoint.misbehave = (_asked, response) => {
      const results = [{ eventId: 'stubborn', outcome: 'processed' }];
      response.end(JSON.stringify({ serviceVersion: '1', listenersDigest: 'd', results }));
      return true;
    };
    // Whatever is written, the event is due again at once: a defect that nobody foresaw.
    await bench.database.query(`
      CREATE FUNCTION undo() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        new.status := 'due'; new.claim_token := NULL; new.lease_until := NULL; RETURN new; END $$;
      CREATE TRIGGER undo BEFORE UPDATE ON counterfoil.replay_events FOR EACH ROW
        WHEN (new.call_started_at IS NOT NULL) EXECUTE FUNCTION undo()`);
    const run = await bench.run(small);
    await bench.database.query('DROP TRIGGER undo ON counterfoil.replay_events; DROP FUNCTION undo()');
    expect(run.record).toMatchObject({ outcome: 'partial', message: expect.stringContaining('circles') });
    expect(bench.endpoint.calls.length).toBeLessThanOrEqual(3 * LANES * BATCH + 5 * CLAIM + 1);
  });
});
