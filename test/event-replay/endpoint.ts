/**
 * A replay endpoint for the tests: speaks the contract over HTTP, keeps its own idempotent record of what its
 * handler has finished, marks the events as processed in Postgres, and misbehaves on demand.
 */
import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { EventOutcome } from '../../jobs/event-replay/decide.ts';

export interface Asked {
  readonly eventIds: readonly string[];
  readonly deadlineMs: number;
  readonly headers: IncomingMessage['headers'];
  readonly path: string | undefined;
}

export interface Answer {
  readonly eventId: string;
  readonly outcome: EventOutcome | string;
  readonly retryable?: boolean;
  readonly error?: string;
}

/** What the by-session route answers beside who it is. */
export interface RebuildAnswer {
  readonly rebuild: string;
  readonly results?: readonly Answer[];
  readonly code?: string;
  readonly more?: boolean;
}

/** A call for corrections, as it came. */
export interface AskedCorrections {
  readonly requestId: string;
  readonly requestedBy: string;
  readonly approvedBy: string;
  readonly reason: string;
  readonly corrections: readonly { readonly key: readonly string[]; readonly kind: string }[];
}

export interface TestEndpoint {
  readonly url: string;
  readonly correctionsUrl: string;
  /** Keys of the calls for a rebuild, in the order of their arrival. */
  readonly rebuilds: string[];
  /** Calls for corrections. */
  readonly corrections: AskedCorrections[];
  /** What becomes of a rebuild; a number is a status without an answer. May wait. */
  rebuild: (key: string) => Promise<RebuildAnswer | number> | RebuildAnswer | number;
  /** What becomes of one correction; a number is a status for the whole call. */
  correct: (key: string) => { outcome: string; retryable?: boolean; error?: string } | number;
  /** All calls, in the order of their arrival. */
  readonly calls: Asked[];
  /** How often the handler began for an event, by id. */
  readonly begun: Map<string, number>;
  /** How often it came to its end. */
  readonly finished: Map<string, number>;
  listenersDigest: string;
  /** What becomes of one event; unless it says otherwise, it is processed. May wait. */
  handle: (
    eventId: string,
  ) => Promise<Omit<Answer, 'eventId'> | undefined> | Omit<Answer, 'eventId'> | undefined;
  /** Answers a whole call in its own way; true when it did. */
  misbehave: (asked: Asked, response: ServerResponse) => boolean | Promise<boolean>;
  /** Resolves when so many calls have arrived since the start. */
  arrived(calls: number): Promise<void>;
  /** Cuts every connection, as a crash does. */
  cut(): void;
  /** Closes the port; `open` takes the same one again. */
  close(): Promise<void>;
  open(): Promise<void>;
}

export const TEST_TOKEN = 'a-token-of-the-tests';

/** @param mark writes to the service's own table that these events are processed */
export async function startTestEndpoint(
  mark: (eventIds: readonly string[]) => Promise<void>,
): Promise<TestEndpoint> {
  const calls: Asked[] = [];
  const waiting: { calls: number; resolve: () => void }[] = [];
  let server: Server;
  let port = 0;
  const listen = async () => {
    server = createServer((request, response) => {
      respond(request, response).catch(() => response.destroy());
    });
    server.listen(port, '127.0.0.1');
    await once(server, 'listening');
    port = (server.address() as AddressInfo).port;
  };
  await listen();
  const endpoint: TestEndpoint = {
    url: `http://127.0.0.1:${port}/admin/events/replay`,
    correctionsUrl: `http://127.0.0.1:${port}/admin/billing/corrections`,
    rebuilds: [],
    corrections: [],
    rebuild: () => ({ rebuild: 'not_needed' }),
    correct: () => ({ outcome: 'corrected' }),
    calls,
    begun: new Map(),
    finished: new Map(),
    listenersDigest: 'digest-1',
    handle: () => undefined,
    misbehave: () => false,
    async arrived(count) {
      if (calls.length >= count) return;
      await new Promise<void>((resolve) => waiting.push({ calls: count, resolve }));
    },
    cut: () => server.closeAllConnections(),
    async close() {
      const closed = once(server, 'close');
      server.close();
      server.closeAllConnections();
      await closed;
    },
    open: listen,
  };

  async function respond(request: IncomingMessage, response: ServerResponse): Promise<void> {
    let text = '';
    for await (const piece of request) text += piece;
    const mends = await mend(request.url ?? '', text);
    if (mends !== undefined) {
      const allowed = request.headers.authorization === `Bearer ${TEST_TOKEN}`;
      const status = allowed ? (typeof mends === 'number' ? mends : 200) : 401;
      response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(mends));
      return;
    }
    const body = JSON.parse(text) as { eventIds: string[]; deadlineMs: number };
    const asked = { ...body, headers: request.headers, path: request.url };
    calls.push(asked);
    for (const { resolve } of waiting.filter((entry) => entry.calls <= calls.length)) resolve();
    if (await endpoint.misbehave(asked, response)) return;
    if (request.headers.authorization !== `Bearer ${TEST_TOKEN}`) {
      response.writeHead(401).end();
      return;
    }
    const results = await Promise.all(asked.eventIds.map(one));
    const processed = results.filter(({ outcome }) => outcome === 'processed').map(({ eventId }) => eventId);
    if (processed.length > 0) await mark(processed);
    response.writeHead(200, { 'content-type': 'application/json' });
    response.end(
      JSON.stringify({ serviceVersion: '1.2.3', listenersDigest: endpoint.listenersDigest, results }),
    );
  }

  /** The routes that mend findings: an answer, a status, or nothing for any other route. */
  async function mend(path: string, text: string): Promise<object | number | undefined> {
    const key = /^\/admin\/events\/replay\/(.+)$/.exec(path)?.[1];
    if (key !== undefined) {
      const sessionId = decodeURIComponent(key);
      endpoint.rebuilds.push(sessionId);
      const answer = await endpoint.rebuild(sessionId);
      if (typeof answer === 'number') return answer;
      const { listenersDigest } = endpoint;
      return { serviceVersion: '1.2.3', listenersDigest, sessionId, results: [], ...answer };
    }
    if (path !== '/admin/billing/corrections') return undefined;
    const asked = JSON.parse(text) as AskedCorrections;
    endpoint.corrections.push(asked);
    const results = asked.corrections.map(({ key: [name = ''] }) => endpoint.correct(name));
    const status = results.find((result) => typeof result === 'number');
    if (typeof status === 'number') return status;
    return {
      serviceVersion: '1.2.3',
      results: asked.corrections.map(({ key: name }, n) => ({
        key: name,
        reversedIds: ['1'],
        billedId: null,
        ...(results[n] as object),
      })),
    };
  }

  async function one(eventId: string): Promise<Answer> {
    if (endpoint.finished.has(eventId)) return { eventId, outcome: 'already_processed' };
    if ((endpoint.begun.get(eventId) ?? 0) > (endpoint.finished.get(eventId) ?? 0) && running.has(eventId))
      return { eventId, outcome: 'in_flight' };
    endpoint.begun.set(eventId, (endpoint.begun.get(eventId) ?? 0) + 1);
    running.add(eventId);
    try {
      const own = await endpoint.handle(eventId);
      if (own !== undefined && own.outcome !== 'processed') return { eventId, ...own };
      endpoint.finished.set(eventId, (endpoint.finished.get(eventId) ?? 0) + 1);
      return { eventId, outcome: 'processed' };
    } finally {
      running.delete(eventId);
    }
  }
  const running = new Set<string>();
  return endpoint;
}
