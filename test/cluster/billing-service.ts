/** The reference service on a real cluster, with its Postgres, its secrets and customers who complete sessions. */
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { eventually, type Namespace } from './cluster.ts';

export const SERVICE = 'billing';
/** As charts/counterfoil/examples/staging.yaml names them. */
const DATABASE_SECRET = 'billing-database';
const TOKEN_SECRET = 'billing-token';

const read = (path: string) => readFileSync(fileURLToPath(new URL(path, import.meta.url)), 'utf8');

/** What Pod Security "restricted" asks of a container. */
const restricted = {
  runAsNonRoot: true,
  allowPrivilegeEscalation: false,
  readOnlyRootFilesystem: true,
  capabilities: { drop: ['ALL'] },
  seccompProfile: { type: 'RuntimeDefault' },
};
const little = { requests: { cpu: '10m', memory: '64Mi' } };

/** A version of the service, as its pod template says it. */
export interface DeployOptions {
  /** Makes the template one of its own. */
  readonly version: string;
  /** Faults that it has from its start, with the share of events that each strikes. */
  readonly faults?: Readonly<Record<string, number>>;
  /** Instead of the service itself: its predecessor, `['node', 'dist/v1-outbox/main.js']`, or a build that is broken. */
  readonly command?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
}

/** The predecessor, which has an outbox: reference-service/v1-outbox. It polls each second. */
export const predecessor: DeployOptions = {
  version: 'v1-outbox',
  command: ['node', '--max-semi-space-size=8', '--max-old-space-size=256', 'dist/v1-outbox/main.js'],
  env: { OUTBOX_POLL_SECONDS: '1', OUTBOX_BATCH_SIZE: '500' },
};

export class BillingService {
  readonly #namespace: Namespace;
  readonly #image: string;
  readonly #password = randomBytes(12).toString('hex');
  readonly token = randomBytes(12).toString('hex');

  /** @param image of the reference service */
  constructor(namespace: Namespace, image: string) {
    this.#namespace = namespace;
    this.#image = image;
  }

  /** Where the customers find it: the router knows the installation by its host. */
  get host(): string {
    return `${this.#namespace.name}.example`;
  }

  #url(role: string): string {
    return `postgresql://${role}:${this.#password}@postgres.${this.#namespace.name}:5432/shop`;
  }

  /** Postgres with the service's tables, the roles and nothing else of counterfoil; and the secrets. */
  async prepare(sessions: number): Promise<void> {
    await this.#namespace.apply(
      {
        apiVersion: 'v1',
        kind: 'Secret',
        metadata: { name: 'postgres' },
        stringData: { password: this.#password, url: this.#url('postgres'), token: this.token },
      },
      {
        apiVersion: 'v1',
        kind: 'Secret',
        metadata: { name: DATABASE_SECRET },
        stringData: {
          'owner-url': this.#url('counterfoil_owner'),
          'jobs-url': this.#url('counterfoil_jobs'),
          'exporter-url': this.#url('counterfoil_exporter'),
        },
      },
      {
        apiVersion: 'v1',
        kind: 'Secret',
        metadata: { name: TOKEN_SECRET },
        stringData: { token: this.token },
      },
      this.#postgres(),
      {
        apiVersion: 'v1',
        kind: 'Service',
        metadata: { name: 'postgres' },
        spec: { selector: { app: 'postgres' }, ports: [{ port: 5432 }] },
      },
    );
    await eventually('Postgres answers', 60, async () => (await this.sql('SELECT 1')) === '1');
    await this.#migrate();
    await this.#psql(read('../../jobs/schema/roles.sql'));
    // Both versions find their tables, whichever is first.
    await this.#psql(read('../../reference-service/v1-outbox/sql/domain_events.sql'));
    await this.#psql(read('../../reference-service/v1-outbox/sql/republish_to_outbox.sql'));
    for (const role of ['counterfoil_owner', 'counterfoil_jobs', 'counterfoil_exporter'])
      await this.sql(`ALTER ROLE ${role} PASSWORD '${this.#password}'`);
    await this.sql('GRANT pg_read_all_stats TO counterfoil_jobs');
    await this.sql(`INSERT INTO sessions (id, contract_id, mentor_id, amount_minor, currency)
      SELECT ('00000000-0000-4000-8000-' || lpad(number::text, 12, '0'))::uuid, 'contract-1', 'mentor-1', 12500, 'EUR'
        FROM generate_series(1, ${sessions}) AS number`);
  }

  #postgres() {
    return {
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { name: 'postgres', labels: { app: 'postgres' } },
      spec: {
        terminationGracePeriodSeconds: 1,
        securityContext: { runAsUser: 999, runAsGroup: 999, fsGroup: 999 },
        containers: [
          {
            name: 'postgres',
            image: 'postgres:18',
            imagePullPolicy: 'IfNotPresent',
            // Nothing here is to outlive the journey, so nothing waits for a disk.
            args: ['-c', 'fsync=off', '-c', 'synchronous_commit=off', '-c', 'full_page_writes=off'],
            env: [
              {
                name: 'POSTGRES_PASSWORD',
                valueFrom: { secretKeyRef: { name: 'postgres', key: 'password' } },
              },
              { name: 'POSTGRES_DB', value: 'shop' },
            ],
            volumeMounts: [{ name: 'data', mountPath: '/var/lib/postgresql' }],
            resources: { requests: { cpu: '50m', memory: '128Mi' } },
          },
        ],
        volumes: [{ name: 'data', emptyDir: {} }],
      },
    };
  }

  async #migrate(): Promise<void> {
    await this.#namespace.apply({
      apiVersion: 'batch/v1',
      kind: 'Job',
      metadata: { name: 'billing-migrate' },
      spec: {
        backoffLimit: 3,
        template: {
          spec: {
            restartPolicy: 'Never',
            containers: [
              {
                name: 'migrate',
                image: this.#image,
                imagePullPolicy: 'IfNotPresent',
                command: ['node', 'dist/migrate.js'],
                env: [this.#databaseUrl],
                securityContext: restricted,
                resources: little,
              },
            ],
          },
        },
      },
    });
    await this.#namespace.kubectl('wait', '--for=condition=Complete', 'job/billing-migrate', '--timeout=60s');
  }

  /** As load.mjs makes them of their numbers. */
  sessionId(number: number): string {
    return `00000000-0000-4000-8000-${String(number).padStart(12, '0')}`;
  }

  get #databaseUrl() {
    return { name: 'DATABASE_URL', valueFrom: { secretKeyRef: { name: 'postgres', key: 'url' } } };
  }

  /** The pod template of one version; the annotation makes each a version of its own. */
  template({ version, faults = {}, command, env = {} }: DeployOptions) {
    const armed = Object.entries(faults).map(([fault, rate]) => `${fault}=${rate}`);
    return {
      metadata: { labels: { app: SERVICE }, annotations: { 'counterfoil.test/version': version } },
      spec: {
        terminationGracePeriodSeconds: 20,
        enableServiceLinks: false,
        automountServiceAccountToken: false,
        securityContext: { runAsNonRoot: true },
        containers: [
          {
            name: SERVICE,
            image: this.#image,
            imagePullPolicy: 'IfNotPresent',
            ...(command === undefined ? {} : { command }),
            ports: [{ name: 'http', containerPort: 3000 }],
            env: [
              this.#databaseUrl,
              { name: 'REPLAY_TOKEN', valueFrom: { secretKeyRef: { name: 'postgres', key: 'token' } } },
              { name: 'FAULTS', value: armed.length === 0 ? 'true' : armed.join() },
              { name: 'SERVICE_VERSION', value: version },
              { name: 'LOG_LEVEL', value: 'warn' },
              { name: 'SHUTDOWN_PAUSE_SECONDS', value: '3' },
              { name: 'DRAIN_SECONDS', value: '10' },
              { name: 'POD_NAME', valueFrom: { fieldRef: { fieldPath: 'metadata.name' } } },
              {
                name: 'POD_TEMPLATE_HASH',
                valueFrom: { fieldRef: { fieldPath: "metadata.labels['rollouts-pod-template-hash']" } },
              },
              ...Object.entries(env).map(([name, value]) => ({ name, value })),
            ],
            readinessProbe: { httpGet: { path: '/health/ready', port: 'http' }, periodSeconds: 1 },
            securityContext: restricted,
            resources: { requests: { cpu: '50m', memory: '96Mi' }, limits: { memory: '320Mi' } },
          },
        ],
      },
    };
  }

  /** A version of it: the Deployment that a Rollout adopts, itself without pods, and what leads to its pods. */
  async deploy(version: DeployOptions): Promise<void> {
    await this.#namespace.apply(
      {
        apiVersion: 'apps/v1',
        kind: 'Deployment',
        metadata: { name: SERVICE },
        spec: {
          replicas: 0,
          selector: { matchLabels: { app: SERVICE } },
          template: this.template(version),
        },
      },
      {
        apiVersion: 'v1',
        kind: 'Service',
        metadata: { name: SERVICE },
        // In-cluster clients never meet a canary past the router.
        spec: { selector: { app: SERVICE, role: 'stable' }, ports: [{ port: 80, targetPort: 3000 }] },
      },
      {
        apiVersion: 'traefik.io/v1alpha1',
        kind: 'IngressRoute',
        metadata: { name: SERVICE },
        spec: {
          routes: [
            {
              kind: 'Rule',
              match: `Host(\`${this.host}\`)`,
              services: [{ kind: 'TraefikService', name: SERVICE }],
            },
          ],
        },
      },
    );
  }

  /** Customers begin to complete sessions, so many a second, each once, until the namespace is gone. */
  async open(rate: number, sessions: number): Promise<void> {
    await this.#namespace.apply(
      {
        apiVersion: 'v1',
        kind: 'ConfigMap',
        metadata: { name: 'customers' },
        data: { 'load.mjs': read('load.mjs') },
      },
      {
        apiVersion: 'v1',
        kind: 'Pod',
        metadata: { name: 'customers' },
        spec: {
          terminationGracePeriodSeconds: 1,
          containers: [
            {
              name: 'customers',
              image: this.#image,
              imagePullPolicy: 'IfNotPresent',
              command: ['node', '--max-semi-space-size=8', '/load/load.mjs'],
              env: Object.entries({
                TARGET: process.env.CLUSTER_ROUTER_URL ?? 'http://traefik.traefik',
                HOST_HEADER: this.host,
                RATE: String(rate),
                SESSIONS: String(sessions),
              }).map(([name, value]) => ({ name, value })),
              securityContext: restricted,
              resources: little,
              volumeMounts: [{ name: 'load', mountPath: '/load' }],
            },
          ],
          volumes: [{ name: 'load', configMap: { name: 'customers' } }],
        },
      },
    );
  }

  /** What the customers have seen so far. */
  async customers(): Promise<{ sent: number; completed: number; refused: number }> {
    const log = await this.#namespace.kubectl('logs', 'customers', '--tail=1');
    return JSON.parse(log) as { sent: number; completed: number; refused: number };
  }

  /** Arms a fault in a pod, as a faulty release would have it. */
  async arm(pod: string, fault: string, rate: number, more: { ms?: number } = {}): Promise<void> {
    await this.#inPod(pod, 'POST', '/admin/faults', { fault, rate, forSeconds: 3_600, ...more });
  }

  async disarm(pod: string): Promise<void> {
    await this.#inPod(pod, 'DELETE', '/admin/faults');
  }

  /** Completes one session on this very pod. */
  async complete(pod: string, number: number): Promise<void> {
    await this.#inPod(pod, 'POST', `/sessions/${this.sessionId(number)}/complete`);
  }

  async #inPod(pod: string, method: string, path: string, body?: object): Promise<void> {
    const script = `
      const response = await fetch('http://127.0.0.1:3000${path}', {
        method: '${method}',
        headers: { 'content-type': 'application/json', authorization: 'Bearer ' + process.env.REPLAY_TOKEN },
        ${body === undefined ? '' : `body: ${JSON.stringify(JSON.stringify(body))},`}
      });
      if (!response.ok) throw new Error(String(response.status));`;
    await this.#namespace.kubectl('exec', pod, '--', 'node', '--input-type=module', '--eval', script);
  }

  /**
   * One value, or rows with `|` between columns, as psql prints them.
   * @param login whose it is; Postgres trusts what comes from its own pod
   */
  async sql(statement: string, login = 'postgres'): Promise<string> {
    return (
      await this.#namespace.kubectl(
        ...['exec', 'postgres', '--', 'psql', '-h', '127.0.0.1', '-U', login, '-d', 'shop'],
        ...['-v', 'ON_ERROR_STOP=1', '-qtA', '-c', statement],
      )
    ).trim();
  }

  async #psql(script: string): Promise<void> {
    await this.sql(script);
  }
}
