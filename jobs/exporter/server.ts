/**
 * What the exporter answers over HTTP. A scrape and the health come from memory and touch no database; only /gate asks
 * it, a few times at once at most. Answers hold counts, names and hashes, and of an error its id.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { RunFailure } from '../runtime/failures.ts';
import type { Logger } from '../runtime/logger.ts';
import { errorCode, toRunFailure } from '../runtime/sqlstates.ts';
import type { RolloutView } from './collection.ts';
import { type GateAnswer, GateBusy } from './gate.ts';
import { isPublishedHash } from './hot-check.ts';

export interface ServerParts {
  /** All fresh series, in the text format of Prometheus. */
  readonly render: () => Promise<string>;
  /** Collections whose loop hangs: only a restart helps. */
  readonly hanging: () => readonly string[];
  /** Collections that were not tried yet. */
  readonly untried: () => readonly string[];
  readonly view: () => RolloutView | undefined;
  readonly gate: (hash: string) => Promise<GateAnswer>;
  readonly logger: Logger;
  /** Aborted at the end of the run: not ready from then on. */
  readonly signal: AbortSignal;
}

export interface ExporterServer {
  readonly port: number;
  /** Takes no new connection and ends when the answers that are on their way are sent. */
  close(): Promise<void>;
}

/** Scrapers, probes and gates together; each connection costs memory. */
const MOST_CONNECTIONS = 100;
const REQUEST_TIMEOUT_MS = 10_000;
/** What an answer that is on its way gets at the end. */
const CLOSE_WITHIN_MS = 3_000;

interface Answer {
  readonly status: number;
  readonly body: string;
  readonly type: string;
}

/** @throws RunFailure `settings_invalid` where the address cannot be listened at */
export async function startServer(
  parts: ServerParts,
  at: { readonly address: string | undefined; readonly port: number },
): Promise<ExporterServer> {
  const server = createServer(
    { requestTimeout: REQUEST_TIMEOUT_MS, headersTimeout: REQUEST_TIMEOUT_MS },
    (request, response) => void respond(parts, request, response),
  );
  server.maxConnections = MOST_CONNECTIONS;
  await listen(server, at);
  const { port } = server.address() as AddressInfo;
  parts.logger.info({ port }, 'listening');
  return {
    port,
    async close() {
      const closed = new Promise((resolve) => server.close(resolve));
      server.closeIdleConnections();
      // A connection on which nothing was ever asked must not hold up the end.
      const cut = setTimeout(() => server.closeAllConnections(), CLOSE_WITHIN_MS);
      await closed;
      clearTimeout(cut);
    },
  };
}

async function listen(
  server: Server,
  { address, port }: { readonly address: string | undefined; readonly port: number },
): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) => {
      const code = errorCode(error) ?? 'unknown';
      reject(
        new RunFailure(
          'settings_invalid',
          `CF_LISTEN_ADDRESS, CF_LISTEN_PORT: cannot be listened at (${code})`,
          { cause: error },
        ),
      );
    });
    server.listen({ port, ...(address === undefined ? {} : { host: address }) }, resolve);
  });
  server.removeAllListeners('error');
}

async function respond(
  parts: ServerParts,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  let answer: Answer;
  try {
    answer = await answerTo(parts, request);
  } catch (error) {
    const failure = toRunFailure(error);
    parts.logger.error({ failureId: failure.id, err: error }, 'a request could not be answered');
    answer = json(500, { error: failure.id });
  }
  // What was sent with a request is of no interest, and must not keep the connection.
  request.resume();
  response.writeHead(answer.status, {
    'content-type': answer.type,
    'content-length': Buffer.byteLength(answer.body),
    'cache-control': 'no-store',
    ...(parts.signal.aborted ? { connection: 'close' } : {}),
  });
  response.end(request.method === 'HEAD' ? undefined : answer.body);
}

async function answerTo(parts: ServerParts, request: IncomingMessage): Promise<Answer> {
  const url = URL.parse(request.url ?? '', 'http://exporter');
  // Flagger's webhooks are POSTs.
  const methods = url?.pathname === '/gate' ? ['GET', 'HEAD', 'POST'] : ['GET', 'HEAD'];
  if (!methods.includes(request.method ?? '')) return json(405, { error: 'method_not_allowed' });
  switch (url?.pathname) {
    case '/metrics':
      return { status: 200, body: await parts.render(), type: 'text/plain; version=0.0.4; charset=utf-8' };
    case '/health':
    case '/health/live':
      return live(parts);
    case '/health/ready':
      return ready(parts);
    case '/rollout': {
      const view = parts.view();
      return view === undefined ? json(503, { error: 'unknown' }) : json(200, view);
    }
    case '/gate':
      return await gate(parts, url.searchParams);
    default:
      return json(404, { error: 'not_found' });
  }
}

/** Whether the process does its work: a database that is away is no reason to restart it. */
function live(parts: ServerParts): Answer {
  const hanging = parts.hanging();
  return hanging.length === 0 ? json(200, { status: 'ok' }) : json(503, { status: 'hanging', hanging });
}

/** Whether it has something to tell, if only that it cannot see: a database that is away is to be scraped too. */
function ready(parts: ServerParts): Answer {
  if (parts.signal.aborted) return json(503, { status: 'stopping' });
  const untried = parts.untried();
  return untried.length === 0 ? json(200, { status: 'ok' }) : json(503, { status: 'starting', untried });
}

async function gate(parts: ServerParts, query: URLSearchParams): Promise<Answer> {
  const hashes = query.getAll('hash');
  const [hash = ''] = hashes;
  const expected = query.getAll('expect');
  if (hashes.length !== 1 || !isPublishedHash(hash)) return json(400, { error: 'malformed_hash' });
  if (expected.length > 1 || (expected.length === 1 && expected[0] !== 'pass'))
    return json(400, { error: 'malformed_expect' });
  try {
    const answer = await parts.gate(hash);
    // For callers that look at the status alone.
    const status = expected.length === 0 || answer.verdict === 'pass' ? 200 : 412;
    return json(status, answer);
  } catch (error) {
    if (error instanceof GateBusy) return json(503, { error: 'busy' });
    const failure = toRunFailure(error);
    parts.logger.warn(
      { failureId: failure.id, err: failure.cause ?? failure },
      '/gate could not be answered',
    );
    return json(503, { error: failure.id });
  }
}

const json = (status: number, body: unknown): Answer => ({
  status,
  body: `${JSON.stringify(body)}\n`,
  type: 'application/json; charset=utf-8',
});
