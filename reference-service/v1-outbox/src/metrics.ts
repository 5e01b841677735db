import { Counter, collectDefaultMetrics, Histogram, Registry } from 'prom-client';
import { SESSION_COMPLETED } from './session-completed.js';

/** The plan's series, with the names, labels and words of the successor's, so that a canary compares like with like. */
export class Metrics {
  readonly registry = new Registry();

  private readonly publishedTotal = new Counter({
    name: 'event_published_total',
    help: 'Events by how their publication ended: committed, or failed with its transaction.',
    labelNames: ['event_type', 'status'],
    registers: [this.registry],
  });
  private readonly publishErrors = new Counter({
    name: 'event_publish_error_total',
    help: 'Publications that failed.',
    registers: [this.registry],
  });
  private readonly processedTotal = new Counter({
    name: 'event_processed_total',
    help: 'Deliveries by how they ended: processed, failed, or outcome_unknown where that could not be recorded.',
    labelNames: ['event_type', 'status'],
    registers: [this.registry],
  });
  private readonly durationSeconds = new Histogram({
    name: 'event_duration_seconds',
    help: 'Seconds from the publication of an event to its being processed.',
    labelNames: ['event_type'],
    // The plan's buckets, finer ones below, and above them what a poll of 30 s makes of it.
    buckets: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 30, 60, 120],
    registers: [this.registry],
  });

  private readonly requestSeconds = new Histogram({
    name: 'http_request_duration_seconds',
    help: 'Time from a request to its answer, in seconds.',
    labelNames: ['method', 'route', 'status'],
    buckets: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5],
    registers: [this.registry],
  });

  constructor() {
    collectDefaultMetrics({ register: this.registry });
    // Every label set exists at 0 from the start.
    for (const status of ['committed', 'refused', 'failed'])
      this.publishedTotal.inc({ event_type: SESSION_COMPLETED, status }, 0);
    for (const status of ['processed', 'failed', 'incomplete', 'outcome_unknown'])
      this.processedTotal.inc({ event_type: SESSION_COMPLETED, status }, 0);
    this.durationSeconds.zero({ event_type: SESSION_COMPLETED });
  }

  /** Once for each completion: its transaction was committed, or the database refused it. */
  published(status: 'committed' | 'failed'): void {
    this.publishedTotal.inc({ event_type: SESSION_COMPLETED, status });
    if (status === 'failed') this.publishErrors.inc();
  }

  /** Once for each delivery of an event that was claimed. */
  processed(status: 'processed' | 'failed' | 'outcome_unknown', count = 1): void {
    this.processedTotal.inc({ event_type: SESSION_COMPLETED, status }, count);
  }

  /** With each `processed('processed')`. */
  duration(seconds: number): void {
    this.durationSeconds.observe({ event_type: SESSION_COMPLETED }, seconds);
  }

  /** An answered request, by route and not by path: a path holds ids, and there is no end to them. */
  answered(method: 'GET' | 'POST' | 'other', route: string, status: number, seconds: number): void {
    this.requestSeconds.observe({ method, route, status: String(status) }, seconds);
  }
}
