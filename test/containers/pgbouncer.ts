/** PgBouncer in transaction mode, between everything and Postgres, with fewer connections than clients. */
import { fileURLToPath } from 'node:url';
import { GenericContainer, type StartedNetwork, type StartedTestContainer, Wait } from 'testcontainers';

const PORT = 6432;
export const POOLER = `pgbouncer:${PORT}`;

export async function startPgBouncer(
  network: StartedNetwork,
  database: string,
  passwords: Readonly<Record<string, string>>,
): Promise<StartedTestContainer> {
  const folder = fileURLToPath(new URL('pgbouncer', import.meta.url));
  const image = await GenericContainer.fromDockerfile(folder).build('counterfoil/test-pgbouncer:test', {
    deleteOnExit: false,
  });
  const users = Object.entries(passwords).map(([user, password]) => `"${user}" "${password}"\n`);
  return await image
    .withNetwork(network)
    .withNetworkAliases('pgbouncer')
    .withCopyContentToContainer([
      { target: '/etc/counterfoil/users.txt', content: users.join('') },
      {
        target: '/etc/counterfoil/pgbouncer.ini',
        content: [
          '[databases]',
          `${database} = host=postgres port=5432`,
          '[pgbouncer]',
          `listen_addr = 0.0.0.0`,
          `listen_port = ${PORT}`,
          'auth_type = scram-sha-256',
          'auth_file = /etc/counterfoil/users.txt',
          'pool_mode = transaction',
          // For each user: the second client of a job that has four finds a session that another has left.
          'default_pool_size = 3',
          'max_client_conn = 200',
          '',
        ].join('\n'),
      },
    ])
    .withExposedPorts(PORT)
    .withWaitStrategy(Wait.forLogMessage('process up'))
    .start();
}
