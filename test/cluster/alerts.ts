/** The alerts of one namespace, as the Prometheus of the cluster sees them. */
import { eventually } from './cluster.ts';
import { query } from './prometheus.ts';

type Labels = Readonly<Record<string, string>>;

const selector = (labels: Labels, matchers: Labels = {}) =>
  `{${[
    ...Object.entries(labels).map(([label, value]) => `${label}=${JSON.stringify(value)}`),
    ...Object.entries(matchers).map(([label, pattern]) => `${label}=~${JSON.stringify(pattern)}`),
  ].join()}}`;

/** Those that fire now, with their labels. */
export async function firing(namespace: string, labels: Labels = {}): Promise<readonly Labels[]> {
  const samples = await query(`ALERTS${selector({ namespace, alertstate: 'firing', ...labels })}`);
  return samples.map(({ metric }) => metric);
}

/**
 * Waits until an alert fires, and gives its labels.
 * @param seconds three times what its `for`, one reading of the exporter, one scrape and one evaluation take together
 */
export const fires = async (
  namespace: string,
  alertname: string,
  labels: Labels,
  seconds: number,
): Promise<Labels> =>
  await eventually(`${alertname} fires`, seconds, async () => {
    const [alert] = await firing(namespace, { alertname, ...labels });
    if (alert !== undefined) return alert;
    const others = (await firing(namespace)).map((other) => `${other.alertname} ${other.mode ?? ''}`);
    throw new Error(`firing: ${others.join()}`);
  });

export const rests = async (
  namespace: string,
  alertname: string,
  labels: Labels,
  seconds: number,
): Promise<void> => {
  await eventually(
    `${alertname} rests`,
    seconds,
    async () => (await firing(namespace, { alertname, ...labels })).length === 0,
  );
};

/** Names, with job and mode where they have one, of the alerts that have fired at any time of the last half hour. */
export async function fired(namespace: string, names: string, labels: Labels = {}): Promise<string[]> {
  const samples = await query(
    `count by (alertname, counterfoil_job, mode) (
       count_over_time(ALERTS${selector({ namespace, alertstate: 'firing', ...labels }, { alertname: names })}[30m]))`,
  );
  return samples
    .map(({ metric }) => [metric.alertname, metric.counterfoil_job, metric.mode].filter(Boolean).join(' '))
    .sort();
}
