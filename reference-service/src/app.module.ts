import { CounterfoilModule, Deliveries } from '@counterfoil/nestjs';
import { drizzleDriver } from '@counterfoil/nestjs/drizzle';
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
import { SessionBilling } from './billing/session-billing.js';
import { DATABASE, type Database, DatabaseModule, STATEMENT_TIMEOUT_MS } from './database.module.js';
import { FaultInjector } from './faults/fault-injector.js';
import { FaultsController } from './faults/faults.controller.js';
import { HealthController, Readiness } from './health/health.controller.js';
import { HttpRefusals } from './http-refusals.js';
import { LOG } from './service-log.js';
import { SESSION_COMPLETED, sessionCompleted } from './sessions/session-completed.js';
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
    ];
    return { module: SettingsModule, providers, exports: [SETTINGS, LOG, FaultInjector] };
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
          inject: [DATABASE, FaultInjector],
          useFactory: (database: Database, faults: FaultInjector) => ({
            driver: faults.within(drizzleDriver(database, { statementTimeoutMs: STATEMENT_TIMEOUT_MS })),
            serviceVersion: settings.serviceVersion,
            replayToken: settings.replayToken,
            publishedBy: settings.podName,
            publishedHash: settings.podTemplateHash,
            accepts: { [SESSION_COMPLETED]: (payload) => sessionCompleted.safeParse(payload).success },
            listenerLeaseMs: settings.listenerLeaseMs,
            drainDeadlineMs: settings.drainDeadlineMs,
            maxInFlight: settings.maxInFlight,
          }),
        }),
      ],
      controllers: [SessionsController, HealthController, ...(settings.faults ? [FaultsController] : [])],
      providers: [
        SessionService,
        SessionBilling,
        Readiness,
        PoolCloser,
        { provide: APP_FILTER, useClass: HttpRefusals },
      ],
    };
  }
}
