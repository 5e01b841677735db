import { z } from 'zod';
import { count, flag } from '../runtime/config.ts';
import { runtimeSettings } from '../runtime/env.ts';

/** Settings of the status screen. */
export const statusSettings = {
  DATABASE_URL: runtimeSettings.DATABASE_URL,
  CF_SCHEMA: runtimeSettings.CF_SCHEMA,
  CF_INSTALLATION: runtimeSettings.CF_INSTALLATION,
  CF_DATABASE_CONNECT_TIMEOUT_SECONDS: runtimeSettings.CF_DATABASE_CONNECT_TIMEOUT_SECONDS,
  CF_LOCK_TIMEOUT_SECONDS: runtimeSettings.CF_LOCK_TIMEOUT_SECONDS,
  /** Where the exporter answers; where none is known, version, weight and rollout state read "unknown". */
  CF_EXPORTER_URL: z.preprocess((text) => (text === '' ? undefined : text), z.url().optional()),
  /** The port of the exporter, in whose pod this mostly runs; 0: it runs elsewhere. */
  CF_LISTEN_PORT: count(0, 0, 65_535),
  /** Ends with 3 while discrepancies are open, for scripts. */
  CF_EXIT_ON_FINDINGS: flag(false),
};
