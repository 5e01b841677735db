/** What helm test asks Prometheus, on a real one that scrapes the real exporter with the rules as shipped. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';
import { parse, stringify } from 'yaml';
import { wiringJob } from '../../jobs/wiring/job.ts';
import { ruleGroups } from '../../jobs/wiring/prometheus.ts';
import { checksFile, sessionBilling } from '../builders/checks.ts';
import { run } from '../builders/run.ts';
import { createTestDatabase, type TestDatabase } from '../postgres/database.ts';
import { freePort, ready } from './alertmanager.ts';
import { ruleFiles, rulesFolder } from './rule-files.ts';

const tools = inject('alertTools');

test('the groups that are asked for are those of alerts/', () => {
  const groups = ruleFiles().flatMap((file) =>
    (parse(readFileSync(join(rulesFolder, file), 'utf8')) as { groups: { name: string }[] }).groups.map(
      ({ name }) => name,
    ),
  );
  expect([...ruleGroups].sort()).toEqual(groups.sort());
});

describe.skipIf(tools === undefined)('Prometheus', () => {
  const running: ChildProcess[] = [];
  let database: TestDatabase;
  let folder = '';
  let exporter = '';
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'counterfoil-wiring-'));
    database = await createTestDatabase();
    const port = await freePort();
    exporter = `127.0.0.1:${port}`;
    await start(
      process.execPath,
      [fileURLToPath(new URL('../../jobs/exporter/main.ts', import.meta.url))],
      {
        DATABASE_URL: database.urlAs('counterfoil_exporter'),
        CF_CHECKS_FILE: checksFile(sessionBilling()),
        CF_LISTEN_ADDRESS: '127.0.0.1',
        CF_LISTEN_PORT: String(port),
      },
      `http://${exporter}/health/ready`,
    );
  });
  afterAll(async () => {
    for (const child of running) {
      child.kill('SIGTERM');
      if (child.exitCode === null) await once(child, 'exit');
    }
    await database?.drop();
    await rm(folder, { recursive: true, force: true });
  });

  async function start(
    program: string,
    args: readonly string[],
    environment: Readonly<Record<string, string>>,
    url: string,
  ): Promise<void> {
    const child = spawn(program, [...args], {
      env: { PATH: process.env.PATH ?? '', ...environment },
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    running.push(child);
    let log = '';
    child.stderr?.on('data', (chunk: Buffer) => {
      log = (log + chunk.toString()).slice(-4_000);
    });
    await ready(url, child, () => log);
  }

  /** A Prometheus with these rules and targets; gives its address. */
  async function prometheus(name: string, ruleFiles: readonly string[], targets: readonly string[]) {
    const config = join(folder, `${name}.yml`);
    await writeFile(
      config,
      stringify({
        global: { scrape_interval: '1s', evaluation_interval: '1s' },
        rule_files: ruleFiles,
        scrape_configs: [
          {
            job_name: 'exporter',
            static_configs: [{ targets, labels: { namespace: 'counterfoil', pod: 'exporter' } }],
          },
        ],
      }),
    );
    const port = await freePort();
    const url = `http://127.0.0.1:${port}`;
    await start(
      tools?.prometheus ?? '',
      [
        `--config.file=${config}`,
        `--storage.tsdb.path=${join(folder, name)}`,
        `--web.listen-address=127.0.0.1:${port}`,
        '--log.level=error',
      ],
      {},
      `${url}/-/ready`,
    );
    return url;
  }

  const tryPrometheus = async (url: string, changes: Readonly<Record<string, string>> = {}) =>
    await run(wiringJob, {
      DATABASE_URL: database.urlAs('counterfoil_exporter'),
      CF_SUBJECT: 'prometheus',
      CF_PROMETHEUS_URL: url,
      CF_NAMESPACE: 'counterfoil',
      CF_WAIT_SECONDS: '0',
      ...changes,
    });
  const shipped = () => ruleFiles().map((file) => join(rulesFolder, file));

  test('is right with the rules as shipped and the exporter among its targets, after a while', async () => {
    const url = await prometheus('whole', shipped(), [exporter]);
    const end = await tryPrometheus(url, { CF_WAIT_SECONDS: '90' });
    expect(end.exitCode, end.log).toBe(0);
    // Its nearest wrong: another installation, whose series are not there.
    const other = await tryPrometheus(url, { CF_INSTALLATION: 'other' });
    expect(other.exitCode).toBe(1);
    expect(other.message).toContain(
      'no series of the thresholds with namespace="counterfoil",installation="other"',
    );
    expect(other.message).toContain('no series of what the exporter shows');
    // And another namespace, as without a label of the target.
    const elsewhere = await tryPrometheus(url, { CF_NAMESPACE: 'elsewhere' });
    expect(elsewhere.exitCode).toBe(1);
  });

  test('is wrong where its selector has passed over one object of rules', async () => {
    const url = await prometheus(
      'lacking',
      shipped().filter((file) => !file.endsWith('billing.yaml')),
      [exporter],
    );
    await expect
      .poll(async () => (await tryPrometheus(url)).message, { timeout: 90_000, interval: 1_000 })
      .toBe('Prometheus has not loaded counterfoil-billing: do prometheusRule.labels fit its ruleSelector?');
    // A release that has left it out does not miss it.
    const others = ruleGroups.filter((name) => name !== 'counterfoil-billing');
    const end = await tryPrometheus(url, { CF_RULE_GROUPS: others.join(',') });
    expect(end.exitCode, end.log).toBe(0);
  });

  test('is wrong where nobody scrapes the exporter', async () => {
    const url = await prometheus('unscraped', shipped(), []);
    await expect
      .poll(async () => (await tryPrometheus(url)).message, { timeout: 90_000, interval: 1_000 })
      .toMatch(/^Prometheus has no series of what the exporter shows .*podMonitorSelector\?$/);
  });

  test('is none where something else answers', async () => {
    const end = await tryPrometheus(`http://${exporter}`);
    expect(end.exitCode).toBe(1);
    expect(end.message).toBe('Prometheus answers with status 404');
  });
});
