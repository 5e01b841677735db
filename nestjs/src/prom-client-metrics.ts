import { Counter, Gauge, Histogram, type Registry, register } from 'prom-client';
import {
  type EventMetrics,
  LEFT_PENDING_REASONS,
  LISTENER_OUTCOMES,
  type MetricsDeclaration,
  PROCESSED_STATUSES,
  PUBLISHED_STATUSES,
  REBUILD_OUTCOMES,
} from './metrics.js';
import { REPLAY_OUTCOMES } from './replay.js';

/** Upper bounds in seconds: 0.1 to 5 as agreed, finer ones below since an event normally takes milliseconds. */
export const DURATION_BUCKETS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5];

const words = (meanings: Readonly<Record<string, string>>): string =>
  Object.entries(meanings)
    .map(([word, meaning]) => `${word}: ${meaning}`)
    .join('. ');

/**
 * `EventMetrics` on prom-client. Registers its metrics in `registry` (prom-client's own by default), so that it can be
 * called once for each registry; give the same object to every module that shares one.
 */
export function promClientMetrics(registry: Registry = register): EventMetrics {
  const registers = [registry];
  const published = new Counter({
    name: 'event_published_total',
    help: `Calls of publish by event type and status. ${words(PUBLISHED_STATUSES)}.`,
    labelNames: ['event_type', 'status'],
    registers,
  });
  const publishErrors = new Counter({
    name: 'event_publish_error_total',
    help: 'Calls of publish that were refused or failed.',
    registers,
  });
  const processed = new Counter({
    name: 'event_processed_total',
    help: `Deliveries in which this process ran listeners, by event type and status. ${words(PROCESSED_STATUSES)}.`,
    labelNames: ['event_type', 'status'],
    registers,
  });
  const duration = new Histogram({
    name: 'event_duration_seconds',
    help: 'Seconds from the commit (of a replay: from its claim) until the event was processed.',
    labelNames: ['event_type'],
    buckets: DURATION_BUCKETS,
    registers,
  });
  const leftPending = new Counter({
    name: 'counterfoil_event_left_pending_total',
    help: `Events that this process published and left pending, by reason; divided by committed ones: its loss. ${words(LEFT_PENDING_REASONS)}.`,
    labelNames: ['event_type', 'reason'],
    registers,
  });
  const listenerRuns = new Counter({
    name: 'counterfoil_listener_runs_total',
    help: `Runs of listeners, live and replayed. ${words(LISTENER_OUTCOMES)}.`,
    labelNames: ['event_type', 'listener', 'outcome'],
    registers,
  });
  const drainLeft = new Counter({
    name: 'counterfoil_drain_left_total',
    help: 'Events still in work when shutdown stopped waiting for them. Seen only by a scrape after the drain.',
    registers,
  });
  const replays = new Counter({
    name: 'counterfoil_replay_results_total',
    help: `Results given to replays, by outcome. ${words(REPLAY_OUTCOMES)}.`,
    labelNames: ['outcome'],
    registers,
  });
  const rebuilds = new Counter({
    name: 'counterfoil_rebuilds_total',
    help: `Calls of the service's rebuild function. ${words(REBUILD_OUTCOMES)}.`,
    labelNames: ['outcome'],
    registers,
  });
  const limit = new Gauge({
    name: 'counterfoil_events_in_flight_limit',
    help: 'How many events may be in flight; beyond it they wait, and beyond what may wait they stay pending.',
    registers,
  });
  const info = new Gauge({
    name: 'counterfoil_service_info',
    help: 'Always 1; the version of the service.',
    labelNames: ['service_version'],
    registers,
  });
  const declared: MetricsDeclaration[] = [];
  new Gauge({
    name: 'counterfoil_events_in_flight',
    help: 'Events in work now, live and replayed.',
    registers,
    collect() {
      this.set(declared.reduce((sum, { inFlight }) => sum + inFlight(), 0));
    },
  });
  new Gauge({
    name: 'counterfoil_events_waiting',
    help: 'Events committed that wait for room among those in flight.',
    registers,
    collect() {
      this.set(declared.reduce((sum, { waiting }) => sum + waiting(), 0));
    },
  });

  return {
    declare(declaration: MetricsDeclaration) {
      for (const { eventType, listeners } of declaration.events) {
        for (const status of Object.keys(PUBLISHED_STATUSES))
          published.inc({ event_type: eventType, status }, 0);
        for (const status of Object.keys(PROCESSED_STATUSES))
          processed.inc({ event_type: eventType, status }, 0);
        for (const reason of Object.keys(LEFT_PENDING_REASONS)) {
          leftPending.inc({ event_type: eventType, reason }, 0);
        }
        duration.zero({ event_type: eventType });
        for (const listener of listeners) {
          for (const outcome of Object.keys(LISTENER_OUTCOMES)) {
            listenerRuns.inc({ event_type: eventType, listener, outcome }, 0);
          }
        }
      }
      for (const outcome of Object.keys(REPLAY_OUTCOMES)) replays.inc({ outcome }, 0);
      for (const outcome of Object.keys(REBUILD_OUTCOMES)) rebuilds.inc({ outcome }, 0);
      limit.set(declaration.maxInFlight);
      info.set({ service_version: declaration.serviceVersion }, 1);
      declared.push(declaration);
    },
    published(eventType, status) {
      published.inc({ event_type: eventType, status });
      if (status !== 'committed') publishErrors.inc();
    },
    processed(eventType, status) {
      processed.inc({ event_type: eventType, status });
    },
    duration(eventType, seconds) {
      duration.observe({ event_type: eventType }, seconds);
    },
    leftPending(eventType, reason) {
      leftPending.inc({ event_type: eventType, reason });
    },
    listenerRan(eventType, listener, outcome) {
      listenerRuns.inc({ event_type: eventType, listener, outcome });
    },
    drained(left) {
      drainLeft.inc(left);
    },
    replayed(outcome) {
      replays.inc({ outcome });
    },
    rebuilt(outcome) {
      rebuilds.inc({ outcome });
    },
  };
}
