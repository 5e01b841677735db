import { z } from 'zod';
import { count, flag, optional, required, seconds } from '../runtime/config.ts';
import type { RunContext } from '../runtime/run-job.ts';

/** Below a week even a healthy installation may still need what it published: nobody deletes yesterday by a slip. */
const FEWEST_DAYS = 7;
const MOST_DAYS = 3_650;

/** Settings of backup-retention, beside those that every job shares (jobs/runtime/env.ts). */
export const backupRetentionSettings = {
  /** How many days a processed event is kept. Has no default: how long is a decision of whoever owns the events. */
  CF_RETENTION_DAYS: required()
    .regex(/^\d{1,6}$/, { error: 'must be a whole number of days', abort: true })
    .transform(Number)
    .pipe(z.number().min(FEWEST_DAYS).max(MOST_DAYS)),
  /** How many days the record of a run is kept in `job_runs`. 0: for ever. */
  CF_RETENTION_RUNS_DAYS: count(90, 0, MOST_DAYS).refine(
    (days) => days === 0 || days >= FEWEST_DAYS,
    `must be 0, or at least ${FEWEST_DAYS}`,
  ),
  /** Says what would go, and deletes nothing. */
  CF_DRY_RUN: flag(false),
  /** The service's event table; may be schema-qualified, and quoted where the name has a dot. */
  CF_EVENTS_TABLE: z.string().min(1, 'must not be empty').default('event_backups'),
  /** The service's table of deliveries, whose rows go with their events. */
  CF_DELIVERIES_TABLE: z.string().min(1, 'must not be empty').default('event_deliveries'),
  /** For a table that is partitioned by day: the owner's function that drops one, given its date. */
  CF_RETENTION_DROP_FUNCTION: z
    .string()
    .regex(/^[a-z_][a-z0-9_]{0,62}(\.[a-z_][a-z0-9_]{0,62})?$/, 'must be function, or schema.function')
    .default('event_backups_drop_one_day'),
  /** The YAML file that declares the checks: nothing goes that one of them has not verified. */
  CF_CHECKS_FILE: optional(),
  /** Time zone of `created_at` and `processed_at` where the columns are a `timestamp` without one. */
  CF_SERVICE_TIME_ZONE: z
    .string()
    .regex(/^[\w+\-/:]{1,64}$/, 'must be the name of a time zone')
    .default('UTC'),
  /** Rows that one statement looks at; halved when it takes too long. */
  CF_RETENTION_BATCH_SIZE: count(1_000, 1, 10_000),
  /** The time after which a statement is given up, in milliseconds. */
  CF_RETENTION_STATEMENT_MILLISECONDS: count(1_000, 10, 1_000),
  /** Shortest pause between two statements; it is never shorter than the statement before it was. */
  CF_RETENTION_PAUSE_MILLISECONDS: count(100, 0, 60_000),
  /** How long one run goes on before it leaves the rest to the next. */
  CF_RETENTION_BUDGET_SECONDS: seconds(900, 1, 86_400),
  /** How long the lease outlives a killed run, and how long a run waits for one that is held. */
  CF_LEASE_SECONDS: seconds(60, 2, 3_600),
};

export type RetentionContext = RunContext<typeof backupRetentionSettings>;
