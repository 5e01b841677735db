/** Two versions of a service side by side, as in the middle of a rollout, with an event version that one of them knows. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { eventReplayJob } from '../../jobs/event-replay/job.ts';
import { runJob } from '../../jobs/runtime/run-job.ts';
import {
  type ServiceProcess,
  startService,
  TOKEN,
} from '../../reference-service/src/testing/service-process.ts';
import { addSession } from '../builders/service.ts';
import { createTestDatabase, type TestDatabase } from '../postgres/database.ts';

let database: TestDatabase;
let before: ServiceProcess;
let next: ChildProcess;
let nextUrl: string;
let stable: Server;
/** The versions behind the stable address: a call goes to either of them, as behind a Service. */
let versions: string[] = [];

beforeAll(async () => {
  database = await createTestDatabase();
  before = await startService(database.url);
  next = spawn(process.execPath, [fileURLToPath(new URL('next-version.mjs', import.meta.url))], {
    env: { PATH: process.env.PATH, DATABASE_URL: database.url, REPLAY_TOKEN: TOKEN },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const [line] = (await once(createInterface({ input: next.stdout as NodeJS.ReadableStream }), 'line')) as [
    string,
  ];
  nextUrl = `http://127.0.0.1:${(JSON.parse(line) as { listening: number }).listening}`;
  let dice = 1;
  stable = createServer(async (request, response) => {
    // The same throws in every run of the test, and in no period that the calls could fall into.
    dice = (dice * 48_271) % 2_147_483_647;
    const version = versions[Math.floor((dice / 2_147_483_647) * versions.length)];
    let body = '';
    for await (const piece of request) body += piece;
    const headers = {
      authorization: request.headers.authorization ?? '',
      'content-type': 'application/json',
    };
    const answer = await fetch(`${version}${request.url}`, { method: 'POST', headers, body });
    response.writeHead(answer.status, { 'content-type': 'application/json' }).end(await answer.text());
  });
  stable.listen(0, '127.0.0.1');
  await once(stable, 'listening');
});
afterAll(async () => {
  stable?.close();
  stable?.closeAllConnections();
  next?.kill('SIGKILL');
  await before?.stop();
  await database?.drop();
});

async function replay(): Promise<void> {
  let log = '';
  const exitCode = await runJob(eventReplayJob, {
    environment: {
      DATABASE_URL: database.urlAs('counterfoil_jobs'),
      CF_REPLAY_URL: `http://127.0.0.1:${(stable.address() as AddressInfo).port}/admin/events/replay`,
      CF_REPLAY_TOKEN: TOKEN,
      CF_GRACE_SECONDS: '0',
      CF_LANES: '1',
      CF_BATCH_SIZE: '1',
    },
    logDestination: {
      write: (line: string) => {
        log += line;
      },
    },
  });
  expect(exitCode, log).toBe(0);
}

/** A session whose event, of this version, was lost. */
async function lose(version: number): Promise<string> {
  const { id } = await addSession(database, { amountMinor: '12500' });
  await database.query(
    `INSERT INTO event_backups (event_id, event_name, payload, created_at)
     VALUES ($1, $2, $3, (now() AT TIME ZONE 'UTC') - interval '1 hour')`,
    [
      `v${version}-${id}`,
      `services.session.completed.v${version}`,
      { sessionId: id, contractId: 'contract-1', mentorId: 'mentor-1', amountMinor: 12_500, currency: 'EUR' },
    ],
  );
  return id;
}
const states = async () =>
  await database.query(
    `SELECT left(event_id, 2) AS version, status, parked_reason FROM counterfoil.replay_events ORDER BY event_id`,
  );
const bills = async () =>
  (
    await database.query<{ bills: number }>('SELECT count(*)::integer AS bills FROM mentor_payable_ledgers')
  )[0]?.bills;

test('an event version that only the next release knows is parked with the reason, and picked up in the rollout', async () => {
  await lose(1);
  await lose(2);
  versions = [before.url];
  await replay();
  expect(await states()).toEqual([
    { version: 'v1', status: 'done', parked_reason: null },
    { version: 'v2', status: 'parked', parked_reason: 'unknown_version' },
  ]);
  // As long as nobody knows it, it stays parked, and holds up nothing.
  await lose(1);
  await replay();
  expect(await bills()).toBe(2);

  // Side by side: whichever answers, each version's events find the one that knows them.
  versions = [before.url, nextUrl];
  await lose(1);
  await lose(2);
  for (let run = 0; run < 20 && (await bills()) !== 5; run += 1) await replay();
  expect(await bills()).toBe(5);
  expect((await states()).every(({ status }) => status === 'done')).toBe(true);

  // What the old version published last waits for nobody: the rollout has ended, and nothing is lost.
  versions = [nextUrl];
  await lose(2);
  await replay();
  expect(await bills()).toBe(6);
  const processed = await database.query(`SELECT 1 FROM event_backups WHERE status = 'pending'`);
  expect(processed).toEqual([]);
});
