/** A TCP proxy before an API server: cuts all connections, or swallows every byte while they stay open. */
import { connect, createServer, type Server, type Socket } from 'node:net';

export class TcpProxy {
  readonly url: URL;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  #state: 'open' | 'silent' | 'closed' = 'open';

  private constructor(server: Server, url: URL) {
    this.#server = server;
    this.url = url;
  }

  static async start(target: URL): Promise<TcpProxy> {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const address = server.address();
    if (address === null || typeof address === 'string') throw new Error('the proxy has no port');
    const proxy = new TcpProxy(server, new URL(`https://127.0.0.1:${address.port}`));
    server.on('connection', (client) => proxy.#pipe(client, target));
    return proxy;
  }

  /** Nothing comes through any more, and nobody is told. */
  silence(): void {
    this.#state = 'silent';
  }

  /** All connections are cut, and new ones are too. */
  cut(): void {
    this.#state = 'closed';
    for (const socket of this.#sockets) socket.destroy();
  }

  open(): void {
    this.#state = 'open';
  }

  async close(): Promise<void> {
    this.cut();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #pipe(client: Socket, target: URL): void {
    if (this.#state === 'closed') {
      client.destroy();
      return;
    }
    const upstream = connect(Number(target.port === '' ? 443 : target.port), target.hostname);
    const pass = (from: Socket, to: Socket) => {
      this.#sockets.add(from);
      from.on('data', (chunk) => {
        if (this.#state !== 'silent') to.write(chunk);
      });
      from.on('error', () => to.destroy());
      from.on('close', () => {
        this.#sockets.delete(from);
        to.destroy();
      });
    };
    pass(client, upstream);
    pass(upstream, client);
  }
}
