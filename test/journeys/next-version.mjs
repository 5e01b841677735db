/**
 * The next version of a service, as small as it can be: a process of its own on the module as it is built, whose one
 * listener takes an event version that the reference service does not know, and bills it.
 */
import 'reflect-metadata';
import { Module } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { EventEmitterModule } from '@nestjs/event-emitter';
import { Pool } from 'pg';
import { CounterfoilModule, OnBackedEvent, pgDriver } from '../../nestjs/dist/index.js';

const pool = new Pool({ connectionString: process.env.DATABASE_URL, max: 3 });

class Billing {
  async onCompleted({ sessionId }) {
    await pool.query(
      `insert into mentor_payable_ledgers (session_id, mentor_id, amount_minor, currency, idempotency_key)
       values ($1::uuid, 'mentor-1', 12500, 'EUR', 'session:' || $1::uuid || ':1') on conflict do nothing`,
      [sessionId],
    );
  }
}
// No syntax of decorators here: the file runs as it stands.
const method = Object.getOwnPropertyDescriptor(Billing.prototype, 'onCompleted');
OnBackedEvent('services.session.completed.v2')(Billing.prototype, 'onCompleted', method);

class NextVersion {}
Module({
  imports: [
    EventEmitterModule.forRoot(),
    CounterfoilModule.forRoot({
      driver: pgDriver(pool),
      serviceVersion: '2.0.0',
      replayToken: process.env.REPLAY_TOKEN,
    }),
  ],
  providers: [Billing],
})(NextVersion);

const app = await NestFactory.create(NextVersion, { logger: false });
await app.listen(0, '127.0.0.1');
process.stdout.write(`{"listening":${app.getHttpServer().address().port}}\n`);
