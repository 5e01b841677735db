/** The runs of the jobs, as a table: one row for each job and mode. */
import { type PanelOf, type PanelText, table } from './panels.ts';
import { one, own } from './selectors.ts';

const labels = ['counterfoil_job', 'mode'];

/** All words of `job_runs.outcome` that a run can end with. */
const outcomeWords = {
  succeeded: ['succeeded', 'green'],
  partial: ['partial', 'yellow'],
  skipped: ['skipped', 'yellow'],
  implausible: ['implausible', 'red'],
  endpoint_down: ['endpoint down', 'red'],
  failed: ['failed', 'red'],
  refused: ['refused', 'red'],
} as const;

/** @param job a regular expression for the names of the jobs */
export function runs(text: Pick<PanelText, 'title' | 'at' | 'runbooks'>, job: string): PanelOf {
  const matchers = `counterfoil_job=~"${job}"`;
  const age = (metric: string) => `time() - ${one(metric, labels, matchers)}`;
  return table({
    ...text,
    description:
      'The newest run of each job and mode that has ended. Only succeeded counts as success; the limit is the threshold of the alert for the age of the last one.',
    unit: 's',
    queries: [
      {
        refId: 'ended',
        expr: `${one('counterfoil_job_last_outcome', [...labels, 'outcome'], matchers)} == 1`,
      },
      { refId: 'success', expr: age('counterfoil_job_last_success_timestamp_seconds') },
      {
        refId: 'limit', // Only of what has ever run here: of event-replay one installation has one mode.
        expr: `${one('installation:job_age_seconds:threshold', labels, matchers)} and on (counterfoil_job, mode) ${own('counterfoil_job_last_outcome', matchers)}`,
      },
      { refId: 'since', expr: one('counterfoil_job_runs_since_success', labels, matchers) },
      { refId: 'took', expr: one('counterfoil_job_last_duration_seconds', labels, matchers) },
      { refId: 'started', expr: age('counterfoil_job_last_start_timestamp_seconds') },
    ],
    columns: [
      { from: 'counterfoil_job', title: 'Job', width: 180 },
      { from: 'mode', title: 'Mode', width: 110 },
      { from: 'outcome', title: 'Last outcome', words: outcomeWords },
      { from: 'success', title: 'Since success', unit: 's', decimals: 1 },
      { from: 'limit', title: 'Limit', unit: 's', decimals: 1 },
      { from: 'since', title: 'Failed since', unit: 'none' },
      { from: 'started', title: 'Since start', unit: 's', decimals: 1 },
      { from: 'took', title: 'Took', unit: 's', decimals: 1 },
    ],
  });
}
