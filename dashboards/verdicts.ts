/** What several dashboards ask alike: findings, ages, what the machine does, where the release stands. */
import { NOT_MEASURED, notDrawn, notMeasured, type Query } from './panels.ts';
import { beyond, one, own, threshold, within } from './selectors.ts';

/** Open findings that nobody has acknowledged. */
export const openFindings = one('billing_discrepancy_count', ['check', 'kind', 'cause']);
export const suspectedFindings = one('counterfoil_findings', ['check', 'kind'], 'status="suspected"');
const verifiedThrough = one('counterfoil_verified_through_timestamp_seconds', ['check']);
const declared = one('counterfoil_check_declared_timestamp_seconds', ['check']);
export const overdueEvents = `max(${own('counterfoil_overdue_events')})`;

/** `missing: event_pending`, `duplicate`: only a missing bill has a cause. */
export const byCause = (vector: string) =>
  `sum by (what) (label_replace(label_join(${vector}, "what", ": ", "kind", "cause"), "what", "$1", "what", "(.*): none"))`;

/** Counted from the declaration where a check was never verified. */
export const verifiedAge = `time() - (${verifiedThrough} or ${declared})`;

export const verdictWords = {
  '-1': ['NOT MEASURED', 'purple'],
  0: ['CLEAN', 'green'],
  1: ['SUSPECTED', 'yellow'],
  2: ['EVENTS OVERDUE', 'orange'],
  3: ['NOT VERIFIED', 'orange'],
  4: ['OPEN', 'red'],
} as const;

/** The worst that holds. Without findings or without thresholds nobody knows, whatever else is known. */
export const verdict = `(
  max(
    label_replace(4 * (sum(${openFindings}) > bool 0), "is", "open", "", "")
    or label_replace(3 * clamp_max(count(${beyond(verifiedAge, 'verified_through_age_seconds')}), 1), "is", "unverified", "", "")
    or label_replace(2 * clamp_max(count(${beyond(overdueEvents, 'overdue_events')}), 1), "is", "overdue", "", "")
    or label_replace(1 * (sum(${suspectedFindings}) > bool 0), "is", "suspected", "", "")
  )
  and on () ${own('billing_discrepancy_count')}
  and on () ${own('installation:verified_through_age_seconds:threshold')}
  and on () ${own('installation:overdue_events:threshold')}
) or vector(-1)`;

export function openByCause(): Query[] {
  return [
    { refId: 'together', expr: `sum(${openFindings}) > 0`, legend: 'together', colour: 'red' },
    {
      refId: 'open',
      expr: `sort_desc(${byCause(`${openFindings} > 0`)})`,
      legend: '{{what}}',
      colour: 'red',
    },
    {
      refId: 'none',
      expr: `sum(${openFindings}) == 0`,
      legend: 'open',
      colour: 'green',
      words: { 0: ['none', 'green'] },
    },
    notMeasured('billing_discrepancy_count', 'open'),
  ];
}

/** Over time; a line for each cause that there is, and one at 0 that says that there is none. */
export function openOverTime(): Query[] {
  return [
    { refId: 'open', expr: `${byCause(openFindings)} > 0`, legend: '{{what}}' },
    { refId: 'none', expr: `sum(${openFindings}) == 0`, legend: 'none open', colour: 'text' },
    notDrawn(own('billing_discrepancy_count')),
    limit('open_findings', 'pages above'),
  ];
}

export function verifiedAges(): Query[] {
  const age = `time() - ${verifiedThrough}`;
  return [
    {
      refId: 'old',
      expr: beyond(age, 'verified_through_age_seconds'),
      legend: '{{check}}: too old',
      colour: 'red',
    },
    {
      refId: 'fresh',
      expr: within(age, 'verified_through_age_seconds'),
      legend: '{{check}}',
      colour: 'green',
    },
    {
      refId: 'never',
      expr: `time() - (${declared} unless on (check) ${verifiedThrough})`,
      legend: '{{check}}: never, declared',
      colour: 'orange',
    },
    notMeasured('counterfoil_check_declared_timestamp_seconds', 'checks'),
  ];
}

/** What no job will mend by itself. */
export function needsAPerson(): Query[] {
  const decisions = one('counterfoil_findings_for_a_person', ['check']);
  const parked = one('counterfoil_parked_events', ['reason']);
  const approvals = one('counterfoil_open_requests', ['kind', 'needs_approval'], 'needs_approval="yes"');
  return [
    { refId: 'decisions', expr: `sum(${decisions}) > 0`, legend: 'findings to decide', colour: 'orange' },
    {
      refId: 'approvals',
      expr: `sum by (kind) (${approvals}) > 0`,
      legend: '{{kind}}: to approve',
      colour: 'orange',
    },
    { refId: 'parked', expr: `sum(${parked}) > 0`, legend: 'parked events', colour: 'orange' },
    {
      refId: 'none',
      expr: `sum(${decisions}) + sum(${parked}) + sum(${approvals}) == 0`,
      legend: 'needs you',
      colour: 'green',
      words: { 0: ['nothing', 'green'] },
    },
    notMeasured('counterfoil_findings_for_a_person', 'needs you'),
  ];
}

const rolloutMeasured = (legend: string) => notMeasured('counterfoil_rollout_phase', legend);

const phaseColours = [
  ['good', 'Healthy', 'green'],
  ['going', 'Progressing|Paused', 'blue'],
  ['bad', 'Degraded|Invalid', 'red'],
] as const;

/** To be shown by names. */
export function rolloutPhase(): Query[] {
  return [
    ...phaseColours.map(([refId, phases, colour]) => ({
      refId,
      expr: `${one('counterfoil_rollout_phase', ['rollout', 'phase'], `phase=~"${phases}"`)} == 1`,
      legend: '{{phase}}',
      colour,
    })),
    {
      refId: 'inconclusive',
      expr: `${one('counterfoil_rollout_paused', ['rollout', 'reason'], 'reason="inconclusive"')} == 1`,
      legend: 'inconclusive: decide',
      colour: 'red',
    },
    {
      refId: 'router',
      expr: `${one('counterfoil_rollout_router_error', ['rollout'])} == 1`,
      legend: 'router fails',
      colour: 'red',
    },
    { ...rolloutMeasured(NOT_MEASURED), colour: 'purple' },
  ];
}

/** Since when it is aborted, and by which metric. */
export function abortedBy(): Query[] {
  const info = one('counterfoil_rollout_abort_info', ['rollout', 'metric']);
  const since = one('counterfoil_rollout_aborted_timestamp_seconds', ['rollout']);
  const aborted = one('counterfoil_rollout_aborted', ['rollout']);
  return [
    {
      refId: 'aborted',
      // By whom it was done may be known without the time, and the fact without both.
      expr: `${info} * on (rollout) group_left () ${since} * 1000
or ${info}
or label_replace(${aborted} == 1 unless on (rollout) ${info}, "metric", "unknown cause", "", "")`,
      legend: '{{metric}}',
      colour: 'red',
      words: { 1: ['yes', 'red'] },
    },
    {
      refId: 'none',
      expr: `${one('counterfoil_rollout_aborted', ['rollout'])} == 0`,
      legend: 'aborted',
      colour: 'green',
      words: { 0: ['no', 'green'] },
    },
    notMeasured('counterfoil_rollout_aborted', 'aborted'),
  ];
}

const repairColours = [
  ['clean', 'clean', 'green'],
  ['going', 'waiting|requested|repairing', 'blue'],
  ['unasked', 'off', 'orange'],
  ['bad', 'not_clean', 'red'],
] as const;

/** To be shown by names. */
export function repairAfterAbort(): Query[] {
  return [
    ...repairColours.map(([refId, states, colour]) => ({
      refId,
      expr: `${one('counterfoil_abort_repair', ['rollout', 'published_hash', 'state'], `state=~"${states}"`)} == 1`,
      legend: '{{state}}',
      colour,
    })),
    {
      refId: 'none',
      expr: `(${one('counterfoil_rollout_aborted', ['rollout'])} == 0) unless on () ${own('counterfoil_abort_repair')}`,
      legend: 'nothing to repair',
      colour: 'green',
    },
    {
      ...notMeasured('counterfoil_rollout_aborted', NOT_MEASURED),
      colour: 'purple',
    },
  ];
}

export function canaryWeight(): Query[] {
  const weight = one('counterfoil_rollout_weight', ['rollout']);
  const canary = one('counterfoil_rollout_version', ['rollout', 'published_hash'], 'role="canary"');
  const stable = one('counterfoil_rollout_version', ['rollout', 'published_hash'], 'role="stable"');
  return [
    {
      refId: 'canary',
      expr: `${weight} * on (rollout) group_left (published_hash) ${canary}`,
      legend: 'canary {{published_hash}}',
      colour: 'blue',
    },
    {
      refId: 'stable',
      expr: `(100 - ${weight}) * on (rollout) group_left (published_hash) ${stable}`,
      legend: 'stable {{published_hash}}',
      colour: 'text',
    },
    rolloutMeasured('weight'),
  ];
}

/** Of the events of a version written lately, the share that is lost. No sample, no ratio. */
const lossByVersion = `${one('counterfoil_hot_lost_events', ['published_hash'])} / (${one('counterfoil_hot_events', ['published_hash'])} > 0)`;

/** Of the facts of a version completed lately, the share without its right bill. */
const billingErrorsByVersion = `sum by (published_hash) (${one('counterfoil_hot_discrepancies', ['check', 'published_hash', 'kind'])}) / (sum by (published_hash) (${one('counterfoil_hot_facts', ['check', 'published_hash'])}) > 0)`;

const versions = one('counterfoil_rollout_version', ['published_hash', 'role']);

/** The canary in orange and the stable version in blue, whatever their hashes; what is neither, as it is. */
export function byVersion(vector: string, refId = '', name = ''): Query[] {
  const of = (role: string) =>
    `(${vector}) and on (published_hash) ${one('counterfoil_rollout_version', ['published_hash'], `role="${role}"`)}`;
  return [
    {
      refId: `canary${refId}`,
      expr: of('canary'),
      legend: `${name}canary {{published_hash}}`,
      colour: 'orange',
    },
    {
      refId: `stable${refId}`,
      expr: of('stable'),
      legend: `${name}stable {{published_hash}}`,
      colour: 'blue',
    },
    {
      refId: `others${refId}`,
      expr: `(${vector}) unless on (published_hash) ${versions}`,
      legend: `${name}{{published_hash}}`,
      colour: 'text',
    },
  ];
}

export const lossOfVersions = (): Query[] => [
  ...byVersion(lossByVersion),
  notDrawn(own('counterfoil_hot_events')),
];
export const billingErrorsOfVersions = (): Query[] => [
  ...byVersion(billingErrorsByVersion),
  notDrawn(own('counterfoil_hot_facts')),
];

/** Restarts in the time before each point, while they are measured at all. */
export const restartsOfVersions = (time: string): Query[] => [
  ...byVersion(
    `round(max by (published_hash) (increase(${own('application_restart_total')}[${time}]) and ${own('application_restart_total')}))`,
  ),
  notDrawn(own('application_restart_total')),
];

/** Of the lines of `openOverTime`. */
export const causeColours = {
  'missing: event_pending': 'orange',
  'missing: event_parked': 'purple',
  'missing: processed_without_ledger': 'yellow',
  'missing: never_published': 'dark-orange',
  'missing: unknown': 'text',
  amount: 'blue',
  duplicate: 'light-blue',
  orphan: 'dark-blue',
} as const;

export const limit = (what: string, legend: string, matchers = ''): Query => ({
  refId: what.replaceAll(/[^a-z_]/g, '_'),
  expr: threshold(what, matchers),
  legend,
  limit: true,
});
