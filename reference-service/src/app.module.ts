import { CounterfoilModule, Deliveries, type EventMetrics } from '@counterfoil/nestjs';
import { drizzleDriver } from '@counterfoil/nestjs/drizzle';
import { promClientMetrics } from '@counterfoil/nestjs/prom-client';
import {
  type DynamicModule,
  Global,
  Inject,
  Injectable,
  Module,
  type OnApplicationShutdown,
} from '@nestjs/common';
import { APP_FILTER } from '@nestjs/core';
import { EventEmitterModule } from '@nestjs/event-emitter';
import type { Logger } from 'pino';
import { AdminTokenGuard } from './admin-token.guard.js';
import { CorrectionsController } from './billing/corrections.controller.js';
import { Corrections } from './billing/corrections.js';
import { MentorPayables } from './billing/mentor-payables.js';
import { SessionBilling } from './billing/session-billing.js';
import { rebuildFrom } from './billing/session-rebuild.js';
import { ContractListeners } from './contracts/contract-listeners.js';
import { ContractService } from './contracts/contract-service.js';
import { ContractsController } from './contracts/contracts.controller.js';
import { DATABASE, type Database, DatabaseModule, STATEMENT_TIMEOUT_MS } from './database.module.js';
import { ACCEPTED_PAYLOADS, PUBLISHED_EVENTS } from './events.js';
import { FaultInjector } from './faults/fault-injector.js';
import { FaultsController } from './faults/faults.controller.js';
import { HealthController, Readiness } from './health/health.controller.js';
import { HttpRefusals } from './http-refusals.js';
import { EVENT_METRICS, HttpMetrics, METRICS_REGISTRY, makeRegistry } from './metrics/http-metrics.js';
import { MetricsController } from './metrics/metrics.controller.js';
import { Requests } from './requests.js';
import { LOG } from './service-log.js';
import { SessionService } from './sessions/session-service.js';
import { SessionsController } from './sessions/sessions.controller.js';
import { SETTINGS, type Settings } from './settings.js';

/** Closes the pool last: listeners in work need it, and so does the record of their outcome. */
@Injectable()
class PoolCloser implements OnApplicationShutdown {
  constructor(
    @Inject(DATABASE) private readonly database: Database,
    @Inject(Deliveries) private readonly deliveries: Deliveries,
  ) {}

  async onApplicationShutdown(): Promise<void> {
    await this.deliveries.drain();
    await this.database.$client.end();
  }
}

@Global()
@Module({})
class SettingsModule {
  static of(settings: Settings, log: Logger): DynamicModule {
    const providers = [
      { provide: SETTINGS, useValue: settings },
      { provide: LOG, useValue: log },
      // Here, since both the driver and the domains must fail on demand.
      FaultInjector,
      { provide: METRICS_REGISTRY, useFactory: makeRegistry },
      { provide: EVENT_METRICS, inject: [METRICS_REGISTRY], useFactory: promClientMetrics },
    ];
    return {
      module: SettingsModule,
      providers,
      exports: [SETTINGS, LOG, FaultInjector, METRICS_REGISTRY, EVENT_METRICS],
    };
  }
}

/** The whole service. */
@Module({})
// biome-ignore lint/complexity/noStaticOnlyClass: a Nest module is a class, and its settings reach it by a static method.
export class AppModule {
  static of(settings: Settings, log: Logger): DynamicModule {
    return {
      module: AppModule,
      imports: [
        SettingsModule.of(settings, log),
        DatabaseModule,
        EventEmitterModule.forRoot(),
        CounterfoilModule.forRootAsync({
          inject: [DATABASE, FaultInjector, EVENT_METRICS],
          useFactory: (database: Database, faults: FaultInjector, metrics: EventMetrics) => ({
            driver: faults.within(drizzleDriver(database, { statementTimeoutMs: STATEMENT_TIMEOUT_MS })),
            serviceVersion: settings.serviceVersion,
            replayToken: settings.replayToken,
            publishedBy: settings.podName,
            publishedHash: settings.podTemplateHash,
            publishes: PUBLISHED_EVENTS,
            accepts: ACCEPTED_PAYLOADS,
            rebuild: rebuildFrom(database),
            metrics,
            listenerLeaseMs: settings.listenerLeaseMs,
            drainDeadlineMs: settings.drainDeadlineMs,
            maxInFlight: settings.maxInFlight,
          }),
        }),
      ],
      controllers: [
        SessionsController,
        ContractsController,
        HealthController,
        MetricsController,
        ...(settings.replayToken === undefined ? [] : [CorrectionsController]),
        ...(settings.faults ? [FaultsController] : []),
      ],
      providers: [
        SessionService,
        SessionBilling,
        ContractService,
        ContractListeners,
        MentorPayables,
        Corrections,
        AdminTokenGuard,
        HttpMetrics,
        Requests,
        Readiness,
        PoolCloser,
        { provide: APP_FILTER, useClass: HttpRefusals },
      ],
    };
  }
}
