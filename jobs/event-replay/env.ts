import { z } from 'zod';
import { count, flag, optional, seconds } from '../runtime/config.ts';

/** As many ids as a person types or pastes; a larger set is a request (table `requests`). */
const MOST_EVENT_IDS = 1_000;

const serviceUrl = optional().refine(
  (text) => {
    if (text === undefined) return true;
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
);

/** Settings of event-replay, beside those that every job shares (jobs/runtime/env.ts). */
export const eventReplaySettings = {
  /** `once` ends when nothing is due; `continuous` runs until SIGTERM. */
  CF_MODE: z.enum(['once', 'continuous']).default('once'),
  /** The replay endpoint of the service, such as `http://billing/admin/events/replay`; below it, one path per fact. */
  CF_REPLAY_URL: serviceUrl,
  /** Bearer token of the service's endpoints; sent there and nowhere else. */
  CF_REPLAY_TOKEN: optional().pipe(
    z
      .string()
      .regex(/^[\x21-\x7e]+$/, 'must be visible ASCII characters')
      .optional(),
  ),
  /** Where the service takes approved corrections; without it they are refused, for a person to carry out. */
  CF_CORRECTIONS_URL: serviceUrl,
  /** Instead of the endpoint: a function that takes one event id and gives the event to the predecessor's outbox. */
  CF_REPUBLISH_FUNCTION: optional().pipe(
    z
      .string()
      .regex(/^[a-z_][a-z0-9_]{0,62}(\.[a-z_][a-z0-9_]{0,62})?$/, 'must be function, or schema.function')
      .optional(),
  ),
  /** How long the bill of an event may take that was given to the outbox. */
  CF_HANDED_GRACE_SECONDS: seconds(900, 0, 604_800),
  /** The YAML file that declares the checks; without one, the built-in check of the plan's tables. */
  CF_CHECKS_FILE: optional(),
  /** The service's event table; may be schema-qualified, and quoted where the name has capitals. */
  CF_EVENTS_TABLE: z.string().min(1, 'must not be empty').default('event_backups'),
  /** The service's table of deliveries with leases; without it, age alone decides. */
  CF_DELIVERIES_TABLE: z.string().min(1, 'must not be empty').default('event_deliveries'),
  /** Time zone of `created_at` where the column is a `timestamp` without one. */
  CF_SERVICE_TIME_ZONE: z
    .string()
    .regex(/^[\w+\-/:]{1,64}$/, 'must be the name of a time zone')
    .default('UTC'),
  /** How old a pending event must be before it counts as lost; above the service's own drain time of 30 s. */
  CF_GRACE_SECONDS: seconds(60, 0, 86_400),
  /** Payload field by which events are replayed one at a time, oldest first; without it there is no such order. */
  CF_AGGREGATE_KEY: optional(),
  /** Says what would be sent; sends nothing and writes nothing but its own run. */
  CF_DRY_RUN: flag(false),
  /** Only these events, separated by commas or spaces, whatever their age; parked ones are taken up again. */
  CF_EVENT_IDS: optional()
    .transform((text) =>
      text === undefined ? undefined : [...new Set(text.split(/[\s,]+/).filter((id) => id !== ''))],
    )
    .pipe(z.array(z.string()).min(1).max(MOST_EVENT_IDS).optional()),
  /** The most events that one run sends. 0: no limit. */
  CF_LIMIT: count(0, 0, 100_000_000),
  /** Why a person started this run; stands in the audit. */
  CF_REASON: optional().pipe(z.string().max(500).optional()),
  /** Calls in flight at once. */
  CF_LANES: count(8, 1, 256),
  /** Rebuilds in flight at once. */
  CF_REBUILD_LANES: count(4, 1, 64),
  /** Events in one call. */
  CF_BATCH_SIZE: count(25, 1, 100),
  /** Events claimed by one statement; lanes × batch size fills every lane with one claim. */
  CF_CLAIM_SIZE: count(200, 1, 1_000),
  /** How long a claim, and the lease of the run, outlive this process; renewed at a third of it. */
  CF_LEASE_SECONDS: seconds(60, 2, 3_600),
  /** How long the service may take for one call; what still runs then is asked for again later. */
  CF_CALL_SECONDS: seconds(30, 1, 60),
  /** Calls that reached a handler before an event is parked. */
  CF_HANDLER_ATTEMPTS: count(5, 1, 100),
  /** Calls begun and never finished before an event is parked as one that crashes the service. */
  CF_UNFINISHED_CALLS: count(3, 1, 100),
  /** Wait after the first failed attempt of a handler; four times as long after each further one. */
  CF_BACKOFF_SECONDS: seconds(30, 1, 3_600),
  /** Longest wait between two attempts of a handler. */
  CF_BACKOFF_MAX_SECONDS: seconds(3_600, 1, 86_400),
  /** Wait after the first call that did not reach the service; doubled after each further one. */
  CF_TRANSPORT_BACKOFF_SECONDS: seconds(5, 1, 3_600),
  /** Longest wait after a call that did not reach the service: how late replay notices that it is back. */
  CF_TRANSPORT_BACKOFF_MAX_SECONDS: seconds(60, 1, 3_600),
  /** How many days what is done is kept in `replay_events`. 0: for ever. */
  CF_KEEP_DONE_DAYS: count(30, 0, 3_650),
  /** Longest pause of a continuous run between two looks for work. */
  CF_POLL_SECONDS: seconds(5, 1, 300),
};
