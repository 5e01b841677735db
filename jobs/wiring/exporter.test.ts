/** The exporter as a process of its own, asked as helm test asks it. */
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { checksFile, sessionBilling } from '../../test/builders/checks.ts';
import { type RunningJob, startJob } from '../../test/builders/process.ts';
import { run } from '../../test/builders/run.ts';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';
import { wiringJob } from './job.ts';

let database: TestDatabase;
let exporter: RunningJob;
let url: string;
beforeAll(async () => {
  database = await createTestDatabase();
  await database.query(
    readFileSync(new URL('../../nestjs/sql/event_backups.extend.sql', import.meta.url), 'utf8'),
  );
  exporter = startJob('jobs/exporter/main.ts', {
    DATABASE_URL: database.urlAs('counterfoil_exporter'),
    CF_LISTEN_ADDRESS: '127.0.0.1',
    CF_LISTEN_PORT: '0',
    CF_STATE_INTERVAL_SECONDS: '1',
    CF_CHECKS_FILE: checksFile(sessionBilling()),
  });
  const port = await new Promise<string>((resolve, reject) => {
    let log = '';
    exporter.process.stdout?.on('data', (chunk: Buffer) => {
      log += chunk.toString();
      const found = /"port":(\d+)/.exec(log)?.[1];
      if (found !== undefined) resolve(found);
    });
    exporter.ended.then((end) => reject(new Error(end.log)), reject);
  });
  url = `http://127.0.0.1:${port}`;
});
afterAll(async () => {
  exporter.process.kill('SIGTERM');
  await exporter.ended;
  await database.drop();
});

const tryExporter = async (changes: Readonly<Record<string, string>> = {}) =>
  await run(wiringJob, {
    DATABASE_URL: database.urlAs('counterfoil_exporter'),
    CF_SUBJECT: 'exporter',
    CF_EXPORTER_URL: url,
    CF_WAIT_SECONDS: '20',
    ...changes,
  });

describe('the exporter', () => {
  test('is right while it takes all that it reads', async () => {
    const end = await tryExporter();
    expect(end.exitCode, end.log).toBe(0);
  });

  test('is wrong where it belongs to another installation', async () => {
    const end = await tryExporter({ CF_INSTALLATION: 'other', CF_WAIT_SECONDS: '0' });
    expect(end.exitCode).toBe(1);
    expect(end.message).toBe('what answers is no exporter of the installation other');
  });

  test('is wrong where it knows nothing of the Rollout that it should watch', async () => {
    const end = await tryExporter({ CF_ROLLOUT_NAME: 'billing', CF_WAIT_SECONDS: '0' });
    expect(end.exitCode).toBe(1);
    expect(end.message).toContain('knows nothing fresh of the Rollout billing');
  });

  test('is wrong while it may not read what it shows, and right again by itself', async () => {
    await database.query('REVOKE SELECT ON counterfoil.discrepancies FROM counterfoil_exporter');
    // The exporter notices with its next look, a second away.
    await expect
      .poll(async () => (await tryExporter({ CF_WAIT_SECONDS: '0' })).message, { timeout: 20_000 })
      .toBe('the exporter cannot take its collection state');
    await database.query('GRANT SELECT ON counterfoil.discrepancies TO counterfoil_exporter');
    const end = await tryExporter({ CF_WAIT_SECONDS: '30' });
    expect(end.exitCode, end.log).toBe(0);
  });

  test('is wrong where nothing answers, and the wait is kept', async () => {
    const server = createServer().listen(0, '127.0.0.1');
    await new Promise((resolve) => server.once('listening', resolve));
    const { port } = server.address() as AddressInfo;
    await new Promise((resolve) => server.close(resolve));
    const end = await tryExporter({ CF_EXPORTER_URL: `http://127.0.0.1:${port}`, CF_WAIT_SECONDS: '1' });
    expect(end.exitCode).toBe(1);
    expect(end.message).toBe('the exporter does not answer (ECONNREFUSED)');
    expect(end.lines.filter(({ msg }) => msg === 'not right yet').length).toBeGreaterThan(0);
  });
});

test('a setting that the subject needs is named', async () => {
  const end = await run(wiringJob, {
    DATABASE_URL: database.urlAs('counterfoil_exporter'),
    CF_SUBJECT: 'exporter',
  });
  expect(end.exitCode).toBe(2);
  expect(end.message).toBe('CF_EXPORTER_URL: is required with CF_SUBJECT=exporter');
});
