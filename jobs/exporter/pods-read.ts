/** What is kept of a pod of the guarded service. */
import { z } from 'zod';
import { lenient, objectHead } from './kubernetes-object.ts';
import { hashLabel } from './rollout-read.ts';

export interface Pod {
  readonly uid: string;
  readonly createdAt: number;
  /** Of the version that it runs; `unknown` where no label says. */
  readonly hash: string;
  readonly ready: boolean;
  /** Ended for good, such as evicted: neither ready nor missing. */
  readonly finished: boolean;
  /** Restarts that its kubelet has counted, by container. */
  readonly restarts: ReadonlyMap<string, number>;
}

const containers = lenient(
  z.array(z.object({ name: z.string(), restartCount: z.number().int().nonnegative() })),
);
const shape = z.object({
  metadata: z.object({ labels: lenient(z.record(z.string(), z.string())) }),
  status: lenient(
    z.object({
      phase: lenient(z.string()),
      conditions: lenient(z.array(z.object({ type: lenient(z.string()), status: lenient(z.string()) }))),
      containerStatuses: containers,
    }),
  ),
});

export function readPod(object: unknown): Pod | undefined {
  const head = objectHead(object);
  const parsed = shape.safeParse(object);
  if (head === undefined || !parsed.success) return undefined;
  const labels = parsed.data.metadata.labels ?? {};
  const { phase, conditions, containerStatuses } = parsed.data.status ?? {};
  return {
    uid: head.uid,
    createdAt: head.createdAt,
    // Before its adoption a service's pods carry the label of the Deployment.
    hash: labels[hashLabel] ?? labels['pod-template-hash'] ?? 'unknown',
    ready: conditions?.some(({ type, status }) => type === 'Ready' && status === 'True') === true,
    finished: phase === 'Succeeded' || phase === 'Failed',
    restarts: new Map((containerStatuses ?? []).map(({ name, restartCount }) => [name, restartCount])),
  };
}
