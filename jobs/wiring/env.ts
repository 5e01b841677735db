import { z } from 'zod';
import { flag, optional, seconds } from '../runtime/config.ts';
import type { RunContext } from '../runtime/run-job.ts';

const address = optional().refine(
  (text) => {
    if (text === undefined) return true;
    const url = URL.parse(text);
    return url !== null && /^https?:$/.test(url.protocol) && url.username === '' && url.password === '';
  },
  { error: 'must be an http or https URL without credentials' },
);

/** Settings of wiring, beside those that every job shares (jobs/runtime/env.ts). */
export const wiringSettings = {
  /** What is tried: the login of a role, the replay endpoint, Prometheus, or the exporter. */
  CF_SUBJECT: z.enum(['database', 'endpoint', 'prometheus', 'exporter']).default('database'),
  /** `database`: whose login `DATABASE_URL` is. */
  CF_ROLE: z.enum(['owner', 'jobs', 'exporter', 'retention']).default('jobs'),
  /** The YAML file that declares the checks; without one, the built-in check of the plan's tables. */
  CF_CHECKS_FILE: optional(),
  /** The service's table of published events. */
  CF_EVENTS_TABLE: z.string().min(1, 'must not be empty').default('event_backups'),
  /** The zone of the service's `timestamp` columns; the database has to know it. */
  CF_SERVICE_TIME_ZONE: z
    .string()
    .regex(/^[\w+\-/:]{1,64}$/, 'must be the name of a time zone')
    .default('UTC'),
  /** Whether the table of events has to be there: event-replay needs it. */
  CF_EVENTS_NEEDED: flag(true),
  /** Whether that table is said to name the version of each event; not looked at when left out. */
  CF_VERSIONS: optional().pipe(z.enum(['true', 'false']).optional()),
  /** Whether `jobs` has to see when the transactions of others began: the canary's gate on bills needs it. */
  CF_STATS_NEEDED: flag(false),
  /** `endpoint`: the replay endpoint of the service. */
  CF_REPLAY_URL: address,
  /** `endpoint`: its bearer token. */
  CF_REPLAY_TOKEN: optional().pipe(
    z
      .string()
      .regex(/^[\x21-\x7e]+$/, 'must be visible ASCII characters')
      .optional(),
  ),
  /** `prometheus`: where the Prometheus answers that evaluates the rules. */
  CF_PROMETHEUS_URL: address,
  /** `prometheus`: the namespace that the series carry; the chart fills in that of the release. */
  CF_NAMESPACE: optional(),
  /** `prometheus`: the groups of rules that it has to have, separated by commas; all of alerts/ when left out. */
  CF_RULE_GROUPS: optional().pipe(
    z
      .string()
      .regex(/^[\w-]+(,[\w-]+)*$/, 'must be names separated by commas')
      .optional(),
  ),
  /** `exporter`: where the exporter answers. */
  CF_EXPORTER_URL: address,
  /** `exporter`: the Rollout of which it has to know something fresh; without it, nothing is asked. */
  CF_ROLLOUT_NAME: optional(),
  /** How long what is not right yet may take: rules and scrapes are a minute behind the install. */
  CF_WAIT_SECONDS: seconds(120, 0, 3_600),
};

export type WiringContext = RunContext<typeof wiringSettings>;
