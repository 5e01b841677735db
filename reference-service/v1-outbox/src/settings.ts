import { hostname } from 'node:os';
import { z } from 'zod';

const integer = (min: number, max: number) =>
  z
    .string()
    .regex(/^\d{1,9}$/)
    .transform(Number)
    .pipe(z.int().min(min).max(max));

/** Names of the successor where the same thing is meant, so that one ConfigMap serves both. */
const environment = z.object({
  // 0 takes any free port; the line {"listening": port} says which.
  PORT: integer(0, 65_535).default(3000),
  HOST: z.string().default('0.0.0.0'),
  // Contains a password: never logged.
  DATABASE_URL: z.string().regex(/^postgres(ql)?:\/\//),
  POD_NAME: z.string().default(hostname()),
  SERVICE_VERSION: z.string().default('0.0.1'),
  POOL_SIZE: integer(1, 1_000).default(10),
  // How long the publisher rests once it has found nothing more to publish.
  OUTBOX_POLL_SECONDS: integer(1, 3_600).default(30),
  // Claimed at once: what a crash leaves behind as `processing`.
  OUTBOX_BATCH_SIZE: integer(1, 10_000).default(100),
  // When a claim has run out and another publisher may take its rows: far above what a batch takes.
  OUTBOX_STUCK_SECONDS: integer(1, 86_400).default(300),
  // How long it still answers after SIGTERM, not ready, so that balancers take it out before its server closes.
  SHUTDOWN_PAUSE_SECONDS: integer(0, 3_600).default(0),
  // How long shutdown then waits for requests and the batch in work.
  DRAIN_SECONDS: integer(0, 3_600).default(25),
  LOG_LEVEL: z.enum(['fatal', 'error', 'warn', 'info', 'debug', 'silent']).default('info'),
});

/** The settings of the predecessor. */
export interface Settings {
  port: number;
  host: string;
  databaseUrl: string;
  podName: string;
  serviceVersion: string;
  poolSize: number;
  pollMs: number;
  batchSize: number;
  stuckMs: number;
  shutdownPauseMs: number;
  drainDeadlineMs: number;
  logLevel: string;
}

/** Variables that cannot be used; names them, never their values. */
export class SettingsRefusedError extends Error {
  override readonly name = 'SettingsRefusedError';
  constructor(names: readonly string[]) {
    super(`settings refused: ${names.join(', ')}; see reference-service/v1-outbox/README.md`);
  }
}

/** Reads the settings; throws SettingsRefusedError that names every variable with a missing or unusable value. */
export function readSettings(env: Readonly<Record<string, string | undefined>>): Settings {
  // An empty variable is an absent one: Kubernetes and compose files set empty ones easily.
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
    podName: s.POD_NAME,
    serviceVersion: s.SERVICE_VERSION,
    poolSize: s.POOL_SIZE,
    pollMs: s.OUTBOX_POLL_SECONDS * 1_000,
    batchSize: s.OUTBOX_BATCH_SIZE,
    stuckMs: s.OUTBOX_STUCK_SECONDS * 1_000,
    shutdownPauseMs: s.SHUTDOWN_PAUSE_SECONDS * 1_000,
    drainDeadlineMs: s.DRAIN_SECONDS * 1_000,
    logLevel: s.LOG_LEVEL,
  });
}
