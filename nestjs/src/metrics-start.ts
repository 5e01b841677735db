import { Inject, Injectable, type OnModuleInit } from '@nestjs/common';
import { Deliveries } from './deliveries.js';
import { ListenerRegistry } from './listener-registry.js';
import { type EventMetrics, METRICS } from './metrics.js';
import { OPTIONS, type ResolvedOptions } from './options.js';

/** Declares to the metrics everything that can be counted, so that every label set stands at 0 from the start. */
@Injectable()
export class MetricsStart implements OnModuleInit {
  constructor(
    @Inject(OPTIONS) private readonly options: ResolvedOptions,
    @Inject(ListenerRegistry) private readonly registry: ListenerRegistry,
    @Inject(Deliveries) private readonly deliveries: Deliveries,
    @Inject(METRICS) private readonly metrics: EventMetrics,
  ) {}

  onModuleInit(): void {
    const { serviceVersion, maxInFlight, publishes = [] } = this.options;
    const eventTypes = [...new Set([...publishes, ...this.registry.eventNames()])].sort();
    this.metrics.declare({
      serviceVersion,
      maxInFlight,
      events: eventTypes.map((eventType) => ({
        eventType,
        listeners: this.registry.listenersOf(eventType).map(({ name }) => name),
      })),
      inFlight: () => this.deliveries.inFlight,
      waiting: () => this.deliveries.waiting,
    });
  }
}
