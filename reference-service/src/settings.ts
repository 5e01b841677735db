import { hostname } from 'node:os';
import { z } from 'zod';
import { type Fault, isFault } from './faults/faults.js';

const integer = (min: number, max: number) =>
  z
    .string()
    .regex(/^\d{1,9}$/)
    .transform(Number)
    .pipe(z.int().min(min).max(max));

const armed = /^(\w+)=(0(?:\.\d+)?|1)$/;

/** `false` is none at all, `true` none as yet, and `lose=0.02,slow=1` arms those from the start. */
function faultsOf(text: string, context: z.RefinementCtx): ReadonlyMap<Fault, number> | undefined {
  if (text === 'false') return undefined;
  const faults = new Map<Fault, number>();
  for (const part of text === 'true' ? [] : text.split(',')) {
    const [, fault = '', rate] = armed.exec(part) ?? [];
    if (isFault(fault)) faults.set(fault, Number(rate));
    else context.addIssue({ code: 'custom', message: 'is false, true, or a list of fault=rate' });
  }
  return faults;
}

/** An empty variable is an absent one: Kubernetes and compose files set empty ones easily. */
const optionalText = z.string().trim().min(1).optional();

const environment = z
  .object({
    // 0 takes any free port; the line {"listening": port} says which.
    PORT: integer(0, 65_535).default(3000),
    HOST: z.string().default('0.0.0.0'),
    // Contains a password: never logged.
    DATABASE_URL: z.string().regex(/^postgres(ql)?:\/\//),
    // Bearer token of the admin endpoints; without it they do not exist.
    REPLAY_TOKEN: optionalText,
    // Who published an event, for event_backups where it has the columns.
    POD_NAME: z.string().default(hostname()),
    POD_TEMPLATE_HASH: optionalText,
    SERVICE_VERSION: z.string().default('0.1.0'),
    // Faults on demand, for trials only.
    FAULTS: z.string().default('false').transform(faultsOf),
    POOL_SIZE: integer(1, 1_000).default(10),
    // How long work waits for one of them, and a new one for the database, before it fails.
    POOL_WAIT_SECONDS: integer(1, 3_600).default(5),
    MAX_IN_FLIGHT: integer(1, 100_000).default(100),
    // After a crash a replay waits this long before it takes a listener over.
    LISTENER_LEASE_SECONDS: integer(1, 3_600).default(30),
    // How long it still answers after SIGTERM, not ready, so that balancers take it out before its server closes.
    SHUTDOWN_PAUSE_SECONDS: integer(0, 3_600).default(0),
    // With the pause below terminationGracePeriodSeconds (30 by default), so that what is left can still be logged.
    DRAIN_SECONDS: integer(0, 3_600).default(25),
    LOG_LEVEL: z.enum(['fatal', 'error', 'warn', 'info', 'debug', 'silent']).default('info'),
  })
  .refine((settings) => settings.FAULTS === undefined || settings.REPLAY_TOKEN !== undefined, {
    path: ['REPLAY_TOKEN'],
    error: 'is needed where FAULTS is not false',
  });

/** The names of all variables. */
export const settingNames: readonly string[] = Object.keys(environment.shape);

/** The service's settings. */
export interface Settings {
  port: number;
  host: string;
  databaseUrl: string;
  replayToken: string | undefined;
  podName: string;
  podTemplateHash: string | undefined;
  serviceVersion: string;
  /** Whether faults can be armed at all. */
  faults: boolean;
  /** Those that are armed from the start, and how often each strikes. */
  armedFaults: ReadonlyMap<Fault, number>;
  poolSize: number;
  poolWaitMs: number;
  maxInFlight: number;
  listenerLeaseMs: number;
  shutdownPauseMs: number;
  drainDeadlineMs: number;
  logLevel: string;
}

/** Injection token of the settings. */
export const SETTINGS = Symbol('settings');

/** Variables that cannot be used; names them, never their values. */
export class SettingsRefusedError extends Error {
  override readonly name = 'SettingsRefusedError';
  constructor(names: readonly string[]) {
    super(`settings refused: ${names.join(', ')}; see the table in reference-service/README.md`);
  }
}

/** Reads the settings; throws SettingsRefusedError that names every variable with a missing or unusable value. */
export function readSettings(env: Readonly<Record<string, string | undefined>>): Settings {
  const given = Object.fromEntries(
    Object.entries(env).filter(([, value]) => value !== undefined && value !== ''),
  );
  const parsed = environment.safeParse(given);
  if (!parsed.success) {
    throw new SettingsRefusedError(
      [...new Set(parsed.error.issues.map(({ path }) => String(path[0])))].sort(),
    );
  }
  const s = parsed.data;
  return Object.freeze({
    port: s.PORT,
    host: s.HOST,
    databaseUrl: s.DATABASE_URL,
    replayToken: s.REPLAY_TOKEN,
    podName: s.POD_NAME,
    podTemplateHash: s.POD_TEMPLATE_HASH,
    serviceVersion: s.SERVICE_VERSION,
    faults: s.FAULTS !== undefined,
    armedFaults: s.FAULTS ?? new Map(),
    poolSize: s.POOL_SIZE,
    poolWaitMs: s.POOL_WAIT_SECONDS * 1_000,
    maxInFlight: s.MAX_IN_FLIGHT,
    listenerLeaseMs: s.LISTENER_LEASE_SECONDS * 1_000,
    shutdownPauseMs: s.SHUTDOWN_PAUSE_SECONDS * 1_000,
    drainDeadlineMs: s.DRAIN_SECONDS * 1_000,
    logLevel: s.LOG_LEVEL,
  });
}

/** The one setting a migration needs; throws SettingsRefusedError. */
export function readDatabaseUrl(env: Readonly<Record<string, string | undefined>>): string {
  const parsed = environment.shape.DATABASE_URL.safeParse(env.DATABASE_URL);
  if (!parsed.success) throw new SettingsRefusedError(['DATABASE_URL']);
  return parsed.data;
}
