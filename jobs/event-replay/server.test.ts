/** What becomes of a run when the database server itself is in trouble. */
import { afterEach, describe, expect, it } from 'vitest';
import { eventually, startInProcess, takeAllConnections } from '../../test/event-replay/bench.ts';
import { startTestEndpoint, TEST_TOKEN, type TestEndpoint } from '../../test/event-replay/endpoint.ts';
import { type OwnServer, startOwnServer } from '../../test/event-replay/own-server.ts';

let own: OwnServer | undefined;
let endpoint: TestEndpoint | undefined;
afterEach(async () => {
  await endpoint?.close();
  await own?.server.stop();
});

async function open(
  settings: Record<string, string> = {},
): Promise<{ own: OwnServer; endpoint: TestEndpoint }> {
  const opened = await startOwnServer(settings);
  own = opened;
  endpoint = await startTestEndpoint(async (eventIds) => {
    await opened.query(`UPDATE event_backups SET status = 'processed' WHERE event_id = ANY ($1::text[])`, [
      eventIds,
    ]);
  });
  return { own: opened, endpoint };
}

const environment = (changes: Record<string, string>) => ({
  DATABASE_URL: own?.jobsUrl ?? '',
  CF_REPLAY_URL: endpoint?.url ?? '',
  CF_REPLAY_TOKEN: TEST_TOKEN,
  CF_LEASE_SECONDS: '2',
  CF_POLL_SECONDS: '1',
  CF_TRANSPORT_BACKOFF_SECONDS: '1',
  CF_TRANSPORT_BACKOFF_MAX_SECONDS: '1',
  ...changes,
});

async function addEvents(server: OwnServer, count: number): Promise<void> {
  await server.query(
    `INSERT INTO event_backups (event_id, event_name, payload, created_at)
     SELECT 'e' || i, 'n', '{}', (now() AT TIME ZONE 'UTC') - interval '1 hour' FROM generate_series(1, $1::integer) AS i`,
    [count],
  );
}

describe('a restart of the server in the middle of a run', () => {
  it('loses nothing and repeats no handler; a continuous run goes on by itself', async () => {
    const { own: server, endpoint: service } = await open();
    await addEvents(server, 300);
    // The outage of the database is longer than a transaction is retried for.
    const run = startInProcess(
      environment({
        CF_MODE: 'continuous',
        CF_LANES: '2',
        CF_BATCH_SIZE: '5',
        CF_CLAIM_SIZE: '20',
        CF_DATABASE_RETRY_SECONDS: '0',
      }),
    );
    await service.arrived(10);
    await server.server.restart();
    await eventually(async () => {
      const [row] = await server.query<{ done: string }>(
        `SELECT count(*) AS done FROM counterfoil.replay_events WHERE status = 'done'`,
      );
      return row?.done === '300';
    });
    run.stop();
    const { exitCode, log } = await run.ended;
    expect(exitCode, log).toBe(0);
    expect(log).toContain('interrupted: going on in a moment');
    for (const [id, times] of service.finished) expect(times, id).toBe(1);
    expect(service.finished.size).toBe(300);
  });
});

describe('a server without a free connection', () => {
  it('is tried again, and the run goes on when there is one', async () => {
    const { own: server, endpoint: service } = await open({
      max_connections: '10',
      superuser_reserved_connections: '3',
    });
    await addEvents(server, 20);
    const others = await takeAllConnections(server.jobsUrl);
    expect(others.code).toBe('53300');
    const run = startInProcess(environment({ CF_DATABASE_RETRY_SECONDS: '20' }));
    await eventually(async () => run.log().includes('53300'));
    await others.free();
    const { exitCode, log } = await run.ended;
    expect(exitCode, log).toBe(0);
    expect(service.finished.size).toBe(20);
  });
});
