import { type ChildProcess, spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { clientOf, type ServiceClient } from '../../../src/testing/service-client.js';

const MAIN = fileURLToPath(new URL('../../../dist/v1-outbox/main.js', import.meta.url));

/** What every predecessor of a test is started with: it polls every second. */
export const OUTBOX_SETTINGS = {
  PORT: '0',
  HOST: '127.0.0.1',
  POD_NAME: 'v1-pod',
  OUTBOX_POLL_SECONDS: '1',
} as const;

/** The built predecessor as a process of its own. */
export interface OutboxProcess extends ServiceClient {
  /** Everything it has written so far. */
  output(): string;
  signal(signal: NodeJS.Signals): void;
  exited: Promise<{ code: number | null; signal: string | null }>;
  /** Ends it as a crash does. */
  kill(): Promise<void>;
}

/** Starts `node dist/v1-outbox/main.js` on a free port; rejects with its output if it ends first. */
export async function startOutbox(
  databaseUrl: string,
  env: Readonly<Record<string, string>> = {},
): Promise<OutboxProcess> {
  const child: ChildProcess = spawn(process.execPath, [MAIN], {
    env: { PATH: process.env.PATH, ...OUTBOX_SETTINGS, DATABASE_URL: databaseUrl, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  const exited = new Promise<{ code: number | null; signal: string | null }>((resolve) => {
    child.on('exit', (code, signal) => resolve({ code, signal }));
  });
  const port = await new Promise<number>((resolve, reject) => {
    for (const stream of [child.stdout, child.stderr]) {
      stream?.setEncoding('utf8').on('data', (text: string) => {
        output += text;
        const listening = /"listening":(\d+)/.exec(output)?.[1];
        if (listening !== undefined) resolve(Number(listening));
      });
    }
    child.on('close', () => reject(new Error(`the predecessor ended before it listened:\n${output}`)));
  });
  return {
    ...clientOf(`http://127.0.0.1:${port}`),
    output: () => output,
    signal: (signal) => {
      child.kill(signal);
    },
    exited,
    async kill() {
      child.kill('SIGKILL');
      await exited;
    },
  };
}
