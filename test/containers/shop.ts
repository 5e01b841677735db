/** A network of its own with Postgres, the reference service, and the pods of an installation as containers in it. */
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import {
  GenericContainer,
  getContainerRuntimeClient,
  Network,
  type StartedNetwork,
  type StartedTestContainer,
  Wait,
} from 'testcontainers';
import { inject } from 'vitest';
import { type OtherSession, openSession } from '../builders/session.ts';
import { podsOf } from '../chart/pods.ts';
import type { Rendered, Values } from '../chart/render.ts';
import { AUTHORITY_SECRET, DATABASE_SECRET, renderInstallation, TOKEN_SECRET } from './chart.ts';
import { POOLER, startPgBouncer } from './pgbouncer.ts';
import { PodContainer, type PodOptions } from './pod-container.ts';
import { type EndedPod, RunningPod } from './running-pod.ts';

const DATABASE = 'shop';
const roles = [
  'counterfoil_owner',
  'counterfoil_jobs',
  'counterfoil_exporter',
  'counterfoil_retention',
] as const;
export type Role = (typeof roles)[number];

export interface ShopOptions {
  readonly postgres?: string;
  /** Of the server, such as `['-c', 'timezone=Asia/Tokyo']`. */
  readonly serverArguments?: readonly string[];
  /** Over those of every installation here. */
  readonly values?: Values;
  /** Everything reaches Postgres through PgBouncer, all but the superuser of these tests. */
  readonly pooler?: boolean;
  /** Postgres takes encrypted connections alone, with the certificate of test/postgres/tls, which names localhost. */
  readonly encrypted?: boolean;
}

/** What a pod is started with; the Secrets are laid over those as they should be. */
export interface StartOptions extends Partial<PodOptions> {
  /** Another network than the shop's. */
  readonly networkMode?: string;
}

const read = (path: string) => readFileSync(fileURLToPath(new URL(`../../${path}`, import.meta.url)), 'utf8');

const onlyEncrypted = [
  ...['server.crt', 'server.key'].map((file) => ({
    target: `/tls/${file}`,
    content: read(`test/postgres/tls/${file}`),
  })),
  {
    target: '/docker-entrypoint-initdb.d/tls.sh',
    content: `cp /tls/server.crt /tls/server.key "$PGDATA"
chmod 600 "$PGDATA/server.key"
echo 'ssl = on' >>"$PGDATA/postgresql.conf"
sed -i 's/^host /hostssl /' "$PGDATA/pg_hba.conf"
`,
  },
];

export class Shop {
  readonly rendered: Rendered;
  readonly network: StartedNetwork;
  readonly token = randomBytes(12).toString('hex');
  readonly #password = randomBytes(12).toString('hex');
  readonly #options: ShopOptions;
  readonly #pods: RunningPod[] = [];
  #postgres: StartedTestContainer | undefined;
  #service: StartedTestContainer | undefined;
  #pooler: StartedTestContainer | undefined;
  #session: OtherSession | undefined;

  private constructor(rendered: Rendered, network: StartedNetwork, options: ShopOptions) {
    this.rendered = rendered;
    this.network = network;
    this.#options = options;
  }

  /** With the service's tables and the roles, and nothing else of counterfoil. */
  static async open(options: ShopOptions = {}): Promise<Shop> {
    const rendered = await renderInstallation(options.values);
    const shop = new Shop(rendered, await new Network().start(), options);
    try {
      await shop.#startPostgres();
      if (options.pooler === true) await shop.#startPooler();
      await shop.#startService();
      return shop;
    } catch (error) {
      await shop.close();
      throw error;
    }
  }

  /** The same, with our tables as well. */
  static async installed(options: ShopOptions = {}): Promise<Shop> {
    const shop = await Shop.open(options);
    const { code, text } = await shop.run('Job', 'schema');
    if (code === 0) return shop;
    await shop.close();
    throw new Error(`the schema job ended with ${code}: ${text}`);
  }

  async close(): Promise<void> {
    for (const pod of this.#pods) await pod.remove();
    await this.#session?.end();
    await this.#service?.stop({ timeout: 0 });
    await this.#pooler?.stop({ timeout: 0 });
    await this.#postgres?.stop({ timeout: 0 });
    await this.network.stop();
  }

  async #startPostgres(): Promise<void> {
    const { postgres = 'postgres:18', serverArguments = [], encrypted = false } = this.#options;
    this.#postgres = await new GenericContainer(postgres)
      .withNetwork(this.network)
      .withNetworkAliases('postgres')
      .withEnvironment({ POSTGRES_PASSWORD: this.#password, POSTGRES_DB: DATABASE })
      .withCommand(['postgres', '-c', 'fsync=off', ...serverArguments])
      .withCopyContentToContainer(encrypted ? onlyEncrypted : [])
      .withExposedPorts(5432)
      // The second time: the first is that of the server that only prepares.
      .withWaitStrategy(Wait.forLogMessage('ready to accept connections', 2))
      .start();
    await this.connect();
  }

  async #startPooler(): Promise<void> {
    const users = ['postgres', ...roles].map((user) => [user, this.#password]);
    this.#pooler = await startPgBouncer(this.network, DATABASE, Object.fromEntries(users));
  }

  async #startService(): Promise<void> {
    const migrate = await this.#serviceContainer()
      .withCommand(['node', 'dist/migrate.js'])
      .withWaitStrategy(Wait.forOneShotStartup())
      .start();
    await migrate.stop();
    for (const file of ['roles.sql', 'retention-role.sql']) await this.sql(read(`jobs/schema/${file}`));
    for (const role of roles) await this.sql(`ALTER ROLE ${role} PASSWORD '${this.#password}'`);
    await this.sql('GRANT pg_read_all_stats TO counterfoil_jobs');
    this.#service = await this.#serviceContainer()
      .withNetworkAliases('billing')
      .withExposedPorts(3000)
      .withWaitStrategy(Wait.forHttp('/health/ready', 3000))
      .start();
  }

  #serviceContainer(): GenericContainer {
    return new GenericContainer(`counterfoil/reference-service:${inject('containerTag')}`)
      .withNetwork(this.network)
      .withEnvironment({
        DATABASE_URL: this.url('postgres'),
        REPLAY_TOKEN: this.token,
        FAULTS: 'true',
        LOG_LEVEL: 'warn',
        // After a call that was cut off, soon enough for a test.
        LISTENER_LEASE_SECONDS: '3',
      });
  }

  /** As a container of the network reaches it. */
  url(user: string, connection: { host?: string; query?: string } = {}): string {
    const { pooler, encrypted } = this.#options;
    const { host = pooler === true ? POOLER : 'postgres:5432' } = connection;
    const { query = encrypted === true ? '?sslmode=no-verify' : '' } = connection;
    return `postgresql://${user}:${this.#password}@${host}/${DATABASE}${query}`;
  }

  /** The superuser's through PgBouncer, from this machine. */
  poolerUrl(): string {
    if (this.#pooler === undefined) throw new Error('there is no pooler');
    return this.url('postgres', { host: `${this.#pooler.getHost()}:${this.#pooler.getFirstMappedPort()}` });
  }

  get password(): string {
    return this.#password;
  }

  /** Reaches the server from here, over its published port; once more after it was away. */
  async connect(): Promise<void> {
    await this.#session?.end().catch(() => undefined);
    // A server that has just begun again resets connections before it takes one.
    const deadline = Date.now() + 60_000;
    for (;;) {
      try {
        this.#session = await openSession(await this.ownUrl());
        return;
      } catch (error) {
        if (Date.now() > deadline) throw error;
        await delay(200);
      }
    }
  }

  /** The superuser's, from this machine. */
  async ownUrl(): Promise<string> {
    const postgres = this.postgres;
    const client = await getContainerRuntimeClient();
    const { NetworkSettings } = await client.container.getById(postgres.getId()).inspect();
    // A port of no fixed number is another one after a restart.
    const port = NetworkSettings.Ports['5432/tcp']?.[0]?.HostPort ?? postgres.getMappedPort(5432);
    return this.url('postgres', { host: `${postgres.getHost()}:${port}` });
  }

  get postgres(): StartedTestContainer {
    if (this.#postgres === undefined) throw new Error('Postgres is not started');
    return this.#postgres;
  }

  get service(): StartedTestContainer {
    if (this.#service === undefined) throw new Error('the service is not started');
    return this.#service;
  }

  async query<Row = Record<string, unknown>>(text: string, params: readonly unknown[] = []): Promise<Row[]> {
    if (this.#session === undefined) throw new Error('there is no session');
    return await this.#session.query<Row>(text, params);
  }

  /** Statements without an answer. */
  async sql(text: string): Promise<void> {
    await this.query(text);
  }

  /** The one value of the one row. */
  async value<Value = string>(text: string): Promise<Value> {
    const [row] = await this.query<Record<string, Value>>(text);
    return Object.values(row ?? {})[0] as Value;
  }

  /** Asks the service as its admin or its customer does. */
  async call(method: string, path: string, body?: object): Promise<void> {
    const response = await fetch(
      `http://${this.service.getHost()}:${this.service.getMappedPort(3000)}${path}`,
      {
        method,
        headers: { 'content-type': 'application/json', authorization: `Bearer ${this.token}` },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      },
    );
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status}`);
  }

  async arm(fault: string, rate: number, more: object = {}): Promise<void> {
    await this.call('POST', '/admin/faults', { fault, rate, forSeconds: 600, ...more });
  }

  async disarm(): Promise<void> {
    await this.call('DELETE', '/admin/faults');
  }

  /** The Secrets as an administrator makes them. */
  secrets(connection: { host?: string; query?: string } = {}): PodOptions['secrets'] {
    return {
      [DATABASE_SECRET]: Object.fromEntries(
        roles.map((role) => [`${role.replace('counterfoil_', '')}-url`, this.url(role, connection)]),
      ),
      [TOKEN_SECRET]: { token: this.token },
      [AUTHORITY_SECRET]: { 'ca.crt': read('test/postgres/tls/ca.crt') },
    };
  }

  /** Starts a pod of the chart by the kind of its owner and the end of its name, such as `CronJob`, `event-replay`. */
  async start(kind: string, name: string, options: StartOptions = {}): Promise<RunningPod> {
    const { networkMode, secrets, rendered = this.rendered, ...more } = options;
    const pod = podsOf(rendered).find(({ owner }) => owner.startsWith(`${kind} guard-counterfoil-${name}`));
    if (pod === undefined) throw new Error(`the chart has no ${kind} ${name}`);
    const container = new PodContainer(pod.spec, {
      ...more,
      rendered,
      secrets: { ...this.secrets(), ...secrets },
    });
    if (networkMode === undefined) container.withNetwork(this.network);
    else container.withNetworkMode(networkMode);
    if (name === 'exporter') container.withNetworkAliases('guard-counterfoil-exporter');
    const running = await RunningPod.start(container);
    this.#pods.push(running);
    return running;
  }

  /** One run from its start to its end. */
  async run(kind: string, name: string, options: StartOptions = {}): Promise<EndedPod> {
    return await (await this.start(kind, name, options)).ended();
  }
}
