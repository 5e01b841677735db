import { afterAll, beforeAll, expect, test } from 'vitest';
import type { EmbeddedPostgres } from '../../scripts/embedded-postgres.ts';
import { checksFile, sessionBilling } from '../../test/builders/checks.ts';
import { run } from '../../test/builders/run.ts';
import { prepareServer, runScript } from '../../test/builders/whole-server.ts';
import { startStandby } from '../../test/postgres/standby.ts';
import { billingReconciliationJob } from './job.ts';

let server: EmbeddedPostgres;

beforeAll(async () => {
  server = await startStandby(async (url) => {
    await prepareServer(url);
    // The first was completed before what is replayed ends, the second as it ends.
    await runScript(
      url,
      `INSERT INTO sessions (id, contract_id, mentor_id, amount_minor, currency, completed_at)
       SELECT gen_random_uuid(), 'c', 'm', 1, 'EUR', at FROM unnest(array[now() - interval '1 hour', now()]) AS at`,
    );
  }, 'SIGQUIT');
});
afterAll(async () => {
  await server.stop();
});

const reconcile = (environment: Record<string, string>) =>
  run(billingReconciliationJob, {
    DATABASE_URL: server.url,
    CF_MODE: 'full',
    CF_BLIND_GRACE_SECONDS: '1',
    CF_CHECKS_FILE: checksFile(sessionBilling({ grace: '1s' })),
    ...environment,
  });

test('a replica is refused by a run with state', async () => {
  const end = await reconcile({});
  expect(end.exitCode).toBe(2);
  expect(end.log).toContain('database_read_only');
});

test('without state a replica is audited up to what it has replayed', async () => {
  // Past the grace of the second session by the clock: only what was replayed holds the horizon back.
  await runScript(server.url, 'SELECT pg_sleep(2)');
  const end = await reconcile({ CF_STATE: 'none', CF_EXIT_ON_FINDINGS: 'true' });
  expect(end).toMatchObject({ exitCode: 3, outcome: 'succeeded', counts: { facts: 1, standing_open: 1 } });
  expect(end.log).toContain('the replica has not replayed further');
});
