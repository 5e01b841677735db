import { type ChildProcess, spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const MAIN = fileURLToPath(new URL('../../../dist/v1-outbox/main.js', import.meta.url));

/** An answer over HTTP. */
export interface Answer {
  status: number;
  text: string;
  // biome-ignore lint/suspicious/noExplicitAny: a test says itself what it expects of a body.
  body: any;
}

/** The built predecessor as a process of its own. */
export interface OutboxProcess {
  url: string;
  /** Everything it has written so far. */
  output(): string;
  get(path: string): Promise<Answer>;
  post(path: string, body?: unknown): Promise<Answer>;
  /** Creates a session and gives its id. */
  createSession(): Promise<string>;
  signal(signal: NodeJS.Signals): void;
  exited: Promise<{ code: number | null; signal: string | null }>;
  /** Ends it as a crash does. */
  kill(): Promise<void>;
}

/** Starts `node dist/v1-outbox/main.js` on a free port, polling every second; rejects with its output if it ends first. */
export async function startOutbox(
  databaseUrl: string,
  env: Readonly<Record<string, string>> = {},
): Promise<OutboxProcess> {
  const child: ChildProcess = spawn(process.execPath, [MAIN], {
    env: {
      PATH: process.env.PATH,
      PORT: '0',
      HOST: '127.0.0.1',
      DATABASE_URL: databaseUrl,
      POD_NAME: 'v1-pod',
      OUTBOX_POLL_SECONDS: '1',
      ...env,
    },
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
  const url = `http://127.0.0.1:${port}`;
  const request = async (path: string, init: RequestInit): Promise<Answer> => {
    const response = await fetch(url + path, init);
    const text = await response.text();
    const isJson = response.headers.get('content-type')?.includes('json') === true;
    return { status: response.status, text, body: isJson ? JSON.parse(text) : undefined };
  };
  const post: OutboxProcess['post'] = (path, body = {}) =>
    request(path, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: typeof body === 'string' ? body : JSON.stringify(body),
    });
  return {
    url,
    output: () => output,
    get: (path) => request(path, { method: 'GET' }),
    post,
    async createSession() {
      const session = {
        contractId: 'contract-1',
        mentorId: 'mentor-1',
        amountMinor: 12_500,
        currency: 'EUR',
      };
      const { status, text, body } = await post('/sessions', session);
      if (status !== 201) throw new Error(`no session: ${status} ${text}`);
      return body.id as string;
    },
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
