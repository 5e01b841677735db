/**
 * As much of an API server as the exporter's watches need while nothing happens: one Rollout at rest, its pods, and
 * watches that end after the time they ask for. For the memory and the CPU of the exporter at rest, and nothing else.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const PODS = 20;
const HASH = '6f7d8c9b54';
const labels = { app: 'billing', 'rollouts-pod-template-hash': HASH };

const rollout = {
  metadata: { uid: 'rollout', name: 'billing', namespace: 'shop', resourceVersion: '1', generation: 1 },
  spec: {
    replicas: PODS,
    selector: { matchLabels: { app: 'billing' } },
    strategy: { canary: { steps: [] } },
  },
  status: { phase: 'Healthy', stableRS: HASH, currentPodHash: HASH, observedGeneration: '1' },
};

const pods = Array.from({ length: PODS }, (_, n) => ({
  metadata: {
    uid: `pod-${n}`,
    name: `billing-${n}`,
    namespace: 'shop',
    resourceVersion: '1',
    labels,
    creationTimestamp: '2026-01-01T00:00:00Z',
  },
  status: {
    phase: 'Running',
    conditions: [{ type: 'Ready', status: 'True' }],
    containerStatuses: [{ name: 'billing', restartCount: 0, ready: true, state: { running: {} } }],
  },
}));

export interface QuietApiServer {
  /** A file for `KUBECONFIG`. */
  readonly kubeconfig: string;
  stop(): Promise<void>;
}

export async function startQuietApiServer(): Promise<QuietApiServer> {
  const server = createServer((request, response) => {
    const url = new URL(request.url ?? '', 'http://api');
    if (url.searchParams.get('watch') === 'true' || url.searchParams.get('watch') === '1') {
      response.writeHead(200, { 'content-type': 'application/json' });
      response.flushHeaders();
      const end = setTimeout(
        () => response.end(),
        Number(url.searchParams.get('timeoutSeconds') ?? 20) * 1_000,
      );
      response.on('close', () => clearTimeout(end));
      return;
    }
    list(response, itemsOf(url.pathname));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  const folder = mkdtempSync(join(tmpdir(), 'counterfoil-kubeconfig-'));
  const kubeconfig = join(folder, 'config');
  writeFileSync(
    kubeconfig,
    JSON.stringify({
      clusters: [{ name: 'c', cluster: { server: `http://127.0.0.1:${port}` } }],
      contexts: [{ name: 'c', context: { cluster: 'c', user: 'c', namespace: 'shop' } }],
      users: [{ name: 'c', user: { token: 'none' } }],
      'current-context': 'c',
    }),
  );
  return {
    kubeconfig,
    async stop() {
      const closed = new Promise((resolve) => server.close(resolve));
      server.closeAllConnections();
      await closed;
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

function itemsOf(path: string): readonly unknown[] {
  if (path.endsWith('/rollouts')) return [rollout];
  return path.endsWith('/pods') ? pods : [];
}

function list(response: ServerResponse, items: readonly unknown[]): void {
  response.writeHead(200, { 'content-type': 'application/json' });
  response.end(JSON.stringify({ metadata: { resourceVersion: '1' }, items }));
}
