/** What was lost on its way, how fast it is delivered again, and what cannot be. */
import type { Dashboard } from '@grafana/grafana-foundation-sdk/dashboard';
import { frame } from './frame.ts';
import { chart, list, notDrawn, notMeasured, stat } from './panels.ts';
import { runs } from './runs.ts';
import { beyond, growth, ofService, one, own, within } from './selectors.ts';
import { limit, overdueEvents } from './verdicts.ts';

const oldestEvent = own('counterfoil_oldest_overdue_event_timestamp_seconds');
const overdueAge = `time() - min(${oldestEvent})`;
const parked = one('counterfoil_parked_events', ['reason']);
const inReplay = one('counterfoil_replay_events', ['status']);
const requests = one('counterfoil_open_requests', ['kind', 'needs_approval']);
const oldestRequest = `time() - min(${own('counterfoil_oldest_open_request_timestamp_seconds')})`;
const oldestHanded = `time() - min(${own('counterfoil_oldest_handed_event_timestamp_seconds')})`;
const replayed = (time: string) => growth('counterfoil_replayed_events_total', ['installation'], time);

const byOutcome = (metric: string) => (matchers: string) =>
  `sum by (outcome) (rate(${ofService(metric, matchers)}[$__rate_interval])) > 0`;
const results = byOutcome('counterfoil_replay_results_total');
const rebuilds = byOutcome('counterfoil_rebuilds_total');

export const replay = (): Dashboard =>
  frame('replay', {
    description: 'What was lost on its way, how fast it is delivered again, and what cannot be.',
    from: 'now-6h',
    panels: [
      stat({
        title: 'Overdue events',
        size: 36,
        description:
          'Pending past the grace, under no live lease and not parked: lost until replay has them. Red above the threshold of the alert.',
        unit: 'locale',
        at: [0, 0, 4, 5],
        runbooks: ['CounterfoilOverdueEvents'],
        queries: [
          {
            refId: 'many',
            expr: beyond(overdueEvents, 'overdue_events'),
            legend: 'overdue',
            colour: 'red',
          },
          { refId: 'few', expr: within(overdueEvents, 'overdue_events'), legend: 'overdue', colour: 'green' },
          notMeasured('counterfoil_overdue_events', 'overdue'),
        ],
      }),
      stat({
        title: 'Oldest overdue event',
        size: 36,
        description:
          'How long ago it was written. Red beyond the threshold: replay should have had it by then.',
        unit: 's',
        at: [4, 0, 5, 5],
        decimals: 1,
        runbooks: ['CounterfoilOverdueEventTooOld'],
        queries: [
          {
            refId: 'old',
            expr: beyond(overdueAge, 'overdue_event_age_seconds'),
            legend: 'too old',
            colour: 'red',
          },
          {
            refId: 'young',
            expr: within(overdueAge, 'overdue_event_age_seconds'),
            legend: 'in time',
            colour: 'yellow',
          },
          {
            refId: 'none',
            expr: `(max(${own('counterfoil_overdue_events')}) == 0) unless on () ${oldestEvent}`,
            legend: 'overdue',
            words: { 0: ['none', 'green'] },
          },
          notMeasured('counterfoil_overdue_events', 'overdue'),
        ],
      }),
      list({
        title: 'Parked, by reason',
        description:
          'Events that replay has given up on. They stay until a release knows them, or a person unparks them.',
        unit: 'locale',
        at: [9, 0, 5, 5],
        runbooks: ['CounterfoilParkedEvents'],
        queries: [
          {
            refId: 'parked',
            expr: `sort_desc(${parked} > 0)`,
            legend: '{{reason}}',
            colour: 'orange',
          },
          {
            refId: 'none',
            expr: `sum(${parked}) == 0`,
            legend: 'parked',
            colour: 'green',
            words: { 0: ['none', 'green'] },
          },
          notMeasured('counterfoil_parked_events', 'parked'),
        ],
      }),
      list({
        title: 'In the hands of replay',
        description:
          'due: will be claimed. claimed: a run is at work on it. handed_to_outbox: given to the predecessor’s outbox, open until its bill is seen.',
        unit: 'locale',
        at: [14, 0, 5, 5],
        queries: [
          { refId: 'events', expr: `${inReplay} > 0`, legend: '{{status}}', colour: 'blue' },
          {
            refId: 'handed',
            expr: oldestHanded,
            legend: 'oldest handed',
            unit: 's',
            decimals: 0,
            colour: 'text',
          },
          {
            refId: 'none',
            expr: `sum(${inReplay}) == 0`,
            legend: 'in work',
            colour: 'green',
            words: { 0: ['none', 'green'] },
          },
          notMeasured('counterfoil_replay_events', 'in work'),
        ],
      }),
      list({
        title: 'Open requests',
        description: 'By kind. Those to approve wait for another person than the one who asked.',
        unit: 'locale',
        at: [19, 0, 5, 5],
        runbooks: ['CounterfoilApprovalWaiting'],
        queries: [
          {
            refId: 'approve',
            expr: `sum by (kind) (${one('counterfoil_open_requests', ['kind', 'needs_approval'], 'needs_approval="yes"')}) > 0`,
            legend: '{{kind}}: to approve',
            colour: 'orange',
          },
          {
            refId: 'open',
            expr: `sum by (kind) (${one('counterfoil_open_requests', ['kind', 'needs_approval'], 'needs_approval="no"')}) > 0`,
            legend: '{{kind}}',
            colour: 'blue',
          },
          {
            refId: 'oldest',
            expr: oldestRequest,
            legend: 'oldest',
            unit: 's',
            decimals: 0,
            colour: 'text',
          },
          {
            refId: 'none',
            expr: `sum(${requests}) == 0`,
            legend: 'open',
            colour: 'green',
            words: { 0: ['none', 'green'] },
          },
          notMeasured('counterfoil_open_requests', 'open'),
        ],
      }),
      chart({
        title: 'Pending and overdue events',
        description:
          'Rows of event_backups. Overdue that falls: replay keeps up. The line of the backlog: more than that must shrink.',
        unit: 'locale',
        at: [0, 5, 12, 8],
        runbooks: ['CounterfoilBacklogNotShrinking'],
        queries: [
          {
            refId: 'pending',
            expr: `max(${own('counterfoil_pending_events')})`,
            legend: 'pending',
            colour: 'blue',
          },
          { refId: 'overdue', expr: overdueEvents, legend: 'overdue', colour: 'orange' },
          notDrawn(own('counterfoil_overdue_events')),
          limit('backlog_events', 'backlog: limit'),
        ],
      }),
      chart({
        title: 'Age of the oldest overdue event',
        description: 'No line: none is overdue. Above the threshold replay does not get through.',
        unit: 's',
        at: [12, 5, 12, 8],
        runbooks: ['CounterfoilOverdueEventTooOld'],
        queries: [
          { refId: 'age', expr: overdueAge, legend: 'oldest overdue', colour: 'orange' },
          notDrawn(own('counterfoil_overdue_events')),
          limit('overdue_event_age_seconds', 'limit'),
        ],
      }),
      chart({
        title: 'Brought to their end, in five minutes',
        description:
          'Events that replay has finished in the five minutes before each point, and those now parked.',
        unit: 'locale',
        at: [0, 13, 8, 8],
        queries: [
          { refId: 'done', expr: replayed('5m'), legend: 'replayed', colour: 'green' },
          { refId: 'parked', expr: `sum(${parked})`, legend: 'parked', colour: 'orange' },
          notDrawn(own('counterfoil_parked_events')),
          limit('parked_events', 'parked: limit'),
        ],
      }),
      chart({
        title: 'Answers of the service to replays',
        description:
          'Results per second, by outcome, counted by the service’s own pods. Green is delivered; orange (failed, in_flight, outcome_unknown) is asked again; red is parked.',
        unit: 'ops',
        at: [8, 13, 8, 8],
        queries: [
          {
            refId: 'done',
            expr: results('outcome=~"processed|already_processed"'),
            legend: '{{outcome}}',
            colour: 'green',
            shades: true,
          },
          {
            refId: 'again',
            expr: results('outcome=~"failed|in_flight|outcome_unknown"'),
            legend: '{{outcome}}',
            colour: 'orange',
            shades: true,
          },
          {
            refId: 'never',
            expr: results('outcome!~"processed|already_processed|failed|in_flight|outcome_unknown"'),
            legend: '{{outcome}}',
            colour: 'red',
            shades: true,
          },
          {
            refId: 'none',
            expr: `(sum(rate(${ofService('counterfoil_replay_results_total')}[$__rate_interval])) == 0)`,
            legend: 'none asked',
            colour: 'text',
          },
        ],
      }),
      chart({
        title: 'Rebuilds',
        description:
          'Calls of the service’s rebuild function per second, by outcome: events made anew from their facts. not_needed: the bill stands.',
        unit: 'ops',
        at: [16, 13, 8, 8],
        queries: [
          {
            refId: 'done',
            expr: rebuilds('outcome=~"rebuilt|not_needed"'),
            legend: '{{outcome}}',
            colour: 'green',
            shades: true,
          },
          {
            refId: 'not',
            expr: rebuilds('outcome!~"rebuilt|not_needed"'),
            legend: '{{outcome}}',
            colour: 'orange',
            shades: true,
          },
          {
            refId: 'none',
            expr: `(sum(rate(${ofService('counterfoil_rebuilds_total')}[$__rate_interval])) == 0)`,
            legend: 'none asked',
            colour: 'text',
          },
        ],
      }),
      runs(
        {
          title: 'Runs of event-replay',
          at: [0, 21, 24, 5],
          runbooks: ['CounterfoilJobOverdue', 'CounterfoilJobFailed'],
        },
        'event-replay',
      ),
    ],
  });
