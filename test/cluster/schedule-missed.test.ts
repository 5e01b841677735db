/** Schedules that are missed on a real cluster: Kubernetes may start nothing, and a person has suspended a job. Nothing is lost. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { fired, fires, firing, rests } from './alerts.ts';
import { eventually } from './cluster.ts';
import { figure } from './figures.ts';
import { MINUTES, ScheduledShop } from './scheduled-shop.ts';

const PRICE = 12_500;
const BEFORE = 1;
const MEANWHILE = 2;
const BILLED = 3;
const SESSIONS = 10;

/** `thresholds`: so long after its last success, and the alert's own `for`, a tail is late. */
const MAX_AGE_SECONDS = 120;

const TAIL = { counterfoil_job: 'billing-reconciliation', mode: 'tail' };
const REPLAY = { counterfoil_job: 'event-replay' };

let shop: ScheduledShop;
let stopped: string;
let stoppedAt: number;
let started: string;
let startedAt: number;

/** Jobs of this namespace that Kubernetes may make. */
const quota = (jobs: number) => ({
  apiVersion: 'v1',
  kind: 'ResourceQuota',
  metadata: { name: 'jobs' },
  spec: { hard: { 'count/jobs.batch': String(jobs) } },
});

beforeAll(async () => {
  shop = await ScheduledShop.open(SESSIONS, {
    jobs: { eventReplay: { graceSeconds: 10 }, flowProbe: { enabled: false } },
    prometheusRule: {
      overrides: {
        CounterfoilJobSuspended: { for: '15s' },
        CounterfoilJobNotScheduled: { for: '15s' },
      },
    },
  });
  const installed = await shop.runs.now();
  await shop.completeWith('lose', BEFORE);
  for (const job of ['billing-reconciliation-tail', 'event-replay'])
    await shop.runs.succeeded(job, installed, 300);
  await eventually(
    'what was lost before is billed',
    300,
    async () => (await shop.bills(BEFORE))[0]?.length === 1,
  );
  await shop.namespace.apply(quota(0));
  await shop.runs.suspend('event-replay', true);
  stopped = await shop.runs.now();
  stoppedAt = Date.now();
  await shop.completeWith('lose', MEANWHILE);
  await shop.complete(BILLED);
});
afterAll(async () => {
  await shop?.close();
});

it('while the schedules run, no alert tells of them', async () => {
  expect(await fired(shop.namespace.name, 'CounterfoilJob.*')).toEqual([]);
});

it('a job that Kubernetes may not start is told of: not scheduled, and late', MINUTES, async () => {
  const { namespace } = shop;
  await fires(namespace.name, 'CounterfoilJobOverdue', TAIL, 3 * MAX_AGE_SECONDS);
  figure('schedule', 'last chance to run until the alert says late', (Date.now() - stoppedAt) / 1_000, 's');
  await fires(namespace.name, 'CounterfoilJobNotScheduled', TAIL, 3 * MAX_AGE_SECONDS);
  const events = await namespace.kubectl('get', 'events', '--field-selector', 'reason=FailedCreate');
  expect(events).toContain('exceeded quota: jobs');
  expect(await shop.runs.list('billing-reconciliation-tail', stopped)).toEqual([]);
});

it('one that a person has suspended is told of as suspended, and not as late', MINUTES, async () => {
  const { namespace } = shop;
  await fires(namespace.name, 'CounterfoilJobSuspended', REPLAY, 120);
  for (const alertname of ['CounterfoilJobOverdue', 'CounterfoilJobNotScheduled'])
    expect(await firing(namespace.name, { alertname, ...REPLAY })).toEqual([]);
  expect(await firing(namespace.name, { alertname: 'CounterfoilJobSuspended', ...TAIL })).toEqual([]);
  // What it leaves undone is told of by itself.
  await fires(namespace.name, 'CounterfoilOverdueEvents', {}, 180);
  expect(await shop.bills(MEANWHILE)).toEqual([[]]);
});

it('when they run again the alerts rest, and nothing was lost', MINUTES, async () => {
  const { namespace } = shop;
  await namespace.kubectl('delete', 'resourcequota', 'jobs');
  await shop.runs.suspend('event-replay', false);
  started = await shop.runs.now();
  startedAt = Date.now();
  const tail = await shop.runs.succeeded('billing-reconciliation-tail', started, 300);
  // What was completed while nobody looked is looked at now.
  expect(tail.counts.facts).toBeGreaterThanOrEqual(2);
  await eventually(
    'the lost event is billed',
    300,
    async () => (await shop.bills(MEANWHILE))[0]?.length === 1,
  );
  figure('schedule', 'schedules back until what was lost is billed', (Date.now() - startedAt) / 1_000, 's');
  for (const alertname of ['CounterfoilJobOverdue', 'CounterfoilJobNotScheduled', 'CounterfoilJobSuspended'])
    await rests(namespace.name, alertname, {}, 300);
  figure('schedule', 'schedules back until the last alert rests', (Date.now() - startedAt) / 1_000, 's');
  expect(await shop.bills(BEFORE, MEANWHILE, BILLED)).toEqual([[PRICE], [PRICE], [PRICE]]);
  const behind = await shop.service.sql(
    `SELECT count(*) FROM sessions WHERE completed_at AT TIME ZONE 'UTC' >
       (SELECT min(verified_through) FROM counterfoil.checks)`,
  );
  expect(behind).toBe('0');
});
