/**
 * Values that let a journey take minutes: times alone, at a tenth of their default wherever that can be. What is judged
 * is judged by the chart's own thresholds: more than 0.5 % of at least 400 events, at least 3 of them lost.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { parse } from 'yaml';
import { sessionBilling } from '../builders/checks.ts';

const alerts = new URL('../../alerts/', import.meta.url);

interface Rule {
  readonly alert?: string;
  readonly for?: string;
}

const SECONDS = { d: 86_400, h: 3_600, m: 60, s: 1 } as const;

/** Seconds of a duration as Prometheus writes it: `2h10m`. */
function secondsOf(duration: string): number {
  const parts = [...duration.matchAll(/(\d+)([dhms])/g)];
  if (parts.map(([part]) => part).join('') !== duration || parts.length === 0)
    throw new Error(`${duration} is no duration that an alert of ours has`);
  return parts.reduce(
    (sum, [, number, unit]) => sum + Number(number) * SECONDS[unit as keyof typeof SECONDS],
    0,
  );
}

/**
 * Alerts with their `for` at a tenth, and of all alerts only those that match. With those of one whole installation the rules
 * have 200 KB, and from 512 KB on the Prometheus Operator spreads them over one ConfigMap more, for which it starts Prometheus
 * anew: three journeys at once would take each other's history away.
 */
export function alertsAtATenth(kept: RegExp): {
  overrides: Record<string, { for: string }>;
  disabled: Record<string, boolean>;
} {
  const rules = readdirSync(alerts)
    .filter((name) => name.endsWith('.yaml') && !name.endsWith('.test.yaml'))
    .flatMap((name) => {
      const { groups = [] } = parse(readFileSync(new URL(name, alerts), 'utf8')) as {
        groups?: readonly { rules: readonly Rule[] }[];
      };
      return groups.flatMap((group) => group.rules);
    });
  const named = rules.flatMap(({ alert, for: lasting }) => (alert === undefined ? [] : [{ alert, lasting }]));
  return {
    overrides: Object.fromEntries(
      named.flatMap(({ alert, lasting }) =>
        lasting === undefined ? [] : [[alert, { for: `${Math.ceil(secondsOf(lasting) / 10)}s` }]],
      ),
    ),
    disabled: Object.fromEntries(named.map(({ alert }) => [alert, !kept.test(alert)])),
  };
}

/** The check of the reference service, an event of which is compared with its fact before it is sent again. */
export const check = sessionBilling({
  grace: '30s',
  event: {
    name: 'services.session.completed.v1',
    key: ['sessionId'],
    // Else what an aborted version leaves is parked for a person.
    match: { amountMinor: 'amount_minor', currency: 'currency' },
  },
});

/** Over charts/counterfoil/examples/staging.yaml. */
export const hurried = {
  image: { tag: process.env.CLUSTER_IMAGE_TAG ?? 'cluster-test' },
  jobs: { eventReplay: { graceSeconds: 15 } },
  checks: [check],
  exporter: {
    settings: {
      CF_LOSS_DELAY_SECONDS: '15',
      // Two cores do all of this at once, which takes the hot check some seconds.
      CF_STATEMENT_TIMEOUT_MILLISECONDS: '15000',
      CF_COLLECTION_TIMEOUT_SECONDS: '20',
    },
  },
  // Those that the canary is judged by, and that of findings.
  prometheusRule: alertsAtATenth(/^(?:Counterfoil(?:Version|Canary|Complaints)|BillingDiscrepancy)/),
  metrics: { podMonitor: { interval: '5s' }, service: { interval: '5s' } },
  rollout: {
    replicas: 2,
    steps: [
      { weight: 1, pause: '60s', gates: ['sample', 'errors', 'probe', 'reconciliation'] },
      { weight: 10, pause: '15s', gates: ['sample', 'errors', 'probe'] },
      { weight: 50, pause: '15s', gates: ['sample', 'errors', 'latency', 'probe'] },
      // The chart refuses less: a fault that begins here would not be seen any more.
      { weight: 100, pause: '85s', gates: ['sample', 'errors', 'latency', 'probe', 'reconciliation'] },
    ],
    conditions: {
      loss: { interval: '5s' },
      billing: { interval: '5s' },
      crashes: { interval: '5s' },
      verdict: { interval: '15s' },
      telemetry: { interval: '5s' },
    },
    gates: {
      interval: '5s',
      hold: '15m',
      // Of 149, one release in twenty that loses 2 % shows nothing bad yet, and goes on to 10 %.
      sample: { judged: 500 },
      reconciliation: { interval: '15s' },
    },
    abortScaleDownDelaySeconds: 20,
  },
} as const;

/** The times as they are shipped: only the sizes are those of this cluster. */
export const unhurried = {
  image: hurried.image,
  checks: [
    sessionBilling({
      event: {
        name: 'services.session.completed.v1',
        key: ['sessionId'],
        match: { amountMinor: 'amount_minor', currency: 'currency' },
      },
    }),
  ],
  exporter: {
    settings: {
      CF_STATEMENT_TIMEOUT_MILLISECONDS: '15000',
      CF_COLLECTION_TIMEOUT_SECONDS: '20',
    },
  },
  rollout: { replicas: 2 },
} as const;

type Tree = { readonly [key: string]: unknown };
const isTree = (value: unknown): value is Tree =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** Values over values, as Helm lays one file over another. */
export function over<Base extends object>(base: Base, top: object): Base {
  const sum = { ...base } as Record<string, unknown>;
  for (const [key, value] of Object.entries(top)) {
    const below = sum[key];
    sum[key] = isTree(value) && isTree(below) ? over(below, value) : value;
  }
  return sum as Base;
}
