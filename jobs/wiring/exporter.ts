/** The exporter: ready, under this installation's name, and where a Rollout guards the service, with a fresh view of it. */
import { ask, described, jsonOf } from './ask.ts';
import { type Attempt, needed } from './job.ts';

export const tryExporter: Attempt = async (context) => {
  const { settings, signal } = context;
  const url = needed(context, 'CF_EXPORTER_URL').replace(/\/+$/, '');
  const ready = await ask(`${url}/health/ready`, signal);
  if (ready.kind !== 'answered' || ready.status !== 200) return [`the exporter ${described(ready)}`];
  const problems: string[] = [];
  const metrics = await ask(`${url}/metrics`, signal);
  if (metrics.kind !== 'answered' || metrics.status !== 200) return [`/metrics ${described(metrics)}`];
  const collections = metrics.text
    .split('\n')
    .filter((line) => line.startsWith('counterfoil_collection_success{'));
  const own = collections.filter((line) => line.includes(`installation="${settings.CF_INSTALLATION}"`));
  if (own.length === 0)
    problems.push(`what answers is no exporter of the installation ${settings.CF_INSTALLATION}`);
  for (const line of own) {
    const collection = /collection="(\w+)"/.exec(line)?.[1] ?? 'unknown';
    if (!line.endsWith(' 1')) problems.push(`the exporter cannot take its collection ${collection}`);
  }
  if (settings.CF_ROLLOUT_NAME !== undefined) {
    const rollout = await ask(`${url}/rollout`, signal);
    const known = (jsonOf(rollout) as { rollout?: unknown } | undefined)?.rollout;
    if (rollout.kind !== 'answered' || rollout.status !== 200)
      problems.push(`the exporter knows nothing fresh of the Rollout ${settings.CF_ROLLOUT_NAME}`);
    else if (known !== settings.CF_ROLLOUT_NAME)
      problems.push(`the exporter looks at another Rollout than ${settings.CF_ROLLOUT_NAME}`);
  }
  return problems;
};
