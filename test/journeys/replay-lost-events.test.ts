/** The replay job and the service, each as its own process or as it is built: from a lost event to its bill. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { eventReplayJob } from '../../jobs/event-replay/job.ts';
import { runJob } from '../../jobs/runtime/run-job.ts';
import {
  type ServiceProcess,
  startService,
  TOKEN,
} from '../../reference-service/src/testing/service-process.ts';
import { createTestDatabase, type TestDatabase } from '../postgres/database.ts';

let database: TestDatabase;
let service: ServiceProcess;
beforeAll(async () => {
  database = await createTestDatabase();
  service = await startService(database.url, { LISTENER_LEASE_SECONDS: '1' });
});
afterAll(async () => {
  await service?.stop();
  await database?.drop();
});

async function replay(changes: Readonly<Record<string, string>> = {}): Promise<Record<string, number>> {
  let log = '';
  const exitCode = await runJob(eventReplayJob, {
    environment: {
      DATABASE_URL: database.urlAs('counterfoil_jobs'),
      CF_REPLAY_URL: `${service.url}/admin/events/replay`,
      CF_REPLAY_TOKEN: TOKEN,
      CF_GRACE_SECONDS: '0',
      ...changes,
    },
    logDestination: {
      write: (line: string) => {
        log += line;
      },
    },
  });
  expect(exitCode, log).toBe(0);
  const [run] = await database.query<{ counts: Record<string, number> }>(
    'SELECT counts FROM counterfoil.job_runs ORDER BY started_at DESC LIMIT 1',
  );
  return run?.counts ?? {};
}

/** Sessions by the number of their bills. */
const billsPerSession = async () =>
  await database.query(
    `SELECT bills::integer, count(*)::integer AS sessions
       FROM (SELECT count(l.id) AS bills FROM sessions AS s LEFT JOIN mentor_payable_ledgers AS l ON l.session_id = s.id
              WHERE s.completed_at IS NOT NULL GROUP BY s.id) AS counted
      GROUP BY bills ORDER BY bills`,
  );

test('lost events are billed, once each, however often they are replayed', async () => {
  await service.arm('lose');
  const sessions = await Promise.all(Array.from({ length: 40 }, () => service.createSession()));
  await Promise.all(sessions.map((id) => service.post(`/sessions/${id}/complete`)));
  expect(await billsPerSession()).toEqual([{ bills: 0, sessions: 40 }]);

  expect(await replay()).toMatchObject({ taken_in: 40, processed: 40, parked: 0 });
  expect(await billsPerSession()).toEqual([{ bills: 1, sessions: 40 }]);
  expect(await database.query(`SELECT 1 FROM event_backups WHERE status = 'pending'`)).toEqual([]);

  // Marked as pending again by hand, as a rollback does: the service knows its own deliveries.
  await database.query(`UPDATE event_backups SET status = 'pending', processed_at = NULL`);
  await database.query(`UPDATE counterfoil.replay_events SET finished_at = now() - interval '1 hour'`);
  expect(await replay()).toMatchObject({ reopened: 40 });
  expect(await billsPerSession()).toEqual([{ bills: 1, sessions: 40 }]);
});

test('an event that no listener takes is parked, and the ones beside it are not', async () => {
  await database.query(
    `INSERT INTO event_backups (event_id, event_name, payload, created_at)
     VALUES ('unheard', 'services.nobody.listens.v1', '{}', (now() AT TIME ZONE 'UTC') - interval '1 hour'),
            ('future', 'services.session.completed.v9', '{}', (now() AT TIME ZONE 'UTC') - interval '1 hour')`,
  );
  expect(await replay()).toMatchObject({ parked: 2 });
  const parked = await database.query(
    `SELECT event_id, parked_reason, listeners_digest IS NOT NULL AS digest FROM counterfoil.replay_events
      WHERE status = 'parked' ORDER BY event_id`,
  );
  expect(parked).toEqual([
    { event_id: 'future', parked_reason: 'unknown_version', digest: true },
    { event_id: 'unheard', parked_reason: 'no_listener', digest: true },
  ]);
});
