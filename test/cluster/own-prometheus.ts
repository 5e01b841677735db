/** The Prometheus of the cluster behind a pod of one namespace: for that installation alone it can be away. */
import type { Namespace } from './cluster.ts';
import { SERVICE_IMAGE } from './shop.ts';

const NAME = 'prometheus';
const target = new URL(process.env.CLUSTER_PROMETHEUS_URL ?? 'http://prometheus-operated.monitoring:9090');
const script = `
  const { connect, createServer } = require('node:net');
  createServer((client) => {
    const server = connect(${target.port}, '${target.hostname}');
    client.pipe(server).pipe(client);
    for (const [one, other] of [[client, server], [server, client]]) one.on('error', () => other.destroy());
  }).listen(9090);`;

export class OwnPrometheus {
  readonly #namespace: Namespace;

  constructor(namespace: Namespace) {
    this.#namespace = namespace;
  }

  /** For `metrics.prometheusUrl`: the controller, which asks, is in another namespace. */
  static url(namespace: string): string {
    return `http://${NAME}.${namespace}:9090`;
  }

  /** It answers, and goes on to. */
  async back(): Promise<void> {
    await this.#namespace.apply(
      {
        apiVersion: 'v1',
        kind: 'Service',
        metadata: { name: NAME },
        spec: { selector: { app: NAME }, ports: [{ port: 9090 }] },
      },
      {
        apiVersion: 'v1',
        kind: 'Pod',
        metadata: { name: NAME, labels: { app: NAME } },
        spec: {
          containers: [
            {
              name: NAME,
              image: SERVICE_IMAGE,
              imagePullPolicy: 'IfNotPresent',
              command: ['node', '--eval', script],
              readinessProbe: { tcpSocket: { port: 9090 }, periodSeconds: 1 },
              resources: { requests: { cpu: '5m', memory: '32Mi' } },
            },
          ],
        },
      },
    );
    await this.#namespace.kubectl('wait', '--for=condition=Ready', `pod/${NAME}`, '--timeout=120s');
  }

  /** Its connections end as well: an address that is withdrawn alone leaves those that are open. */
  async away(): Promise<void> {
    await this.#namespace.kubectl('delete', 'pod', NAME, '--grace-period=0', '--force');
  }
}
