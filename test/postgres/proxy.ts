/** A TCP proxy before a Postgres server: loses a connection at a chosen message, or goes silent. */
import { connect, createServer, type Socket } from 'node:net';

/**
 * What becomes of one chunk from the client. `cut`: it never arrives. `deliver-and-cut`: it arrives, and its
 * answer does not. `silence`: it arrives, and nothing comes back although the connection stays.
 */
export type Fate = 'pass' | 'cut' | 'deliver-and-cut' | 'silence';

export interface PostgresProxy {
  readonly url: string;
  /** Connections from clients that are open at this moment. */
  connections(): Promise<number>;
  close(): Promise<void>;
}

/** @param decide called with each chunk from a client, as text */
export async function startProxy(serverUrl: string, decide: (chunk: string) => Fate): Promise<PostgresProxy> {
  const { hostname, port } = new URL(serverUrl);
  const sockets = new Set<Socket>();
  const server = createServer((client) => {
    const upstream = connect(Number(port), hostname);
    let silent = false;
    const end = () => {
      client.destroy();
      upstream.destroy();
    };
    for (const socket of [client, upstream]) {
      sockets.add(socket);
      socket.on('error', end);
      socket.on('close', () => {
        sockets.delete(socket);
        end();
      });
    }
    client.on('data', (chunk) => {
      const fate = decide(chunk.toString('latin1'));
      if (fate === 'cut') return end();
      silent ||= fate === 'silence';
      if (fate !== 'deliver-and-cut') {
        upstream.write(chunk);
        return;
      }
      // The first answer means that the server has done it; it goes no further than here.
      upstream.removeAllListeners('data');
      upstream.once('data', end);
      upstream.write(chunk);
    });
    upstream.on('data', (chunk) => {
      if (!silent) client.write(chunk);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('the proxy has no port');
  const url = new URL(serverUrl);
  url.hostname = '127.0.0.1';
  url.port = String(address.port);
  return {
    url: url.href,
    connections: async () =>
      await new Promise((resolve, reject) => {
        server.getConnections((error, count) => (error === null ? resolve(count) : reject(error)));
      }),
    async close() {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
