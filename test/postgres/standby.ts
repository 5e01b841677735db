/** A server in recovery, which takes no write: what a URL of a read replica leads to. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Client } from 'pg';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../../scripts/embedded-postgres.ts';

/**
 * @param prepare runs on the server while it is still a primary, with a superuser's URL
 * @param signal ends the primary; after SIGQUIT, a crash, the standby replays what was prepared
 * @returns the same server as a hot standby
 */
export async function startStandby(
  prepare: (url: string) => Promise<void> = async () => {},
  signal: 'SIGINT' | 'SIGQUIT' = 'SIGINT',
): Promise<EmbeddedPostgres> {
  const server = await startEmbeddedPostgres();
  try {
    await prepare(server.url);
    const client = new Client({ connectionString: server.url });
    await client.connect();
    const [row] = (await client.query<{ data_directory: string }>('SHOW data_directory')).rows;
    await client.end();
    // The file alone turns a server into a standby at its next start.
    writeFileSync(join(row?.data_directory ?? '', 'standby.signal'), '');
    await server.restart(signal);
    return server;
  } catch (error) {
    await server.stop();
    throw error;
  }
}
