/** Runs that are held, or caught, in the middle of their work: what says so stands in the database, and is waited for. */
import { setTimeout as delay } from 'node:timers/promises';
import { expect } from 'vitest';
import { eventually } from './eventually.ts';
import { check } from './hurried.ts';
import { bills, oldEventsLeft, plantPending, plantProcessed, sessionId } from './planted.ts';
import type { RunningPod } from './running-pod.ts';
import type { Shop, StartOptions } from './shop.ts';

/** Sessions of ten to thirty days ago are read only past a gate, which a test holds shut by an advisory lock. */
const GATE = 42;
const gatedSessions = `
  CREATE FUNCTION pass_gate(at timestamptz) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
  BEGIN
    IF at BETWEEN now() - interval '30 days' AND now() - interval '10 days' THEN PERFORM pg_advisory_xact_lock_shared(${GATE}); END IF;
    RETURN true;
  END $$;
  CREATE VIEW gated_sessions AS SELECT * FROM sessions WHERE pass_gate(completed_at);
  GRANT SELECT ON gated_sessions TO counterfoil_jobs`;

export const gatedCheck = check({ table: 'gated_sessions' });

/** Makes the view of the check above. */
export async function buildGate(shop: Shop): Promise<void> {
  await shop.sql(gatedSessions);
}

export interface HeldRun {
  readonly run: RunningPod;
  /** Lets it go on. */
  open(): Promise<void>;
}

/** The two sessions without a bill, one before the gate and one behind it. */
export const ungated = [900_001, 900_002];

/** A full run that has recorded a window and is held in the next one. */
export async function holdReconciliation(shop: Shop, options: StartOptions = {}): Promise<HeldRun> {
  for (const [index, days] of [60, 20].entries())
    await shop.sql(
      `INSERT INTO sessions (id, contract_id, mentor_id, amount_minor, currency, completed_at)
       VALUES ('${sessionId(ungated[index] ?? 0)}', 'contract-1', 'mentor-1', 1000, 'EUR', now() - interval '${days} days')`,
    );
  await shutGate(shop);
  const run = await shop.start('CronJob', 'billing-reconciliation-full', options);
  await eventually('a window is recorded and the next one waits', () =>
    shop.value<boolean>(
      `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'
                        AND application_name = 'counterfoil-billing-reconciliation')
          AND EXISTS (SELECT FROM counterfoil.reconciliation_windows)`,
    ),
  );
  return { run, open: () => openGate(shop) };
}

/** From inside the server's container, so that it stays shut when the network goes. */
async function shutGate(shop: Shop): Promise<void> {
  const hold = `BEGIN; SELECT pg_advisory_xact_lock(${GATE}); SELECT pg_sleep(600)`;
  shop.postgres
    .exec(['psql', '-U', 'postgres', '-d', 'shop', '-c', hold], { env: { PGAPPNAME: 'gate' } })
    .catch(() => undefined); // it ends with its backend
  await eventually('the gate is shut', () =>
    shop.value<boolean>(
      `SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = ${GATE} AND granted)`,
    ),
  );
}

async function openGate(shop: Shop): Promise<void> {
  await shop.sql(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'gate'`);
}

/** The times that the windows of a side do not cover between the first and the last: none may be left out. */
export const gaps = (shop: Shop) =>
  shop.value<number>(
    `SELECT count(*)::integer
       FROM (SELECT from_at, lag(to_at) OVER (PARTITION BY side ORDER BY from_at) AS before
               FROM counterfoil.reconciliation_windows) AS each WHERE before <> from_at`,
  );

/** The sessions of more than a day ago that are found to be without a bill, by their numbers. */
export const missing = async (shop: Shop): Promise<number[]> =>
  (
    await shop.query<{ number: number }>(
      `SELECT right(key::jsonb ->> 0, 9)::integer AS number FROM counterfoil.discrepancies
        WHERE kind = 'missing' AND fact_at < now() - interval '1 day' ORDER BY 1`,
    )
  ).map(({ number }) => number);

/** So many lost events, and a run of event-replay that has had some of them billed and has calls under way. */
export async function catchReplay(
  shop: Shop,
  count: number,
  options: StartOptions = {},
): Promise<RunningPod> {
  await plantPending(shop, count);
  // Slow enough that there is a middle.
  await shop.arm('slow', 1, { ms: 200 });
  const run = await shop.start('CronJob', 'event-replay', options);
  await eventually('some are billed, and others under way', async () => {
    const { one, none } = await bills(shop);
    return one > 0 && none > 0 && (await shop.value<boolean>(`${claimed} > 0`));
  });
  return run;
}
const claimed = `SELECT (SELECT count(*) FROM counterfoil.replay_events WHERE status = 'claimed')`;

/** What is tried again waits for a minute at most, and a delivery that was cut for its lease. */
const REPLAYED_WITHIN_MS = 240_000;

/** Runs event-replay, as its schedule would, until no session is without a bill. */
export async function replayAll(shop: Shop, options: StartOptions = {}): Promise<void> {
  const deadline = Date.now() + REPLAYED_WITHIN_MS;
  for (;;) {
    const { code, text } = await shop.run('CronJob', 'event-replay', options);
    expect(code, text).toBe(0);
    const { none } = await bills(shop);
    if (none === 0) return;
    if (Date.now() > deadline) throw new Error(`four minutes later ${none} sessions are without a bill`);
    await delay(1_000);
  }
}

/** So many old events, and a run of backup-retention that has deleted some of them and not all. */
export async function catchRetention(
  shop: Shop,
  count: number,
  options: StartOptions = {},
): Promise<RunningPod> {
  // What was verified may go.
  const { code, text } = await shop.run('CronJob', 'billing-reconciliation-full', options);
  expect(code, text).toBe(0);
  await shop.sql('UPDATE counterfoil.checks SET verified_through = now()');
  await plantProcessed(shop, count, 60);
  const run = await shop.start('CronJob', 'backup-retention', options);
  await eventually('some are deleted, and others left', async () => {
    const left = await oldEventsLeft(shop);
    return left > 0 && left < count;
  });
  return run;
}

/** What the last run of a job says of itself. */
export const lastRun = async (shop: Shop, job: string) =>
  (
    await shop.query<{ outcome: string; exit_code: number | null }>(
      `SELECT outcome, exit_code FROM counterfoil.job_runs WHERE job = '${job}' ORDER BY started_at DESC LIMIT 1`,
    )
  )[0];
