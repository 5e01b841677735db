import { Agent, request } from 'node:http';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';
import { eventually, type ServiceProcess, startService } from './testing/service-process.js';

// How often a service is stopped under load: a few times with all tests, 50 by
//   SIGTERM_ROUNDS=50 npx vitest run --project service reference-service/src/shutdown-under-load.test.ts
const ROUNDS = Number(process.env.SIGTERM_ROUNDS ?? 10);

/** In so many of the rounds handlers must have been at work when the signal came, else the rounds show nothing. */
const BUSY_SHARE = 0.8;

const CALLERS = 8;
const CREATED = 2_000;

let database: TestDatabase;
beforeAll(async () => {
  database = await createTestDatabase();
});
afterAll(async () => {
  await database?.drop();
});

interface Load {
  /** Sessions whose completion was answered, with the status. */
  answered: Map<string, number>;
  /** Sessions whose request got no answer, with the code of the error. */
  unanswered: Map<string, string>;
  /** Resolves when no caller gets through any more. */
  ended: Promise<void>;
}

/** Callers with kept-alive connections that complete one session after the other until nobody listens any more. */
function startLoad(url: string, sessionIds: string[]): Load {
  const answered = new Map<string, number>();
  const unanswered = new Map<string, string>();
  const agent = new Agent({ keepAlive: true, maxSockets: CALLERS });
  const complete = (id: string): Promise<number | string> =>
    new Promise((resolve) => {
      const call = request(`${url}/sessions/${id}/complete`, { method: 'POST', agent }, (response) => {
        response.resume();
        response.once('end', () => resolve(response.statusCode ?? 0));
        response.once('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? 'cut off'));
      });
      call.once('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message));
      call.end();
    });
  const call = async (): Promise<void> => {
    for (let id = sessionIds.pop(); id !== undefined; id = sessionIds.pop()) {
      const outcome = await complete(id);
      if (typeof outcome === 'number') answered.set(id, outcome);
      else unanswered.set(id, outcome);
      if (outcome === 'ECONNREFUSED') break;
    }
  };
  const ended = Promise.all(Array.from({ length: CALLERS }, call)).then(() => agent.destroy());
  return { answered, unanswered, ended };
}

interface Completed {
  id: string;
  eventId: string | null;
  isPending: boolean;
  bills: number;
}

interface Round {
  answered: number;
  /** Listeners at work when the server had closed. */
  running: number;
  pending: number;
  problems: string[];
}

const lineWith = (output: string, words: string): string =>
  output.split('\n').find((line) => line.includes(words)) ?? '';

/** Stops a service under load and says what came of everything it had accepted. */
async function stopUnderLoad(round: number): Promise<Round> {
  const problems: string[] = [];
  const service: ServiceProcess = await startService(database.url, {
    // Every second round balancers get their time; the drain is too short for the slowest handlers in every fifth.
    SHUTDOWN_PAUSE_SECONDS: round % 2 === 0 ? '0' : '1',
    // Nothing is left pending for want of room: what is, the drain must name.
    MAX_IN_FLIGHT: '5000',
    DRAIN_SECONDS: round % 5 === 4 ? '1' : '20',
  });
  try {
    await service.arm('slow', { rate: 0.3, ms: round % 5 === 4 ? 4_000 : 1_500 });
    const created = Array.from({ length: CREATED }, () => crypto.randomUUID());
    await database.query(
      `insert into sessions (id, contract_id, mentor_id, amount_minor, currency)
       select id, 'contract-1', 'mentor-1', 12500, 'EUR' from unnest($1::uuid[]) as s (id)`,
      [created],
    );
    const load = startLoad(service.url, [...created]);
    await eventually('answers', () => load.answered.size >= 40 + (round % 7) * 10);
    service.signal('SIGTERM');
    const [exit] = await Promise.all([service.exited, load.ended]);
    if (exit.code !== 0) problems.push(`exit code ${exit.code}, signal ${exit.signal}`);

    for (const [id, status] of load.answered)
      if (status !== 200) problems.push(`${id} was answered ${status}`);
    // A request that the closing server never read was not accepted; one that changed its session was.
    const done = await database.query<Completed>(
      `select s.id, b.event_id as "eventId", b.status = 'pending' as "isPending",
         (select count(*)::integer from mentor_payable_ledgers l where l.session_id = s.id) as bills
       from sessions s left join event_backups b on b.payload ->> 'sessionId' = s.id::text
       where s.id = any($1::uuid[]) and s.completed_at is not null`,
      [created],
    );
    for (const { id } of done) {
      const code = load.unanswered.get(id);
      if (code !== undefined) problems.push(`${id} was completed and not answered: ${code}`);
    }
    if (done.length !== load.answered.size)
      problems.push(`${done.length} completed, ${load.answered.size} answered`);

    const output = service.output();
    const waiting = lineWith(output, 'Waiting for events in work');
    const running = waiting === '' ? 0 : Number(JSON.parse(waiting).count);
    if (/ends on an error nobody handled/.test(output)) problems.push('an error nobody handled');
    const left = lineWith(output, 'Stopping with events in work');
    if (left === '' && !output.includes('Every event in work is done')) problems.push('no word of the drain');
    for (const { eventId, isPending, bills } of done) {
      if (eventId === null) problems.push('a completed session has no event');
      else if (isPending && !left.includes(eventId)) problems.push(`${eventId} is pending without a word`);
      else if (!isPending && bills !== 1) problems.push(`${eventId} is processed and has ${bills} bills`);
    }
    const pending = done.filter(({ isPending }) => isPending).length;
    return { answered: load.answered.size, running, pending, problems };
  } finally {
    await service.stop();
  }
}

test(`SIGTERM under load, ${ROUNDS} times: what was accepted is answered, what runs is finished or left pending, exit 0`, {
  timeout: ROUNDS * 40_000,
}, async () => {
  const rounds: Round[] = [];
  for (let round = 0; round < ROUNDS; round += 1) rounds.push(await stopUnderLoad(round));
  expect(
    rounds.flatMap(({ problems }, round) => problems.map((problem) => `round ${round}: ${problem}`)),
  ).toEqual([]);
  expect(rounds.every(({ answered }) => answered >= 40)).toBe(true);
  expect(rounds.filter(({ running }) => running > 0).length).toBeGreaterThanOrEqual(ROUNDS * BUSY_SHARE);
  // Every fifth round's drain is shorter than its slowest handlers: rows are left, and a replay would take them.
  if (ROUNDS >= 5) expect(rounds.some(({ pending }) => pending > 0)).toBe(true);
  const sum = (of: (round: Round) => number) => rounds.reduce((total, round) => total + of(round), 0);
  process.stdout.write(
    `SIGTERM ${ROUNDS} times: ${sum(({ answered }) => answered)} answered, handlers at work in ` +
      `${rounds.filter(({ running }) => running > 0).length} rounds (${sum(({ running }) => running)} of them), ` +
      `${sum(({ pending }) => pending)} left pending\n`,
  );
});
