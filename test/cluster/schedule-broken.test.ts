/**
 * Runs that come to harm on a real cluster: killed from the node, deleted, hung until the deadline of their Job, failed behind a lock,
 * refused for want of a right. Kubernetes does what the chart says, the next run takes over, and the alerts tell of it.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { fired, fires, firing, rests } from './alerts.ts';
import { eventually } from './cluster.ts';
import { figure } from './figures.ts';
import { NodeProcess } from './node-process.ts';
import { MINUTES, ScheduledShop } from './scheduled-shop.ts';

const PRICE = 12_500;
const OF_KILLED = [1, 2, 3, 4];
const OF_DELETED = [5, 6, 7, 8];
const OF_HUNG = [9, 10, 11, 12];
const AFTER_ALL = 13;
const SESSIONS = 20;

/** With one event in a call and one call at a time, a run takes four of these: long enough to be met at work. */
const SLOW_MS = 10_000;

let shop: ScheduledShop;
let node: NodeProcess;

beforeAll(async () => {
  shop = await ScheduledShop.open(SESSIONS, {
    settings: { CF_SHUTDOWN_SECONDS: 5 },
    jobs: {
      billingReconciliation: {
        tail: { activeDeadlineSeconds: 120 },
      },
      eventReplay: {
        graceSeconds: 3,
        // Three times what a run takes that is killed and begun again.
        activeDeadlineSeconds: 120,
        settings: {
          ...{ CF_LEASE_SECONDS: 10, CF_DATABASE_RETRY_SECONDS: 5 },
          ...{ CF_LANES: 1, CF_BATCH_SIZE: 1, CF_CLAIM_SIZE: 1 },
        },
      },
      flowProbe: { enabled: false },
    },
  });
  node = await NodeProcess.reach(shop.namespace);
});
afterAll(async () => {
  await shop?.close();
});

/** The pod of a run that is in the middle of its work: some of it is done, and a call is under way. */
async function inMidRun(job: string, sessions: readonly number[]): Promise<string> {
  const ids = sessions.map((session) => `'${shop.service.sessionId(session)}'`).join();
  await eventually('some is done, and a call is under way', 120, async () => {
    const state = await shop.service.sql(
      `SELECT count(*) FILTER (WHERE r.status = 'done'), count(*) FILTER (WHERE r.call_started_at IS NOT NULL)
         FROM counterfoil.replay_events AS r JOIN event_backups AS b USING (event_id)
        WHERE b.payload ->> 'sessionId' IN (${ids})`,
    );
    const [done, begun] = state.split('|').map(Number);
    if (done === 0 || begun === 0) throw new Error(state);
    return true;
  });
  const [attempt] = await shop.runs.attempts(job);
  return attempt?.pod ?? '';
}

describe('a run that comes to harm in the middle of its work', () => {
  // Only what is started here is to be at work.
  beforeAll(async () => {
    await shop.runs.suspend('event-replay', true);
  });
  afterAll(async () => {
    await shop.service.disarm(await shop.pod());
    await shop.runs.suspend('event-replay', false);
  });

  /** Four events to send, slowly, and a run that is in the middle of it; gives its Job and its pod. */
  async function atWork(name: string, sessions: readonly number[]): Promise<{ job: string; pod: string }> {
    await shop.completeWith('lose', ...sessions);
    await shop.service.arm(await shop.pod(), 'slow', 1, { ms: SLOW_MS });
    await delay(3_000); // the grace of the events: nothing tells that it is over
    const job = `${name}-${sessions[0]}`;
    await shop.runs.startNow('event-replay', job);
    return { job, pod: await inMidRun(job, sessions) };
  }

  async function eachBilledOnce(sessions: readonly number[]): Promise<void> {
    // The service may still have been at work on the one that was sent when its run came to harm.
    await eventually('all are billed', 120, async () => {
      const bills = await shop.bills(...sessions);
      return bills.every((one) => one.length > 0);
    });
    expect(await shop.bills(...sessions)).toEqual(sessions.map(() => [PRICE]));
  }

  it.each([
    ['its process killed from the node', OF_KILLED, async (pod: string) => await node.signal(pod, 'KILL')],
    [
      'its pod deleted by force',
      OF_DELETED,
      async (pod: string) =>
        void (await shop.namespace.kubectl('delete', 'pod', pod, '--force', '--grace-period=0')),
    ],
  ])(
    '%s: the Job starts another one, which finishes it, and no bill comes twice',
    MINUTES,
    async (what, sessions, kill) => {
      const since = await shop.runs.now();
      const { job, pod } = await atWork('killed', sessions);
      await kill(pod);
      const killedAt = Date.now();
      await shop.service.disarm(await shop.pod());
      expect(await shop.runs.ended(job, 300)).toBe('Complete');
      figure('schedule', `${what} until another has finished`, (Date.now() - killedAt) / 1_000, 's');
      const attempts = await shop.runs.attempts(job);
      expect(attempts.at(-1)).toMatchObject({ phase: 'Succeeded', exitCode: 0 });
      expect(attempts.at(-1)?.pod).not.toBe(pod);
      expect((await shop.runs.job(job)).status).toMatchObject({ succeeded: 1, failed: 1 });
      const runs = await shop.runs.list('event-replay', since);
      // Nobody was left to write the end of the first.
      expect(runs.map((run) => [run.pod === pod, run.outcome])).toEqual([
        [true, 'running'],
        [false, 'succeeded'],
      ]);
      // What it held came back: the one that was sent, and those that were to be sent next.
      expect([1, 2, 3]).toContain(runs[1]?.counts.reclaimed);
      await eachBilledOnce(sessions);
    },
  );

  it(
    'its process hangs: the deadline of the Job ends it, and the next run finishes it',
    MINUTES,
    async () => {
      const since = await shop.runs.now();
      const { job, pod } = await atWork('hung', OF_HUNG);
      await node.signal(pod, 'STOP');
      const stoppedAt = Date.now();
      await shop.service.disarm(await shop.pod());
      expect(await shop.runs.ended(job, 400)).toBe('DeadlineExceeded');
      figure('schedule', 'hung until the Job has ended it', (Date.now() - stoppedAt) / 1_000, 's');
      await shop.runs.startNow('event-replay', 'after-hung');
      expect(await shop.runs.ended('after-hung', 120)).toBe('Complete');
      const runs = await shop.runs.list('event-replay', since);
      expect(runs.map((run) => [run.pod === pod, run.outcome])).toEqual([
        [true, 'running'],
        [false, 'succeeded'],
      ]);
      await eachBilledOnce(OF_HUNG);
    },
  );
});

describe('while a migration of the service holds its sessions, and a right is gone', () => {
  let locked: Promise<unknown>;
  let since: string;

  beforeAll(async () => {
    since = await shop.runs.now();
    await shop.runs.succeeded('billing-reconciliation-tail', since, 200);
    await shop.service.sql('REVOKE SELECT ON event_backups FROM counterfoil_jobs');
    locked = shop.service
      .sql(
        `SET application_name = 'a migration'; BEGIN; LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(900)`,
      )
      .catch(() => undefined);
    since = await shop.runs.now();
  });
  afterAll(async () => {
    await unlock();
  });

  const unlock = async () => {
    await shop.service.sql(
      `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'a migration'`,
    );
    await locked;
  };

  it('runs that fail are tried again, and the alert tells of it', MINUTES, async () => {
    const failed = await shop.runs.wait(
      ...(['billing-reconciliation-tail', since, 300] as const),
      ({ outcome }) => outcome === 'failed',
    );
    expect(failed).toMatchObject({ exitCode: 1, failureId: 'database_busy' });
    const job = await shop.runs.jobOf(failed.pod);
    expect(['BackoffLimitExceeded', 'DeadlineExceeded']).toContain(await shop.runs.ended(job, 300));
    expect((await shop.runs.attempts(job)).length).toBeGreaterThan(1);
    await fires(
      shop.namespace.name,
      'CounterfoilJobFailed',
      { counterfoil_job: 'billing-reconciliation', mode: 'tail' },
      300,
    );
  });

  it('a run that is refused is not tried again, and the alert tells of it', MINUTES, async () => {
    const refused = await shop.runs.wait(
      ...(['event-replay', since, 300] as const),
      ({ outcome }) => outcome === 'refused',
    );
    expect(refused).toMatchObject({ exitCode: 2, failureId: 'grant_missing' });
    const job = await shop.runs.jobOf(refused.pod);
    expect(await shop.runs.ended(job, 120)).toBe('PodFailurePolicy');
    expect(await shop.runs.attempts(job)).toHaveLength(1);
    await fires(shop.namespace.name, 'CounterfoilJobFailed', { counterfoil_job: 'event-replay' }, 300);
  });

  it('then all goes on by itself: leases are free, the alerts rest, and what was lost meanwhile is billed', {
    ...MINUTES,
  }, async () => {
    await shop.service.sql('GRANT SELECT ON event_backups TO counterfoil_jobs');
    await unlock();
    const freed = await shop.runs.now();
    const freedAt = Date.now();
    await shop.completeWith('lose', AFTER_ALL);
    for (const job of ['billing-reconciliation-tail', 'event-replay'])
      await shop.runs.succeeded(job, freed, 400);
    await rests(shop.namespace.name, 'CounterfoilJobFailed', {}, 300);
    figure('schedule', 'cause gone until the last alert on a job rests', (Date.now() - freedAt) / 1_000, 's');
    await eventually('it is billed', 300, async () => (await shop.bills(AFTER_ALL))[0]?.length === 1);
    expect(await shop.bills(AFTER_ALL)).toEqual([[PRICE]]);
    const held = await shop.service.sql(
      'SELECT count(*) FROM counterfoil.job_leases WHERE expires_at < now()',
    );
    expect(held).toBe('0');
    expect(await fired(shop.namespace.name, 'CounterfoilJobFailed')).toEqual([
      'CounterfoilJobFailed billing-reconciliation tail',
      'CounterfoilJobFailed event-replay once',
    ]);
    expect(await firing(shop.namespace.name, { alertname: 'CounterfoilJobSilent' })).toEqual([]);
  });
});
