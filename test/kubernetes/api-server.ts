/**
 * An HTTP server that speaks the list and watch protocol of an API server, for the faults that a real one cannot be
 * made to show on demand. What a real one says is tested in test/cluster.
 */
import { mkdtempSync, writeFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { waitFor } from '../builders/wait-for.ts';

export interface ApiObject {
  readonly metadata: { readonly uid: string; readonly [field: string]: unknown };
  readonly [field: string]: unknown;
}

interface OpenWatch {
  readonly path: string;
  readonly response: ServerResponse;
  silent: boolean;
}

/** What the next list or watch of a path is answered with instead. */
type Fault = (response: ServerResponse) => void;

export class TestApiServer {
  /** Requests, as `list /path`, `watch /path` and `post /path`, in the order in which they came. */
  readonly requests: string[] = [];
  /** Objects that were posted. */
  readonly posted: Readonly<Record<string, unknown>>[] = [];
  /** Full URLs, for their queries. */
  readonly urls: URL[] = [];
  readonly kubeconfig: string;
  /** Objects in one page of a list. */
  pageSize = 100;
  readonly #server: Server;
  readonly #port: number;
  readonly #sockets = new Set<Socket>();
  readonly #objects = new Map<string, Map<string, ApiObject>>();
  readonly #history: { readonly path: string; readonly version: number; readonly line: string }[] = [];
  readonly #watches = new Set<OpenWatch>();
  readonly #faults: { readonly request: string; readonly fault: Fault }[] = [];
  #version = 100;
  #names = new Set<string>();

  private constructor(server: Server, port: number) {
    this.#server = server;
    this.#port = port;
    this.kubeconfig = writeKubeconfig(port);
  }

  static async start(): Promise<TestApiServer> {
    const server = createServer();
    const port = await listen(server, 0);
    const api = new TestApiServer(server, port);
    server.on('request', (request, response) => void api.#answer(request, response));
    server.on('connection', (socket) => {
      api.#sockets.add(socket);
      socket.on('close', () => api.#sockets.delete(socket));
    });
    return api;
  }

  /** Ends all connections and takes no more, as when an API server dies. */
  async stop(): Promise<void> {
    if (!this.#server.listening) return;
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    for (const socket of this.#sockets) socket.destroy();
    this.#watches.clear();
    await closed;
  }

  /** Listens again, at the same port and with the same objects. */
  async resume(): Promise<void> {
    await listen(this.#server, this.#port);
  }

  /** Adds or changes an object and tells whoever watches its path. */
  put(path: string, object: ApiObject): void {
    const objects = this.#of(path);
    const type = objects.has(object.metadata.uid) ? 'MODIFIED' : 'ADDED';
    objects.set(object.metadata.uid, object);
    this.#tell(path, type, object);
  }

  remove(path: string, uid: string): void {
    const objects = this.#of(path);
    const object = objects.get(uid);
    if (object === undefined) return;
    objects.delete(uid);
    this.#tell(path, 'DELETED', object);
  }

  /** Changes what a list gives and tells nobody: what happens while a watch is expired. */
  removeUnseen(path: string, uid: string): void {
    this.#of(path).delete(uid);
    this.#version += 1;
  }

  /** Sends a bookmark to each watch of a path. */
  bookmark(path: string): void {
    this.#version += 1;
    this.write(path, line('BOOKMARK', { metadata: { resourceVersion: String(this.#version) } }));
  }

  /** Writes to the open watches of a path, whatever it is. */
  write(path: string, text: string): void {
    for (const watch of this.#watches)
      if (watch.path === path && !watch.silent && !watch.response.writableEnded) watch.response.write(text);
  }

  /** The server ends the open watches of a path, as it does after `timeoutSeconds`. */
  end(path: string): void {
    for (const watch of this.#watches) if (watch.path === path) watch.response.end();
  }

  /** Cuts the connections of the watches of a path. */
  cut(path: string): void {
    for (const watch of this.#watches) if (watch.path === path) watch.response.destroy();
  }

  /** The open watches of a path get no byte from now on, and their connections stay. */
  silence(path: string): void {
    for (const watch of this.#watches) if (watch.path === path) watch.silent = true;
  }

  /** The next request of this form is answered so: `watch /path`, `list /path`. */
  once(request: string, fault: Fault): void {
    this.#faults.push({ request, fault });
  }

  /** Waits until a path is watched. */
  async watched(path: string, times = 1): Promise<void> {
    await waitFor(
      `a watch of ${path}`,
      async () => this.count(`watch ${path}`) >= times && this.#isOpen(path),
    );
  }

  count(request: string): number {
    return this.requests.filter((one) => one === request).length;
  }

  #isOpen(path: string): boolean {
    return [...this.#watches].some((watch) => watch.path === path);
  }

  #of(path: string): Map<string, ApiObject> {
    const known = this.#objects.get(path) ?? new Map<string, ApiObject>();
    this.#objects.set(path, known);
    return known;
  }

  #tell(path: string, type: string, object: ApiObject): void {
    this.#version += 1;
    const text = line(type, {
      ...object,
      metadata: { ...object.metadata, resourceVersion: String(this.#version) },
    });
    this.#history.push({ path, version: this.#version, line: text });
    this.write(path, text);
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url ?? '/', 'http://localhost');
    const verb = request.method === 'POST' ? 'post' : url.searchParams.has('watch') ? 'watch' : 'list';
    const form = `${verb} ${url.pathname}`;
    this.requests.push(form);
    this.urls.push(url);
    const index = this.#faults.findIndex((one) => one.request === form);
    const [planned] = index < 0 ? [] : this.#faults.splice(index, 1);
    if (planned !== undefined) return planned.fault(response);
    if (verb === 'post') return await this.#take(request, response);
    if (verb === 'watch') return this.#open(url, response);
    const all = [...this.#of(url.pathname).values()];
    const from = Number(url.searchParams.get('continue') ?? '0');
    const more = from + this.pageSize < all.length;
    answer(response, 200, {
      metadata: {
        resourceVersion: String(this.#version),
        ...(more ? { continue: String(from + this.pageSize) } : {}),
      },
      items: all.slice(from, from + this.pageSize),
    });
  }

  async #take(request: IncomingMessage, response: ServerResponse): Promise<void> {
    let text = '';
    for await (const chunk of request) text += String(chunk);
    const object = JSON.parse(text) as { metadata: { name: string } };
    if (this.#names.has(object.metadata.name)) return answer(response, 409, { code: 409 });
    this.#names.add(object.metadata.name);
    this.posted.push(object);
    answer(response, 201, object);
  }

  #open(url: URL, response: ServerResponse): void {
    const from = Number(url.searchParams.get('resourceVersion'));
    const watch: OpenWatch = { path: url.pathname, response, silent: false };
    const seconds = Number(url.searchParams.get('timeoutSeconds'));
    const timer = setTimeout(() => {
      if (!watch.silent) response.end();
    }, seconds * 1000);
    this.#watches.add(watch);
    response.on('close', () => {
      clearTimeout(timer);
      this.#watches.delete(watch);
    });
    response.writeHead(200, { 'content-type': 'application/json' });
    response.flushHeaders();
    for (const event of this.#history)
      if (event.path === url.pathname && event.version > from) response.write(event.line);
  }
}

/** An answer that is no success, with a body that must not be quoted anywhere. */
export const refuse =
  (status: number): Fault =>
  (response) =>
    answer(response, status, { kind: 'Status', code: status, message: 'secret-of-the-api-server' });

export const line = (type: string, object: unknown): string => `${JSON.stringify({ type, object })}\n`;

function answer(response: ServerResponse, status: number, body: unknown): void {
  response.writeHead(status, { 'content-type': 'application/json' });
  response.end(JSON.stringify(body));
}

async function listen(server: Server, port: number): Promise<number> {
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, '127.0.0.1', resolve);
  });
  return (server.address() as AddressInfo).port;
}

function writeKubeconfig(port: number): string {
  const path = join(mkdtempSync(join(tmpdir(), 'counterfoil-kubeconfig-')), 'config');
  const cluster = { server: `http://127.0.0.1:${port}`, 'insecure-skip-tls-verify': true };
  writeFileSync(
    path,
    JSON.stringify({
      apiVersion: 'v1',
      kind: 'Config',
      clusters: [{ name: 'test', cluster }],
      users: [{ name: 'test', user: { token: 'test-token' } }],
      contexts: [{ name: 'test', context: { cluster: 'test', user: 'test', namespace: 'shop' } }],
      'current-context': 'test',
    }),
  );
  return path;
}
