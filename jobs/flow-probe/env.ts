import { z } from 'zod';
import { count, flag, optional, required, seconds } from '../runtime/config.ts';
import type { RunContext } from '../runtime/run-job.ts';

/** Settings of flow-probe, beside those that every job shares (jobs/runtime/env.ts). */
export const flowProbeSettings = {
  /** Where the service's public interface begins, such as `http://billing`; the canary's own Service for a canary. */
  CF_PROBE_URL: required().refine(
    (text) => {
      const url = URL.parse(text);
      return (
        url !== null &&
        (url.protocol === 'http:' || url.protocol === 'https:') &&
        url.username === '' &&
        url.password === '' &&
        url.search === '' &&
        url.hash === ''
      );
    },
    { error: 'must be an http or https URL without credentials and without a query' },
  ),
  /** Bearer token of that interface, where it asks for one; sent there and nowhere else. */
  CF_PROBE_TOKEN: optional().pipe(
    z
      .string()
      .regex(/^[\x21-\x7e]+$/, 'must be visible ASCII characters')
      .optional(),
  ),
  /** The YAML file that declares the flow; without one, the flow of the plan. */
  CF_PROBE_FILE: optional(),
  /** What the ids are made from: attempts with the same one are one run. The chart fills in the name of the Job. */
  CF_PROBE_SEED: optional().pipe(
    z
      .string()
      .regex(/^[\w.-]{1,253}$/, 'must be a name')
      .optional(),
  ),
  /** The YAML file that declares the checks; without one, the built-in check of the plan's tables. */
  CF_CHECKS_FILE: optional(),
  /** The service's table of published events. */
  CF_EVENTS_TABLE: z.string().min(1, 'must not be empty').default('event_backups'),
  /** The service's table of deliveries: by it a lost event is told from one whose listener failed. */
  CF_DELIVERIES_TABLE: z.string().min(1, 'must not be empty').default('event_deliveries'),
  /** The zone of the service's `timestamp` columns. */
  CF_SERVICE_TIME_ZONE: z
    .string()
    .regex(/^[\w+\-/:]{1,64}$/, 'must be the name of a time zone')
    .default('UTC'),
  /** How long the service may take for the answer to one step. */
  CF_PROBE_STEP_SECONDS: seconds(10, 1, 300),
  /** How long the bill may take after the last step, and every event of the flow to be processed. */
  CF_PROBE_BILL_SECONDS: seconds(60, 1, 3_600),
  /** How long after the right bill was seen it is looked at once more: a second one often comes right behind. */
  CF_PROBE_SETTLE_SECONDS: seconds(2, 0, 300),
  /** Pause between two looks for the bill. */
  CF_PROBE_POLL_MILLISECONDS: count(500, 50, 60_000),
  /** As a canary's gate: exit 3 where the bill is missing or wrong, 4 where the run was cut short; never for a schedule. */
  CF_EXIT_ON_FINDINGS: flag(false),
};

export type ProbeContext = RunContext<typeof flowProbeSettings>;
