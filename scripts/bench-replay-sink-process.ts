/** The sink of bench:replay, from outside: starts its process, empties it before a run, and checks what has reached it. */
import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { SinkCounts, SinkNews, SinkOrder } from './bench-replay-sink.ts';

export interface Sink {
  readonly url: string;
  /** Forgets all that it has counted; each request takes so long from now on. */
  reset(handlerMs: number): void;
  counts(): Promise<SinkCounts>;
  /** @throws Error unless each of so many events has come, and has come once */
  confirm(who: string, events: number): Promise<SinkCounts>;
  end(): Promise<void>;
}

export async function startSink(): Promise<Sink> {
  const child = fork(fileURLToPath(new URL('bench-replay-sink.ts', import.meta.url)));
  const killAtExit = () => child.kill('SIGKILL');
  process.once('exit', killAtExit);
  const gone = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  const first = await newsOf(child);
  if (!('port' in first)) throw new Error('the sink did not say where it is');
  const order = (what: SinkOrder) => child.send(what);
  const sink: Sink = {
    url: `http://127.0.0.1:${first.port}/admin/events/replay`,
    reset: (handlerMs) => order({ do: 'reset', handlerMs }),
    async counts() {
      const news = newsOf(child);
      order({ do: 'counts' });
      const answer = await news;
      if (!('counts' in answer)) throw new Error('the sink gave no counts');
      return answer.counts;
    },
    async confirm(who, events) {
      const counts = await sink.counts();
      if (counts.events !== events || counts.distinct !== events) {
        throw new Error(
          `${who} had ${events} events to send, and the sink says: ${JSON.stringify(counts)}. The figures are worth nothing.`,
        );
      }
      return counts;
    },
    async end() {
      order({ do: 'end' });
      await gone;
      process.off('exit', killAtExit);
    },
  };
  return sink;
}

function newsOf(child: ChildProcess): Promise<SinkNews> {
  return new Promise((resolve, reject) => {
    const onExit = (code: number | null) => reject(new Error(`the sink ended with ${code}`));
    child.once('exit', onExit);
    child.once('message', (news: SinkNews) => {
      child.off('exit', onExit);
      resolve(news);
    });
  });
}
