/** Containers that are told to stop, or killed, in the middle of a run: nothing is lost, nothing twice, and the exit is honest. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { openSession } from '../builders/session.ts';
import { hurried } from './hurried.ts';
import {
  buildGate,
  catchReplay,
  catchRetention,
  gaps,
  gatedCheck,
  holdReconciliation,
  lastRun,
  missing,
  replayAll,
  ungated,
} from './mid-run.ts';
import { bills, emptyTables, oldEventsLeft } from './planted.ts';
import { Shop } from './shop.ts';

const jobs = hurried.jobs as Record<string, { settings: object }>;
const values = {
  ...hurried,
  checks: [gatedCheck],
  // The gate, and whoever stands in a migration's way, are waited for.
  settings: { CF_LOCK_TIMEOUT_SECONDS: 30 },
  jobs: {
    ...jobs,
    eventReplay: {
      ...jobs.eventReplay,
      settings: { ...jobs.eventReplay?.settings, CF_LANES: 2, CF_BATCH_SIZE: 10, CF_CLAIM_SIZE: 20 },
    },
  },
};

let shop: Shop;
beforeAll(async () => {
  shop = await Shop.open({ values });
});
afterAll(async () => {
  await shop?.close();
});

describe('the schema job', () => {
  test('killed in the middle of its migration leaves nothing of it, and the next one makes all', async () => {
    const other = await openSession(await shop.ownUrl());
    await other.query('BEGIN');
    // The migration makes a table of this name, and waits for whether this one stays.
    await other.query('CREATE TABLE counterfoil.job_leases ()');
    const job = await shop.start('Job', 'schema');
    await expect
      .poll(
        () =>
          shop.value<number>(
            `SELECT count(*)::integer FROM pg_stat_activity
              WHERE application_name LIKE 'counterfoil-schema%' AND wait_event_type = 'Lock'`,
          ),
        { timeout: 60_000 },
      )
      .toBe(1);
    await job.signal('SIGKILL');
    expect(await job.ended()).toMatchObject({ code: 137, outOfMemory: false });
    await other.query('ROLLBACK');
    await other.end();
    await expect
      .poll(() => shop.value<boolean>(`SELECT to_regclass('counterfoil.schema_version') IS NULL`), {
        timeout: 60_000,
      })
      .toBe(true);
    expect((await shop.run('Job', 'schema')).code).toBe(0);
    await buildGate(shop);
  });
});

describe('after that', () => {
  beforeEach(async () => {
    await emptyTables(shop);
  });
  afterEach(async () => {
    await shop.disarm();
  });

  describe('a full reconciliation', () => {
    test('killed, it is picked up where it was: no time is left out', async () => {
      const { run, open } = await holdReconciliation(shop);
      await run.signal('SIGKILL');
      expect(await run.ended()).toMatchObject({ code: 137, outOfMemory: false });
      await open();
      expect(await lastRun(shop, 'billing-reconciliation')).toEqual({ outcome: 'running', exit_code: null });
      expect((await shop.run('CronJob', 'billing-reconciliation-full')).code).toBe(0);
      expect(await missing(shop)).toEqual(ungated);
      expect(await gaps(shop)).toBe(0);
    });

    test('told to stop, it ends with exit code 0 as partial, and its lease is free at once', async () => {
      const { run, open } = await holdReconciliation(shop);
      await run.signal('SIGTERM');
      await open();
      expect((await run.ended()).code).toBe(0);
      expect(await lastRun(shop, 'billing-reconciliation')).toEqual({ outcome: 'partial', exit_code: 0 });
      expect(await shop.value('SELECT count(*) FROM counterfoil.job_leases WHERE expires_at > now()')).toBe(
        '0',
      );
      expect((await shop.run('CronJob', 'billing-reconciliation-full')).code).toBe(0);
      expect(await missing(shop)).toEqual(ungated);
      expect(await gaps(shop)).toBe(0);
    });
  });

  describe('event-replay', () => {
    const COUNT = 60;

    test('killed with calls under way, its events are sent by the next runs and billed once each', async () => {
      const run = await catchReplay(shop, COUNT);
      await run.signal('SIGKILL');
      expect(await run.ended()).toMatchObject({ code: 137, outOfMemory: false });
      expect((await bills(shop)).none).toBeGreaterThan(0);
      await shop.disarm();
      await replayAll(shop);
      expect(await bills(shop)).toEqual({ none: 0, one: COUNT, several: 0 });
    });

    test('told to stop, it records what it has begun, gives back the rest and ends with exit code 0', async () => {
      const run = await catchReplay(shop, COUNT);
      await run.signal('SIGTERM');
      const { code, log } = await run.ended();
      expect(code).toBe(0);
      expect(await lastRun(shop, 'event-replay')).toEqual({ outcome: 'partial', exit_code: 0 });
      expect(log.at(-1)?.counts).toMatchObject({ unrecorded: 0, calls_without_answer: 0 });
      expect(
        await shop.value(`SELECT count(*) FROM counterfoil.replay_events WHERE status = 'claimed'`),
      ).toBe('0');
      expect((await bills(shop)).none).toBeGreaterThan(0);
      await shop.disarm();
      await replayAll(shop);
      expect(await bills(shop)).toEqual({ none: 0, one: COUNT, several: 0 });
    });
  });

  describe('backup-retention', () => {
    const COUNT = 20_000;

    test('killed, it has deleted whole portions, and the next run deletes the rest', async () => {
      const run = await catchRetention(shop, COUNT);
      await run.signal('SIGKILL');
      expect(await run.ended()).toMatchObject({ code: 137, outOfMemory: false });
      const left = await oldEventsLeft(shop);
      expect(left).toBeGreaterThan(0);
      const { code, log } = await shop.run('CronJob', 'backup-retention');
      expect(code).toBe(0);
      expect(log.at(-1)?.counts).toMatchObject({ purged: left });
      expect(await oldEventsLeft(shop)).toBe(0);
    });

    test('told to stop, it ends between two portions as partial, with what it has deleted in its record', async () => {
      const run = await catchRetention(shop, COUNT);
      await run.signal('SIGTERM');
      const { code, log } = await run.ended();
      expect(code).toBe(0);
      expect(await lastRun(shop, 'backup-retention')).toEqual({ outcome: 'partial', exit_code: 0 });
      const left = await oldEventsLeft(shop);
      expect(left).toBeGreaterThan(0);
      expect(log.at(-1)?.counts).toMatchObject({ purged: COUNT - left });
    });
  });

  test('flow-probe, killed while it waits for the bill, makes nothing twice when its Job tries again', async () => {
    const probed = (from: string) =>
      shop.value<number>(`SELECT count(*)::integer FROM ${from} WHERE mentor_id = 'counterfoil-probe'`);
    await shop.arm('slow', 1, { ms: 4_000 });
    const job = 'flow-probe-1';
    const first = await shop.start('CronJob', 'flow-probe', { job });
    await expect.poll(() => probed('sessions'), { timeout: 60_000 }).toBe(1);
    await first.signal('SIGKILL');
    expect((await first.ended()).code).toBe(137);
    await shop.disarm();
    const contracts = await probed('contracts');
    const second = await shop.run('CronJob', 'flow-probe', { job });
    expect(second.code, second.text).toBe(0);
    expect([await probed('sessions'), await probed('mentor_payable_ledgers')]).toEqual([1, 1]);
    // Another Job is another customer.
    expect((await shop.run('CronJob', 'flow-probe')).code).toBe(0);
    expect([await probed('sessions'), await probed('contracts')]).toEqual([2, contracts + 1]);
  });
});
