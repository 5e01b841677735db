/** The contenders of bench:service as processes: pgbench from PATH, and Node processes that take orders. */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { closeSync, openSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { Answer, ClosedResult, Order, PacedResult } from './bench-service-load.ts';
import { pgbenchScript } from './bench-service-statements.ts';

export interface NodeContender {
  readonly pid: number;
  closed(order: Omit<Order & { do: 'closed' }, 'do'>): Promise<ClosedResult>;
  paced(order: Omit<Order & { do: 'paced' }, 'do'>): Promise<PacedResult>;
  end(): Promise<void>;
}

/** Beyond the time of the order itself: an event that is not processed by then never will be. */
const ANSWER_WITHIN_MS = 60_000;

/** @param script a file of this folder; its standard output goes to a file in `folder`, as a pod's goes to one */
export async function startContender(
  script: string,
  folder: string,
  environment: Readonly<Record<string, string>>,
  nodeFlags: readonly string[] = [],
): Promise<NodeContender> {
  const output = openSync(join(folder, `${script}-${Date.now()}.log`), 'a');
  const child = spawn(process.execPath, [...nodeFlags, fileURLToPath(new URL(script, import.meta.url))], {
    env: { PATH: process.env.PATH, ...environment },
    stdio: ['ignore', output, 'inherit', 'ipc'],
  });
  closeSync(output);
  const killAtExit = () => child.kill('SIGKILL');
  process.once('exit', killAtExit);
  child.once('exit', () => process.off('exit', killAtExit));
  await answerOf(child, script, ANSWER_WITHIN_MS);
  const ask = async (order: Order & { seconds: number }): Promise<Answer> => {
    const answer = answerOf(child, script, order.seconds * 1_000 + ANSWER_WITHIN_MS);
    child.send(order);
    return await answer;
  };
  return {
    pid: child.pid ?? 0,
    async closed(order) {
      const answer = await ask({ do: 'closed', ...order });
      if (!('closed' in answer)) throw new Error(`${script}: an answer to another order`);
      return answer.closed;
    },
    async paced(order) {
      const answer = await ask({ do: 'paced', ...order });
      if (!('paced' in answer)) throw new Error(`${script}: an answer to another order`);
      return answer.paced;
    },
    async end() {
      const gone = new Promise<void>((resolve) => child.once('exit', () => resolve()));
      child.send({ do: 'end' });
      await gone;
    },
  };
}

function answerOf(child: ChildProcess, script: string, withinMs: number): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const settle = (act: () => void) => {
      clearTimeout(timer);
      child.off('message', onAnswer);
      child.off('exit', onExit);
      act();
    };
    const onAnswer = (answer: Answer) =>
      settle(() => ('failed' in answer ? reject(new Error(`${script}: ${answer.failed}`)) : resolve(answer)));
    const onExit = (code: number | null) =>
      settle(() => reject(new Error(`${script} ended with ${code}; see its lines above`)));
    const timer = setTimeout(
      () => settle(() => reject(new Error(`${script} gave no answer: an event was left pending`))),
      withinMs,
    );
    child.on('message', onAnswer);
    child.once('exit', onExit);
  });
}

/** `pgbench (PostgreSQL) 15.18 …`, or undefined where there is none on PATH. */
export async function pgbenchVersion(): Promise<string | undefined> {
  try {
    return (await promisify(execFile)('pgbench', ['--version'])).stdout.trim();
  } catch {
    return undefined;
  }
}

export interface PgbenchOrder {
  readonly url: string;
  readonly folder: string;
  readonly commits: 1 | 3;
  readonly clients: number;
  readonly seconds: number;
  /** Sessions that each client has to itself. */
  readonly perClient: number;
  readonly firstNumber: number;
}

/** One run of pgbench with its default protocol, a thread per core at most. */
export async function runPgbench(order: PgbenchOrder): Promise<{ events: number; perSecond: number }> {
  const { url, folder, commits, clients, seconds, perClient, firstNumber } = order;
  const script = join(folder, `completion-${commits}.sql`);
  writeFileSync(script, pgbenchScript(commits, perClient, firstNumber));
  const { hostname, port, username, password, pathname } = new URL(url);
  const { stdout } = await promisify(execFile)(
    'pgbench',
    [
      '--no-vacuum',
      `--file=${script}`,
      `--client=${clients}`,
      `--jobs=${Math.min(clients, 2)}`,
      `--time=${seconds}`,
      '--define=i=0',
    ],
    {
      env: {
        PATH: process.env.PATH,
        PGHOST: hostname,
        PGPORT: port,
        PGUSER: username,
        PGPASSWORD: decodeURIComponent(password),
        PGDATABASE: pathname.slice(1),
      },
    },
  );
  const events = Number(/transactions actually processed: (\d+)/.exec(stdout)?.[1]);
  const perSecond = Number(/tps = ([\d.]+)/.exec(stdout)?.[1]);
  if (!(events > 0 && perSecond > 0)) throw new Error(`pgbench said nothing that is understood:\n${stdout}`);
  return { events, perSecond };
}
