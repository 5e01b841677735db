/**
 * The schedules on a real cluster: they fire, find what was planted, mend what a job may mend and leave the rest to a
 * person; two runs at once do no harm; and the logs of one recovery can be followed.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { fired, fires } from './alerts.ts';
import { eventually } from './cluster.ts';
import { figure } from './figures.ts';
import type { LogLine } from './job-runs.ts';
import { query } from './prometheus.ts';
import { MINUTES, ScheduledShop } from './scheduled-shop.ts';
import { INSTALLATION } from './shop.ts';

/** Lost before it, so that the run which replays it is at work for a while. */
const LOST_BEFORE = [6, 7, 8];
const LOST = 1;
const NEVER_PUBLISHED = 2;
const TWICE = 3;
const WRONG = 4;
const RIGHT = 5;
const SESSIONS = 10;

const ALL = [
  'billing-reconciliation-tail',
  'billing-reconciliation-incremental',
  'billing-reconciliation-full',
  'event-replay',
  'flow-probe',
  'backup-retention',
];
const PRICE = 12_500;

/** How long billing takes while it is slow: four such calls, one after the other, are more than a second run takes to come up and to give way. */
const SLOW_MS = 25_000;

let shop: ScheduledShop;
let begun: string;
let begunAt: number;

beforeAll(async () => {
  shop = await ScheduledShop.open(SESSIONS, {
    jobs: {
      billingReconciliation: { incremental: { schedule: '*/2 * * * *' }, full: { schedule: '*/2 * * * *' } },
      // Early in a minute lost, an event is seen by two runs of reconciliation before replay takes it.
      eventReplay: {
        graceSeconds: 70,
        settings: {
          ...{ CF_LEASE_SECONDS: 10, CF_DATABASE_RETRY_SECONDS: 5 },
          ...{ CF_LANES: 1, CF_BATCH_SIZE: 1, CF_CLAIM_SIZE: 1 },
        },
      },
      // Taken up again once no fault strikes any more: it would be struck, and say so.
      flowProbe: { schedule: '* * * * *', overrides: { suspend: true } },
      backupRetention: { enabled: true, schedule: '*/2 * * * *', days: 30 },
    },
  });
  // What is planted is past the grace of a bill at the next minute, and past that of replay at the one after it, not before.
  await eventually('a minute has just begun', 90, async () =>
    /:(?:0[1-9]|1[0-2])$/.test(await shop.service.sql(`SELECT to_char(clock_timestamp(), 'MI:SS')`)),
  );
  begun = await shop.runs.now();
  begunAt = Date.now();
  await shop.service.sql(`INSERT INTO event_backups (event_id, event_name, payload, status, created_at, processed_at)
    SELECT 'of ' || days || ' days', 'contract.signed.v1', '{}', 'processed', now() - days * interval '1 day',
           now() - days * interval '1 day'
      FROM unnest(ARRAY[20, 40]) AS days`);
  await shop.completeWith('lose', ...LOST_BEFORE, LOST);
  await shop.completeWith('skip_backup', NEVER_PUBLISHED);
  await shop.completeWith('bill_twice', TWICE);
  await shop.completeWith('bill_wrong', WRONG);
  await shop.complete(RIGHT);
  await eventually('the right one is billed', 30, async () => (await shop.bills(RIGHT))[0]?.length === 1);
  await shop.service.arm(await shop.pod(), 'slow', 1, { ms: SLOW_MS });
});
afterAll(async () => {
  await shop?.close();
});

const seconds = () => (Date.now() - begunAt) / 1_000;

describe('a run beside another one', () => {
  it('a person starts replay while its schedule has it at work: the second stands back, and nothing comes twice', {
    ...MINUTES,
  }, async () => {
    const first = await eventually('the scheduled run has sent the event', 400, async () => {
      const pod = await shop.service.sql(
        `SELECT DISTINCT r.pod FROM counterfoil.replay_events AS e JOIN counterfoil.job_runs AS r
           ON r.job = 'event-replay' AND r.outcome = 'running' WHERE e.call_started_at IS NOT NULL`,
      );
      return pod !== '' && pod;
    });
    await shop.runs.startNow('event-replay', 'by-hand');
    expect(await shop.runs.ended('by-hand', 120)).toBe('Complete');
    await shop.service.disarm(await shop.pod());
    const [attempt, ...others] = await shop.runs.attempts('by-hand');
    expect(others).toEqual([]);
    expect(attempt?.exitCode).toBe(0);
    const ofHand = await shop.runs.wait('event-replay', begun, 30, ({ pod }) => pod === attempt?.pod);
    expect(ofHand).toMatchObject({
      outcome: 'skipped',
      exitCode: 0,
      message: 'another run holds the lease event-replay',
    });
    const ofSchedule = await shop.runs.wait('event-replay', begun, 120, ({ pod, outcome }) => {
      return pod === first && outcome !== 'running';
    });
    expect(ofSchedule).toMatchObject({
      outcome: 'succeeded',
      counts: { processed: 4, calls: 4, calls_without_answer: 0 },
    });
    expect(await shop.bills(...LOST_BEFORE, LOST)).toEqual([[PRICE], [PRICE], [PRICE], [PRICE]]);
    figure('schedule', 'lost event until it is billed', seconds(), 's');
    await shop.runs.suspend('flow-probe', false);
  });
});

describe('what was planted', () => {
  it('every job was started by its CronJob and has done what it is for', MINUTES, async () => {
    for (const job of ALL) {
      const run = await shop.runs.succeeded(job, begun, 400);
      // Kubernetes names the pod for its schedule: CronJob, minute, and five letters.
      expect(run.pod).toMatch(new RegExp(`^${shop.runs.cronJob(job).slice(0, 40)}`));
    }
    const probed = await shop.runs.succeeded('flow-probe', begun, 1);
    expect(probed.counts).toMatchObject({ bill_right: 1, ledger_rows: 1 });
    const events = await shop.service.sql(
      `SELECT string_agg(event_id, ', ') FROM event_backups WHERE event_id LIKE 'of %'`,
    );
    expect(events).toBe('of 20 days');
  });

  it('a fact without event is rebuilt and billed, the right one is left alone, and wrong ones are not touched', {
    ...MINUTES,
  }, async () => {
    await eventually('the fact without event is billed', 400, async () => {
      const [bills] = await shop.bills(NEVER_PUBLISHED);
      return bills?.length === 1;
    });
    figure('schedule', 'fact without event until it is billed', seconds(), 's');
    await eventually('no bill is missing any more', 300, async () => {
      const missing = await shop.service.sql(
        `SELECT string_agg(status, ', ') FROM counterfoil.discrepancies WHERE kind = 'missing' GROUP BY status`,
      );
      if (!/^resolved(, resolved)*$/.test(missing)) throw new Error(missing);
      return true;
    });
    expect(await shop.bills(LOST, NEVER_PUBLISHED, TWICE, WRONG, RIGHT)).toEqual([
      [PRICE],
      [PRICE],
      [PRICE, PRICE],
      [PRICE + 1],
      [PRICE],
    ]);
  });

  it('the second and the wrong bill are a person’s: in the metrics, on the first screen, and as a page', {
    ...MINUTES,
  }, async () => {
    const found = await eventually('the metrics tell of them alone', 120, async () => {
      const series = await query(
        `sum by (kind, cause) (billing_discrepancy_count{namespace="${shop.namespace.name}"}) > 0`,
      );
      const kinds = series.map(({ metric, value: [, count] }) => `${count} ${metric.kind} ${metric.cause}`);
      if (kinds.length !== 2) throw new Error(kinds.join());
      return kinds.sort();
    });
    expect(found).toEqual(['1 amount none', '1 duplicate none']);
    const [forAPerson] = await query(
      `sum(counterfoil_findings_for_a_person{namespace="${shop.namespace.name}"})`,
    );
    expect(forAPerson?.value[1]).toBe('2');
    const page = await fires(shop.namespace.name, 'BillingDiscrepancy', { severity: 'critical' }, 120);
    expect(page.installation).toBe(INSTALLATION);
    const screen = await shop.namespace.kubectl(
      ...['exec', `deploy/${INSTALLATION}-exporter`, '--', 'node', 'jobs/status/main.ts'],
    );
    expect(screen).toContain('2 OPEN DISCREPANCIES');
    expect(screen).toContain('billed more than once');
    expect(screen).toContain('billed a wrong amount');
    expect(screen).not.toContain('without a bill');
  });

  it('and no alert said that a job had failed, was late or was not started', async () => {
    expect(await fired(shop.namespace.name, 'CounterfoilJob.*')).toEqual([]);
    // The same question finds what did fire.
    expect(await fired(shop.namespace.name, 'Billing.*')).toEqual(['BillingDiscrepancy']);
  });
});

describe('the logs', () => {
  it('one recovery reads as a story, from the first suspicion to the bill, each line with its run', {
    ...MINUTES,
  }, async () => {
    const lines = await shop.runs.logs('billing-reconciliation', 'event-replay');
    const session = shop.service.sessionId(LOST);
    const eventId = String(lines.find(({ key }) => String(key) === session)?.event_id);
    const names = ({ key, eventId: one, eventIds }: LogLine) =>
      String(key) === session || one === eventId || (Array.isArray(eventIds) && eventIds.includes(eventId));
    const story = lines.filter(names);
    expect(story.map(({ job, msg, cause, outcome }) => [job, msg, cause ?? outcome])).toEqual([
      ['billing-reconciliation', 'finding suspected', 'event_pending'],
      ['billing-reconciliation', 'finding open', 'event_pending'],
      ['billing-reconciliation', 'asked for a replay: open findings whose event is still pending', undefined],
      ['event-replay', 'event replayed', 'processed'],
      ['billing-reconciliation', 'finding resolved', 'event_pending'],
    ]);
    const requestId = story.find(({ msg }) => msg.startsWith('asked for a replay'))?.requestId;
    const taken = lines.find((line) => line.msg === 'a request for a replay was taken');
    expect(taken).toMatchObject({ job: 'event-replay', requestId });
    const runs = await Promise.all(ALL.map((job) => shop.runs.list(job)));
    const known = runs.flat().map(({ runId }) => runId);
    for (const { runId } of story) expect(known).toContain(runId);
  });

  it('the fact without event has its own, by its key', async () => {
    const lines = await shop.runs.logs('billing-reconciliation', 'event-replay');
    const session = shop.service.sessionId(NEVER_PUBLISHED);
    const finding = lines.find(({ key }) => String(key) === session)?.finding;
    const story = lines.filter(
      ({ key, findings }) =>
        String(key) === session || (Array.isArray(findings) && findings.includes(finding)),
    );
    expect(story.map(({ msg, outcome }) => [msg, outcome])).toEqual([
      ['finding suspected', undefined],
      ['finding open', undefined],
      [
        'asked for a rebuild: open findings whose event was never published, or processed without a bill',
        undefined,
      ],
      ['item done', 'rebuilt'],
      ['finding resolved', undefined],
    ]);
  });

  it('and nobody is told of the session that was billed as it should be', async () => {
    const lines = await shop.runs.logs('billing-reconciliation', 'event-replay');
    expect(lines.length).toBeGreaterThan(10);
    expect(JSON.stringify(lines)).not.toContain(shop.service.sessionId(RIGHT));
  });
});
