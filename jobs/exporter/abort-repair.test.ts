/** What the exporter asks for after an abort: with its own role on a real Postgres, answered by the real jobs. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { checksFile, sessionBilling } from '../../test/builders/checks.ts';
import { emptyTables, reconcile } from '../../test/builders/reconciliation.ts';
import { addBilledSession, addSession } from '../../test/builders/service.ts';
import { waitFor } from '../../test/builders/wait-for.ts';
import { refuse, TestApiServer } from '../../test/kubernetes/api-server.ts';
import {
  abortedStatus,
  kubeTime,
  paths,
  podObject,
  putCanary,
  removeCanaryPods,
  replicaSetObject,
  rolloutObject,
} from '../../test/kubernetes/objects.ts';
import { startWatching, type Watching } from '../../test/kubernetes/watching.ts';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';
import { startProxy } from '../../test/postgres/proxy.ts';

let database: TestDatabase;
let server: TestApiServer;
let watchings: Watching[];
/** When the canary began: an hour ago. */
let since: number;
let tests = 0;

beforeAll(async () => {
  database = await createTestDatabase();
  await database.query('ALTER TABLE event_backups ADD COLUMN IF NOT EXISTS published_hash text');
});
beforeEach(async () => {
  server = await TestApiServer.start();
  watchings = [];
  tests += 1;
  since = Math.floor((Date.now() - 3_600_000) / 1000) * 1000;
});
afterEach(async () => {
  await Promise.all(watchings.map(async (one) => await one.stop()));
  await server.stop();
  await emptyTables(database);
  vi.unstubAllEnvs();
});
afterAll(async () => await database.drop());

async function watch(
  settings: Readonly<Record<string, string>> = {},
  databaseUrl: string = database.urlAs('counterfoil_exporter'),
): Promise<Watching> {
  // An installation of its own for each test: the audit keeps what it has.
  const watching = await startWatching(server.kubeconfig, {
    databaseUrl,
    settings: { CF_REPAIR_AFTER_ABORT: 'true', CF_INSTALLATION: installation(), ...settings },
  });
  watchings.push(watching);
  return watching;
}
const installation = () => `test-${tests}`;

interface RequestRow {
  readonly id: string;
  readonly kind: string;
  readonly scope: {
    readonly from: string;
    readonly to: string;
    readonly published_hash?: string;
    readonly abort: Readonly<Record<string, string>>;
  };
  readonly status: string;
  readonly requested_by: string;
}
const requests = async () =>
  await database.query<RequestRow>('SELECT * FROM counterfoil.requests ORDER BY id');
const kinds = async () => (await requests()).map(({ kind }) => kind);

const abortAt = () => since + 1_800_000;
function abort(at = abortAt()): void {
  server.put(paths.rollouts, rolloutObject({ status: abortedStatus(at) }));
}
const inState = async (watching: Watching, state: string) =>
  await waitFor(
    `the repair is ${state}`,
    async () => (await watching.value('counterfoil_abort_repair', { state })) === 1,
  );
/** The replay job has done what it was asked. */
const endReplay = async (status = 'done') =>
  await database.query(
    `UPDATE counterfoil.requests SET status = $1, finished_at = clock_timestamp() WHERE kind = 'replay'`,
    [status],
  );
const reasons = () => server.posted.map(({ reason }) => reason);

describe('after an abort', () => {
  it('nothing is asked for while a pod of the version is left; a replay of its range once the last is gone', async () => {
    putCanary(server, since);
    const watching = await watch();
    await waitFor(
      'the rollout is seen',
      async () => (await watching.value('counterfoil_rollout_weight')) === 1,
    );
    expect(await watching.value('counterfoil_abort_repair', { state: 'waiting' })).toBeUndefined();
    abort();
    await inState(watching, 'waiting');
    expect(await kinds()).toEqual([]);
    expect(await watching.value('counterfoil_abort_repair_since_timestamp_seconds')).toBe(abortAt() / 1000);

    // The ReplicaSet is scaled down and its pod is still ending.
    server.put(paths.replicaSets, replicaSetObject('bad', since, 0));
    await new Promise((resolve) => setTimeout(resolve, 500));
    expect(await kinds()).toEqual([]);

    const before = Date.now();
    removeCanaryPods(server, since);
    await inState(watching, 'requested');
    const [replay, ...others] = await requests();
    expect(others).toEqual([]);
    expect(replay).toMatchObject({
      kind: 'replay',
      requested_by: 'counterfoil_exporter',
      scope: {
        published_hash: 'bad',
        abort: {
          namespace: 'shop',
          rollout: 'shop',
          hash: 'bad',
          at: new Date(abortAt()).toISOString(),
        },
      },
    });
    // From before its first pod to after its last one.
    expect(Date.parse(replay?.scope.from ?? '')).toBe(since - 60_000);
    expect(Date.parse(replay?.scope.to ?? '')).toBeGreaterThanOrEqual(before - 1_000);
    expect(reasons()).toEqual(['CounterfoilRepairRequested']);
  });

  it('nothing is asked for where that is switched off, and the series says so', async () => {
    putCanary(server, since);
    abort();
    removeCanaryPods(server, since);
    const watching = await watch({ CF_REPAIR_AFTER_ABORT: 'false' });
    await inState(watching, 'off');
    await new Promise((resolve) => setTimeout(resolve, 500));
    expect(await kinds()).toEqual([]);
    expect(server.posted).toEqual([]);
    expect(
      await database.query(`SELECT FROM counterfoil.audit WHERE installation = $1`, [installation()]),
    ).toEqual([]);
  });

  it('nothing is asked for when a canary ends without one', async () => {
    putCanary(server, since);
    const watching = await watch();
    await waitFor(
      'the rollout is seen',
      async () => (await watching.value('counterfoil_rollout_weight')) === 1,
    );
    removeCanaryPods(server, since);
    server.put(
      paths.rollouts,
      rolloutObject({ status: { phase: 'Healthy', currentPodHash: 'good', pauseConditions: [] } }),
    );
    await waitFor(
      'the canary is gone',
      async () => (await watching.value('counterfoil_rollout_weight')) === 0,
    );
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(await kinds()).toEqual([]);
  });

  it('the verification is asked for when the replay has ended, and not before', async () => {
    putCanary(server, since);
    abort();
    removeCanaryPods(server, since);
    const watching = await watch();
    await inState(watching, 'requested');
    await database.query(`UPDATE counterfoil.requests SET status = 'taken'`);
    await inState(watching, 'repairing');
    expect(await kinds()).toEqual(['replay']);
    await endReplay();
    await waitFor('the verification is asked for', async () => (await kinds()).length === 2);
    const [replay, verify] = await requests();
    expect(verify?.kind).toBe('verify');
    expect(verify?.scope).toEqual(replay?.scope);
    // Although the abort was there before the exporter, and the pods gone.
    expect(Date.parse(replay?.scope.from ?? '')).toBe(since - 60_000);
  });

  it('each is asked for once, by two exporters at once and after a restart', async () => {
    putCanary(server, since);
    abort();
    removeCanaryPods(server, since);
    const both = await Promise.all([watch(), watch()]);
    for (const one of both) await inState(one, 'requested');
    await Promise.all(both.map(async (one) => await one.stop()));
    watchings = [];
    const third = await watch();
    await inState(third, 'requested');
    await endReplay();
    const fourth = await watch();
    for (const one of [third, fourth]) await inState(one, 'repairing');
    await waitFor('the verification is asked for', async () => (await kinds()).length === 2);
    await new Promise((resolve) => setTimeout(resolve, 500));
    expect(await kinds()).toEqual(['replay', 'verify']);
    const audited = await database.query<{ action: string }>(
      `SELECT action FROM counterfoil.audit WHERE installation = $1 ORDER BY id`,
      [installation()],
    );
    expect(audited.map(({ action }) => action)).toEqual([
      'rollout aborted',
      'replay requested',
      'verify requested',
    ]);
    // Said by the first, and known to the others by its name.
    expect(reasons()).toEqual(['CounterfoilRepairRequested']);
  });

  it('a second abort of the same version is another one', async () => {
    putCanary(server, since);
    abort();
    removeCanaryPods(server, since);
    const watching = await watch();
    await inState(watching, 'requested');
    server.put(paths.pods, podObject('bad-2', 'bad'));
    server.put(paths.rollouts, rolloutObject());
    server.put(paths.rollouts, rolloutObject({ status: abortedStatus(abortAt() + 60_000) }));
    await inState(watching, 'waiting');
    server.remove(paths.pods, 'pod-bad-2');
    await inState(watching, 'requested');
    expect((await requests()).map(({ scope }) => scope.abort.at)).toEqual([
      new Date(abortAt()).toISOString(),
      new Date(abortAt() + 60_000).toISOString(),
    ]);
  });

  it('it is asked for even when the rollout has gone back to the good version before the pods were gone, and the exporter restarts', async () => {
    putCanary(server, since);
    abort();
    const watching = await watch();
    await inState(watching, 'waiting');
    server.put(
      paths.rollouts,
      rolloutObject({ status: { phase: 'Healthy', currentPodHash: 'good', pauseConditions: [] } }),
    );
    await watching.stop();
    watchings = [];
    removeCanaryPods(server, since);
    const next = await watch();
    await inState(next, 'requested');
    expect(await kinds()).toEqual(['replay']);
  });

  it('a version that is promoted all the same is repaired up to its abort', async () => {
    putCanary(server, since);
    abort();
    const watching = await watch();
    await inState(watching, 'waiting');
    server.put(
      paths.rollouts,
      rolloutObject({ status: { phase: 'Healthy', stableRS: 'bad', pauseConditions: [] } }),
    );
    await inState(watching, 'requested');
    const [replay] = await requests();
    expect(Date.parse(replay?.scope.to ?? '')).toBe(abortAt() + 60_000);
  });

  it('is not asked for while the API server is away and nobody can tell whether pods are left', async () => {
    putCanary(server, since);
    abort();
    const watching = await watch();
    await inState(watching, 'waiting');
    await server.stop();
    removeCanaryPods(server, since);
    await new Promise((resolve) => setTimeout(resolve, 500));
    expect(await kinds()).toEqual([]);
    await server.resume();
    await inState(watching, 'requested');
  });

  it('an events table without the hash is asked for by the range alone; without one there is only a verification', async () => {
    await database.query('ALTER TABLE event_backups RENAME COLUMN published_hash TO something_else');
    try {
      putCanary(server, since);
      abort();
      removeCanaryPods(server, since);
      const watching = await watch();
      await inState(watching, 'requested');
      const [replay] = await requests();
      expect(replay?.scope.published_hash).toBeUndefined();
      expect(replay?.scope.abort.hash).toBe('bad');
      await watching.stop();
      watchings = [];
      await emptyTables(database);
      const other = await watch({ CF_EVENTS_TABLE: 'no_such_table' });
      await inState(other, 'repairing');
      expect(await kinds()).toEqual(['verify']);
    } finally {
      await database.query('ALTER TABLE event_backups RENAME COLUMN something_else TO published_hash');
    }
  });

  it('it is asked for when the database comes back that was away at the abort, also for two aborts', async () => {
    let away = false;
    const proxy = await startProxy(database.urlAs('counterfoil_exporter'), () => (away ? 'cut' : 'pass'));
    try {
      putCanary(server, since);
      const watching = await watch({}, proxy.url);
      await waitFor(
        'the rollout is seen',
        async () => (await watching.value('counterfoil_rollout_weight')) === 1,
      );
      away = true;
      abort();
      await waitFor(
        'the first is seen',
        async () => (await watching.value('counterfoil_rollout_aborted')) === 1,
      );
      server.put(paths.rollouts, rolloutObject());
      await waitFor(
        'it is tried again',
        async () => (await watching.value('counterfoil_rollout_aborted')) === 0,
      );
      abort(abortAt() + 60_000);
      removeCanaryPods(server, since);
      await waitFor('it is said', async () =>
        watching.log.messages().some((text) => text.includes('cannot be followed')),
      );
      expect(await watching.value('counterfoil_abort_repair', { state: 'waiting' })).toBeUndefined();
      away = false;
      await inState(watching, 'requested');
      await waitFor('both are asked for', async () => (await kinds()).length === 2);
      expect((await requests()).map(({ scope }) => scope.abort.at).sort()).toEqual([
        new Date(abortAt()).toISOString(),
        new Date(abortAt() + 60_000).toISOString(),
      ]);
      await watching.stop();
      watchings = [];
    } finally {
      await proxy.close();
    }
  });

  it('an Event that cannot be made stops nothing', async () => {
    putCanary(server, since);
    abort();
    removeCanaryPods(server, since);
    server.once(`post ${paths.events}`, refuse(403));
    const watching = await watch();
    await inState(watching, 'requested');
    await waitFor('it is said at the next look', async () => reasons().length === 1);
  });
});

describe('the outcome', () => {
  const checks = () => checksFile(sessionBilling({ grace: '1s' }));
  const tail = async () => {
    const run = await reconcile(database, {
      CF_MODE: 'tail',
      CF_CHECKS_FILE: checks(),
      CF_INSTALLATION: installation(),
    });
    expect(run.outcome, run.log).toBe('succeeded');
  };
  /** Runs of the tail until one can answer the request whole. */
  const verify = async () =>
    await waitFor('the verification is answered', async () => {
      await tail();
      return (await requests()).at(-1)?.status === 'done';
    });
  const insideRange = () => kubeTime(since + 600_000);

  async function aborted(): Promise<Watching> {
    putCanary(server, since);
    abort();
    removeCanaryPods(server, since);
    const watching = await watch();
    await inState(watching, 'requested');
    await endReplay();
    await waitFor('the verification is asked for', async () => (await kinds()).length === 2);
    return watching;
  }

  it('is clean once the range is verified to its end and nothing stands in it', async () => {
    await addBilledSession(database, { completedAt: insideRange() });
    const watching = await aborted();
    await verify();
    await inState(watching, 'clean');
    expect(reasons()).toEqual(['CounterfoilRepairRequested', 'CounterfoilRepairClean']);
    expect(server.posted.at(-1)).toMatchObject({
      type: 'Normal',
      involvedObject: { kind: 'Rollout', name: 'shop', uid: 'a0000000-0000-0000-0000-000000000001' },
    });
  });

  it('is not clean while a bill of the range is missing, and becomes so when that is mended', async () => {
    const unbilled = await addSession(database, { completedAt: insideRange() });
    const watching = await aborted();
    await verify();
    // Seen once, or on its way: the jobs are waited for before anybody is told.
    expect(await watching.value('counterfoil_abort_repair', { state: 'not_clean' })).toBe(0);
    await tail();
    // The time that jobs at work are waited for has passed.
    await database.query(
      `UPDATE counterfoil.requests SET finished_at = finished_at - interval '40 minutes', status = 'done'`,
    );
    await inState(watching, 'not_clean');
    expect(server.posted.at(-1)).toMatchObject({ type: 'Warning', reason: 'CounterfoilRepairNotClean' });
    expect(JSON.stringify(server.posted)).not.toContain(unbilled.id);
    await database.query(
      `INSERT INTO mentor_payable_ledgers (session_id, mentor_id, amount_minor, currency, idempotency_key, created_at)
       VALUES ($1, $2, $3, $4, 'mended', now())`,
      [unbilled.id, unbilled.mentorId, unbilled.amountMinor, unbilled.currency],
    );
    await tail();
    await inState(watching, 'clean');
  });

  it('does not count a finding outside of the range, or of another version', async () => {
    await addBilledSession(database, { completedAt: insideRange() });
    await addSession(database, { completedAt: kubeTime(since - 7_200_000) });
    const other = await addSession(database, { completedAt: insideRange() });
    await database.query(
      `INSERT INTO event_backups (event_id, event_name, payload, status, created_at, published_hash)
       VALUES ('e-good', 'services.session.completed.v1', jsonb_build_object('sessionId', $1::text), 'pending', $2, 'good')`,
      [other.id, insideRange()],
    );
    const watching = await aborted();
    await verify();
    await tail();
    const standing = await database.query(
      `SELECT published_hash FROM counterfoil.discrepancies WHERE status = 'open' ORDER BY 1`,
    );
    expect(standing).toEqual([{ published_hash: 'good' }, { published_hash: null }]);
    await inState(watching, 'clean');
  });

  it('is not clean while replay has parked an event of the version', async () => {
    const watching = await aborted();
    await database.query(
      `INSERT INTO counterfoil.replay_events
         (event_id, event_name, event_created_at, status, parked_at, parked_reason, request_id)
       SELECT 'e-parked', 'services.session.completed.v1', now(), 'parked', now(), 'fact_changed', id
         FROM counterfoil.requests WHERE kind = 'replay'`,
    );
    await verify();
    await inState(watching, 'not_clean');
    expect(server.posted.at(-1)?.message).toContain('1 parked events');
  });

  it('is not clean before every check is verified through the end of the range', async () => {
    await addBilledSession(database, { completedAt: insideRange() });
    const watching = await aborted();
    await verify();
    await inState(watching, 'clean');
    await database.query(`UPDATE counterfoil.checks SET verified_through = now() - interval '2 days'`);
    await inState(watching, 'repairing');
  });
});
