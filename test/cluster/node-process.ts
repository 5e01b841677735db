/**
 * The node as it acts on a process of a pod. A container's first process hears no SIGKILL and no SIGSTOP from inside, so
 * this is a pod that sees all processes of its node and signals the one that it is asked for.
 */
import { eventually, IMAGE, loadImage, type Namespace } from './cluster.ts';

const NAME = 'node-process';

export class NodeProcess {
  readonly #namespace: Namespace;

  private constructor(namespace: Namespace) {
    this.#namespace = namespace;
  }

  static async reach(namespace: Namespace): Promise<NodeProcess> {
    await loadImage();
    await namespace.apply({
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { name: NAME },
      spec: {
        hostPID: true,
        terminationGracePeriodSeconds: 1,
        containers: [
          {
            name: 'main',
            image: IMAGE,
            imagePullPolicy: 'IfNotPresent',
            command: ['sh', '-c', 'trap "exit 0" TERM; while true; do sleep 1; done'],
            securityContext: { privileged: true },
            resources: { requests: { cpu: '5m', memory: '8Mi' } },
          },
        ],
      },
    });
    await namespace.kubectl('wait', '--for=condition=Ready', `pod/${NAME}`, '--timeout=120s');
    return new NodeProcess(namespace);
  }

  /** Signals the process of one of our jobs, which knows the name of its pod. */
  async signal(pod: string, signal: 'KILL' | 'STOP'): Promise<void> {
    const script = `for process in /proc/[0-9]*; do
        if tr '\\0' '\\n' <$process/environ 2>/dev/null | grep -qx "CF_POD_NAME=${pod}"; then
          kill -${signal} "\${process#/proc/}" && echo signalled
        fi
      done`;
    await eventually(`a process of ${pod} on its node`, 30, async () =>
      (await this.#namespace.kubectl('exec', NAME, '--', 'sh', '-c', script)).includes('signalled'),
    );
  }
}
