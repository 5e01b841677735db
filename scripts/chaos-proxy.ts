/** A TCP proxy whose open connections can be cut half-open: both ends believe in them, and nothing comes through. */
import { connect, createServer, type Socket } from 'node:net';

export interface HalfOpenProxy {
  readonly url: string;
  /** From now on nothing passes on the connections that are open at this moment; new ones work. */
  cutOpenConnections(): number;
  close(): Promise<void>;
}

export async function startHalfOpenProxy(serverUrl: string): Promise<HalfOpenProxy> {
  const { hostname, port } = new URL(serverUrl);
  const connections = new Set<{ silent: boolean; readonly ends: readonly Socket[] }>();
  const server = createServer((client) => {
    const upstream = connect(Number(port), hostname);
    const connection = { silent: false, ends: [client, upstream] };
    connections.add(connection);
    const join = (from: Socket, to: Socket) => {
      from.on('data', (chunk: Buffer) => {
        if (!connection.silent) to.write(chunk);
      });
      from.on('error', () => undefined);
      from.on('close', () => {
        // A lost cable loses the goodbye too: the other end learns nothing of it.
        if (!connection.silent) to.destroy();
        if (client.destroyed && upstream.destroyed) connections.delete(connection);
      });
    };
    join(client, upstream);
    join(upstream, client);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('the proxy has no port');
  const url = new URL(serverUrl);
  url.hostname = '127.0.0.1';
  url.port = String(address.port);
  return {
    url: url.href,
    cutOpenConnections() {
      const open = [...connections].filter(({ silent }) => !silent);
      for (const connection of open) connection.silent = true;
      return open.length;
    },
    async close() {
      for (const { ends } of connections) for (const end of ends) end.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
