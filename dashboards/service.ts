/** The events of the guarded service itself: rate, errors, duration, and how full it is. */
import type { Dashboard } from '@grafana/grafana-foundation-sdk/dashboard';
import { frame } from './frame.ts';
import { chart, list, notDrawn, notMeasured, type Query, stat } from './panels.ts';
import { beyond, ofService, one, within } from './selectors.ts';
import { limit, restartsOfVersions } from './verdicts.ts';

/** As the module counts them; without a scrape of the service nothing here answers. */
const rate = (metric: string, by: readonly string[], matchers = '') =>
  `sum by (${by.join(', ')}) (rate(${ofService(metric, matchers)}[$__rate_interval]))`;
const inAQuarter = (metric: string, matchers = '') => `sum(increase(${ofService(metric, matchers)}[15m]))`;
const quantile = (share: number, time: string) =>
  `histogram_quantile(${share}, sum by (le) (rate(${ofService('event_duration_seconds_bucket')}[${time}])))`;
const publishErrors = inAQuarter('event_publish_error_total');
const inFlight = `sum(${ofService('counterfoil_events_in_flight')})`;
const room = `sum(${ofService('counterfoil_events_in_flight_limit')})`;

const serviceUnmeasured = (metric: string, legend: string): Query => ({
  refId: 'unmeasured',
  expr: `absent(${ofService(metric)})`,
  legend,
  words: { 1: ['NOT MEASURED', 'purple'] },
});

/** One line at 0 that says so, in place of one for each thing that has not happened. */
const none = (metric: string, matchers = '', more = ''): Query => ({
  refId: 'none',
  expr: `sum(rate(${ofService(metric, matchers)}[$__rate_interval]))${more} == 0`,
  legend: 'none',
  colour: 'text',
});

export const service = (): Dashboard =>
  frame('service', {
    description: 'The events of the guarded service itself: rate, errors, duration, and how full it is.',
    from: 'now-3h',
    panels: [
      stat({
        title: 'Events per second',
        size: 36,
        description: 'Published and committed, over the last five minutes.',
        unit: 'eps',
        at: [0, 0, 4, 5],
        decimals: 1,
        queries: [
          {
            refId: 'committed',
            expr: `sum(rate(${ofService('event_published_total', 'status="committed"')}[5m]))`,
            legend: 'committed',
            colour: 'text',
          },
          serviceUnmeasured('event_published_total', 'committed'),
        ],
      }),
      stat({
        title: 'Failed to publish',
        size: 36,
        description:
          'Calls of publish that were refused or failed in the last 15 minutes. Red above the threshold of the alert.',
        unit: 'locale',
        at: [4, 0, 4, 5],
        decimals: 0,
        runbooks: ['EventPublishError'],
        queries: [
          {
            refId: 'many',
            expr: beyond(publishErrors, 'publish_errors'),
            legend: 'in 15 min',
            colour: 'red',
          },
          {
            refId: 'few',
            expr: within(publishErrors, 'publish_errors'),
            legend: 'in 15 min',
            colour: 'green',
          },
          serviceUnmeasured('event_publish_error_total', 'in 15 min'),
        ],
      }),
      stat({
        title: 'Processed within (p95)',
        size: 36,
        description:
          'Of 100 events 95 are processed within it, counted from the commit, over the last five minutes. Red above the threshold.',
        unit: 's',
        at: [8, 0, 4, 5],
        runbooks: ['CounterfoilEventsSlow'],
        queries: [
          {
            refId: 'slow',
            expr: beyond(quantile(0.95, '5m'), 'event_duration_seconds'),
            legend: 'p95',
            colour: 'red',
          },
          {
            refId: 'fast',
            expr: within(quantile(0.95, '5m'), 'event_duration_seconds'),
            legend: 'p95',
            colour: 'green',
          },
          {
            refId: 'none',
            expr: `sum(rate(${ofService('event_duration_seconds_bucket', 'le="+Inf"')}[5m])) == 0`,
            legend: 'p95',
            words: { 0: ['no events', 'text'] },
          },
          serviceUnmeasured('event_duration_seconds_bucket', 'p95'),
        ],
      }),
      stat({
        title: 'In flight',
        description: 'Events in work now, of all that may be. Beyond the limit they wait, then stay pending.',
        unit: 'percentunit',
        at: [12, 0, 4, 5],
        decimals: 0,
        queries: [
          { refId: 'share', expr: `${inFlight} / (${room} > 0)`, legend: 'of the limit', colour: 'text' },
          {
            refId: 'waiting',
            expr: `sum(${ofService('counterfoil_events_waiting')})`,
            legend: 'waiting',
            unit: 'locale',
            colour: 'text',
          },
          serviceUnmeasured('counterfoil_events_in_flight', 'in flight'),
        ],
      }),
      list({
        title: 'Pods, by version',
        description: 'Pods of the service by pod template hash: ready, and not.',
        unit: 'locale',
        at: [16, 0, 4, 5],
        queries: [
          {
            refId: 'ready',
            expr: `${one('counterfoil_service_pods', ['published_hash'], 'ready="yes"')} > 0`,
            legend: '{{published_hash}}',
            colour: 'green',
          },
          {
            refId: 'unready',
            expr: `${one('counterfoil_service_pods', ['published_hash'], 'ready="no"')} > 0`,
            legend: '{{published_hash}}: not ready',
            colour: 'red',
          },
          notMeasured('counterfoil_service_pods', 'pods'),
        ],
      }),
      list({
        title: 'Versions of the service',
        description: 'Pods that are scraped, by the version they say they are.',
        unit: 'locale',
        at: [20, 0, 4, 5],
        queries: [
          {
            refId: 'pods',
            expr: `count by (service_version) (${ofService('counterfoil_service_info')})`,
            legend: '{{service_version}}',
            colour: 'text',
          },
          serviceUnmeasured('counterfoil_service_info', 'pods'),
        ],
      }),
      chart({
        title: 'Rate: events committed',
        description: 'Calls of publish whose transaction was committed, per second, by type of event.',
        unit: 'eps',
        at: [0, 5, 12, 8],
        queries: [
          {
            refId: 'committed',
            expr: rate(
              'event_published_total',
              ['event_type'],
              'status="committed",event_type!="undeclared"',
            ),
            legend: '{{event_type}}',
          },
        ],
      }),
      chart({
        title: 'Errors: what did not work',
        description:
          'Per second. publish refused or failed: the caller was told. processed failed, incomplete, outcome_unknown: the row stays pending, and replay takes it.',
        unit: 'eps',
        at: [12, 5, 12, 8],
        runbooks: ['EventPublishError'],
        queries: [
          {
            refId: 'publish',
            expr: `${rate('event_published_total', ['status'], 'status!="committed"')} > 0`,
            legend: 'publish {{status}}',
            colour: 'red',
            shades: true,
          },
          {
            refId: 'processed',
            expr: `${rate('event_processed_total', ['status'], 'status!="processed"')} > 0`,
            legend: 'processed {{status}}',
            colour: 'orange',
            shades: true,
          },
          none(
            'event_published_total',
            'status!="committed"',
            ` + sum(rate(${ofService('event_processed_total', 'status!="processed"')}[$__rate_interval]))`,
          ),
        ],
      }),
      chart({
        title: 'Duration: commit to processed',
        description:
          'Of all events, by the buckets of the histogram: half, 95 and 99 of 100 are processed within it. No line: no events.',
        unit: 's',
        at: [0, 13, 12, 8],
        runbooks: ['CounterfoilEventsSlow'],
        queries: [
          { refId: 'p50', expr: quantile(0.5, '$__rate_interval'), legend: 'p50', colour: 'green' },
          { refId: 'p95', expr: quantile(0.95, '$__rate_interval'), legend: 'p95', colour: 'blue' },
          { refId: 'p99', expr: quantile(0.99, '$__rate_interval'), legend: 'p99', colour: 'orange' },
          notDrawn(ofService('event_duration_seconds_bucket')),
          limit('event_duration_seconds', 'p95: limit'),
        ],
      }),
      chart({
        title: 'Left pending, by reason',
        description:
          'Events that a pod published and did not bring to their end, per second. Divided by those committed it is the loss of that pod; what dies with a pod is in no counter.',
        unit: 'eps',
        at: [12, 13, 12, 8],
        runbooks: ['EventLossRateHigh'],
        queries: [
          {
            refId: 'left',
            expr: `${rate('counterfoil_event_left_pending_total', ['reason'])} > 0`,
            legend: '{{reason}}',
            colour: 'orange',
            shades: true,
          },
          none('counterfoil_event_left_pending_total'),
        ],
      }),
      chart({
        title: 'Listeners that failed',
        description: 'Runs per second that threw, or ran past their deadline, by listener.',
        unit: 'ops',
        at: [0, 21, 8, 8],
        queries: [
          {
            refId: 'failed',
            expr: `${rate('counterfoil_listener_runs_total', ['listener', 'outcome'], 'outcome!="succeeded"')} > 0`,
            legend: '{{listener}} {{outcome}}',
            colour: 'orange',
            shades: true,
          },
          none('counterfoil_listener_runs_total', 'outcome!="succeeded"'),
        ],
      }),
      chart({
        title: 'In flight and waiting',
        description:
          'Events in work, those that wait for room, the limit of all pods together, and what drains have left in the 15 minutes before each point.',
        unit: 'locale',
        at: [8, 21, 8, 8],
        queries: [
          { refId: 'flight', expr: inFlight, legend: 'in flight', colour: 'blue' },
          {
            refId: 'waiting',
            expr: `sum(${ofService('counterfoil_events_waiting')})`,
            legend: 'waiting',
            colour: 'orange',
          },
          {
            refId: 'drain',
            expr: inAQuarter('counterfoil_drain_left_total'),
            legend: 'left by drains',
            colour: 'purple',
          },
          notDrawn(ofService('counterfoil_events_in_flight')),
          { refId: 'room', expr: room, legend: 'limit', limit: true },
        ],
      }),
      chart({
        title: 'Restarts in an hour, by version',
        description:
          'Restarts of the service’s containers in the hour before each point, by pod template hash.',
        unit: 'locale',
        at: [16, 21, 8, 8],
        runbooks: ['ApplicationRestart'],
        queries: [...restartsOfVersions('1h'), limit('restarts_per_hour', 'warns above')],
      }),
    ],
  });
