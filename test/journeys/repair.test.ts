/** The whole repair against the real service: found by reconciliation, mended by event-replay, verified, or a person's. */
import { Client } from 'pg';
import { afterAll, afterEach, beforeAll, expect, inject, test } from 'vitest';
import { eventReplayJob } from '../../jobs/event-replay/job.ts';
import { runJob } from '../../jobs/runtime/run-job.ts';
import { showStatus } from '../../jobs/status/show-status.ts';
import { bills, events } from '../../reference-service/src/testing/business-rows.ts';
import {
  type ServiceProcess,
  startService,
  TOKEN,
} from '../../reference-service/src/testing/service-process.ts';
import { checksFile, sessionBilling } from '../builders/checks.ts';
import { emptyTables, findingsOf, reconcile } from '../builders/reconciliation.ts';
import { createTestDatabase, type TestDatabase } from '../postgres/database.ts';

let database: TestDatabase;
let service: ServiceProcess;
const people = new Map<string, Client>();
beforeAll(async () => {
  database = await createTestDatabase();
  service = await startService(database.url, { LISTENER_LEASE_SECONDS: '1', POD_TEMPLATE_HASH: 'bad' });
  for (const person of ['ann', 'ben']) {
    const name = `${person}_${database.name.slice(-6)}`;
    await database.query(
      `CREATE ROLE ${name} LOGIN PASSWORD '${inject('rolePassword')}' IN ROLE counterfoil_people`,
    );
    const url = new URL(database.url);
    url.username = name;
    url.password = inject('rolePassword');
    const client = new Client({ connectionString: url.href });
    await client.connect();
    people.set(person, client);
  }
});
afterEach(async () => {
  await service.disarm();
  await database.query('TRUNCATE billing_corrections');
  await emptyTables(database);
});
afterAll(async () => {
  for (const [person, client] of people) {
    await client.end();
    await database.query(`DROP ROLE ${person}_${database.name.slice(-6)}`);
  }
  await service?.stop();
  await database?.drop();
});

const checks = (event: object = {}) =>
  checksFile(
    sessionBilling({
      grace: '1s',
      event: { name: 'services.session.completed.v1', key: ['sessionId'], ...event },
    }),
  );
/** Half an hour older than they are: nobody waits for the grace of a check. */
const age = async () => {
  await database.query(`UPDATE sessions SET completed_at = completed_at - interval '30 minutes'`);
  await database.query(`UPDATE mentor_payable_ledgers SET created_at = created_at - interval '30 minutes'`);
  await database.query(`UPDATE event_backups SET created_at = created_at - interval '30 minutes'`);
};
const look = async (mode: 'full' | 'tail', file = checks()) => {
  const end = await reconcile(database, { CF_MODE: mode, CF_CHECKS_FILE: file, CF_REPAIR: 'true' });
  expect(end.exitCode, end.log).toBe(0);
  return end;
};
async function mend(changes: Readonly<Record<string, string>> = {}): Promise<string> {
  let log = '';
  const exitCode = await runJob(eventReplayJob, {
    environment: {
      DATABASE_URL: database.urlAs('counterfoil_jobs'),
      CF_REPLAY_URL: `${service.url}/admin/events/replay`,
      CF_CORRECTIONS_URL: `${service.url}/admin/billing/corrections`,
      CF_REPLAY_TOKEN: TOKEN,
      CF_CHECKS_FILE: checks(),
      ...changes,
    },
    logDestination: {
      write: (line: string) => {
        log += line;
      },
    },
  });
  expect(exitCode, log).toBe(0);
  return log;
}
const as = async (person: string, call: string, params: readonly unknown[]): Promise<unknown> => {
  const { rows } = (await people.get(person)?.query(`SELECT counterfoil.${call} AS given`, [...params])) ?? {
    rows: [],
  };
  return (rows[0] as { given: unknown } | undefined)?.given;
};
const forAPerson = async () => {
  let text = '';
  await showStatus(
    ['--json'],
    { DATABASE_URL: database.urlAs('counterfoil_exporter') },
    { write: (part) => (text += part), writeError: () => undefined, colour: false },
  );
  return (JSON.parse(text) as { forAPerson: { count: number; text: string }[] }).forAPerson;
};
const openKinds = async () =>
  (await findingsOf(database))
    .filter(({ status }) => status === 'open')
    .map(({ kind, cause }) => cause ?? kind);

test('what was never published, or processed without a bill, is rebuilt and billed once, by a probe first', async () => {
  // The oldest event that is kept: without one nobody can tell what was never published.
  await service.completeSession();
  await service.arm('skip_backup');
  const sessions = await Promise.all(Array.from({ length: 12 }, () => service.completeSession()));
  await service.disarm();
  const unbilled = await service.completeSession();
  await expect.poll(async () => (await bills(database, unbilled)).length).toBe(1);
  await expect.poll(async () => (await events(database, unbilled))[0]?.status).toBe('processed');
  await database.query('DELETE FROM mentor_payable_ledgers WHERE session_id = $1', [unbilled]);
  await database.query(
    `UPDATE event_backups SET created_at = created_at - interval '1 hour' WHERE payload ->> 'sessionId' <> $1`,
    [unbilled],
  );
  await age();

  await look('full');
  expect((await look('tail')).counts).toMatchObject({ opened: 13, rebuilds_requested: 10 });
  // The machine is at it: nothing for a person.
  expect(await forAPerson()).toEqual([]);
  await mend();
  expect((await look('tail')).counts).toMatchObject({ resolved: 10, rebuilds_requested: 3 });
  await mend();
  expect((await look('tail')).counts).toMatchObject({ resolved: 3, standing_open: 0 });
  for (const id of [...sessions, unbilled])
    expect((await bills(database, id)).map(({ key }) => key)).toEqual([`session:${id}:1`]);
  expect((await events(database, sessions[0] ?? '')).map(({ id }) => id)).toEqual([
    `rebuild:services.session.completed.v1:${sessions[0]}:1`,
  ]);
  expect(await forAPerson()).toEqual([]);
});

test('a second and a wrong bill are corrected once another person has approved it; the originals stay', async () => {
  await service.arm('bill_twice');
  const twice = await service.completeSession();
  await expect.poll(async () => (await bills(database, twice)).length).toBe(2);
  await service.disarm();
  await service.arm('bill_wrong');
  const wrong = await service.completeSession();
  await expect.poll(async () => (await bills(database, wrong)).length).toBe(1);
  await service.disarm();
  const originals = [...(await bills(database, twice)), ...(await bills(database, wrong))];
  await age();
  await look('full');
  expect((await look('tail')).counts).toMatchObject({
    standing_open: 2,
    rebuilds_requested: 0,
    replays_requested: 0,
  });
  expect((await forAPerson()).map(({ text }) => text)).toEqual([
    'billed a wrong amount: request a correction, which another person approves',
    'billed more than once: request a correction, which another person approves',
  ]);

  const findings = (await findingsOf(database)).map(({ id }) => Number(id));
  const request = await as('ann', `request('correction', $1::jsonb, 'billed by 2.3.0')`, [{ findings }]);
  await mend();
  expect(await bills(database, twice)).toHaveLength(2);
  expect(await forAPerson()).toMatchObject([
    { count: 2, text: expect.stringContaining('approve or refuse') },
  ]);
  await expect(as('ann', `approve($1, 'mine')`, [request])).rejects.toThrow('your own');
  await as('ben', `approve($1, 'compared with the contracts')`, [request]);
  expect(await forAPerson()).toEqual([]);
  await mend();
  const [done] = await database.query<{ result: { findings: object } }>(
    'SELECT result FROM counterfoil.requests WHERE id = $1',
    [request],
  );
  expect(Object.values(done?.result.findings ?? {})).toEqual(['corrected', 'corrected']);
  const after = [...(await bills(database, twice)), ...(await bills(database, wrong))];
  expect(after).toEqual(expect.arrayContaining(originals));
  expect((await bills(database, wrong)).reduce((sum, { amount }) => sum + Number(amount), 0)).toBe(12_500);
  expect((await bills(database, twice)).reduce((sum, { amount }) => sum + Number(amount), 0)).toBe(12_500);
  const [recorded] = await database.query(
    'SELECT requested_by, approved_by FROM billing_corrections LIMIT 1',
  );
  expect(recorded).toEqual({
    requested_by: `ann_${database.name.slice(-6)}`,
    approved_by: `ben_${database.name.slice(-6)}`,
  });
  expect((await look('tail')).counts).toMatchObject({ resolved: 2, standing_open: 0 });
});

test('a bill that was reversed is not rebuilt: it stands for a person with the reason, and is not asked for again', async () => {
  const session = await service.completeSession();
  await expect.poll(async () => (await events(database, session))[0]?.status).toBe('processed');
  await database.query(
    `INSERT INTO mentor_payable_ledgers (session_id, mentor_id, amount_minor, currency, idempotency_key, reverses_id)
     SELECT session_id, mentor_id, -amount_minor, currency, 'reversal:' || id, id FROM mentor_payable_ledgers`,
  );
  await age();
  await look('full');
  expect((await look('tail')).counts).toMatchObject({ rebuilds_requested: 1 });
  await mend();
  expect((await look('tail')).counts).toMatchObject({ rebuilds_requested: 0, standing_open: 1 });
  expect(await bills(database, session)).toHaveLength(2);
  expect(await forAPerson()).toEqual([
    {
      count: 1,
      text: 'the handler ran and wrote no bill, and the service did not rebuild it (refused:bill_was_reversed): bill it from the session',
    },
  ]);
});

test('after an abort, what a bad version published is billed only where the fact is still what it says', async () => {
  await database.query('ALTER TABLE event_backups ADD COLUMN IF NOT EXISTS published_by text');
  await database.query('ALTER TABLE event_backups ADD COLUMN IF NOT EXISTS published_hash text');
  await service.stop();
  service = await startService(database.url, { LISTENER_LEASE_SECONDS: '1', POD_TEMPLATE_HASH: 'bad' });
  await service.arm('lose');
  const [right, changed] = [await service.completeSession(), await service.completeSession()];
  await service.disarm();
  await database.query('UPDATE sessions SET amount_minor = 99 WHERE id = $1', [changed]);
  await age();
  const match = checks({ match: { amountMinor: 'amount_minor', currency: 'currency' } });
  const now = Date.now();
  await as('ann', `request('replay', $1::jsonb, 'aborted')`, [
    {
      from: new Date(now - 7_200_000).toISOString(),
      to: new Date(now).toISOString(),
      published_hash: 'bad',
    },
  ]);
  await mend({ CF_CHECKS_FILE: match });
  expect(await bills(database, right)).toHaveLength(1);
  expect(await bills(database, changed)).toEqual([]);
  await look('full', match);
  await look('tail', match);
  expect(await openKinds()).toEqual(['event_parked']);
  expect((await forAPerson()).map(({ text }) => text)).toEqual([
    'see why the event was parked, mend that, then unpark it',
  ]);
  const [parked] = await database.query<{ event_id: string; parked_reason: string }>(
    `SELECT event_id, parked_reason FROM counterfoil.replay_events WHERE status = 'parked'`,
  );
  expect(parked?.parked_reason).toBe('fact_changed');
  await as('ben', `unpark($1::text[], 'the amount is right as published')`, [[parked?.event_id]]);
  await mend({ CF_CHECKS_FILE: match });
  expect(await bills(database, changed)).toHaveLength(1);
});

test('what a bad version wrote wrongly is rebuilt from the fact when a person asks, and its event bills nothing more', async () => {
  await service.stop();
  service = await startService(database.url, { LISTENER_LEASE_SECONDS: '1', POD_TEMPLATE_HASH: 'bad' });
  await service.arm('lose_wrong');
  const session = await service.completeSession();
  await service.disarm();
  await age();
  const match = checks({ match: { amountMinor: 'amount_minor', currency: 'currency' } });
  const now = Date.now();
  await as('ann', `request('replay', $1::jsonb, 'aborted')`, [
    {
      from: new Date(now - 7_200_000).toISOString(),
      to: new Date(now).toISOString(),
      published_hash: 'bad',
    },
  ]);
  await mend({ CF_CHECKS_FILE: match });
  await look('full', match);
  await look('tail', match);
  expect(await bills(database, session)).toEqual([]);

  const [finding] = (await findingsOf(database)).filter(({ status }) => status === 'open');
  await as('ann', `request('rebuild', $1::jsonb, 'the session is right')`, [
    { findings: [Number(finding?.id)] },
  ]);
  await mend({ CF_CHECKS_FILE: match });
  expect((await bills(database, session)).map(({ amount }) => Number(amount))).toEqual([12_500]);

  const [parked] = await database.query<{ event_id: string }>(
    `SELECT event_id FROM counterfoil.replay_events WHERE status = 'parked'`,
  );
  await as('ben', `unpark($1::text[], 'billed from the session')`, [[parked?.event_id]]);
  await mend({ CF_CHECKS_FILE: match });
  expect((await bills(database, session)).map(({ amount }) => Number(amount))).toEqual([12_500]);
  expect((await events(database, session)).map(({ status }) => status)).toEqual(['processed', 'processed']);
});
