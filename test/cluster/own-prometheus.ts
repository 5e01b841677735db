/** The Prometheus of the cluster under an address of one namespace: for that installation alone it can be away. */
import { eventually, kubectl, type Namespace } from './cluster.ts';

const NAME = 'prometheus';

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
    const [address] = await this.#addresses();
    if (address === undefined) throw new Error('the cluster has no Prometheus');
    await this.#namespace.apply(
      // Without a selector its address is ours to say.
      { apiVersion: 'v1', kind: 'Service', metadata: { name: NAME }, spec: { ports: [{ port: 9090 }] } },
      {
        apiVersion: 'discovery.k8s.io/v1',
        kind: 'EndpointSlice',
        metadata: { name: NAME, labels: { 'kubernetes.io/service-name': NAME } },
        addressType: 'IPv4',
        ports: [{ port: 9090 }],
        endpoints: [{ addresses: [address], conditions: { ready: true } }],
      },
    );
  }

  async away(): Promise<void> {
    await this.#namespace.kubectl('delete', 'endpointslice', NAME);
  }

  async #addresses(): Promise<string[]> {
    return await eventually('Prometheus has a pod', 30, async () => {
      const found = await kubectl(
        ...['get', 'pods', '-n', process.env.CLUSTER_PROMETHEUS_NAMESPACE ?? 'monitoring'],
        ...['-l', 'app.kubernetes.io/name=prometheus', '-o', 'jsonpath={.items[*].status.podIP}'],
      );
      return found.trim() !== '' && found.trim().split(' ');
    });
  }
}
