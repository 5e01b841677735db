/** Where a release stands, how its versions compare, what each measurement says, and what an abort left behind. */
import type { Dashboard } from '@grafana/grafana-foundation-sdk/dashboard';
import { frame } from './frame.ts';
import { chart, notDrawn, notMeasured, stat, table } from './panels.ts';
import { beyond, one, own, within } from './selectors.ts';
import {
  abortedBy,
  billingErrorsOfVersions,
  byVersion,
  canaryWeight,
  limit,
  lossOfVersions,
  repairAfterAbort,
  restartsOfVersions,
  rolloutPhase,
} from './verdicts.ts';

const ofMetric = ['analysis', 'metric'];
const step = one('counterfoil_rollout_step', ['rollout']);
const steps = one('counterfoil_rollout_steps', ['rollout']);
const age = `time() - ${one('counterfoil_rollout_started_timestamp_seconds', ['rollout'])}`;
const complaints = own('installation:complaints_per_day:value');

const phaseWords = {
  Pending: ['Pending', 'text'],
  Running: ['Running', 'blue'],
  Successful: ['Successful', 'green'],
  Failed: ['Failed', 'red'],
  Error: ['Error', 'red'],
  Inconclusive: ['Inconclusive', 'orange'],
} as const;

export const canary = (): Dashboard =>
  frame('canary', {
    description: 'Where a release stands, how its versions compare, and what an abort left behind.',
    from: 'now-24h',
    panels: [
      stat({
        title: 'Release',
        description:
          'The phase of the guarded rollout. Paused is what a step does; inconclusive waits for a person.',
        unit: 'none',
        at: [0, 0, 4, 5],
        shows: 'names',
        runbooks: ['CounterfoilRolloutStuck'],
        queries: rolloutPhase(),
      }),
      stat({
        title: 'Traffic by version',
        description: 'Per cent of the traffic that each version is meant to get, by pod template hash.',
        unit: 'percent',
        at: [4, 0, 6, 5],
        decimals: 0,
        queries: canaryWeight(),
      }),
      stat({
        title: 'Step and age',
        description:
          'The current step, from 1 to the number of steps, and how long the canary has existed: red beyond its limit.',
        unit: 'none',
        at: [10, 0, 4, 5],
        runbooks: ['CounterfoilRolloutStuck'],
        queries: [
          {
            refId: 'step',
            expr: `min by (rollout) (label_replace(${step} + 1, "of", "now", "", "") or label_replace(${steps}, "of", "all", "", ""))`,
            legend: 'step',
            colour: 'text',
          },
          { refId: 'steps', expr: steps, legend: 'of', colour: 'text' },
          {
            refId: 'young',
            expr: within(age, 'rollout_age_seconds'),
            legend: 'age',
            unit: 's',
            colour: 'text',
          },
          { refId: 'old', expr: beyond(age, 'rollout_age_seconds'), legend: 'age', unit: 's', colour: 'red' },
          notMeasured('counterfoil_rollout_step', 'step'),
        ],
      }),
      stat({
        title: 'Aborted by',
        description:
          'When the release was aborted, and by which metric of its analysis; person where somebody did, progress_deadline where it never came up.',
        unit: 'dateTimeAsIso',
        at: [14, 0, 6, 5],
        runbooks: ['CounterfoilRolloutAborted'],
        queries: abortedBy(),
      }),
      stat({
        title: 'Repair after the abort',
        description:
          'Whether what the bad version broke is mended. clean: replayed and verified through the end of its time. off: nobody asked the exporter to do it.',
        unit: 'none',
        at: [20, 0, 4, 5],
        shows: 'names',
        runbooks: ['CounterfoilAbortRepairNotClean'],
        queries: repairAfterAbort(),
      }),
      chart({
        title: 'Events lost, by version',
        description:
          'Of the events that a version has published in the last minutes, the share still pending under no live lease or sent by replay. The release is aborted above the limit for five minutes, with enough judged.',
        unit: 'percentunit',
        at: [0, 5, 12, 8],
        decimals: 2,
        runbooks: ['CounterfoilVersionLosesEvents'],
        queries: [
          ...lossOfVersions(),
          limit('event_loss_ratio', 'aborts above'),
          { ...limit('event_loss_accepted_ratio', 'accepted'), colour: 'yellow' },
        ],
      }),
      chart({
        title: 'Wrong or missing bills, by version',
        description:
          'Of the facts of a version completed between 15 min and 20 s ago, the share with a discrepancy. The release is aborted above the limit for one minute, with enough judged.',
        unit: 'percentunit',
        at: [12, 5, 12, 8],
        decimals: 2,
        runbooks: ['CounterfoilVersionBillsWrong'],
        queries: [...billingErrorsOfVersions(), limit('billing_error_ratio', 'aborts above')],
      }),
      table({
        title: 'Measurements of the current analysis',
        description:
          'The newest value of each metric beside the number its condition compares with. No value: the metric has measured no number, which is no success.',
        unit: 'none',
        at: [0, 13, 16, 8],
        queries: [
          {
            refId: 'stands',
            expr: `${one('counterfoil_analysis_phase', [...ofMetric, 'published_hash', 'phase'])} == 1`,
          },
          { refId: 'value', expr: one('counterfoil_analysis_measurement', [...ofMetric, 'published_hash']) },
          { refId: 'limit', expr: one('counterfoil_analysis_limit', [...ofMetric, 'published_hash']) },
        ],
        columns: [
          { from: 'metric', title: 'Metric' },
          { from: 'value', title: 'Measured', width: 110 },
          { from: 'limit', title: 'Limit', width: 110 },
          { from: 'phase', title: 'Phase', width: 120, words: phaseWords },
          { from: 'analysis', title: 'Analysis' },
          { from: 'published_hash', title: 'Version', width: 130 },
        ],
      }),
      chart({
        title: 'Judged: is the sample large enough?',
        description:
          'Facts and events of the last minutes by version, on a logarithmic scale. Below the limit a ratio aborts nothing; absolute counts and the flow probe decide.',
        unit: 'locale',
        at: [16, 13, 8, 8],
        log: true,
        queries: [
          ...byVersion(
            `sum by (published_hash) (${one('counterfoil_hot_facts', ['check', 'published_hash'])})`,
            '_bills',
            'bills ',
          ),
          ...byVersion(one('counterfoil_hot_events', ['published_hash']), '_events', 'events ').map(
            (query) => ({
              ...query,
              shades: true,
            }),
          ),
          notDrawn(own('counterfoil_hot_facts')),
          limit('ratio_judged_minimum', 'judged from'),
        ],
      }),
      chart({
        title: 'Weight of the canary',
        description: 'Per cent of the traffic over time, as the controller has set it.',
        unit: 'percent',
        at: [0, 21, 8, 7],
        max: 100,
        queries: [
          {
            refId: 'weight',
            expr: one('counterfoil_rollout_weight', ['rollout']),
            legend: 'canary of {{rollout}}',
            colour: 'orange',
          },
        ],
      }),
      chart({
        title: 'Restarts in a day, by version',
        description: 'Restarts of the service’s containers in the 24 hours before each point.',
        unit: 'locale',
        at: [8, 21, 8, 7],
        runbooks: ['CounterfoilVersionCrashes'],
        queries: [...restartsOfVersions('24h'), limit('restarts_per_day', 'aborts above')],
      }),
      chart({
        title: 'Complaints in a day',
        description:
          'From the query that the installation was given. Without one this reads NOT MEASURED, which is not 0.',
        unit: 'locale',
        at: [16, 21, 8, 7],
        runbooks: ['CounterfoilComplaints'],
        queries: [
          { refId: 'complaints', expr: `max(${complaints})`, legend: 'complaints', colour: 'blue' },
          notDrawn(complaints),
          limit('complaints_per_day', 'aborts above'),
          { ...limit('complaints_accepted_per_day', 'accepted'), colour: 'yellow' },
        ],
      }),
    ],
  });
