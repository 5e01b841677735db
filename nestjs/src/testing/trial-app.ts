import 'reflect-metadata';
import type { AddressInfo } from 'node:net';
import type { INestApplication, LoggerService, Provider } from '@nestjs/common';
import { Module } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { EventEmitterModule } from '@nestjs/event-emitter';
import { Pool, type PoolClient } from 'pg';
import { CounterfoilModule } from '../counterfoil.module.js';
import { Deliveries } from '../deliveries.js';
import { EventPublisher } from '../event-publisher.js';
import type { CounterfoilOptions } from '../options.js';
import { pgDriver } from '../pg-driver.js';
import type { ReplayAnswer } from '../replay.js';
import type { SessionReplayAnswer } from '../replay-session.js';

/** The token of every trial application's replay endpoint. */
export const TOKEN = 'the-token-of-the-trial';

/** The event most tests publish. */
export const EVENT = 'services.session.completed.v1';

/** A lease long enough never to run out by itself in a test. */
const LEASE_MS = 60_000;

/** Log lines, each as one JSON text. */
export class LogLines implements LoggerService {
  lines: string[] = [];

  log(...line: unknown[]): void {
    this.add(line);
  }
  error(...line: unknown[]): void {
    this.add(line);
  }
  warn(...line: unknown[]): void {
    this.add(line);
  }
  debug(...line: unknown[]): void {
    this.add(line);
  }
  fatal(...line: unknown[]): void {
    this.add(line);
  }

  private add(line: unknown[]): void {
    const plain = (_key: string, value: unknown): unknown =>
      value instanceof Error ? `${value.message} ${value.stack}` : value;
    this.lines.push(JSON.stringify(line, plain));
  }
}

// Nest has one logger per process: every trial application of a test file writes here.
const log = new LogLines();

/** An answer over HTTP. */
export interface Answer {
  status: number;
  /** The header counterfoil-outcome. */
  outcome: string | null;
  body: ReplayAnswer & Partial<SessionReplayAnswer> & { message?: unknown };
}

/** An application with the module and the given listeners, on a real database, listening on a real port. */
export interface Trial {
  app: INestApplication;
  pool: Pool;
  publisher: EventPublisher<PoolClient>;
  deliveries: Deliveries;
  /** The lines of all trial applications of this file. */
  log: LogLines;
  /** Publishes one event in a transaction of its own and gives its id. */
  publish(payload?: unknown, name?: string): Promise<string>;
  /** Replays these ids with the right token. */
  replay(eventIds: readonly string[], more?: object): Promise<Answer>;
  /** Replays this session with the right token. */
  replaySession(sessionId: string, more?: object): Promise<Answer>;
  /** Posts anything to the replay endpoint, or to what stands below it. */
  post(body: unknown, headers?: Record<string, string>, below?: string): Promise<Answer>;
  stop(): Promise<void>;
}

/** Starts a trial application; `listeners` are provider classes with backed listeners. */
export async function startTrial(
  url: string,
  listeners: readonly Provider[],
  options: Partial<CounterfoilOptions> = {},
): Promise<Trial> {
  const pool = new Pool({ connectionString: url, max: 5 });

  @Module({
    imports: [
      EventEmitterModule.forRoot(),
      CounterfoilModule.forRoot({
        driver: pgDriver(pool),
        serviceVersion: '1.2.3',
        replayToken: TOKEN,
        listenerLeaseMs: LEASE_MS,
        ...options,
      }),
    ],
    providers: [...listeners],
  })
  class TrialModule {}

  const app = await NestFactory.create(TrialModule, { logger: log, abortOnError: false }).catch(
    async (error) => {
      await pool.end();
      throw error;
    },
  );
  try {
    await app.listen(0, '127.0.0.1');
  } catch (error) {
    await pool.end();
    throw error;
  }
  const { port } = app.getHttpServer().address() as AddressInfo;
  const publisher = app.get<EventPublisher<PoolClient>>(EventPublisher);
  const post: Trial['post'] = async (body, headers = { authorization: `Bearer ${TOKEN}` }, below = '') => {
    const response = await fetch(`http://127.0.0.1:${port}/admin/events/replay${below}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...headers },
      body: typeof body === 'string' ? body : JSON.stringify(body),
    });
    const outcome = response.headers.get('counterfoil-outcome');
    return { status: response.status, outcome, body: (await response.json()) as Answer['body'] };
  };
  return {
    app,
    pool,
    publisher,
    deliveries: app.get(Deliveries),
    log,
    publish: (payload = {}, name = EVENT) =>
      publisher.transaction((tx) => publisher.publish(tx, { name, payload })),
    replay: (eventIds, more = {}) => post({ eventIds, ...more }),
    replaySession: (sessionId, more = {}) => post(more, undefined, `/${encodeURIComponent(sessionId)}`),
    post,
    async stop() {
      await app.close();
      await pool.end();
    },
  };
}

/** A signal that a test opens: what waits on it goes on. */
export interface Gate {
  opened: Promise<void>;
  open(): void;
}

/** A closed gate. */
export function gate(): Gate {
  const { promise, resolve } = Promise.withResolvers<void>();
  return { opened: promise, open: resolve };
}

/** Asks again until `probe` gives something, for ten seconds at most; `what` names what never came. */
export async function eventually<Result>(
  what: string,
  probe: () => Promise<Result | undefined | false> | Result | undefined | false,
): Promise<Result> {
  for (const endsAt = performance.now() + 10_000; performance.now() < endsAt; ) {
    const result = await probe();
    if (result !== undefined && result !== false) return result;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  throw new Error(`never came: ${what}`);
}
