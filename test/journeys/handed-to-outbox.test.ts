/** Events given to the predecessor's outbox by the function that its owner installs, with the rights of the jobs alone. */
import { readFileSync } from 'node:fs';
import { Client } from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { eventReplayJob } from '../../jobs/event-replay/job.ts';
import { runJob } from '../../jobs/runtime/run-job.ts';
import { addLedgerRow, addSession } from '../builders/service.ts';
import { createTestDatabase, type TestDatabase } from '../postgres/database.ts';

let database: TestDatabase;
beforeAll(async () => {
  database = await createTestDatabase();
  for (const file of ['domain_events.sql', 'republish_to_outbox.sql'])
    await database.query(
      readFileSync(new URL(`../../reference-service/v1-outbox/sql/${file}`, import.meta.url), 'utf8'),
    );
});
afterAll(async () => await database.drop());

async function replay(): Promise<void> {
  let log = '';
  const exitCode = await runJob(eventReplayJob, {
    environment: {
      DATABASE_URL: database.urlAs('counterfoil_jobs'),
      CF_REPUBLISH_FUNCTION: 'republish_to_outbox',
      CF_GRACE_SECONDS: '0',
    },
    logDestination: {
      write: (line: string) => {
        log += line;
      },
    },
  });
  expect(exitCode, log).toBe(0);
}
const states = async () =>
  await database.query(
    `SELECT event_id, status, last_outcome, parked_reason FROM counterfoil.replay_events ORDER BY event_id`,
  );

test('each enters the outbox once, waits for its bill, and is done when that is seen', async () => {
  const session = await addSession(database);
  await database.query(
    `INSERT INTO event_backups (event_id, event_name, payload, created_at)
     VALUES ('lost', 'services.session.completed.v1', $1, (now() AT TIME ZONE 'UTC') - interval '1 hour'),
            ('other', 'services.nobody.listens.v1', '{}', (now() AT TIME ZONE 'UTC') - interval '1 hour')`,
    [{ sessionId: session.id }],
  );
  await replay();
  await replay();
  expect(await database.query('SELECT id, event_type, aggregate_id, status FROM domain_events')).toEqual([
    { id: 'lost', event_type: 'services.session.completed.v1', aggregate_id: session.id, status: 'pending' },
  ]);
  expect(await states()).toMatchObject([
    { event_id: 'lost', status: 'handed_to_outbox' },
    { event_id: 'other', status: 'parked', parked_reason: 'no_listener' },
  ]);
  await addLedgerRow(database, { sessionId: session.id });
  await replay();
  expect(await states()).toMatchObject([
    { event_id: 'lost', status: 'done', last_outcome: 'billed_by_outbox' },
    {},
  ]);
});

test('the jobs may call the function, and neither read nor write the outbox', async () => {
  const client = new Client({ connectionString: database.urlAs('counterfoil_jobs') });
  await client.connect();
  try {
    for (const statement of [
      'SELECT 1 FROM domain_events',
      `INSERT INTO domain_events (event_type, aggregate_id, payload) VALUES ('x', 'x', '{}')`,
      `UPDATE domain_events SET status = 'published'`,
      'DELETE FROM domain_events',
    ])
      await expect(client.query(statement), statement).rejects.toMatchObject({ code: '42501' });
    await client.query(`SELECT republish_to_outbox('lost')`);
  } finally {
    await client.end();
  }
  const exporter = new Client({ connectionString: database.urlAs('counterfoil_exporter') });
  await exporter.connect();
  await expect(exporter.query(`SELECT republish_to_outbox('lost')`)).rejects.toMatchObject({ code: '42501' });
  await exporter.end();
});
