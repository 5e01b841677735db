import { type ChildProcess, spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const MAIN = fileURLToPath(new URL('../../dist/main.js', import.meta.url));

/** The token every service process of a test is started with. */
export const TOKEN = 'the-token-of-the-trial';

/** An answer over HTTP. */
export interface Answer {
  status: number;
  /** The header counterfoil-outcome. */
  outcome: string | null;
  text: string;
  // biome-ignore lint/suspicious/noExplicitAny: a test says itself what it expects of a body.
  body: any;
}

/** How a process ended. */
export interface Exit {
  code: number | null;
  signal: string | null;
}

/** The built service as a process of its own. */
export interface ServiceProcess {
  url: string;
  /** Everything it has written to its log so far, and to stderr. */
  output(): string;
  get(path: string): Promise<Answer>;
  post(path: string, body?: unknown, headers?: Record<string, string>): Promise<Answer>;
  /** With the token of the admin endpoints. */
  admin(path: string, body: unknown): Promise<Answer>;
  /** Creates a session and gives its id. */
  createSession(more?: object): Promise<string>;
  /** Arms a fault for a minute. */
  arm(fault: string, more?: object): Promise<void>;
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
      PORT: '0',
      HOST: '127.0.0.1',
      DATABASE_URL: databaseUrl,
      REPLAY_TOKEN: TOKEN,
      FAULTS: 'true',
      POD_NAME: 'pod-1',
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
  const url = `http://127.0.0.1:${port}`;

  const request = async (path: string, init: RequestInit): Promise<Answer> => {
    const response = await fetch(url + path, init);
    const text = await response.text();
    const isJson = response.headers.get('content-type')?.includes('json') === true;
    const outcome = response.headers.get('counterfoil-outcome');
    return { status: response.status, outcome, text, body: isJson ? JSON.parse(text) : undefined };
  };
  const post: ServiceProcess['post'] = (path, body = {}, headers = {}) =>
    request(path, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...headers },
      body: typeof body === 'string' ? body : JSON.stringify(body),
    });
  const admin: ServiceProcess['admin'] = (path, body) =>
    post(path, body, { authorization: `Bearer ${TOKEN}` });
  return {
    url,
    output: () => output,
    get: (path) => request(path, { method: 'GET' }),
    post,
    admin,
    async createSession(more = {}) {
      const session = {
        contractId: 'contract-1',
        mentorId: 'mentor-1',
        amountMinor: 12_500,
        currency: 'EUR',
        ...more,
      };
      const { status, text, body } = await post('/sessions', session);
      if (status !== 201) throw new Error(`no session: ${status} ${text}`);
      return body.id as string;
    },
    async arm(fault, more = {}) {
      const { status, text } = await admin('/admin/faults', { fault, rate: 1, forSeconds: 60, ...more });
      if (status !== 204) throw new Error(`not armed: ${status} ${text}`);
    },
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

/** Asks again until `probe` gives something, for twenty seconds at most; `what` names what never came. */
export async function eventually<Result>(
  what: string,
  probe: () => Promise<Result | undefined | false> | Result | undefined | false,
): Promise<Result> {
  for (const endsAt = performance.now() + 20_000; performance.now() < endsAt; ) {
    const result = await probe();
    if (result !== undefined && result !== false) return result;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new Error(`never came: ${what}`);
}
