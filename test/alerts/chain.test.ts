/** The whole way, with nothing made up: a row in Postgres, the exporter, Prometheus, Alertmanager, the pager. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, describe, expect, inject, test } from 'vitest';
import { stringify } from 'yaml';
import { checksFile, sessionBilling } from '../builders/checks.ts';
import { addCheck, addFinding } from '../builders/exporter.ts';
import { createTestDatabase, type TestDatabase } from '../postgres/database.ts';
import { freePort, type RunningAlertmanager, ready, startAlertmanager } from './alertmanager.ts';
import { inhibitRules } from './inhibition.ts';
import { ruleFiles, rulesFolder } from './rule-files.ts';

const tools = inject('alertTools');

const running: ChildProcess[] = [];
let alertmanager: RunningAlertmanager | undefined;
let database: TestDatabase | undefined;
let folder = '';
afterEach(async () => {
  for (const child of running.splice(0)) {
    if (child.exitCode !== null) continue;
    child.kill('SIGTERM');
    await once(child, 'exit');
  }
  await alertmanager?.stop();
  await database?.drop();
  await rm(folder, { recursive: true, force: true });
});

async function start(
  program: string,
  args: readonly string[],
  environment: Record<string, string>,
  url: string,
) {
  const child = spawn(program, [...args], {
    env: { PATH: process.env.PATH ?? '', ...environment },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  running.push(child);
  let log = '';
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (chunk: Buffer) => {
      log = (log + chunk.toString()).slice(-4_000);
    });
  await ready(url, child, () => log);
}

/** From the rules as shipped: `for` of 30 s and 1 min, an evaluation every 15 s, and some room. */
const WITHIN_MS = 120_000;

describe.skipIf(tools === undefined)('one lost event and one double bill', () => {
  test('ring within two minutes, with what a person has to know; acknowledged, the finding is quiet again', {
    timeout: 400_000,
  }, async () => {
    folder = await mkdtemp(join(tmpdir(), 'counterfoil-chain-'));
    database = await createTestDatabase();
    alertmanager = await startAlertmanager(tools?.alertmanager ?? '', inhibitRules());
    await addCheck(database, { installation: 'counterfoil' });
    const exporterPort = await freePort();
    const exporter = `127.0.0.1:${exporterPort}`;
    await start(
      process.execPath,
      [fileURLToPath(new URL('../../jobs/exporter/main.ts', import.meta.url))],
      {
        DATABASE_URL: database.urlAs('counterfoil_exporter'),
        CF_CHECKS_FILE: checksFile(sessionBilling()),
        CF_LISTEN_ADDRESS: '127.0.0.1',
        CF_LISTEN_PORT: String(exporterPort),
      },
      `http://${exporter}/health/ready`,
    );
    const config = join(folder, 'prometheus.yml');
    await writeFile(
      config,
      stringify({
        global: { scrape_interval: '5s' },
        rule_files: ruleFiles().map((file) => join(rulesFolder, file)),
        alerting: { alertmanagers: [{ static_configs: [{ targets: [alertmanager.address] }] }] },
        scrape_configs: [
          {
            job_name: 'exporter',
            static_configs: [{ targets: [exporter], labels: { namespace: 'counterfoil', pod: 'exporter' } }],
          },
        ],
      }),
    );
    const port = await freePort();
    await start(
      tools?.prometheus ?? '',
      [
        `--config.file=${config}`,
        `--storage.tsdb.path=${join(folder, 'data')}`,
        `--web.listen-address=127.0.0.1:${port}`,
        '--log.level=error',
      ],
      {},
      `http://127.0.0.1:${port}/-/ready`,
    );

    // Older than the exporter's grace of a minute, so overdue from this moment on.
    await database.query(
      `INSERT INTO event_backups (event_id, event_name, payload, status, created_at)
       VALUES ('e-1', 'services.session.completed.v1', '{"sessionId": "s-1"}', 'pending', now() - interval '2 minutes')`,
    );
    const finding = await addFinding(database, {
      kind: 'duplicate',
      expectedMinor: '500',
      actualMinor: '1000',
      currency: 'EUR',
    });
    const { pages, tickets, descriptions } = alertmanager;
    const names = (sent: readonly Readonly<Record<string, string>>[]) =>
      sent.map(({ alertname }) => alertname);
    await expect
      .poll(() => names(tickets), { timeout: WITHIN_MS, interval: 250 })
      .toContain('CounterfoilOverdueEvents');
    await expect
      .poll(() => names(pages), { timeout: WITHIN_MS, interval: 250 })
      .toEqual(['BillingDiscrepancy']);
    expect(descriptions.get('CounterfoilOverdueEvents')).toMatch(/^What: 1 events are pending/);
    expect(descriptions.get('BillingDiscrepancy')).toMatch(
      /^What: 1 open findings: 1 duplicate, .*\nMoney at risk: 500 minor units of EUR; what is not verified yet is unknown\./,
    );

    await database.query(
      `UPDATE counterfoil.discrepancies SET status = 'acknowledged', acknowledged_by = 'ann',
              acknowledged_until = now() + interval '1 hour' WHERE id = $1`,
      [finding],
    );
    await expect
      .poll(
        async () => {
          const answer = await fetch(
            `http://127.0.0.1:${port}/api/v1/query?query=${encodeURIComponent('ALERTS{alertname="BillingDiscrepancy"}')}`,
          );
          return ((await answer.json()) as { data: { result: unknown[] } }).data.result;
        },
        { timeout: WITHIN_MS, interval: 500 },
      )
      .toEqual([]);
    expect(names(pages)).toEqual(['BillingDiscrepancy']);
  });
});
