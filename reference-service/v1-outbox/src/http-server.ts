import { createServer, type IncomingMessage, type Server, STATUS_CODES } from 'node:http';
import type { Pool } from 'pg';
import type { Logger } from 'pino';
import { z } from 'zod';
import type { Metrics } from './metrics.js';
import { newSession, type Sessions } from './sessions.js';

/** What the routes need. */
export interface Parts {
  pool: Pool;
  sessions: Sessions;
  metrics: Metrics;
  log: Logger;
  /** Whether shutdown has begun. */
  isStopping(): boolean;
}

/** A request that is answered with this status; the message names fields, never what was sent. */
class Refusal extends Error {
  constructor(
    readonly status: number,
    readonly answer: string | string[] | undefined = STATUS_CODES[status],
  ) {
    super();
  }
}

interface Reply {
  status: number;
  body: unknown;
}

/** As the successor's body parser. */
const LARGEST_BODY = 100 * 1_024;

/** A probe asks every few seconds and waits about one. */
const READY_TIMEOUT_MS = 1_000;

/** The routes of the successor that a canary compares and a rollback needs, with its answers. */
export function makeServer(parts: Parts): Server {
  return createServer((request, response) => {
    const startedAt = performance.now();
    const path = (request.url ?? '').split('?', 1)[0] ?? '';
    response.once('close', () => {
      const { method } = request;
      parts.metrics.answered(
        method === 'GET' || method === 'POST' ? method : 'other',
        routeOf(path),
        response.statusCode,
        (performance.now() - startedAt) / 1_000,
      );
    });
    const send = (status: number, type: string, text: string): void => {
      // Node closes idle connections at shutdown; this closes the others after their answer.
      if (parts.isStopping()) response.setHeader('connection', 'close');
      response.writeHead(status, { 'content-type': type }).end(text);
    };
    if (request.method === 'GET' && path === '/metrics') {
      parts.metrics.registry.metrics().then(
        (text) => send(200, parts.metrics.registry.contentType, text),
        () => send(500, 'text/plain', ''),
      );
      return;
    }
    answer(parts, request, path).then(
      ({ status, body }) => send(status, 'application/json; charset=utf-8', JSON.stringify(body)),
      (error: unknown) => {
        const { status, answer: message } = error instanceof Refusal ? error : new Refusal(500);
        if (status === 500) parts.log.error({ err: error, status }, 'Request failed');
        send(status, 'application/json; charset=utf-8', JSON.stringify({ statusCode: status, message }));
      },
    );
  });
}

const COMPLETION = /^\/sessions\/([^/]+)\/complete$/;

const ROUTES: ReadonlySet<string> = new Set(['/sessions', '/health/live', '/health/ready', '/metrics']);

function routeOf(path: string): string {
  if (ROUTES.has(path)) return path;
  return COMPLETION.test(path) ? '/sessions/:id/complete' : 'none';
}

async function answer(parts: Parts, request: IncomingMessage, path: string): Promise<Reply> {
  const route = `${request.method} ${path}`;
  // Says nothing about the database: a restart does not mend that.
  if (route === 'GET /health/live') return { status: 200, body: { status: 'ok' } };
  if (route === 'GET /health/ready') {
    if (parts.isStopping()) throw new Refusal(503, 'stopping');
    if (!(await isReached(parts.pool))) throw new Refusal(503, 'the database does not answer');
    return { status: 200, body: { status: 'ok' } };
  }
  if (route === 'POST /sessions') {
    const parsed = newSession.safeParse(await readJson(request));
    if (!parsed.success) throw new Refusal(400, parsed.error.issues.map(problem));
    const session = await parts.sessions.create(parsed.data);
    if (session === 'taken') throw new Refusal(409, 'a session of this id exists already');
    return { status: 201, body: session };
  }
  const id = request.method === 'POST' ? COMPLETION.exec(path)?.[1] : undefined;
  if (id !== undefined) {
    if (!z.guid().safeParse(id).success) throw new Refusal(400, ['id: a UUID is expected']);
    const session = await parts.sessions.complete(id);
    if (session === 'not_found') throw new Refusal(404, `there is no session ${id}`);
    return { status: 200, body: session };
  }
  throw new Refusal(404);
}

/** One line: the field and what is expected. zod's own text repeats the names of unknown fields. */
function problem(issue: z.core.$ZodIssue): string {
  const field = issue.path.length === 0 ? 'body' : issue.path.join('.');
  return issue.code === 'unrecognized_keys' ? `${field}: has an unknown field` : `${field}: ${issue.message}`;
}

async function isReached(pool: Pool): Promise<boolean> {
  const late = Promise.withResolvers<false>();
  const timer = setTimeout(() => late.resolve(false), READY_TIMEOUT_MS);
  const reached = pool.query('select 1').then(
    () => true,
    () => false,
  );
  const outcome = await Promise.race([reached, late.promise]);
  clearTimeout(timer);
  return outcome;
}

async function readJson(request: IncomingMessage): Promise<unknown> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    size += chunk.length;
    // Read to its end all the same: leaving the loop would close the connection, and with it the answer's way.
    if (size <= LARGEST_BODY) chunks.push(chunk);
  }
  if (size > LARGEST_BODY) throw new Refusal(413);
  try {
    return JSON.parse(Buffer.concat(chunks).toString('utf8'));
  } catch {
    throw new Refusal(400, 'the request could not be read: send valid JSON');
  }
}
