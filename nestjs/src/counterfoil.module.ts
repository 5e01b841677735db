import {
  type DynamicModule,
  type FactoryProvider,
  Module,
  type ModuleMetadata,
  type Provider,
} from '@nestjs/common';
import { DiscoveryModule } from '@nestjs/core';
import { Deliveries } from './deliveries.js';
import { EventPublisher } from './event-publisher.js';
import { CounterfoilHealth } from './health.js';
import { ListenerRegistry } from './listener-registry.js';
import { BoundedMetrics, METRICS, NO_METRICS } from './metrics.js';
import { MetricsStart } from './metrics-start.js';
import { type CounterfoilOptions, OPTIONS, type ResolvedOptions, resolveOptions } from './options.js';
import { PendingEventsController } from './pending-events.controller.js';
import { PendingEvents } from './pending-events.js';
import { ReplayController, ReplayTokenGuard } from './replay.controller.js';
import { Replay } from './replay.js';
import { SessionReplay } from './replay-session.js';

/** Options that need other providers, such as a pool. */
export interface CounterfoilAsyncOptions {
  /** Modules whose providers the factory needs. */
  imports?: NonNullable<ModuleMetadata['imports']>;
  inject?: NonNullable<FactoryProvider['inject']>;
  // biome-ignore lint/suspicious/noExplicitAny: Nest cannot know what `inject` resolves to.
  useFactory(...dependencies: any[]): CounterfoilOptions | Promise<CounterfoilOptions>;
}

/** Backed events for a Nest application; global, so that every module can inject `EventPublisher`. */
@Module({})
// biome-ignore lint/complexity/noStaticOnlyClass: a Nest module is a class, and its settings reach it by a static method.
export class CounterfoilModule {
  /** With options at hand. Throws OptionsRefusedError. Without `replayToken` no endpoint is registered. */
  static forRoot(options: CounterfoilOptions): DynamicModule {
    const resolved = resolveOptions(options);
    return assemble({ provide: OPTIONS, useValue: resolved }, [], resolved.replayToken !== undefined);
  }

  /**
   * With options from a factory; refused options reject the start with OptionsRefusedError. Whether there is a token
   * is known too late to leave the endpoint out, so that without one it answers as if it were not there.
   */
  static forRootAsync({ imports = [], inject = [], useFactory }: CounterfoilAsyncOptions): DynamicModule {
    const options: FactoryProvider = {
      provide: OPTIONS,
      inject,
      useFactory: async (...dependencies: unknown[]) => resolveOptions(await useFactory(...dependencies)),
    };
    return assemble(options, imports, true);
  }
}

const metrics: FactoryProvider<BoundedMetrics> = {
  provide: METRICS,
  inject: [OPTIONS],
  useFactory: ({ metrics, publishes }: ResolvedOptions) =>
    new BoundedMetrics(metrics ?? NO_METRICS, publishes),
};

function assemble(
  options: Provider,
  imports: NonNullable<ModuleMetadata['imports']>,
  withEndpoint: boolean,
): DynamicModule {
  return {
    module: CounterfoilModule,
    global: true,
    imports: [DiscoveryModule, ...imports],
    controllers: withEndpoint ? [ReplayController, PendingEventsController] : [],
    // MetricsStart after the registry, whose listeners it declares.
    providers: [
      options,
      metrics,
      ListenerRegistry,
      Deliveries,
      MetricsStart,
      EventPublisher,
      Replay,
      SessionReplay,
      PendingEvents,
      ReplayTokenGuard,
      CounterfoilHealth,
    ],
    exports: [EventPublisher, Deliveries, PendingEvents, CounterfoilHealth],
  };
}
