/** The exporter as a process: collections, watches and the server, until SIGTERM. Ends for nothing that may pass. */
import { readChecks } from '../checks/parse.ts';
import type { Settings } from '../runtime/config.ts';
import { RunFailure } from '../runtime/failures.ts';
import { bundleVersion, type Job } from '../runtime/run-job.ts';
import { type CollectionLoop, Collector } from './collect.ts';
import type { Watches } from './collection.ts';
import { type ExporterContext, exporterSettings } from './env.ts';
import { readEvents } from './events.ts';
import { Gate } from './gate.ts';
import { HotCheck } from './hot-check.ts';
import { SeriesCache } from './series-cache.ts';
import { startServer } from './server.ts';
import { ServiceTables } from './service-tables.ts';
import { StateCollection } from './state.ts';

export const exporterJob: Job<typeof exporterSettings> = {
  name: 'exporter',
  settings: exporterSettings,
  mode: () => 'continuous',
  // Its role writes requests and the audit alone: it has no record of its own, and none is needed, since it is scraped.
  hasState: () => false,
  exitsOnFindings: () => false,
  async run(context) {
    const { settings, database, logger, signal } = context;
    refuseContradictions(settings);
    const tables = new ServiceTables(
      database,
      {
        eventsTable: settings.CF_EVENTS_TABLE,
        deliveriesTable: settings.CF_DELIVERIES_TABLE,
        timeZone: settings.CF_SERVICE_TIME_ZONE,
      },
      readChecks(settings.CF_CHECKS_FILE),
    );
    const cache = new SeriesCache(
      {
        installation: settings.CF_INSTALLATION,
        version: bundleVersion,
        maxAgeMs: settings.CF_MAX_AGE_SECONDS,
      },
      settings.CF_ROLLOUT_NAME === undefined
        ? ['state', 'events', 'hot_check']
        : ['state', 'events', 'hot_check', 'rollout', 'pods'],
    );
    const halt = new AbortController();
    const stop = AbortSignal.any([signal, halt.signal]);
    const collectors = collectorsOf(context, tables, cache, stop);
    let watches: Watches | undefined;
    const view = () => watches?.view();
    const gate = new Gate(
      database,
      tables,
      {
        installation: settings.CF_INSTALLATION,
        windowMs: settings.CF_GATE_WINDOW_SECONDS,
        lossDelayMs: settings.CF_LOSS_DELAY_SECONDS,
        statementTimeoutMs: settings.CF_STATEMENT_TIMEOUT_MILLISECONDS,
        thresholds: {
          billingShare: settings.CF_GATE_BILLING_PER_MILLE / 1000,
          lossShare: settings.CF_GATE_LOSS_PER_MILLE / 1000,
          minimumBad: settings.CF_GATE_MINIMUM_BAD,
          minimumJudged: settings.CF_GATE_MINIMUM_JUDGED,
          sample: settings.CF_GATE_SAMPLE,
        },
      },
      view,
    );
    const server = await startServer(
      {
        render: async () => await cache.render(),
        hanging: () => collectors.filter(({ turns }) => !turns).map(({ collection }) => collection),
        untried: () => collectors.filter(({ attempted }) => !attempted).map(({ collection }) => collection),
        view,
        gate: async (hash) =>
          await gate.ask(
            hash,
            AbortSignal.any([stop, AbortSignal.timeout(settings.CF_COLLECTION_TIMEOUT_SECONDS)]),
          ),
        logger,
        signal: stop,
      },
      { address: settings.CF_LISTEN_ADDRESS, port: settings.CF_LISTEN_PORT },
    );
    try {
      watches = await startWatches({ ...context, signal: stop }, cache);
      await Promise.all([...collectors.map(async (one) => await one.run()), watches?.ended]);
    } finally {
      halt.abort();
      await server.close();
    }
    return { outcome: 'succeeded', counts: {}, message: 'stopped as asked' };
  },
};

function refuseContradictions(settings: Settings<typeof exporterSettings>): void {
  const intervals = [
    'CF_STATE_INTERVAL_SECONDS',
    'CF_EVENTS_INTERVAL_SECONDS',
    'CF_HOT_CHECK_INTERVAL_SECONDS',
  ] as const;
  // Else values would come and go between two successes.
  const long = intervals.filter((name) => settings[name] >= settings.CF_MAX_AGE_SECONDS);
  if (long.length > 0)
    throw new RunFailure('settings_invalid', `${long.join(', ')}: must be below CF_MAX_AGE_SECONDS`);
}

function collectorsOf(
  { settings, database, logger }: ExporterContext,
  tables: ServiceTables,
  sink: SeriesCache,
  signal: AbortSignal,
): readonly CollectionLoop[] {
  const statementTimeoutMs = settings.CF_STATEMENT_TIMEOUT_MILLISECONDS;
  const timeoutMs = settings.CF_COLLECTION_TIMEOUT_SECONDS;
  const every = { timeoutMs, sink, logger, signal };
  const state = new StateCollection(database, {
    installation: settings.CF_INSTALLATION,
    statementTimeoutMs,
  });
  const hotCheck = new HotCheck(database, tables, logger, {
    lossDelayMs: settings.CF_LOSS_DELAY_SECONDS,
    statementTimeoutMs,
  });
  return [
    new Collector({
      ...every,
      collection: 'state',
      intervalMs: settings.CF_STATE_INTERVAL_SECONDS,
      read: async (limit) => await state.read(limit),
    }),
    new Collector({
      ...every,
      collection: 'events',
      intervalMs: settings.CF_EVENTS_INTERVAL_SECONDS,
      read: async (limit) =>
        await readEvents(database, tables, { graceMs: settings.CF_GRACE_SECONDS, statementTimeoutMs }, limit),
    }),
    new Collector({
      ...every,
      collection: 'hot_check',
      intervalMs: settings.CF_HOT_CHECK_INTERVAL_SECONDS,
      read: async (limit) => await hotCheck.read(limit),
    }),
  ];
}

/** The Kubernetes client costs 50 MB: it is loaded only where a rollout is guarded. */
async function startWatches(context: ExporterContext, sink: SeriesCache): Promise<Watches | undefined> {
  if (context.settings.CF_ROLLOUT_NAME === undefined) {
    context.logger.info('no rollout is guarded (CF_ROLLOUT_NAME): nothing is known of versions and weights');
    return undefined;
  }
  const kubernetes = await import('./kubernetes.ts');
  return kubernetes.startWatches(context, sink);
}
