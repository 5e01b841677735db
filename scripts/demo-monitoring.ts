/** The exporter beside the demo, and a Prometheus with our rules where one is installed. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { accessSync, constants, readdirSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { stringify } from 'yaml';

export interface Monitoring {
  /** Where it answers `/metrics`. */
  readonly exporterUrl: string;
  /** None where no Prometheus is installed. */
  readonly prometheusUrl: string | undefined;
  stop(): Promise<void>;
}

export interface MonitoringOptions {
  /** As the role counterfoil_exporter. */
  readonly databaseUrl: string;
  readonly installation: string;
  readonly checksFile: string;
  /** The service, whose events Prometheus scrapes too. */
  readonly serviceUrl: string | undefined;
  /** Where Prometheus is looked for. */
  readonly path?: string | undefined;
}

const READY_WITHIN_MS = 30_000;
const SCRAPE_SECONDS = 5;

const repositoryPath = (name: string) => fileURLToPath(new URL(`../${name}`, import.meta.url));

/** @throws Error with the last lines of the exporter or of Prometheus, when one of them does not come up */
export async function startMonitoring(options: MonitoringOptions): Promise<Monitoring> {
  const folder = await mkdtemp(join(tmpdir(), 'counterfoil-monitoring-'));
  const running: Started[] = [];
  const stop = async () => {
    await Promise.all(running.map((started) => started.stop()));
    await rm(folder, { recursive: true, force: true });
  };
  try {
    const exporter = await startExporter(options);
    running.push(exporter);
    const program = onPath('prometheus', options.path ?? process.env.PATH);
    if (program === undefined) return { exporterUrl: exporter.url, prometheusUrl: undefined, stop };
    const prometheus = await startPrometheus(program, folder, exporter.url, options);
    running.push(prometheus);
    return { exporterUrl: exporter.url, prometheusUrl: prometheus.url, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

interface Started {
  readonly url: string;
  stop(): Promise<void>;
}

async function startExporter(options: MonitoringOptions): Promise<Started> {
  const port = await freePort();
  return await start(
    process.execPath,
    [...['--max-semi-space-size=1', '--max-old-space-size=96'], repositoryPath('jobs/exporter/main.ts')],
    {
      PATH: process.env.PATH ?? '',
      DATABASE_URL: options.databaseUrl,
      CF_INSTALLATION: options.installation,
      CF_CHECKS_FILE: options.checksFile,
      CF_LISTEN_ADDRESS: '127.0.0.1',
      CF_LISTEN_PORT: String(port),
    },
    { url: `http://127.0.0.1:${port}`, readyAt: '/health/ready' },
  );
}

async function startPrometheus(
  program: string,
  folder: string,
  exporterUrl: string,
  { serviceUrl }: MonitoringOptions,
): Promise<Started> {
  const port = await freePort();
  const target = (job: string, url: string) => ({
    job_name: job,
    static_configs: [{ targets: [url.replace('http://', '')], labels: { namespace: 'counterfoil' } }],
    // The rules are those of an installation called counterfoil; the chart writes another name into them.
    ...(job === 'exporter'
      ? { metric_relabel_configs: [{ target_label: 'installation', replacement: 'counterfoil' }] }
      : {}),
  });
  const config = join(folder, 'prometheus.yaml');
  await writeFile(
    config,
    stringify({
      global: { scrape_interval: `${SCRAPE_SECONDS}s`, evaluation_interval: `${SCRAPE_SECONDS}s` },
      rule_files: ruleFiles(),
      scrape_configs: [
        target('exporter', exporterUrl),
        ...(serviceUrl === undefined ? [] : [target('service', serviceUrl)]),
      ],
    }),
  );
  return await start(
    program,
    [
      `--config.file=${config}`,
      `--storage.tsdb.path=${join(folder, 'data')}`,
      `--web.listen-address=127.0.0.1:${port}`,
      '--log.level=error',
    ],
    { PATH: process.env.PATH ?? '' },
    { url: `http://127.0.0.1:${port}`, readyAt: '/-/ready' },
  );
}

/** Beside them lie their tests, and what Alertmanager reads. */
const ruleFiles = () =>
  readdirSync(repositoryPath('alerts'))
    .filter(
      (name) => name.endsWith('.yaml') && !name.endsWith('.test.yaml') && !name.startsWith('inhibition'),
    )
    .map((name) => repositoryPath(`alerts/${name}`));

async function start(
  program: string,
  parameters: readonly string[],
  environment: Record<string, string>,
  { url, readyAt }: { readonly url: string; readonly readyAt: string },
): Promise<Started> {
  const child = spawn(program, parameters, { env: environment, stdio: ['ignore', 'pipe', 'pipe'] });
  let log = '';
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (chunk: Buffer) => {
      log = (log + chunk.toString()).slice(-2_000);
    });
  const killAtExit = () => child.kill('SIGKILL');
  process.once('exit', killAtExit);
  const ended = new Promise<void>((resolve) => {
    child.once('error', () => resolve());
    child.once('exit', () => resolve());
  });
  void ended.then(() => process.off('exit', killAtExit));
  const stop = async () => {
    if (isRunning(child)) child.kill('SIGTERM');
    await ended;
  };
  const deadline = Date.now() + READY_WITHIN_MS;
  while (!(await answers(`${url}${readyAt}`))) {
    if (isRunning(child) && Date.now() < deadline) {
      await delay(100);
      continue;
    }
    await stop();
    throw new Error(`${program} does not answer at ${readyAt}:\n${log}`);
  }
  return { url, stop };
}

const isRunning = (child: ChildProcess) =>
  child.pid !== undefined && child.exitCode === null && child.signalCode === null;

const answers = async (url: string) =>
  await fetch(url).then(
    (response) => response.ok,
    () => false,
  );

function onPath(name: string, path = ''): string | undefined {
  return path
    .split(delimiter)
    .filter((folder) => folder !== '')
    .map((folder) => join(folder, name))
    .find((file) => {
      try {
        accessSync(file, constants.X_OK);
        return true;
      } catch {
        return false;
      }
    });
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  await once(server, 'close');
  if (address === null || typeof address === 'string') throw new Error('no free port');
  return address.port;
}
