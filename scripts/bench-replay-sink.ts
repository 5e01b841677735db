/**
 * The sink of bench:replay, in a process of its own: an HTTP server that speaks the contract of the replay endpoint
 * and has no handler behind it, or one that takes some milliseconds. Counts what reaches it.
 *
 * It marks nothing as processed in the service's table. The service does that, in the transaction of its handler; a
 * once-run of the job does not look whether it did, and none of the other contenders has a service that does. So the
 * work is left out for all of them alike.
 */
import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { POISON_PREFIX, type ReplayAnswer, type ReplayCall, TOKEN } from './bench-replay-events.ts';

/** What the parent asks of it. */
export type SinkOrder =
  /** Forgets what it has counted; each request takes so long from now on. */
  { readonly do: 'reset'; readonly handlerMs: number } | { readonly do: 'counts' } | { readonly do: 'end' };

export interface SinkCounts {
  readonly requests: number;
  /** Ids in all requests, each as often as it came. */
  readonly events: number;
  /** Different ids. */
  readonly distinct: number;
  /** Of those, poison ones. */
  readonly poison: number;
}

export type SinkNews = { readonly port: number } | { readonly counts: SinkCounts };

let handlerMs = 0;
let requests = 0;
let events = 0;
const seen = new Set<string>();

const server = createServer((request, response) => {
  const pieces: Buffer[] = [];
  request.on('data', (piece: Buffer) => pieces.push(piece));
  request.on('end', () => respond(request, pieces, response));
});

function respond(request: IncomingMessage, pieces: readonly Buffer[], response: ServerResponse): void {
  if (request.method !== 'POST' || request.headers.authorization !== `Bearer ${TOKEN}`) {
    response.writeHead(401).end();
    return;
  }
  const { eventIds } = JSON.parse(Buffer.concat(pieces).toString()) as ReplayCall;
  requests += 1;
  events += eventIds.length;
  for (const id of eventIds) seen.add(id);
  const answer: ReplayAnswer = {
    serviceVersion: 'bench',
    listenersDigest: 'bench',
    results: eventIds.map((id) =>
      id.startsWith(POISON_PREFIX) ? refused(id) : { eventId: id, outcome: 'processed' },
    ),
  };
  const text = JSON.stringify(answer);
  const send = () =>
    response
      .writeHead(200, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) })
      .end(text);
  if (handlerMs === 0) send();
  else setTimeout(send, handlerMs);
}

/** Half of the poison ones each: a payload that nobody can read, and a handler for which no retry helps. */
const refused = (id: string): ReplayAnswer['results'][number] =>
  Number(id.at(-1)) % 2 === 0
    ? { eventId: id, outcome: 'invalid_payload' }
    : { eventId: id, outcome: 'failed', retryable: false };

const tell = (news: SinkNews) => process.send?.(news);

server.listen(0, '127.0.0.1');
await once(server, 'listening');
process.on('message', (order: SinkOrder) => {
  switch (order.do) {
    case 'reset':
      handlerMs = order.handlerMs;
      requests = 0;
      events = 0;
      seen.clear();
      break;
    case 'counts': {
      const poison = [...seen].filter((id) => id.startsWith(POISON_PREFIX)).length;
      tell({ counts: { requests, events, distinct: seen.size, poison } });
      break;
    }
    case 'end':
      process.disconnect();
      break;
  }
});
process.once('disconnect', () => {
  server.close();
  server.closeAllConnections();
});
tell({ port: (server.address() as AddressInfo).port });
