/** Every job from its beginning to its end, in the image that is shipped, run as the chart runs it. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { renderInstallation } from './chart.ts';
import { hurried } from './hurried.ts';
import { bills, plantProcessed, plantSessions, sessionId } from './planted.ts';
import type { RunningPod } from './running-pod.ts';
import { Shop, type ShopOptions } from './shop.ts';

/** The same with a Rollout, whose analysis has a gate on bills. */
const gated = {
  ...hurried,
  service: { podLabels: { app: 'billing' } },
  metrics: { service: { elsewhere: true } },
  rollout: { enabled: true, deployment: 'billing', replicas: 4, router: { type: 'traefik' } },
};

/** Tests in their order: each goes on with what the one before it has left. */
export function everyJob(options: ShopOptions): void {
  let shop: Shop;
  let exporter: RunningPod | undefined;
  beforeAll(async () => {
    shop = await Shop.open({ ...options, values: hurried });
  });
  afterAll(async () => {
    await exporter?.remove();
    await shop?.close();
  });

  const findings = async () =>
    (
      await shop.query<{ finding: string }>(
        `SELECT right(key::jsonb ->> 0, 1) || ' ' || kind || ' ' || coalesce(cause, '-') || ' ' || status AS finding
         FROM counterfoil.discrepancies ORDER BY 1`,
      )
    ).map(({ finding }) => finding);

  /** Session by session, those that end in these numbers. */
  const complete = async (...numbers: readonly number[]) => {
    for (const number of numbers) await shop.call('POST', `/sessions/${sessionId(number)}/complete`);
  };
  /** By a service that loses what it publishes. */
  const lose = async (fault: 'lose' | 'skip_backup', ...numbers: readonly number[]) => {
    await shop.arm(fault, 1);
    await complete(...numbers);
    await shop.disarm();
  };

  test('before the schema job has run a job ends with exit code 1, to be tried again', async () => {
    const { code, log } = await shop.run('CronJob', 'billing-reconciliation-tail');
    expect([code, log.at(-1)?.failureId]).toEqual([1, 'schema_absent']);
  });

  test('the schema job makes the tables, and a second time finds nothing to do', async () => {
    expect((await shop.run('Job', 'schema')).code).toBe(0);
    const again = await shop.run('Job', 'schema');
    expect(again.code).toBe(0);
    expect(again.log.at(-1)?.counts).toMatchObject({ applied: 0 });
  });

  test.each(['owner', 'jobs', 'exporter', 'retention'])(
    'helm test finds the login of %s right',
    async (role) => {
      expect(await shop.run('Pod', `test-database-${role}`)).toMatchObject({ code: 0 });
    },
  );

  test('what the service has lost and what it has billed twice is suspected, and nothing else', async () => {
    await plantSessions(shop, 9);
    await complete(1, 2);
    await lose('lose', 3, 4);
    await lose('skip_backup', 5);
    await shop.arm('bill_twice', 1);
    await complete(6);
    await expect.poll(() => bills(shop), { timeout: 30_000 }).toEqual({ none: 3, one: 2, several: 1 });
    await shop.disarm();
    // An hour passes: all of it is older than the check's grace.
    await shop.sql(`
    UPDATE sessions SET completed_at = completed_at - interval '1 hour' WHERE completed_at IS NOT NULL;
    UPDATE mentor_payable_ledgers SET created_at = created_at - interval '1 hour';
    UPDATE event_backups SET created_at = created_at - interval '1 hour'`);
    const { code, log } = await shop.run('CronJob', 'billing-reconciliation-full');
    expect(code).toBe(0);
    expect(log.at(-1)?.counts).toMatchObject({ suspected: 4, opened: 0, facts: 6 });
    expect(await findings()).toEqual([
      '3 missing event_pending suspected',
      '4 missing event_pending suspected',
      '5 missing never_published suspected',
      '6 duplicate - suspected',
    ]);
  });

  test('the gate of a canary on them ends with exit code 3, and with 0 on what came after them', async () => {
    const rendered = await renderInstallation(gated);
    const gate = async (since: string) =>
      (
        await shop.run('AnalysisTemplate', 'reconciliation', {
          rendered,
          arguments: { since },
        })
      ).code;
    expect(await gate('2h')).toBe(3);
    expect(await gate('45m')).toBe(0);
  });

  test('the next run asks for what the jobs may mend, since the gate was the second look', async () => {
    const { code, log } = await shop.run('CronJob', 'billing-reconciliation-incremental');
    expect(code).toBe(0);
    expect(log.at(-1)?.counts).toMatchObject({ replays_requested: 2, rebuilds_requested: 1 });
  });

  test('event-replay mends them through the service, once each, and tail sees that all but the second bill is well', async () => {
    expect(await bills(shop)).toEqual({ none: 3, one: 2, several: 1 });
    const { code, log } = await shop.run('CronJob', 'event-replay');
    expect(code).toBe(0);
    expect(log.at(-1)?.counts).toMatchObject({ processed: 2, items_done: 1, parked: 0 });
    expect(await bills(shop)).toEqual({ none: 0, one: 5, several: 1 });
    expect((await shop.run('CronJob', 'billing-reconciliation-tail')).code).toBe(0);
    expect(await findings()).toEqual([
      '3 missing event_pending resolved',
      '4 missing event_pending resolved',
      '5 missing never_published resolved',
      '6 duplicate - open',
    ]);
  });

  test('a second event-replay finds nothing to send', async () => {
    const { code, log } = await shop.run('CronJob', 'event-replay');
    expect(code).toBe(0);
    expect(log.at(-1)?.counts).toMatchObject({ sent: 0 });
    expect(await bills(shop)).toEqual({ none: 0, one: 5, several: 1 });
  });

  test('event-replay as a Deployment mends what is lost while it runs, and ends at SIGTERM with exit code 0', async () => {
    const rendered = await renderInstallation({
      ...hurried,
      jobs: { ...(hurried.jobs as object), eventReplay: { mode: 'deployment', graceSeconds: 1 } },
    });
    const replay = await shop.start('Deployment', 'event-replay', { rendered });
    await lose('lose', 7);
    await expect.poll(() => replay.text, { timeout: 60_000 }).toContain('event replayed');
    await replay.signal('SIGTERM');
    expect((await replay.ended()).code).toBe(0);
    expect(await bills(shop)).toEqual({ none: 0, one: 6, several: 1 });
  });

  test('flow-probe walks through the service and is billed', async () => {
    expect(await shop.run('CronJob', 'flow-probe')).toMatchObject({ code: 0 });
    expect(await bills(shop)).toEqual({ none: 0, one: 7, several: 1 });
  });

  test('flow-probe tells of a service that loses its events', async () => {
    await shop.arm('lose', 1);
    const { code, log } = await shop.run('CronJob', 'flow-probe');
    await shop.disarm();
    expect([code, log.at(-1)?.failureId]).toEqual([1, 'probe_bill_wrong']);
  });

  test('backup-retention deletes what is old and processed, and nothing that is pending or young', async () => {
    await shop.sql(`UPDATE counterfoil.checks SET verified_through = now()`);
    await plantProcessed(shop, 2_500, 60);
    await shop.sql(`
    UPDATE event_backups SET status = 'pending', processed_at = NULL WHERE event_id = 'old-7';
    UPDATE event_backups SET processed_at = now() WHERE event_id = 'old-8'`);
    const before = await shop.value<string>('SELECT count(*) FROM event_backups');
    const { code, log } = await shop.run('CronJob', 'backup-retention');
    expect(code).toBe(0);
    expect(log.at(-1)?.counts).toMatchObject({ purged: 2_498 });
    expect(await shop.value<string>('SELECT count(*) FROM event_backups')).toBe(
      String(Number(before) - 2_498),
    );
    expect(
      await shop.query(`SELECT event_id FROM event_backups WHERE event_id LIKE 'old-%' ORDER BY 1`),
    ).toEqual([{ event_id: 'old-7' }, { event_id: 'old-8' }]);
  });

  test('the exporter answers helm test, and its pod the person who asks for the status', async () => {
    exporter = await shop.start('Deployment', 'exporter');
    expect(await shop.run('Pod', 'test-exporter')).toMatchObject({ code: 0 });
    const metrics = await exporter.exec(
      ...['node', '--input-type=module', '--eval'],
      `process.stdout.write(await (await fetch('http://127.0.0.1:9464/metrics')).text())`,
    );
    expect(metrics.output).toMatch(/^counterfoil_collection_success\{[^}]*collection="state"[^}]*\} 1$/m);
    const status = await exporter.exec('node', 'jobs/status/main.ts', '--json');
    expect(status.code).toBe(0);
    expect(JSON.parse(status.output)).toMatchObject({ verdict: 'open' });
  });

  test('helm test finds the endpoint right, and a wrong token refused for good', async () => {
    expect(await shop.run('Pod', 'test-endpoint')).toMatchObject({ code: 0 });
    const { code, text } = await shop.run('Pod', 'test-endpoint', {
      secrets: { 'billing-token': { token: 'the-token-of-another-service' } },
    });
    expect([code, text.includes('endpoint_refused')]).toEqual([2, true]);
    expect(text).not.toContain('the-token-of-another-service');
  });
}
