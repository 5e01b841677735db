import { type ChildProcess, spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { clientOf, type ServiceClient, TRIAL_SETTINGS } from './service-client.js';

export { type Answer, eventually, TOKEN } from './service-client.js';

const MAIN = fileURLToPath(new URL('../../dist/main.js', import.meta.url));

/** How a process ended. */
export interface Exit {
  code: number | null;
  signal: string | null;
}

/** The built service as a process of its own. */
export interface ServiceProcess extends ServiceClient {
  /** Everything it has written to its log so far, and to stderr. */
  output(): string;
  signal(signal: NodeJS.Signals): void;
  exited: Promise<Exit>;
  /** Ends it, however far it got. */
  stop(): Promise<void>;
}

/** Starts `node dist/main.js` on a free port and waits until it listens; rejects with its output if it ends first. */
export async function startService(
  databaseUrl: string,
  env: Readonly<Record<string, string>> = {},
): Promise<ServiceProcess> {
  const child: ChildProcess = spawn(process.execPath, [MAIN], {
    env: {
      PATH: process.env.PATH,
      TZ: process.env.TZ,
      ...TRIAL_SETTINGS,
      DATABASE_URL: databaseUrl,
      ...env,
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  const exited = new Promise<Exit>((resolve) => {
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
    child.on('close', () => reject(new Error(`the service ended before it listened:\n${output}`)));
  });
  return {
    ...clientOf(`http://127.0.0.1:${port}`),
    output: () => output,
    signal: (signal) => {
      child.kill(signal);
    },
    exited,
    async stop() {
      child.kill('SIGKILL');
      await exited;
    },
  };
}
