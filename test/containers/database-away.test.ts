/** Postgres restarted, paused, or cut off from the network while a container is at work with it. */
import { getContainerRuntimeClient } from 'testcontainers';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { renderInstallation } from './chart.ts';
import { eventually } from './eventually.ts';
import { hurried } from './hurried.ts';
import {
  buildGate,
  catchReplay,
  catchRetention,
  gaps,
  gatedCheck,
  type HeldRun,
  holdReconciliation,
  missing,
  replayAll,
  ungated,
} from './mid-run.ts';
import { bills, emptyTables, oldEventsLeft } from './planted.ts';
import type { EndedPod, RunningPod } from './running-pod.ts';
import { Shop } from './shop.ts';

const values = {
  ...hurried,
  checks: [gatedCheck],
  // The gate is waited for, and an outage that lasts until the last of them has felt it.
  settings: { CF_LOCK_TIMEOUT_SECONDS: 30, CF_DATABASE_RETRY_SECONDS: 300 },
  jobs: {
    // A run that waits for its database keeps its lease.
    billingReconciliation: { settings: { CF_LEASE_SECONDS: 300 } },
    backupRetention: { settings: { CF_LEASE_SECONDS: 300 } },
    eventReplay: {
      graceSeconds: 1,
      settings: { CF_POLL_SECONDS: 1, CF_LANES: 2, CF_BATCH_SIZE: 10, CF_CLAIM_SIZE: 20 },
    },
  },
};

let shop: Shop;
beforeAll(async () => {
  shop = await Shop.installed({ values });
  await buildGate(shop);
});
afterAll(async () => {
  await shop?.close();
});

const postgresContainer = async () =>
  (await getContainerRuntimeClient()).container.getById(shop.postgres.getId());

/** Each run says so itself: an outage that it does not feel would prove nothing. */
async function felt(runs: readonly RunningPod[]): Promise<void> {
  for (const run of runs)
    await eventually('the run feels the outage', () =>
      /did not answer as it should|could not be (?:renewed|written)|connection was lost/.test(run.text),
    );
}

/** Whether the exporter could read our own state of late: 1 or 0. */
const collected = async (exporter: RunningPod) =>
  (
    await exporter.exec(
      ...['node', '--input-type=module', '--eval'],
      `process.stdout.write(await (await fetch('http://127.0.0.1:9464/metrics')).text())`,
    )
  ).output.match(/^counterfoil_collection_success\{[^}]*collection="state"[^}]*\} (\d)$/m)?.[1];

async function becomes(exporter: RunningPod, value: '0' | '1'): Promise<void> {
  await eventually(`counterfoil_collection_success is ${value}`, async () => {
    const seen = await collected(exporter);
    return seen === value || seen;
  });
}

async function cutOff(): Promise<void> {
  const client = await getContainerRuntimeClient();
  await client.network.getById(shop.network.getId()).disconnect({ Container: shop.postgres.getId() });
}
async function connectAgain(): Promise<void> {
  const client = await getContainerRuntimeClient();
  const network = client.network.getById(shop.network.getId());
  await client.container.connectToNetwork(await postgresContainer(), network, ['postgres']);
  await shop.connect();
}

/** What strikes, until all of them have felt it. */
const troubles: Readonly<Record<string, (felt: () => Promise<void>) => Promise<void>>> = {
  restarted: async (felt) => {
    await (await postgresContainer()).restart({ t: 5 });
    await felt();
    await shop.connect();
  },
  paused: async (felt) => {
    const postgres = await postgresContainer();
    await postgres.pause();
    try {
      await felt();
    } finally {
      await postgres.unpause();
    }
  },
  'cut off from the network': async (felt) => {
    await cutOff();
    try {
      await felt();
    } finally {
      await connectAgain();
    }
  },
};

describe.each(Object.entries(troubles))('with Postgres %s in the middle of their runs', (trouble, strike) => {
  const LOST = 60;
  const OLD = 60_000;
  let reconciliation: EndedPod;
  let replay: EndedPod;
  let retention: EndedPod;
  let exporter: RunningPod;

  beforeAll(async () => {
    await emptyTables(shop);
    exporter = await shop.start('Deployment', 'exporter');
    await becomes(exporter, '1');
    const runs = [await catchRetention(shop, OLD)];
    const held: HeldRun = await holdReconciliation(shop);
    runs.push(held.run, await catchReplay(shop, LOST));
    await strike(async () => {
      await felt(runs);
      // Over before it looks again, where the server only begins anew.
      if (trouble !== 'restarted') await becomes(exporter, '0');
    });
    await held.open();
    await shop.disarm();
    [retention, reconciliation, replay] = (await Promise.all(runs.map((run) => run.ended()))) as [
      EndedPod,
      EndedPod,
      EndedPod,
    ];
  });

  test('a full reconciliation goes on where it was, and finds all', async () => {
    expect(reconciliation.code, reconciliation.text).toBe(0);
    expect(await missing(shop)).toEqual(ungated);
    expect(await gaps(shop)).toBe(0);
  });

  test('event-replay loses nothing and has nothing billed twice', async () => {
    // The service was without its database as well: what it could not say is left to the next run.
    expect([0, 1], replay.text).toContain(replay.code);
    await replayAll(shop);
    expect(await bills(shop)).toEqual({ none: 0, one: LOST, several: 0 });
  });

  test('backup-retention deletes the rest', async () => {
    expect(retention.code, retention.text).toBe(0);
    expect(await oldEventsLeft(shop)).toBe(0);
  });

  test('the exporter goes on, is fresh again once the server is back, and ends at SIGTERM with exit code 0', async () => {
    await becomes(exporter, '1');
    await exporter.signal('SIGTERM');
    expect((await exporter.ended()).code).toBe(0);
  });
});

test('a database that stays away ends a run with exit code 1 and one line that says so; the next one goes on', async () => {
  await emptyTables(shop);
  const rendered = await renderInstallation({ ...values, settings: { CF_DATABASE_RETRY_SECONDS: 3 } });
  await cutOff();
  try {
    const { code, log } = await shop.run('CronJob', 'billing-reconciliation-tail', { rendered });
    expect([code, log.at(-1)?.failureId]).toEqual([1, 'database_unreachable']);
    expect(log.filter(({ level }) => level === 'error')).toHaveLength(1);
  } finally {
    await connectAgain();
  }
  expect(await shop.run('CronJob', 'billing-reconciliation-tail', { rendered })).toMatchObject({ code: 0 });
});
