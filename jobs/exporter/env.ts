import { z } from 'zod';
import { count, flag, optional, seconds } from '../runtime/config.ts';
import type { RunContext } from '../runtime/run-job.ts';

/** The name of an object of Kubernetes, or nothing. */
const objectName = (longest: number) =>
  optional().pipe(
    z
      .string()
      .regex(/^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$/, 'must be the name of an object of Kubernetes')
      .max(longest)
      .optional(),
  );

/** Settings of the exporter, beside those that every job shares (jobs/runtime/env.ts). */
export const exporterSettings = {
  /** The address to listen at; all of this machine's where none is named. */
  CF_LISTEN_ADDRESS: optional(),
  /** The port of /metrics, /health, /rollout and /gate; 0 takes a free one and logs it. */
  CF_LISTEN_PORT: count(9464, 0, 65_535),
  /** How long values outlive the last success of their collection; then their series vanish. Above every interval. */
  CF_MAX_AGE_SECONDS: seconds(120, 5, 3_600),
  /** How often our own tables are read. */
  CF_STATE_INTERVAL_SECONDS: seconds(15, 1, 600),
  /** How often pending events are counted. */
  CF_EVENTS_INTERVAL_SECONDS: seconds(15, 1, 600),
  /** How often the facts and events of the last minutes are judged. */
  CF_HOT_CHECK_INTERVAL_SECONDS: seconds(15, 1, 600),
  /** How long one collection may take, with connecting and waiting; the next begins when it has really ended. */
  CF_COLLECTION_TIMEOUT_SECONDS: seconds(10, 1, 120),
  /** The longest statement; the database cuts it off. Longer than a second: at 100,000 events in 15 minutes, a busy database. */
  CF_STATEMENT_TIMEOUT_MILLISECONDS: count(5_000, 10, 30_000),
  /** The YAML file that declares the checks; without one, the built-in check of the plan's tables. */
  CF_CHECKS_FILE: optional(),
  /** The service's table of published events. */
  CF_EVENTS_TABLE: z.string().min(1, 'must not be empty').default('event_backups'),
  /** The service's table of deliveries with leases; without it, age alone decides. */
  CF_DELIVERIES_TABLE: z.string().min(1, 'must not be empty').default('event_deliveries'),
  /** The zone of the service's `timestamp` columns; columns with a time zone do not need it. */
  CF_SERVICE_TIME_ZONE: z
    .string()
    .regex(/^[\w+\-/:]{1,64}$/, 'must be the name of a time zone')
    .default('UTC'),
  /** How old a pending event must be to count as overdue; as in event-replay. */
  CF_GRACE_SECONDS: seconds(60, 0, 86_400),
  /** How old a pending event must be to count as lost by the version that published it. */
  CF_LOSS_DELAY_SECONDS: seconds(60, 1, 840),
  /** How far back /gate judges what a version did: longer than all steps of a rollout. */
  CF_GATE_WINDOW_SECONDS: seconds(86_400, 60, 7 * 86_400),
  /** The share of wrong bills, in thousandths, above which /gate answers `fail`. */
  CF_GATE_BILLING_PER_MILLE: count(10, 0, 1_000),
  /** The share of lost events, in thousandths, above which /gate answers `fail`. */
  CF_GATE_LOSS_PER_MILLE: count(5, 0, 1_000),
  /** With fewer bad ones no share is judged: one bad bill must not abort a good release. */
  CF_GATE_MINIMUM_BAD: count(3, 1, 100_000),
  /** With fewer judged ones no share is judged. */
  CF_GATE_MINIMUM_JUDGED: count(400, 1, 100_000),
  /** With fewer judged bills, or events, /gate never answers `pass`: 149 show a fault of 2 % with 95 % certainty. */
  CF_GATE_SAMPLE: count(149, 1, 100_000),
  /** The Rollout that guards the service; without it nothing is read from the API server. */
  CF_ROLLOUT_NAME: objectName(253),
  /** Its namespace; that of the exporter's own pod when left out. */
  CF_ROLLOUT_NAMESPACE: objectName(63),
  /** After an abort, asks the jobs to mend what the aborted version broke, once its pods are gone. */
  CF_REPAIR_AFTER_ABORT: flag(false),
};

export type ExporterContext = RunContext<typeof exporterSettings>;
