/** What counts the complaints of customers in a journey: a pod with one gauge, which Prometheus scrapes. */
import { eventually, type Namespace } from './cluster.ts';
import { query } from './prometheus.ts';
import { SERVICE_IMAGE } from './shop.ts';

const NAME = 'complaints';
const script = `
  let count = 0;
  require('node:http').createServer((request, response) => {
    if (request.method === 'POST') count = Number(request.url.slice(1));
    response.setHeader('content-type', 'text/plain; version=0.0.4');
    response.end('customer_complaints_today ' + count + '\\n');
  }).listen(8080);`;

export class Complaints {
  readonly #namespace: Namespace;

  constructor(namespace: Namespace) {
    this.#namespace = namespace;
  }

  /** For `complaints.query`. */
  static query(namespace: string): string {
    return `sum(customer_complaints_today{namespace="${namespace}"})`;
  }

  /** Nobody complains yet; returns once Prometheus knows that. */
  async open(): Promise<void> {
    await this.#namespace.apply(
      {
        apiVersion: 'v1',
        kind: 'Pod',
        metadata: { name: NAME, labels: { app: NAME } },
        spec: {
          terminationGracePeriodSeconds: 1,
          containers: [
            {
              name: NAME,
              image: SERVICE_IMAGE,
              imagePullPolicy: 'IfNotPresent',
              command: ['node', '--eval', script],
              ports: [{ name: 'http', containerPort: 8080 }],
              resources: { requests: { cpu: '5m', memory: '32Mi' } },
            },
          ],
        },
      },
      {
        apiVersion: 'monitoring.coreos.com/v1',
        kind: 'PodMonitor',
        metadata: { name: NAME, labels: { release: 'kube-prometheus-stack' } },
        spec: {
          selector: { matchLabels: { app: NAME } },
          podMetricsEndpoints: [{ port: 'http', interval: '5s' }],
        },
      },
    );
    await this.#known(0);
  }

  /** So many customers have complained today. */
  async are(count: number): Promise<void> {
    await this.#namespace.kubectl(
      ...['exec', NAME, '--', 'node', '--eval'],
      `fetch('http://127.0.0.1:8080/${count}', { method: 'POST' })`,
    );
    await this.#known(count);
  }

  /** As the alert sees it. */
  async #known(count: number): Promise<void> {
    await eventually(`Prometheus knows of ${count} complaints`, 180, async () => {
      const [seen] = await query(
        `installation:complaints_per_day:value{namespace="${this.#namespace.name}"}`,
      );
      if (Number(seen?.value[1]) !== count) throw new Error(`seen: ${seen?.value[1]}`);
      return true;
    });
  }
}
