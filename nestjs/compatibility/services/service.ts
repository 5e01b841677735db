import 'reflect-metadata';
import { createInterface } from 'node:readline';
import {
  type BackedDelivery,
  type CounterfoilDriver,
  CounterfoilModule,
  Deliveries,
  EventPublisher,
  OnBackedEvent,
} from '@counterfoil/nestjs';
import {
  Body,
  Controller,
  Injectable,
  Module,
  type OnApplicationShutdown,
  Param,
  Post,
} from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { EventEmitterModule } from '@nestjs/event-emitter';

/** A service's database, opened through one ORM. */
export interface Database<Handle> {
  driver: CounterfoilDriver<Handle>;
  /** Writes one row by the ORM's own means. */
  insert(handle: Handle, table: 'completions' | 'bills', id: string): Promise<unknown>;
  close(): Promise<void>;
}

interface SessionCompleted {
  sessionId: string;
  hold?: boolean;
}

const say = (line: object): boolean => process.stdout.write(`trial ${JSON.stringify(line)}\n`);

/** Runs a service that completes sessions and bills each in a backed listener. */
export async function serve<Handle>(database: Database<Handle>): Promise<void> {
  const input = createInterface({ input: process.stdin });

  // Injected by class, through the metadata the compiler emits: as services are written.
  @Injectable()
  class Billing {
    constructor(private readonly publisher: EventPublisher<Handle>) {}

    @OnBackedEvent('services.session.completed.v1')
    async bill({ sessionId, hold }: SessionCompleted, _delivery: BackedDelivery): Promise<void> {
      if (hold) {
        say({ holding: sessionId });
        await new Promise((resolve) => input.once('line', resolve));
      }
      await this.publisher.transaction((tx) => database.insert(tx.handle, 'bills', sessionId));
    }
  }

  @Controller('sessions')
  class Sessions {
    constructor(private readonly publisher: EventPublisher<Handle>) {}

    @Post(':id/complete')
    async complete(
      @Param('id') sessionId: string,
      @Body() { hold, refuse }: { hold?: boolean; refuse?: boolean },
    ): Promise<{ eventId: string }> {
      const eventId = await this.publisher.transaction(async (tx) => {
        await database.insert(tx.handle, 'completions', sessionId);
        const payload = hold ? { sessionId, hold } : { sessionId };
        const id = await this.publisher.publish(tx, { name: 'services.session.completed.v1', payload });
        if (refuse) throw new Error('refused after publish');
        return id;
      });
      return { eventId };
    }
  }

  @Injectable()
  class DatabaseCloser implements OnApplicationShutdown {
    constructor(private readonly deliveries: Deliveries) {}

    async onApplicationShutdown(): Promise<void> {
      await this.deliveries.drain();
      await database.close();
      say({ closed: true });
    }
  }

  @Module({
    imports: [
      EventEmitterModule.forRoot(),
      CounterfoilModule.forRoot({
        driver: database.driver,
        serviceVersion: '1.0.0',
        replayToken: process.env.REPLAY_TOKEN,
      }),
    ],
    controllers: [Sessions],
    providers: [Billing, DatabaseCloser],
  })
  class TrialModule {}

  const app = await NestFactory.create(TrialModule);
  app.enableShutdownHooks();
  await app.listen(0, '127.0.0.1');
  say({ url: await app.getUrl(), node: process.version });
}

/** The URL of the service's database. */
export const databaseUrl = (): string => {
  const url = process.env.DATABASE_URL;
  if (url === undefined) throw new Error('DATABASE_URL is not set');
  return url;
};
