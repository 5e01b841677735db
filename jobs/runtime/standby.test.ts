import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { EmbeddedPostgres } from '../../scripts/embedded-postgres.ts';
import { startStandby } from '../../test/postgres/standby.ts';
import { Database } from './database.ts';
import { createLogger } from './logger.ts';

let server: EmbeddedPostgres;
let database: Database;

beforeAll(async () => {
  server = await startStandby();
  database = new Database(
    {
      url: server.url,
      applicationName: 'standby-test',
      schema: 'counterfoil',
      poolSize: 2,
      connectTimeoutMs: 5_000,
      lockTimeoutMs: 1_000,
      retryMs: 5_000,
    },
    createLogger({ job: 'test', level: 'error', installation: 'test' }),
  );
});
afterAll(async () => {
  await database.close();
  await server.stop();
});

describe('a standby', () => {
  it('is read', async () => {
    const [row] = await database.read((transaction) =>
      transaction.query<{ standby: boolean }>('SELECT pg_is_in_recovery() AS standby'),
    );
    expect(row?.standby).toBe(true);
  });

  it('is refused by a run that has to write, at once and with what to do', async () => {
    await expect(database.transaction({}, async () => {})).rejects.toMatchObject({
      id: 'database_read_only',
      exitCode: 2,
      message: expect.stringContaining('name the primary in DATABASE_URL'),
    });
  });
});
