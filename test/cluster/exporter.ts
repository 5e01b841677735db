/** The exporter as a process of its own, with the token of its service account and the login of its database role. */
import { type ChildProcess, spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { request } from 'undici';
import { eventually } from './cluster.ts';

const main = fileURLToPath(new URL('../../jobs/exporter/main.ts', import.meta.url));

export class ExporterProcess {
  readonly process: ChildProcess;
  readonly exited: Promise<{ readonly code: number | null; readonly signal: NodeJS.Signals | null }>;
  #log = '';
  #port: number | undefined;

  private constructor(environment: Readonly<Record<string, string>>) {
    this.process = spawn(process.execPath, [main], {
      env: {
        PATH: process.env.PATH ?? '',
        CF_LISTEN_ADDRESS: '127.0.0.1',
        CF_LISTEN_PORT: '0',
        ...environment,
      },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const { stdout, stderr } = this.process;
    for (const stream of [stdout, stderr])
      stream?.on('data', (chunk: Buffer) => {
        this.#log += chunk.toString();
      });
    this.exited = new Promise((resolve) => {
      this.process.once('exit', (code, signal) => resolve({ code, signal }));
    });
  }

  static async start(environment: Readonly<Record<string, string>>): Promise<ExporterProcess> {
    const exporter = new ExporterProcess(environment);
    exporter.#port = await eventually('the exporter listens', 30, async () => {
      if (exporter.process.exitCode !== null) throw new Error(exporter.log());
      return exporter
        .lines()
        .map(({ port }) => port)
        .find((port): port is number => typeof port === 'number');
    });
    return exporter;
  }

  log(): string {
    return this.#log;
  }

  lines(): Readonly<Record<string, unknown>>[] {
    return this.#log
      .split('\n')
      .filter((line) => line.startsWith('{') && line.endsWith('}'))
      .map((line) => JSON.parse(line) as Record<string, unknown>);
  }

  async kill(): Promise<void> {
    this.process.kill('SIGKILL');
    await this.exited;
  }

  async stop(): Promise<number | null> {
    this.process.kill('SIGTERM');
    return (await this.exited).code;
  }

  async get(path: string): Promise<{ readonly status: number; readonly text: string }> {
    const response = await request(`http://127.0.0.1:${this.#port}${path}`);
    return { status: response.statusCode, text: await response.body.text() };
  }

  /** The value of the one series of this metric whose labels hold all of these; undefined where there is none. */
  async value(metric: string, labels: Readonly<Record<string, string>> = {}): Promise<number | undefined> {
    const parts = Object.entries(labels).map(([name, value]) => `${name}="${value}"`);
    const found = (await this.get('/metrics')).text
      .split('\n')
      .filter((row) => row.startsWith(`${metric}{`) && parts.every((part) => row.includes(part)));
    if (found.length > 1) throw new Error(`more than one series: ${found.join('; ')}`);
    return found[0] === undefined ? undefined : Number(found[0].split(' ').at(-1));
  }

  /** Waits until a series has a value; `undefined` waits until it is gone. */
  async shows(
    metric: string,
    labels: Readonly<Record<string, string>>,
    value: number | undefined,
    seconds = 15,
  ): Promise<void> {
    await eventually(`${metric} ${JSON.stringify(labels)} is ${value}`, seconds, async () => {
      const seen = await this.value(metric, labels);
      if (seen !== value) throw new Error(`it is ${seen}`);
      return true;
    });
  }
}
