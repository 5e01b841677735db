import { z } from 'zod';
import { count, optional, required, seconds } from './config.ts';
import { problemOfUrl } from './database.ts';

/** Settings that every job shares. Defaults stand here and nowhere else in the code. */
export const runtimeSettings = {
  /** Where Postgres is; `sslmode` and `sslrootcert` mean what they mean to libpq. The one name without `CF_`. */
  DATABASE_URL: required()
    .regex(/^postgres(ql)?:\/\//, { error: 'must begin with postgresql://', abort: true })
    .superRefine((url, context) => {
      const problem = problemOfUrl(url);
      if (problem !== undefined) context.addIssue({ code: 'custom', message: problem });
    }),
  /** The Postgres schema that holds our own tables. */
  CF_SCHEMA: z
    .string()
    .regex(/^[a-z_][a-z0-9_]{0,62}$/, 'must be a lower-case identifier')
    .default('counterfoil'),
  /** The label that keeps two installations apart in one schema, in metrics and in alerts. */
  CF_INSTALLATION: z
    .string()
    .regex(/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/, 'must be a DNS label')
    .default('counterfoil'),
  /** The pod this run lives in; the chart fills it from the downward API. */
  CF_POD_NAME: z
    .string()
    .regex(/^[\w.-]{1,253}$/, 'must be a pod name')
    .default('local'),
  CF_LOG_LEVEL: z.enum(['debug', 'info', 'warn', 'error']).default('info'),
  /** Connections that one run may hold; every one is a backend of the service's database. */
  CF_DATABASE_POOL_SIZE: count(4, 2, 50),
  /** How long a connection attempt may take. */
  CF_DATABASE_CONNECT_TIMEOUT_SECONDS: seconds(10, 1, 120),
  /** How long a run keeps trying when the database is away, before it ends with exit 1. */
  CF_DATABASE_RETRY_SECONDS: seconds(30, 0, 3600),
  /** Longest wait for a lock: a migration of the service must never queue behind us for longer. */
  CF_LOCK_TIMEOUT_SECONDS: seconds(1, 1, 60),
  /** How long a run may take to stop after SIGTERM; keep it below the pod's grace period. */
  CF_SHUTDOWN_SECONDS: seconds(25, 1, 600),
  /** Set by the rollback script alone: the id of the freeze that this run belongs to. */
  CF_FREEZE_ID: optional().pipe(
    z
      .string()
      .regex(/^\d{1,18}$/, 'must be the id of a freeze')
      .optional(),
  ),
};
