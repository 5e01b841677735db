/** The Prometheus of the cluster, asked through the API server. */
import { kubectl } from './cluster.ts';

const PROXY =
  process.env.CLUSTER_PROMETHEUS_PROXY ??
  '/api/v1/namespaces/monitoring/services/prometheus-operated:9090/proxy';

interface Answer<Data> {
  readonly data: Data;
}

async function ask<Data>(path: string): Promise<Data> {
  return (JSON.parse(await kubectl('get', '--raw', `${PROXY}${path}`)) as Answer<Data>).data;
}

export interface Sample {
  readonly metric: Readonly<Record<string, string>>;
  readonly value: readonly [number, string];
}

export async function query(promql: string): Promise<readonly Sample[]> {
  return (await ask<{ result: Sample[] }>(`/api/v1/query?query=${encodeURIComponent(promql)}`)).result;
}

export interface LoadedRule {
  readonly name: string;
  readonly query: string;
  readonly health: string;
  readonly lastError?: string;
}

/** Every rule that asks of this namespace, or that records for it. */
export async function rulesOf(namespace: string): Promise<LoadedRule[]> {
  const { groups } = await ask<{ groups: { rules: (LoadedRule & { labels?: Record<string, string> })[] }[] }>(
    '/api/v1/rules',
  );
  return groups
    .flatMap(({ rules }) => rules)
    .filter(({ query: text, labels }) => text.includes(`"${namespace}"`) || labels?.namespace === namespace);
}
