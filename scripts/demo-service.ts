/** The reference service as a process of its own, and a load on it. */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { Agent, request } from 'undici';

export interface RunningService {
  readonly url: string;
  readonly pid: number;
  /** Ends it as a crash does: nothing gets to clean up. */
  kill(): Promise<void>;
  /** Ends it as Kubernetes does, and waits for its drain. */
  stop(): Promise<void>;
}

export interface ServiceOptions {
  readonly databaseUrl: string;
  readonly replayToken: string;
  readonly podName: string;
}

const STARTED_WITHIN_MS = 20_000;

/** @throws Error with the service's last lines when it ends or stays silent */
export async function startService(options: ServiceOptions): Promise<RunningService> {
  const child = spawn(
    process.execPath,
    [fileURLToPath(new URL('../reference-service/dist/main.js', import.meta.url))],
    {
      env: {
        PATH: process.env.PATH,
        HOST: '127.0.0.1',
        PORT: '0',
        DATABASE_URL: options.databaseUrl,
        REPLAY_TOKEN: options.replayToken,
        POD_NAME: options.podName,
        FAULTS: 'true',
        // A crash leaves its leases behind; nobody wants to watch the default of 30 s run out.
        LISTENER_LEASE_SECONDS: '3',
      },
      stdio: ['ignore', 'pipe', 'pipe'],
    },
  );
  const killAtExit = () => child.kill('SIGKILL');
  process.once('exit', killAtExit);
  child.once('exit', () => process.off('exit', killAtExit));
  const port = await listeningPort(child);
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  const end = async (signal: NodeJS.Signals) => {
    child.kill(signal);
    await ended;
  };
  return {
    url: `http://127.0.0.1:${port}`,
    pid: child.pid ?? 0,
    kill: () => end('SIGKILL'),
    stop: () => end('SIGTERM'),
  };
}

async function listeningPort(child: ChildProcess): Promise<number> {
  const lastLines: string[] = [];
  const port = new Promise<number>((resolve, reject) => {
    const timer = setTimeout(() => {
      child.kill('SIGKILL');
      reject(
        new Error(
          `the reference service did not start within ${STARTED_WITHIN_MS / 1_000} s:\n${lastLines.join('\n')}`,
        ),
      );
    }, STARTED_WITHIN_MS);
    const onLine = (line: string) => {
      lastLines.push(line);
      if (lastLines.length > 20) lastLines.shift();
      const found = /"listening":(\d+)/.exec(line)?.[1];
      if (found !== undefined) {
        clearTimeout(timer);
        resolve(Number(found));
      }
    };
    for (const stream of [child.stdout, child.stderr]) {
      if (stream !== null) createInterface({ input: stream }).on('line', onLine);
    }
    child.once('exit', (code) => {
      clearTimeout(timer);
      reject(new Error(`the reference service ended at its start with ${code}:\n${lastLines.join('\n')}`));
    });
  });
  return await port;
}

/** Makes a share of the handlers slow, so that a crash finds some of them at work. */
export async function slowHandlers(
  service: RunningService,
  token: string,
  fault: { readonly rate: number; readonly ms: number; readonly forSeconds: number },
): Promise<void> {
  const response = await request(`${service.url}/admin/faults`, {
    method: 'POST',
    headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
    body: JSON.stringify({ fault: 'slow', ...fault }),
  });
  await response.body.dump();
  if (response.statusCode >= 300)
    throw new Error(`the service refused the fault: HTTP ${response.statusCode}`);
}

export interface Load {
  /** Sessions whose completion the service has confirmed. */
  completed(): number;
  /** Resolves when every caller has given up, after the service is gone or `stop` was called. */
  readonly ended: Promise<void>;
  stop(): void;
}

/** `callers` clients that create and complete one session after the other, until the service is gone. */
export function startLoad(service: RunningService, callers: number): Load {
  const agent = new Agent({ connections: callers });
  let completed = 0;
  let stopped = false;
  const send = async (path: string, body: unknown) => {
    const response = await request(`${service.url}${path}`, {
      method: 'POST',
      dispatcher: agent,
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body),
    });
    await response.body.dump();
    if (response.statusCode >= 300) throw new Error(`POST ${path}: HTTP ${response.statusCode}`);
  };
  const call = async (caller: number) => {
    while (!stopped) {
      const id = randomUUID();
      try {
        await send('/sessions', {
          id,
          contractId: 'contract-live',
          mentorId: `mentor-${caller}`,
          amountMinor: 4_200,
          currency: 'EUR',
        });
        await send(`/sessions/${id}/complete`, {});
        completed += 1;
      } catch (error) {
        // The crash is what the demo is about; any other answer is a defect of the service.
        if (error instanceof Error && error.message.startsWith('POST ')) throw error;
        return;
      }
    }
  };
  const ended = Promise.all(Array.from({ length: callers }, (_, caller) => call(caller))).then(() =>
    agent.close(),
  );
  return {
    completed: () => completed,
    ended,
    stop() {
      stopped = true;
    },
  };
}
