import { Controller, Get, Injectable, Module } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { HealthCheck, HealthCheckService, TerminusModule } from '@nestjs/terminus';
import { Pool } from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';
import { CounterfoilModule } from './counterfoil.module.js';
import { CounterfoilHealth } from './health.js';
import { OnBackedEvent } from './on-backed-event.js';
import { pgDriver } from './pg-driver.js';
import { EVENT, eventually, gate, startTrial, type Trial } from './testing/trial-app.js';

let bill: () => Promise<void> | void;

@Injectable()
class Billing {
  @OnBackedEvent(EVENT)
  async bill(): Promise<void> {
    await bill();
  }
}

let database: TestDatabase;
beforeAll(async () => {
  database = await createTestDatabase();
});
afterAll(async () => {
  await database?.drop();
});

let trial: Trial;
let health: CounterfoilHealth;
beforeEach(async () => {
  bill = () => undefined;
  trial = await startTrial(database.url, [Billing], { maxInFlight: 1, maxWaiting: 4 });
  health = trial.app.get(CounterfoilHealth);
});
afterEach(async () => {
  await trial.stop();
});

const UP = { counterfoil: { status: 'up', inFlight: 0 } };

test('a service at rest is live and ready, under the name it is asked by', async () => {
  expect(health.live()).toEqual(UP);
  expect(await health.ready()).toEqual(UP);
  expect(await health.ready('events')).toEqual({ events: { status: 'up', inFlight: 0 } });
  expect(await health.refuseUnlessUp(health.ready())).toEqual(UP);
});

test('a database that refuses makes it not ready, and live all the same', async () => {
  await trial.pool.end();
  trial.pool.end = async () => undefined;
  expect(await health.ready()).toEqual({ counterfoil: { status: 'down', reason: 'database', inFlight: 0 } });
  expect(health.live()).toEqual(UP);
  await expect(health.refuseUnlessUp(health.ready())).rejects.toMatchObject({
    status: 503,
    response: { counterfoil: { status: 'down', reason: 'database' } },
  });
});

test('a database that hangs makes it not ready within a second, and is asked once', async () => {
  const holder = await trial.pool.connect();
  let statements = 0;
  const hanging = gate();
  const pool = new Pool({ connectionString: database.url });
  const inner = pgDriver(pool);
  const hung = await startTrial(database.url, [Billing], {
    driver: {
      transaction: (work) => inner.transaction(work),
      async run(sql, params) {
        if (sql.includes('probe')) {
          statements += 1;
          await hanging.opened;
        }
        return await inner.run(sql, params);
      },
    },
  });
  try {
    const probes = hung.app.get(CounterfoilHealth);
    const startedAt = performance.now();
    const down = { counterfoil: { status: 'down', reason: 'database', inFlight: 0 } };
    expect(await Promise.all([probes.ready(), probes.ready(), probes.ready()])).toEqual([down, down, down]);
    expect(performance.now() - startedAt).toBeLessThan(1_000);
    expect(statements).toBe(1);
    hanging.open();
    await eventually('ready again', async () => (await probes.ready()).counterfoil.status === 'up');
  } finally {
    holder.release();
    await hung.stop();
    await pool.end();
  }
});

test('a queue for a moment is no overload, one at every look for five seconds is, until there is room', async () => {
  const slow = gate();
  bill = () => slow.opened;
  for (let count = 0; count < 2; count += 1) await trial.publish();
  await eventually('one in flight, one waits', () => trial.deliveries.waiting === 1);
  const at = async (now: number) => (await health.ready('counterfoil', now)).counterfoil;
  expect(await at(0)).toEqual({ status: 'up', inFlight: 1 });
  expect(await at(60_000)).toEqual({ status: 'up', inFlight: 1 });
  await trial.publish();
  await eventually('two wait', () => trial.deliveries.waiting === 2);
  expect(await at(101_000)).toEqual({ status: 'up', inFlight: 1 });
  expect(await at(105_999)).toEqual({ status: 'up', inFlight: 1 });
  expect(await at(106_000)).toEqual({ status: 'down', reason: 'overloaded', inFlight: 1 });
  expect(health.live().counterfoil.status).toBe('up');
  slow.open();
  await eventually('idle', () => trial.deliveries.inFlight === 0);
  expect(await health.ready()).toEqual(UP);
});

test('shutdown makes it not ready before the server closes, and live to the end', async () => {
  let during: unknown;
  const pool = new Pool({ connectionString: database.url });

  @Controller('probe')
  class Probe {
    constructor(readonly probes: CounterfoilHealth) {}
    async beforeApplicationShutdown(): Promise<void> {
      during = [await this.probes.ready(), this.probes.live()];
    }
  }
  Reflect.defineMetadata('design:paramtypes', [CounterfoilHealth], Probe);
  @Module({
    imports: [CounterfoilModule.forRoot({ driver: pgDriver(pool), serviceVersion: '1' })],
    controllers: [Probe],
  })
  class Service {}
  const app = await NestFactory.create(Service, { logger: false });
  await app.listen(0, '127.0.0.1');
  await app.close();
  await pool.end();
  expect(during).toEqual([{ counterfoil: { status: 'down', reason: 'stopping', inFlight: 0 } }, UP]);
});

describe('as an indicator of @nestjs/terminus', () => {
  test('it makes the check ok, and an error with its reason when it is down', async () => {
    const pool = new Pool({ connectionString: database.url });

    @Controller('health')
    class HealthController {
      constructor(
        readonly check: HealthCheckService,
        readonly probes: CounterfoilHealth,
      ) {}
      @Get()
      @HealthCheck()
      async ready() {
        return await this.check.check([() => this.probes.ready(), () => this.probes.live('process')]);
      }
    }
    Reflect.defineMetadata('design:paramtypes', [HealthCheckService, CounterfoilHealth], HealthController);
    @Module({
      imports: [
        TerminusModule.forRoot({ logger: false }),
        CounterfoilModule.forRoot({ driver: pgDriver(pool), serviceVersion: '1' }),
      ],
      controllers: [HealthController],
    })
    class Service {}
    const app = await NestFactory.create(Service, { logger: false });
    await app.listen(0, '127.0.0.1');
    const ask = async () => {
      const response = await fetch(`${await app.getUrl()}/health`);
      return { status: response.status, body: await response.json() };
    };
    try {
      expect(await ask()).toMatchObject({
        status: 200,
        body: { status: 'ok', info: { ...UP, process: { status: 'up' } } },
      });
      await pool.end();
      expect(await ask()).toMatchObject({
        status: 503,
        body: { status: 'error', error: { counterfoil: { status: 'down', reason: 'database' } } },
      });
    } finally {
      await app.close();
    }
  });
});
