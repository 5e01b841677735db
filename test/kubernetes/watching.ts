/** The exporter's watches in this process, against an API server, with what they would show at a scrape. */
import { vi } from 'vitest';
import type { Watches } from '../../jobs/exporter/collection.ts';
import { type ExporterContext, exporterSettings } from '../../jobs/exporter/env.ts';
import { startWatches, type WatchingPace } from '../../jobs/exporter/kubernetes.ts';
import { ApiServer } from '../../jobs/exporter/kubernetes-api.ts';
import { SeriesCache } from '../../jobs/exporter/series-cache.ts';
import { readSettings } from '../../jobs/runtime/config.ts';
import type { Database } from '../../jobs/runtime/database.ts';
import { runtimeSettings } from '../../jobs/runtime/env.ts';
import { type CollectedLog, collectLog, openDatabase } from '../builders/open-database.ts';
import { NAMESPACE, ROLLOUT } from './objects.ts';

export interface Watching {
  readonly watches: Watches;
  readonly log: CollectedLog;
  /** All series, as at a scrape. */
  render(): Promise<string>;
  /** The value of the one series of this metric whose labels hold all of these; undefined where there is none. */
  value(metric: string, labels?: Readonly<Record<string, string>>): Promise<number | undefined>;
  stop(): Promise<void>;
}

const quick: WatchingPace = {
  watchSeconds: 30,
  silenceMs: 30_000,
  firstPauseMs: 20,
  longestPauseMs: 100,
  repairMs: 100,
};

/** @param databaseUrl only asked for a repair after an abort */
export async function startWatching(
  kubeconfig: string,
  options: {
    readonly databaseUrl?: string;
    readonly settings?: Readonly<Record<string, string>>;
    readonly pace?: Partial<WatchingPace>;
  } = {},
): Promise<Watching> {
  vi.stubEnv('KUBECONFIG', kubeconfig);
  // Loads the client once, for seconds on a busy machine: what the tests wait for comes after it.
  await ApiServer.load();
  const log = collectLog();
  const stop = new AbortController();
  const url = options.databaseUrl ?? 'postgresql://nobody@127.0.0.1:1/nothing';
  const settings = readSettings(
    { ...runtimeSettings, ...exporterSettings },
    { DATABASE_URL: url, CF_ROLLOUT_NAME: ROLLOUT, CF_ROLLOUT_NAMESPACE: NAMESPACE, ...options.settings },
  );
  const database: Database = openDatabase(url, {}, log);
  const cache = new SeriesCache(
    { installation: settings.CF_INSTALLATION, version: '0', maxAgeMs: settings.CF_MAX_AGE_SECONDS },
    ['rollout', 'pods'],
  );
  const context = { settings, database, logger: log.logger, signal: stop.signal } as ExporterContext;
  const watches = startWatches(context, cache, { ...quick, ...options.pace });
  const render = async () => await cache.render();
  return {
    watches,
    log,
    render,
    async value(metric, labels = {}) {
      const parts = Object.entries(labels).map(([name, value]) => `${name}="${value}"`);
      const found = (await render())
        .split('\n')
        .filter((row) => row.startsWith(`${metric}{`) && parts.every((part) => row.includes(part)));
      if (found.length > 1) throw new Error(`more than one series: ${found.join('; ')}`);
      return found[0] === undefined ? undefined : Number(found[0].split(' ').at(-1));
    },
    async stop() {
      stop.abort();
      await watches.ended;
      await database.close();
    },
  };
}
