/**
 * Three days as Prometheus has them: a good one, a night on which a release breaks bills, and a morning on which all that is
 * rare comes at once. What is set is declared in `metrics.ts` (held by types) or counted by the module (held by a test).
 */
import { readFileSync } from 'node:fs';
import { parse as parseYaml } from 'yaml';
import type { LabelsOf } from '../../jobs/exporter/collection.ts';
import type { MetricName } from '../../jobs/exporter/metrics.ts';

/** Seconds since 1970, and what the series is then; nothing: no sample. */
type At = (time: number) => number | undefined;

/** Of one installation, by name and labels, so that a worse day overwrites a better one. */
export class Day {
  readonly end: number;
  readonly hours: number;
  readonly series = new Map<string, At>();
  readonly #place: Readonly<Record<string, string>>;

  constructor(end: string, hours: number, place: { namespace: string; installation: string }) {
    this.end = Date.parse(end) / 1000;
    this.hours = hours;
    this.#place = place;
  }

  /** @param clock seconds after midnight (UTC) of the day that ends it, as `02:41:07` */
  at(clock: string): number {
    const day = new Date(this.end * 1000).toISOString().slice(0, 10);
    return Date.parse(`${day}T${clock.padEnd(8, ':00')}Z`) / 1000;
  }

  exporter<Name extends MetricName>(name: Name, labels: LabelsOf<Name>, at: At | number): void {
    this.#put(name, { ...this.#place, pod: 'exporter-1', ...labels }, at);
    this.#put(
      name,
      { ...this.#place, pod: 'exporter-2', ...labels },
      from(this.end - SECOND_EXPORTER_SECONDS, typeof at === 'number' ? () => at : at),
    );
  }

  /** What rules record, or the alerts that fire. */
  recorded(name: string, labels: Readonly<Record<string, string>>, at: At | number): void {
    this.#put(name, { ...this.#place, ...labels }, at);
  }

  service(name: string, pod: string, labels: Readonly<Record<string, string>>, at: At | number): void {
    // An installation beside ours guards the same service; that one is there once.
    if (this.#place.installation === HERE.installation)
      this.#put(name, { namespace: this.#place.namespace ?? '', pod, ...labels }, at);
  }

  #put(name: string, labels: Readonly<Record<string, string>>, at: At | number): void {
    const key = `${name}{${Object.entries(labels)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([label, value]) => `${label}="${value}"`)
      .join(',')}}`;
    this.series.set(key, typeof at === 'number' ? () => at : at);
  }
}

export const HERE = { namespace: 'counterfoil', installation: 'counterfoil' };
/** Rare enough that a day is quickly written; rates span four of them, as Grafana has it. */
export const SCRAPE_SECONDS = 120;
/** For this long before the end two exporters tell the same: nothing on a dashboard may count it twice. */
const SECOND_EXPORTER_SECONDS = 1_800;
export const RATE_INTERVAL = `${4 * SCRAPE_SECONDS}s`;

export const GOOD_DAY = '2026-11-25T12:00:00Z';
export const INCIDENT = '2026-11-27T03:12:00Z';
export const WORST = '2026-11-28T09:00:00Z';
/** Nothing was scraped for hours. */
export const BLIND = '2026-11-29T00:00:00Z';

const CHECK = { check: 'session-billing' };
const ROLLOUT = { rollout: 'financial' };
const STABLE = { published_hash: '5c7f9d8b64' };
const CANARY = { published_hash: '7d4b9c6f55' };
const OF_ALL = { published_hash: 'unknown' };
const SESSION = { event_type: 'services.session.completed.v1' };
const CONTRACT = { event_type: 'contract.signed.v1' };
const EVENT_TYPES = [SESSION, CONTRACT];
const LISTENERS = {
  'services.session.completed.v1': 'createPerSessionBilling',
  'contract.signed.v1': 'indexContract',
};
const BUCKETS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5];
const KINDS = ['missing', 'duplicate', 'amount', 'orphan'];
const CAUSES = ['event_pending', 'event_parked', 'processed_without_ledger', 'never_published', 'unknown'];
const findingSets = KINDS.flatMap((kind) =>
  (kind === 'missing' ? CAUSES : ['none']).map((cause) => ({ ...CHECK, kind, cause })),
);
const OUTCOMES = ['succeeded', 'partial', 'skipped', 'implausible', 'endpoint_down', 'failed', 'refused'];
const PARKED_REASONS = [
  ...['attempts_exhausted', 'crashes_the_service', 'no_listener', 'unknown_version'],
  ...['invalid_payload', 'not_retryable', 'fact_changed'],
];
const REPAIRS = ['off', 'waiting', 'requested', 'repairing', 'clean', 'not_clean'];
const JOBS = [
  { counterfoil_job: 'billing-reconciliation', mode: 'tail', every: 60, took: 0.9 },
  { counterfoil_job: 'billing-reconciliation', mode: 'incremental', every: 3_600, took: 11.4 },
  { counterfoil_job: 'billing-reconciliation', mode: 'full', every: 86_400, took: 214 },
  { counterfoil_job: 'event-replay', mode: 'once', every: 300, took: 1.7 },
];

/** What began at `since` and goes up by the second until `until`. */
const ramp =
  (since: number, until: number, top: number): At =>
  (time) =>
    time < since ? 0 : Math.round((top * Math.min(time - since, until - since)) / (until - since));
const after =
  (since: number, value: number, before = 0): At =>
  (time) =>
    time < since ? before : value;
const from =
  (since: number, at: At): At =>
  (time) =>
    time < since ? undefined : at(time);
/** The newest start of what runs every so often. */
const latest = (time: number, every: number) => time - (time % every);
/** Few at night, most in the afternoon: events per second. */
const traffic = (time: number) => 14 + 9 * Math.sin(((time % 86_400) / 86_400) * 2 * Math.PI - Math.PI / 1.6);
/** Since midnight of 2026-11-20, so that counters only rise. */
const counted = (time: number, share = 1) => {
  const day = 86_400;
  const seconds = time - 1_795_132_800;
  const wave = (-9 * day * Math.cos(((time % day) / day) * 2 * Math.PI - Math.PI / 1.6)) / (2 * Math.PI);
  return Math.round(share * (14 * seconds + wave));
};

function healthy(end: string, hours: number, place = HERE): Day {
  const day = new Day(end, hours, place);
  day.exporter('counterfoil_exporter_info', { version: '0.1.0' }, 1);
  for (const collection of ['state', 'events', 'hot_check', 'rollout', 'pods']) {
    day.exporter('counterfoil_collection_success', { collection }, 1);
    day.exporter('counterfoil_collection_timestamp_seconds', { collection }, (time) => time - 5);
    day.exporter('counterfoil_collection_duration_seconds', { collection }, 0.02);
  }
  findings(day);
  replayState(day);
  rollout(day);
  for (const job of JOBS) {
    const { every, took, ...labels } = job;
    for (const outcome of OUTCOMES)
      day.exporter('counterfoil_job_last_outcome', { ...labels, outcome }, outcome === 'succeeded' ? 1 : 0);
    day.exporter('counterfoil_job_last_start_timestamp_seconds', labels, (time) => latest(time, every));
    day.exporter(
      'counterfoil_job_last_success_timestamp_seconds',
      labels,
      (time) => latest(time - took, every) + took,
    );
    day.exporter('counterfoil_job_last_duration_seconds', labels, took);
    day.exporter('counterfoil_job_runs_since_success', labels, 0);
  }
  for (const pod of ['financial-1', 'financial-2', 'financial-3']) servicePod(day, pod, 1 / 3);
  thresholds(day);
  day.recorded('installation:complaints_per_day:value', {}, 1);
  return day;
}

function findings(day: Day): void {
  for (const labels of findingSets) day.exporter('billing_discrepancy_count', labels, 0);
  for (const kind of KINDS) {
    day.exporter('billing_discrepancy_total', { ...CHECK, kind }, 120);
    for (const status of ['suspected', 'open', 'acknowledged'])
      day.exporter('counterfoil_findings', { ...CHECK, kind, status }, 0);
  }
  day.exporter('counterfoil_findings_for_a_person', CHECK, 0);
  day.exporter('counterfoil_findings_resolved_total', CHECK, 480);
  day.exporter('counterfoil_findings_of_unknown_amount', CHECK, 0);
  day.exporter('counterfoil_check_declared_timestamp_seconds', CHECK, day.end - 40 * 86_400);
  day.exporter('counterfoil_verified_through_timestamp_seconds', CHECK, (time) => latest(time - 620, 60));
  day.exporter('counterfoil_check_held_back', CHECK, 0);
  day.exporter('counterfoil_implausible', CHECK, 0);
}

function replayState(day: Day): void {
  for (const status of ['due', 'claimed', 'handed_to_outbox'])
    day.exporter('counterfoil_replay_events', { status }, 0);
  for (const reason of PARKED_REASONS) day.exporter('counterfoil_parked_events', { reason }, 0);
  for (const kind of ['replay', 'verify', 'rebuild', 'correction'])
    for (const needs_approval of ['yes', 'no'])
      day.exporter('counterfoil_open_requests', { kind, needs_approval }, 0);
  day.exporter('counterfoil_replayed_events_total', {}, 3_141);
  day.exporter('counterfoil_frozen_until_timestamp_seconds', {}, 0);
  day.exporter('counterfoil_pending_events', {}, (time) => Math.round(traffic(time) / 4));
  day.exporter('counterfoil_overdue_events', {}, 0);
  day.exporter('counterfoil_newest_event_timestamp_seconds', {}, (time) => time - 1);
}

function rollout(day: Day): void {
  for (const phase of ['Healthy', 'Progressing', 'Paused', 'Degraded', 'Invalid'])
    day.exporter('counterfoil_rollout_phase', { ...ROLLOUT, phase }, phase === 'Healthy' ? 1 : 0);
  for (const reason of ['step', 'inconclusive', 'manual'])
    day.exporter('counterfoil_rollout_paused', { ...ROLLOUT, reason }, 0);
  day.exporter('counterfoil_rollout_version', { ...ROLLOUT, ...STABLE, role: 'stable' }, 1);
  day.exporter('counterfoil_rollout_weight', ROLLOUT, 0);
  day.exporter('counterfoil_rollout_step', ROLLOUT, 7);
  day.exporter('counterfoil_rollout_steps', ROLLOUT, 7);
  day.exporter('counterfoil_rollout_aborted', ROLLOUT, 0);
  day.exporter('counterfoil_rollout_router_error', ROLLOUT, 0);
  day.exporter('application_restart_total', STABLE, 4);
  day.exporter('counterfoil_service_pods', { ...STABLE, ready: 'yes' }, 3);
  day.exporter('counterfoil_service_pods', { ...STABLE, ready: 'no' }, 0);
  day.exporter('counterfoil_hot_amounts_measured', CHECK, 1);
  day.exporter('counterfoil_hot_versions_measured', {}, 1);
  version(day, STABLE, 1);
}

/** Facts and events of the last minutes of one version, all in order. */
function version(day: Day, hash: { published_hash: string }, share: number): void {
  day.exporter('counterfoil_hot_facts', { ...CHECK, ...hash }, (time) =>
    Math.round(traffic(time) * 880 * share),
  );
  day.exporter('counterfoil_hot_events', hash, (time) => Math.round(traffic(time) * 890 * share));
  day.exporter('counterfoil_hot_lost_events', hash, 0);
  for (const kind of ['missing', 'duplicate', 'amount'])
    day.exporter('counterfoil_hot_discrepancies', { ...CHECK, ...hash, kind }, 0);
}

function servicePod(day: Day, pod: string, share: number): void {
  day.service('counterfoil_service_info', pod, { service_version: '4.11.2' }, 1);
  day.service('event_publish_error_total', pod, {}, 0);
  day.service('counterfoil_drain_left_total', pod, {}, 0);
  day.service('counterfoil_events_in_flight', pod, {}, (time) => Math.round(traffic(time) * share * 0.4));
  day.service('counterfoil_events_in_flight_limit', pod, {}, 100);
  day.service('counterfoil_events_waiting', pod, {}, 0);
  for (const type of EVENT_TYPES) {
    const part = share * (type === SESSION ? 0.8 : 0.2);
    const all: At = (time) => counted(time, part);
    day.service('event_published_total', pod, { ...type, status: 'committed' }, all);
    for (const status of ['refused', 'failed'])
      day.service('event_published_total', pod, { ...type, status }, 0);
    day.service('event_processed_total', pod, { ...type, status: 'processed' }, all);
    for (const status of ['failed', 'incomplete', 'outcome_unknown'])
      day.service('event_processed_total', pod, { ...type, status }, 0);
    for (const reason of ['listener_failed', 'claim_failed', 'overload', 'shutdown'])
      day.service('counterfoil_event_left_pending_total', pod, { ...type, reason }, 0);
    const listener = LISTENERS[type.event_type as keyof typeof LISTENERS];
    day.service('counterfoil_listener_runs_total', pod, { ...type, listener, outcome: 'succeeded' }, all);
    for (const outcome of ['failed', 'given_up'])
      day.service('counterfoil_listener_runs_total', pod, { ...type, listener, outcome }, 0);
    for (const [index, le] of [...BUCKETS, '+Inf'].entries()) {
      const below = [0.02, 0.18, 0.71, 0.9, 0.97, 0.993, 0.998, 0.9995, 1, 1, 1][index] ?? 1;
      day.service('event_duration_seconds_bucket', pod, { ...type, le: String(le) }, (time) =>
        Math.round(counted(time, part) * below),
      );
    }
  }
  for (const outcome of ['processed', 'already_processed', 'invalid_payload', 'failed'])
    day.service('counterfoil_replay_results_total', pod, { outcome }, 0);
  for (const outcome of ['rebuilt', 'not_needed', 'failed'])
    day.service('counterfoil_rebuilds_total', pod, { outcome }, 0);
}

interface Rule {
  readonly record?: string;
  readonly expr: string;
  readonly labels?: Readonly<Record<string, string>>;
}

/** The numbers that `alerts/thresholds.yaml` ships, as Prometheus records them. */
function thresholds(day: Day): void {
  const file = readFileSync(new URL('../../alerts/thresholds.yaml', import.meta.url), 'utf8');
  const { groups } = parseYaml(file) as { groups: { rules: Rule[] }[] };
  for (const { record, expr, labels } of groups.flatMap(({ rules }) => rules)) {
    const value = /^vector\(([\d.]+)\)$/.exec(expr)?.[1];
    if (record === undefined || value === undefined) throw new Error(`no plain threshold: ${expr}`);
    const { namespace: _n, installation: _i, ...others } = labels ?? {};
    day.recorded(record, others, Number(value));
  }
}

export const firing = (day: Day, alertname: string, severity: string, since: number) => {
  day.recorded(
    'ALERTS',
    { alertname, severity, alertstate: 'firing' },
    from(since + 60, () => 1),
  );
  day.recorded(
    'ALERTS_FOR_STATE',
    { alertname, severity },
    from(since, () => since),
  );
};

export const goodDay = (place = HERE, hours = 25): Day => healthy(GOOD_DAY, hours, place);

/**
 * A canary at 10 % loses one event in forty from 02:41 on and writes some wrong bills; Argo takes it back at 02:49, and
 * the machine is at work on what it has left.
 */
export function incident(place = HERE, end = INCIDENT, hours = 25): Day {
  const day = healthy(end, hours, place);
  const shift = (clock: string) =>
    day.end - (Date.parse(INCIDENT) / 1000 - Date.parse(`2026-11-27T${clock}Z`) / 1000);
  const released = shift('00:10:00') - 3_600;
  const bad = shift('02:41:00');
  const aborted = shift('02:49:00');
  const found = shift('02:58:00');
  const repaired = shift('03:02:00');

  const counts: [Record<string, string>, number, number][] = [
    [{ kind: 'missing', cause: 'event_pending' }, 52, 31],
    [{ kind: 'missing', cause: 'event_parked' }, 4, 4],
    [{ kind: 'missing', cause: 'processed_without_ledger' }, 3, 3],
    [{ kind: 'amount', cause: 'none' }, 7, 7],
    [{ kind: 'duplicate', cause: 'none' }, 1, 1],
  ];
  for (const [{ kind = '', cause = '' }, top, now] of counts) {
    const at: At = (time) =>
      time < repaired
        ? ramp(found, repaired, top)(time)
        : top - (ramp(repaired, day.end, top - now)(time) ?? 0);
    day.exporter('billing_discrepancy_count', { ...CHECK, kind, cause }, at);
  }
  for (const [kind, top] of [
    ['missing', 59],
    ['amount', 7],
    ['duplicate', 1],
  ] as const) {
    day.exporter(
      'billing_discrepancy_total',
      { ...CHECK, kind },
      (time) => 120 + (ramp(found, repaired, top)(time) ?? 0),
    );
    day.exporter(
      'counterfoil_findings',
      { ...CHECK, kind, status: 'open' },
      ramp(found, repaired, top - (kind === 'missing' ? 21 : 0)),
    );
  }
  day.exporter('counterfoil_findings', { ...CHECK, kind: 'missing', status: 'suspected' }, after(found, 2));
  day.exporter(
    'counterfoil_findings_resolved_total',
    CHECK,
    (time) => 480 + (ramp(repaired, day.end, 21)(time) ?? 0),
  );
  day.exporter('counterfoil_findings_for_a_person', CHECK, after(found, 12));
  day.exporter(
    'counterfoil_oldest_open_finding_timestamp_seconds',
    CHECK,
    from(found, () => bad + 7),
  );
  day.exporter(
    'counterfoil_money_at_risk_minor',
    { ...CHECK, currency: 'EUR' },
    from(found, ramp(found - 120, repaired, 214_130)),
  );
  day.exporter(
    'counterfoil_money_at_risk_minor',
    { ...CHECK, currency: 'JPY' },
    from(found, ramp(found - 120, repaired, 84_000)),
  );
  day.exporter('counterfoil_findings_of_unknown_amount', CHECK, after(found, 3));

  const overdue: At = (time) =>
    time < bad + 600
      ? 0
      : time < repaired
        ? ramp(bad + 600, repaired, 63)(time)
        : 63 - (ramp(repaired, day.end, 25)(time) ?? 0);
  day.exporter('counterfoil_overdue_events', {}, overdue);
  day.exporter(
    'counterfoil_pending_events',
    {},
    (time) => Math.round(traffic(time) / 4) + (overdue(time) ?? 0) + (after(found, 4)(time) ?? 0),
  );
  day.exporter(
    'counterfoil_oldest_overdue_event_timestamp_seconds',
    {},
    from(bad + 600, () => bad + 4),
  );
  day.exporter('counterfoil_replay_events', { status: 'due' }, after(repaired, 30));
  day.exporter('counterfoil_replay_events', { status: 'claimed' }, after(repaired, 8));
  day.exporter('counterfoil_parked_events', { reason: 'invalid_payload' }, after(repaired, 3));
  day.exporter('counterfoil_parked_events', { reason: 'attempts_exhausted' }, after(repaired, 1));
  day.exporter(
    'counterfoil_oldest_parked_event_timestamp_seconds',
    {},
    from(repaired, () => repaired + 11),
  );
  day.exporter(
    'counterfoil_replayed_events_total',
    {},
    (time) => 3_141 + (ramp(repaired, day.end, 25)(time) ?? 0),
  );
  day.exporter('counterfoil_open_requests', { kind: 'replay', needs_approval: 'no' }, after(aborted, 1));
  day.exporter('counterfoil_open_requests', { kind: 'verify', needs_approval: 'no' }, after(aborted, 1));
  day.exporter('counterfoil_open_requests', { kind: 'correction', needs_approval: 'yes' }, after(found, 1));
  for (const kind of ['replay', 'verify'])
    day.exporter(
      'counterfoil_oldest_open_request_timestamp_seconds',
      { kind },
      from(aborted, () => aborted + 9),
    );
  day.exporter(
    'counterfoil_oldest_open_request_timestamp_seconds',
    { kind: 'correction' },
    from(found, () => found + 40),
  );
  day.exporter(
    'counterfoil_job_seen_timestamp_seconds',
    { counterfoil_job: 'event-replay', mode: 'once' },
    from(repaired, (time) => time - 4),
  );
  const tail = { counterfoil_job: 'billing-reconciliation', mode: 'full' };
  day.exporter(
    'counterfoil_job_last_outcome',
    { ...tail, outcome: 'succeeded' },
    after(shift('01:00:00'), 0, 1),
  );
  day.exporter('counterfoil_job_last_outcome', { ...tail, outcome: 'partial' }, after(shift('01:00:00'), 1));
  day.exporter('counterfoil_job_runs_since_success', tail, after(shift('01:00:00'), 1));

  // The release.
  for (const phase of ['Healthy', 'Paused', 'Degraded'])
    day.exporter('counterfoil_rollout_phase', { ...ROLLOUT, phase }, (time) =>
      phase === (time < released ? 'Healthy' : time < aborted ? 'Paused' : 'Degraded') ? 1 : 0,
    );
  day.exporter('counterfoil_rollout_paused', { ...ROLLOUT, reason: 'step' }, (time) =>
    time >= released && time < aborted ? 1 : 0,
  );
  day.exporter(
    'counterfoil_rollout_version',
    { ...ROLLOUT, ...CANARY, role: 'canary' },
    from(released, () => 1),
  );
  day.exporter('counterfoil_rollout_weight', ROLLOUT, (time) =>
    time < released || time >= aborted ? 0 : time < released + 7_200 ? 1 : 10,
  );
  day.exporter('counterfoil_rollout_step', ROLLOUT, (time) =>
    time < released ? 7 : time < released + 7_200 ? 1 : 3,
  );
  day.exporter(
    'counterfoil_rollout_started_timestamp_seconds',
    ROLLOUT,
    from(released, () => released),
  );
  day.exporter('counterfoil_rollout_aborted', ROLLOUT, after(aborted, 1));
  day.exporter(
    'counterfoil_rollout_aborted_timestamp_seconds',
    ROLLOUT,
    from(aborted, () => aborted + 12),
  );
  day.exporter(
    'counterfoil_rollout_abort_info',
    { ...ROLLOUT, ...CANARY, metric: 'event-loss' },
    from(aborted, () => 1),
  );
  for (const state of REPAIRS)
    day.exporter(
      'counterfoil_abort_repair',
      { ...ROLLOUT, ...CANARY, state },
      from(aborted, (time) => (state === (time < repaired ? 'requested' : 'repairing') ? 1 : 0)),
    );
  day.exporter(
    'counterfoil_abort_repair_since_timestamp_seconds',
    { ...ROLLOUT, ...CANARY },
    from(aborted, () => aborted + 20),
  );
  const measured: [string, string, number, number, string][] = [
    ['background', 'event-loss', 0.0241, 0.005, 'Failed'],
    // Only observed in this installation: it fails and aborts nothing.
    ['background', 'billing-errors', 0.0268, 0.01, 'Failed'],
    ['background', 'restarts', 1, 2, 'Successful'],
    ['background', 'complaints', 0, 10, 'Successful'],
    ['step', 'error-rate', 0.0004, 0.001, 'Successful'],
    ['step', 'reconciliation-clean', 3, 0, 'Running'],
  ];
  for (const [analysis, metric, value, bound, phase] of measured) {
    const labels = { ...ROLLOUT, ...CANARY, analysis, metric };
    day.exporter(
      'counterfoil_analysis_measurement',
      labels,
      from(released, after(bad + 240, value, value / 9)),
    );
    day.exporter(
      'counterfoil_analysis_limit',
      labels,
      from(released, () => bound),
    );
    for (const name of ['Pending', 'Running', 'Successful', 'Failed', 'Error', 'Inconclusive'])
      day.exporter(
        'counterfoil_analysis_phase',
        { ...labels, phase: name },
        from(released, (time) => (name === (time < aborted ? 'Running' : phase) ? 1 : 0)),
      );
  }
  const canary = (name: 'counterfoil_hot_facts' | 'counterfoil_hot_events', factor: number) => {
    const at: At = (time) => {
      if (time < released || time > aborted + 900) return undefined;
      const fading = time < aborted ? 1 : 1 - (time - aborted) / 900;
      return Math.round(traffic(time) * factor * (time < released + 7_200 ? 0.01 : 0.1) * fading);
    };
    if (name === 'counterfoil_hot_facts') day.exporter(name, { ...CHECK, ...CANARY }, at);
    else day.exporter(name, CANARY, at);
    return at;
  };
  const facts = canary('counterfoil_hot_facts', 880);
  const events = canary('counterfoil_hot_events', 890);
  const grown = (time: number) => Math.min(Math.max((time - bad) / 420, 0), 1);
  day.exporter('counterfoil_hot_lost_events', CANARY, (time) => {
    const all = events(time);
    return all === undefined ? undefined : Math.round(all * 0.0241 * grown(time));
  });
  for (const kind of ['missing', 'duplicate', 'amount'])
    day.exporter('counterfoil_hot_discrepancies', { ...CHECK, ...CANARY, kind }, (time) => {
      const all = facts(time);
      return all === undefined
        ? undefined
        : Math.round(all * (kind === 'missing' ? 0.021 : kind === 'amount' ? 0.006 : 0) * grown(time));
    });
  day.exporter('application_restart_total', CANARY, from(released, after(bad + 300, 1)));
  day.exporter(
    'counterfoil_service_pods',
    { ...CANARY, ready: 'yes' },
    from(released, after(aborted + 40, 0, 1)),
  );
  day.exporter(
    'counterfoil_service_pods',
    { ...CANARY, ready: 'no' },
    from(released, (time) => (time > bad + 290 && time < bad + 340 ? 1 : 0)),
  );

  // The service itself: the canary's listener fails, publishing is refused now and then, and all gets slower.
  const lost = (share: number): At => ramp(bad, aborted, share);
  day.service(
    'counterfoil_event_left_pending_total',
    'financial-3',
    { ...SESSION, reason: 'listener_failed' },
    lost(58),
  );
  day.service(
    'counterfoil_event_left_pending_total',
    'financial-3',
    { ...SESSION, reason: 'shutdown' },
    after(aborted, 5),
  );
  day.service('counterfoil_drain_left_total', 'financial-3', {}, after(aborted, 5));
  day.service('event_processed_total', 'financial-3', { ...SESSION, status: 'failed' }, lost(58));
  day.service(
    'counterfoil_listener_runs_total',
    'financial-3',
    { ...SESSION, listener: 'createPerSessionBilling', outcome: 'failed' },
    lost(58),
  );
  day.service('event_published_total', 'financial-1', { ...SESSION, status: 'failed' }, lost(24));
  day.service('event_publish_error_total', 'financial-1', {}, (time) =>
    time < bad ? 0 : 24 * Math.min((time - bad) / (day.end - bad), 1),
  );
  day.service('counterfoil_events_in_flight', 'financial-3', {}, (time) =>
    time < bad || time > aborted ? Math.round(traffic(time) / 8) : 74,
  );
  day.service('counterfoil_events_waiting', 'financial-3', {}, (time) =>
    time < bad + 120 || time > aborted ? 0 : 16,
  );
  for (const [index, le] of [...BUCKETS, '+Inf'].entries()) {
    const below = [0, 0, 0.1, 0.3, 0.52, 0.71, 0.8, 0.9, 0.97, 1, 1][index] ?? 1;
    const before = [0.02, 0.18, 0.71, 0.9, 0.97, 0.993, 0.998, 0.9995, 1, 1, 1][index] ?? 1;
    for (const pod of ['financial-2', 'financial-3'])
      day.service('event_duration_seconds_bucket', pod, { ...SESSION, le: String(le) }, (time) => {
        const until = Math.min(time, bad);
        return Math.round(
          counted(until, 0.8 / 3) * before + (counted(time, 0.8 / 3) - counted(until, 0.8 / 3)) * below,
        );
      });
  }
  day.service(
    'counterfoil_replay_results_total',
    'financial-1',
    { outcome: 'processed' },
    ramp(repaired, day.end, 25),
  );
  day.service(
    'counterfoil_replay_results_total',
    'financial-1',
    { outcome: 'invalid_payload' },
    ramp(repaired, day.end, 3),
  );
  day.service(
    'counterfoil_rebuilds_total',
    'financial-1',
    { outcome: 'rebuilt' },
    ramp(repaired, day.end, 6),
  );
  day.service(
    'counterfoil_replay_results_total',
    'financial-1',
    { outcome: 'failed' },
    ramp(repaired, day.end, 2),
  );
  day.service('counterfoil_rebuilds_total', 'financial-1', { outcome: 'failed' }, after(repaired + 120, 1));
  day.recorded('installation:complaints_per_day:value', {}, after(shift('03:05:00'), 2, 1));

  // What our rules make of these samples; test/dashboards/night.test.ts holds it.
  for (const [alertname, severity, since] of [
    ['CounterfoilJobFailed', 'warning', '01:00:00'],
    ['CounterfoilEventsSlow', 'warning', '02:45:45'],
    ['EventPublishError', 'warning', '02:48:15'],
    ['CounterfoilRolloutAborted', 'warning', '02:49:00'],
    ['CounterfoilAbortInRepair', 'info', '02:49:00'],
    ['CounterfoilOverdueEvents', 'warning', '02:51:15'],
    ['BillingDiscrepancy', 'warning', '02:58:15'],
    ['BillingDiscrepancy', 'critical', '02:58:15'],
    ['CounterfoilParkedEvents', 'warning', '03:02:00'],
  ] as const)
    firing(day, alertname, severity, shift(since));
  return day;
}

/** What is rare, all at once: held back, implausible, frozen, never verified, odd currencies, a router that fails. */
export function worst(): Day {
  const day = healthy(WORST, 2);
  const second = { check: 'evaluation-billing' };
  day.exporter('counterfoil_check_declared_timestamp_seconds', second, day.end - 5_000);
  day.exporter('counterfoil_verified_through_timestamp_seconds', CHECK, day.end - 20_000);
  day.exporter('counterfoil_check_held_back', CHECK, 1);
  day.exporter('counterfoil_implausible', CHECK, 1);
  day.exporter('counterfoil_findings', { ...CHECK, kind: 'missing', status: 'acknowledged' }, 2);
  day.exporter('counterfoil_next_acknowledgement_end_timestamp_seconds', CHECK, day.end + 7_200);
  for (const [currency, minor] of [
    ['KWD', 1_234_500],
    ['CLF', 10_000],
    ['points', 77],
  ] as const)
    day.exporter('counterfoil_money_at_risk_minor', { ...CHECK, currency }, minor);
  day.exporter('billing_discrepancy_count', { ...CHECK, kind: 'orphan', cause: 'none' }, 1);
  day.exporter('counterfoil_findings_for_a_person', CHECK, 1);
  day.exporter('counterfoil_rollout_aborted', ROLLOUT, 1);
  day.exporter('counterfoil_overdue_events', {}, 150);
  day.exporter('counterfoil_oldest_overdue_event_timestamp_seconds', {}, day.end - 9_000);
  day.exporter('counterfoil_replay_events', { status: 'handed_to_outbox' }, 5);
  day.exporter('counterfoil_oldest_handed_event_timestamp_seconds', {}, day.end - 300);
  day.exporter('counterfoil_frozen_until_timestamp_seconds', {}, day.end + 1_800);
  day.exporter('counterfoil_rollout_paused', { ...ROLLOUT, reason: 'inconclusive' }, 1);
  day.exporter('counterfoil_rollout_router_error', ROLLOUT, 1);
  day.exporter('counterfoil_rollout_phase', { ...ROLLOUT, phase: 'Healthy' }, 0);
  day.exporter('counterfoil_rollout_phase', { ...ROLLOUT, phase: 'Paused' }, 1);
  day.exporter('counterfoil_rollout_version', { ...ROLLOUT, ...CANARY, role: 'canary' }, 1);
  day.exporter('counterfoil_rollout_started_timestamp_seconds', ROLLOUT, day.end - 100_000);
  const repair = (time: number) =>
    time < day.at('07:40') ? 'off' : time < day.at('08:20') ? 'clean' : 'not_clean';
  for (const state of REPAIRS)
    day.exporter('counterfoil_abort_repair', { ...ROLLOUT, ...CANARY, state }, (time) =>
      state === repair(time) ? 1 : 0,
    );
  day.exporter('counterfoil_service_pods', { ...STABLE, ready: 'no' }, 2);
  // For hours no event.
  for (const [key, at] of day.series)
    if (key.startsWith('event_duration_seconds_bucket')) day.series.set(key, () => at(day.end - 7_200));
  // A version that is gone, and events that name none.
  day.exporter('application_restart_total', { published_hash: '6b8f4c7d91' }, 1);
  version(day, OF_ALL, 0.1);
  return day;
}

/** Samples of these days as OpenMetrics text, oldest first within each series. */
export function* openMetrics(days: readonly Day[]): Generator<string> {
  for (const { series, end, hours } of days) {
    for (const [key, at] of series) {
      let text = '';
      for (let time = end - hours * 3_600; time <= end; time += SCRAPE_SECONDS) {
        const value = at(time);
        if (value !== undefined) text += `${key} ${value} ${time}\n`;
      }
      yield text;
    }
  }
  yield '# EOF\n';
}
