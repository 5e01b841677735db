/**
 * A contender of bench:replay in a process of its own, both ends of it: the parent starts it, waits until it has what
 * it needs (its modules, its connections to the database), says go, and hears how long it took.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

/** What a contender is told, by its environment. */
export interface ContenderOrder {
  readonly databaseUrl: string;
  readonly sinkUrl: string;
  /** Calls in flight at once. */
  readonly lanes: number;
  /** Events that there are; only the bare loop has no other way to know. */
  readonly events: number;
}

/** Longest run that is waited for: a hundred times what any contender needs for the default number of events. */
const ENDS_WITHIN_MS = 600_000;

type News = { readonly ready: true } | { readonly seconds: number } | { readonly failed: string };

/** The child's end. `open` takes what it needs and gives the work, which is timed; both connect to nothing else. */
export async function contend(
  open: (order: ContenderOrder) => Promise<{ work(): Promise<void>; close(): Promise<void> }>,
): Promise<void> {
  const tell = (news: News) =>
    new Promise<void>((resolve, reject) => {
      process.send?.(news, (error: Error | null) => (error === null ? resolve() : reject(error)));
    });
  try {
    const contender = await open(JSON.parse(process.env.BENCH_ORDER ?? '') as ContenderOrder);
    const go = new Promise((resolve) => process.once('message', resolve));
    await tell({ ready: true });
    await go;
    const beganAt = performance.now();
    await contender.work();
    const seconds = (performance.now() - beganAt) / 1_000;
    await contender.close();
    await tell({ seconds });
  } catch (error) {
    await tell({ failed: (error as Error).message });
  }
  if (process.connected) process.disconnect();
}

/** The parent's end: one run of a script of this folder, from its begin to the last event recorded, in seconds. */
export async function runContender(script: string, order: ContenderOrder): Promise<number> {
  const child = spawn(process.execPath, [fileURLToPath(new URL(script, import.meta.url))], {
    // What graphile-worker takes for its own bench: no line for each job that went well.
    env: { PATH: process.env.PATH, BENCH_ORDER: JSON.stringify(order), NO_LOG_SUCCESS: '1' },
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
  });
  const killAtExit = () => child.kill('SIGKILL');
  process.once('exit', killAtExit);
  const gone = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  try {
    await newsOf(child, script);
    const ended = newsOf(child, script);
    child.send({ go: true });
    const news = await ended;
    if (!('seconds' in news)) throw new Error(`${script} said that it is ready twice`);
    return news.seconds;
  } finally {
    if (child.connected) child.disconnect();
    const patience = setTimeout(killAtExit, 10_000);
    await gone;
    clearTimeout(patience);
    process.off('exit', killAtExit);
  }
}

function newsOf(child: ChildProcess, script: string): Promise<News> {
  return new Promise((resolve, reject) => {
    const settle = (act: () => void) => {
      clearTimeout(timer);
      child.off('message', onNews);
      child.off('exit', onExit);
      act();
    };
    const onNews = (news: News) =>
      settle(() => ('failed' in news ? reject(new Error(`${script}: ${news.failed}`)) : resolve(news)));
    const onExit = (code: number | null) =>
      settle(() => reject(new Error(`${script} ended with ${code}; see its lines above`)));
    const timer = setTimeout(() => {
      child.kill('SIGKILL');
      settle(() => reject(new Error(`${script} did not end within ${ENDS_WITHIN_MS / 1_000} s`)));
    }, ENDS_WITHIN_MS);
    child.on('message', onNews);
    child.once('exit', onExit);
  });
}
