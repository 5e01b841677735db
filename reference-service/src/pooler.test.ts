import { type AddressInfo, connect, createServer } from 'node:net';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';
import { isProcessed } from './testing/business-rows.js';
import { eventually, startService } from './testing/service-process.js';

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

/** Stands between service and server and keeps the names in every startup message. */
async function listenIn(url: string): Promise<{ url: string; names: Set<string>; stop(): void }> {
  const target = new URL(url);
  const names = new Set<string>();
  const proxy = createServer((client) => {
    const server = connect(Number(target.port || 5432), target.hostname);
    client.once('data', (startup) => {
      // Length and protocol version, then name and value in turn, each ended by a NUL.
      const words = startup.subarray(8).toString().split('\0');
      for (let at = 0; words[at]; at += 2) names.add(words[at]?.toLowerCase() ?? '');
    });
    for (const socket of [client, server]) socket.on('error', () => [client, server].map((s) => s.destroy()));
    client.pipe(server).pipe(client);
  });
  await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve));
  const through = new URL(url);
  through.hostname = '127.0.0.1';
  through.port = String((proxy.address() as AddressInfo).port);
  return { url: through.href, names, stop: () => void proxy.close() };
}

test('the service opens its connections with nothing that PgBouncer refuses, and bills through them', async () => {
  const proxy = await listenIn(database.url);
  const service = await startService(proxy.url);
  try {
    const id = await service.createSession();
    expect((await service.post(`/sessions/${id}/complete`)).status).toBe(200);
    await eventually('processed', () => isProcessed(database, id));
    expect(proxy.names).toContain('user');
    expect([...proxy.names].filter((name) => !TAKEN.has(name))).toEqual([]);
  } finally {
    await service.stop();
    proxy.stop();
  }
});
