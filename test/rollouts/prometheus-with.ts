/** A real Prometheus that has seen given series: over the last hour and a half, and for some minutes from now on. */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { freePort, ready } from '../alerts/alertmanager.ts';

/** One series: its value by how many seconds ago, or from now on where that is negative; undefined where it has none. */
export type Series = readonly [series: string, valueAt: (secondsAgo: number) => number | undefined];

export interface RunningPrometheus {
  readonly url: string;
  stop(): Promise<void>;
}

const STEP_SECONDS = 30;
const BACK_SECONDS = 90 * 60;
/** The tests may take so long. */
const AHEAD_SECONDS = 15 * 60;

export async function startPrometheusWith(
  tools: Readonly<Record<'prometheus' | 'promtool', string>>,
  given: readonly Series[],
): Promise<RunningPrometheus> {
  const folder = await mkdtemp(join(tmpdir(), 'counterfoil-prometheus-'));
  const now = Math.floor(Date.now() / 1000);
  const samples = given.flatMap(([series, valueAt]) => {
    const lines: string[] = [];
    for (let ago = BACK_SECONDS; ago >= -AHEAD_SECONDS; ago -= STEP_SECONDS) {
      const value = valueAt(ago);
      if (value !== undefined) lines.push(`${series} ${prometheusNumber(value)} ${now - ago}`);
    }
    return lines;
  });
  await writeFile(join(folder, 'series'), `${samples.join('\n')}\n# EOF\n`);
  const data = join(folder, 'data');
  await promisify(execFile)(tools.promtool, [
    'tsdb',
    'create-blocks-from',
    'openmetrics',
    join(folder, 'series'),
    data,
  ]);
  const config = join(folder, 'prometheus.yml');
  await writeFile(config, '{}\n');
  const port = await freePort();
  const url = `http://127.0.0.1:${port}`;
  const child = spawn(
    tools.prometheus,
    [`--config.file=${config}`, `--storage.tsdb.path=${data}`, `--web.listen-address=127.0.0.1:${port}`],
    { stdio: ['ignore', 'ignore', 'pipe'] },
  );
  let log = '';
  child.stderr.on('data', (chunk: Buffer) => {
    log = (log + chunk.toString()).slice(-4_000);
  });
  await ready(`${url}/-/ready`, child, () => log);
  return {
    url,
    async stop() {
      child.kill('SIGTERM');
      if (child.exitCode === null) await once(child, 'exit');
      await rm(folder, { recursive: true, force: true });
    },
  };
}

const prometheusNumber = (value: number): string =>
  Number.isFinite(value) ? String(value) : Number.isNaN(value) ? 'NaN' : value > 0 ? '+Inf' : '-Inf';
