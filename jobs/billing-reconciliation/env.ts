import { z } from 'zod';
import { count, flag, optional, seconds } from '../runtime/config.ts';
import type { RunContext } from '../runtime/run-job.ts';
import { AGE } from './gate-since.ts';

const TIME = /^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?(Z|[+-]\d{2}:\d{2})$/;
const timeRule = 'must be a time with Z or an offset, such as 2026-11-23T06:00:00Z';

/** A point in time with its offset; a bare one would mean another time on another machine. */
const instant = () =>
  optional().pipe(
    z
      .string()
      .regex(TIME, timeRule)
      .refine((text) => !Number.isNaN(Date.parse(text)), 'must be a time that exists')
      .optional(),
  );

/** The same, or how long before now: a step of a canary knows how long it lasts, and not when it began. */
const instantOrAge = () =>
  optional().pipe(
    z
      .string()
      .regex(new RegExp(`${TIME.source}|${AGE.source}`), `${timeRule}, or an age, such as 2h, 90m or 45s`)
      .refine((text) => AGE.test(text) || !Number.isNaN(Date.parse(text)), 'must be a time that exists')
      .optional(),
  );

/** Settings of billing-reconciliation beside those of every job. */
export const billingReconciliationSettings = {
  /** The YAML file that declares the checks; without one, the built-in check of the plan's tables. */
  CF_CHECKS_FILE: optional(),
  /** What is looked at: what newly settled, the last hours again, everything, or a named scope. */
  CF_MODE: z.enum(['tail', 'incremental', 'full', 'verify']).default('incremental'),
  /** `none`: one audit by a role that can only read; no schema, no lease, no record. */
  CF_STATE: z.enum(['postgres', 'none']).default('postgres'),
  /** The service's table of published events, by which the cause of a missing bill is found. */
  CF_EVENTS_TABLE: z.string().min(1).default('event_backups'),
  /** The zone of the service's `timestamp` columns; columns with a time zone do not need it. */
  CF_SERVICE_TIME_ZONE: z.string().min(1).default('UTC'),
  /** How far from a fact its ledger row usually lies; rows further off cost a look-up by index each. */
  CF_SLACK_SECONDS: seconds(3600, 0, 7 * 86_400),
  /** How old a time must be when the role cannot see when the transactions of others began. */
  CF_BLIND_GRACE_SECONDS: seconds(1800, 1, 86_400),
  /** How long an old transaction may hold a check back before it goes on with provisional findings. */
  CF_MAX_LAG_SECONDS: seconds(21_600, 1, 30 * 86_400),
  /** How long a lease outlives a killed run, and how long a run waits for one that is held. */
  CF_LEASE_SECONDS: seconds(60, 3, 600),
  /** The time that one statement should take; the width of windows follows it. */
  CF_WINDOW_TARGET_MILLISECONDS: count(250, 1, 1000),
  /** The time after which a statement is given up and its window halved. */
  CF_WINDOW_TIMEOUT_MILLISECONDS: count(1000, 1, 1000),
  /** How long one run of `full` goes on before it leaves the rest to the next; 0: all in one go. */
  CF_FULL_SLICE_SECONDS: seconds(0, 0, 86_400),
  /** `verify`: where the range begins. */
  CF_VERIFY_FROM: instant(),
  /** `verify`: where the range ends; the horizon when left out. */
  CF_VERIFY_TO: instant(),
  /** `verify`: the published hash whose findings are counted, of the range or of all time. */
  CF_VERIFY_HASH: optional(),
  /** `verify`: ids of findings, separated by commas. */
  CF_VERIFY_FINDINGS: optional().pipe(
    z
      .string()
      .regex(/^\d{1,18}(,\d{1,18})*$/, 'must be ids separated by commas')
      .optional(),
  ),
  /** Asks event-replay to send or rebuild the events behind open findings. */
  CF_REPAIR: flag(false),
  /** The most events and findings that one run asks for, over all checks. */
  CF_REPAIR_LIMIT: count(100, 1, 100_000),
  /** A file to which findings that changed and the summary are written as JSON. */
  CF_REPORT_FILE: optional(),
  /** Exit 3 when discrepancies are open, 4 when not everything was looked at; never for a schedule. */
  CF_EXIT_ON_FINDINGS: flag(false),
  /** As a gate: only what happened since then, or so long before now, is judged, suspected and open alike. */
  CF_GATE_SINCE: instantOrAge(),
};

export type ReconciliationContext = RunContext<typeof billingReconciliationSettings>;
