import type { AddressInfo } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { Pool } from 'pg';
import type { Logger } from 'pino';
import { makeServer } from './http-server.js';
import { Metrics } from './metrics.js';
import { OutboxPublisher } from './outbox-publisher.js';
import { Sessions } from './sessions.js';
import type { Settings } from './settings.js';

/** The running predecessor. */
export interface Service {
  port: number;
  /**
   * Not ready at once; after the pause the server closes and the batch in work ends, within the deadline. What is left
   * then stays `processing` and is taken up as stuck.
   */
  stop(): Promise<void>;
}

/** No statement of this service takes longer unless something is wrong. */
const QUERY_TIMEOUT_MS = 15_000;

/** Starts server and publisher; rejects where the port is taken. */
export async function startService(settings: Settings, log: Logger): Promise<Service> {
  const pool = new Pool({
    connectionString: settings.databaseUrl,
    max: settings.poolSize,
    application_name: `v1-outbox ${settings.podName}`.slice(0, 63),
    connectionTimeoutMillis: 5_000,
    // No statement_timeout: it is sent with the connection, where PgBouncer refuses it.
    query_timeout: QUERY_TIMEOUT_MS,
    keepAlive: true,
  });
  // Without listeners the loss of a connection, idle or in a transaction, would end this process.
  const onLost = (error: Error): void =>
    log.warn({ err: error }, 'A connection was lost; the pool replaces it');
  pool.on('error', onLost);
  pool.on('connect', (client) => client.on('error', onLost));
  const metrics = new Metrics();
  const publisher = new OutboxPublisher(pool, settings, metrics, log);
  let stopping = false;
  const server = makeServer({
    pool,
    metrics,
    log,
    sessions: new Sessions(pool, metrics),
    isStopping: () => stopping,
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject).listen(settings.port, settings.host, resolve);
  });
  publisher.start();

  const stop = async (): Promise<void> => {
    stopping = true;
    await delay(settings.shutdownPauseMs);
    const closed = new Promise((resolve) => server.close(resolve));
    const deadline = new AbortController();
    const inTime = await Promise.race([
      Promise.all([closed, publisher.stop()])
        .then(() => pool.end())
        .then(() => true),
      delay(settings.drainDeadlineMs, false, { signal: deadline.signal }),
    ]);
    deadline.abort();
    if (inTime) log.info('Every event in work is done');
    else log.warn('Stopping with events in work; their rows are taken up when their claim has run out');
  };
  return { port: (server.address() as AddressInfo).port, stop };
}
