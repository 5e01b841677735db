import { type AddressInfo, connect, createServer } from 'node:net';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';
import { isNothingPending, isProcessed } from './testing/business-rows.js';
import { eventually } from './testing/service-client.js';
import { startServiceHere } from './testing/service-here.js';

/** What PgBouncer takes of a client's startup message by default; anything else ends the connection. */
const TAKEN = new Set([
  'user',
  'database',
  'application_name',
  'client_encoding',
  'datestyle',
  'timezone',
  'standard_conforming_strings',
]);

let database: TestDatabase;
beforeAll(async () => {
  database = await createTestDatabase();
});
afterAll(async () => {
  await database?.drop();
});

interface Overheard {
  url: string;
  /** The names in every startup message. */
  names: Set<string>;
  /** The name and the text of every statement that was parsed, the name of a simple one being empty. */
  statements: { name: string; text: string }[];
  stop(): void;
}

/** Stands between service and server and reads what the service says. */
async function listenIn(url: string): Promise<Overheard> {
  const target = new URL(url);
  const names = new Set<string>();
  const statements: Overheard['statements'] = [];
  const proxy = createServer((client) => {
    const server = connect(Number(target.port || 5432), target.hostname);
    let unread = Buffer.alloc(0);
    let started = false;
    client.on('data', (chunk: Buffer) => {
      unread = Buffer.concat([unread, chunk]);
      // A type of one byte, but in the startup message, then a length that counts itself.
      for (;;) {
        const head = started ? 1 : 0;
        if (unread.length < head + 4 || unread.length < head + unread.readInt32BE(head)) return;
        const type = unread.subarray(0, head).toString();
        const body = unread.subarray(head + 4, head + unread.readInt32BE(head)).toString();
        unread = unread.subarray(head + unread.readInt32BE(head));
        if (!started) {
          started = true;
          // The protocol version, then name and value in turn, each ended by a NUL.
          const words = body.slice(4).split('\0');
          for (let at = 0; words[at]; at += 2) names.add(words[at]?.toLowerCase() ?? '');
        } else if (type === 'P') {
          const [name = '', text = ''] = body.split('\0');
          statements.push({ name, text });
        } else if (type === 'Q') {
          statements.push({ name: '', text: body.slice(0, -1) });
        }
      }
    });
    for (const socket of [client, server]) socket.on('error', () => [client, server].map((s) => s.destroy()));
    client.pipe(server).pipe(client);
  });
  await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve));
  const through = new URL(url);
  through.hostname = '127.0.0.1';
  through.port = String((proxy.address() as AddressInfo).port);
  return { url: through.href, names, statements, stop: () => void proxy.close() };
}

/** What lives on in a session when its transaction is over, and would be met by another client. */
const SESSION_STATE =
  /^\s*(?:\/\*.*?\*\/\s*)?(?:set(?!\s+(?:local|transaction))|listen|prepare|declare|load|create\s+temp)\b|pg_advisory_lock|set_config\([^)]*false\)/i;

test('the service works with nothing that a pooler between transactions breaks: no setting, no name, no state', async () => {
  const proxy = await listenIn(database.url);
  const service = await startServiceHere(proxy.url);
  try {
    await service.arm('bill_twice');
    const id = await service.completeSession();
    await eventually('processed', () => isProcessed(database, id));
    await service.disarm();
    await service.post(`/sessions/${id}/evaluate`, { score: 5 });
    const terms = { mentorId: 'mentor-1', currency: 'EUR', unitPriceMinor: 1, totalUnits: 1 };
    const { body } = await service.post('/contracts', terms);
    await service.post(`/contracts/${body.id}/activate`);
    await service.post(`/contracts/${body.id}/consumptions`, { units: 1 });
    await service.admin(`/admin/events/replay/${crypto.randomUUID()}`, {});
    const correction = {
      kind: 'duplicate',
      expectedMinor: null,
      actualMinor: null,
      currency: null,
      ledgerRows: 2,
    };
    const request = { requestId: '1', requestedBy: 'ann', approvedBy: 'ben', reason: 'seen' };
    const answer = await service.admin('/admin/billing/corrections', {
      ...request,
      corrections: [{ key: [id], ...correction }],
    });
    expect(answer.body.results).toMatchObject([{ outcome: 'corrected' }]);
    await eventually('processed', () => isNothingPending(database));

    expect(proxy.names).toContain('user');
    expect([...proxy.names].filter((name) => !TAKEN.has(name))).toEqual([]);
    expect(proxy.statements.length).toBeGreaterThan(20);
    expect(proxy.statements.filter(({ name }) => name !== '')).toEqual([]);
    expect(proxy.statements.filter(({ text }) => SESSION_STATE.test(text))).toEqual([]);
  } finally {
    await service.stop();
    proxy.stop();
  }
});

test.each([
  'set lock_timeout = 1',
  '/* somebody */ SET search_path = a',
  'listen events',
  'select pg_advisory_lock(1)',
  `select set_config('a', 'b', false)`,
])('%s would be seen', (text) => {
  expect(SESSION_STATE.test(text)).toBe(true);
});
