import { Inject, Injectable } from '@nestjs/common';
import { collectDefaultMetrics, Histogram, Registry } from 'prom-client';

/** Injection token of the process's one registry: the module counts into it as well. */
export const METRICS_REGISTRY = Symbol('metrics registry');

/** Injection token of what the module counts with. */
export const EVENT_METRICS = Symbol('event metrics');

/** A registry with the figures of the process itself. */
export function makeRegistry(): Registry {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  return registry;
}

/** Methods this service has routes for; whatever else a client sends makes no series of its own. */
const METHODS: ReadonlySet<string> = new Set(['GET', 'POST', 'DELETE']);

/** How long requests take, by route and not by path: a path holds ids, and there is no end to them. */
@Injectable()
export class HttpMetrics {
  private readonly seconds: Histogram<'method' | 'route' | 'status'>;

  constructor(@Inject(METRICS_REGISTRY) registry: Registry) {
    this.seconds = new Histogram({
      name: 'http_request_duration_seconds',
      help: 'Time from a request to the end of its answer, in seconds.',
      labelNames: ['method', 'route', 'status'],
      buckets: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5],
      registers: [registry],
    });
  }

  /** Counts an answered request; without a route it matched none. */
  observe(method: string, route: string | undefined, status: number, seconds: number): void {
    const labels = {
      method: METHODS.has(method) ? method : 'other',
      route: route ?? 'none',
      status: String(status),
    };
    this.seconds.observe(labels, seconds);
  }
}
