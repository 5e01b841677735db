/** A real Prometheus on samples that were written for it, asked as Grafana asks. */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createWriteStream } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';

/** Paths of the two programs. */
export interface PrometheusTools {
  readonly prometheus: string;
  readonly promtool: string;
}

export interface Sample {
  readonly metric: Readonly<Record<string, string>>;
  /** Seconds since 1970, and the value as Prometheus writes it. */
  readonly values: readonly (readonly [time: number, value: string])[];
}

export interface RunningPrometheus {
  readonly url: string;
  /** @param time seconds since 1970 */
  instant(expr: string, time: number): Promise<Sample[]>;
  range(expr: string, from: number, to: number, step: number): Promise<Sample[]>;
  stop(): Promise<void>;
}

/** @param texts each becomes its own set of blocks; samples of one series must not stand in two of them */
export async function startPrometheus(
  tools: PrometheusTools,
  texts: readonly Iterable<string>[],
): Promise<RunningPrometheus> {
  const folder = await mkdtemp(join(tmpdir(), 'counterfoil-prometheus-'));
  const data = join(folder, 'data');
  for (const [index, text] of texts.entries()) {
    const file = join(folder, `${index}.txt`);
    await pipeline(Readable.from(text), createWriteStream(file));
    await promisify(execFile)(tools.promtool, [
      'tsdb',
      'create-blocks-from',
      'openmetrics',
      '-q',
      file,
      data,
    ]);
    await rm(file);
  }
  const config = join(folder, 'prometheus.yml');
  await writeFile(config, 'global: {}\n');
  const port = await freePort();
  const child = spawn(
    tools.prometheus,
    [
      `--config.file=${config}`,
      `--storage.tsdb.path=${data}`,
      // The samples are of fixed days, whatever today is.
      '--storage.tsdb.retention.time=100y',
      `--web.listen-address=127.0.0.1:${port}`,
      '--log.level=error',
    ],
    { stdio: ['ignore', 'ignore', 'pipe'] },
  );
  let log = '';
  child.stderr.on('data', (chunk: Buffer) => {
    log += chunk.toString();
  });
  const url = `http://127.0.0.1:${port}`;
  await ready(url, child, () => log);
  const ask = async (path: string, parameters: Record<string, string>): Promise<Sample[]> => {
    const response = await fetch(`${url}/api/v1/${path}`, {
      method: 'POST',
      body: new URLSearchParams(parameters),
    });
    const answer = (await response.json()) as {
      status: string;
      error?: string;
      data?: {
        result: { metric: Record<string, string>; value?: [number, string]; values?: [number, string][] }[];
      };
    };
    if (answer.status !== 'success' || answer.data === undefined)
      throw new Error(`Prometheus refuses ${parameters.query}: ${answer.error}`);
    return answer.data.result.map(({ metric, value, values }) => ({
      metric,
      values: values ?? (value === undefined ? [] : [value]),
    }));
  };
  return {
    url,
    instant: (expr, time) => ask('query', { query: expr, time: String(time) }),
    range: (expr, from, to, step) =>
      ask('query_range', { query: expr, start: String(from), end: String(to), step: String(step) }),
    async stop() {
      if (child.exitCode === null) {
        child.kill('SIGTERM');
        await once(child, 'exit');
      }
      await rm(folder, { recursive: true, force: true });
    },
  };
}

async function ready(url: string, child: ChildProcess, log: () => string): Promise<void> {
  const deadline = Date.now() + 60_000;
  for (;;) {
    if (child.exitCode !== null || Date.now() > deadline)
      throw new Error(`Prometheus did not start: ${log()}`);
    const answered = await fetch(`${url}/-/ready`).then(
      (response) => response.ok,
      () => false,
    );
    if (answered) return;
    await delay(50);
  }
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  await once(server, 'close');
  if (address === null || typeof address === 'string') throw new Error('no port');
  return address.port;
}
