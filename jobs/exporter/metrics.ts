/**
 * Every metric of the exporter: its name, type, labels and meaning. Alerts, dashboards and their tests read this list;
 * a metric that is not here cannot be set. Each series also has the label `installation`.
 *
 * Times are instants, never ages: an age that is not read again goes on looking young. A time that has not come yet
 * (never verified, nothing pending) has no series; the count beside it is there at 0.
 */

export interface MetricDeclaration {
  readonly type: 'gauge' | 'counter';
  readonly help: string;
  /** Beside `installation`. Values come from closed sets of words, declared names, or are bounded in number. */
  readonly labels: readonly string[];
  /** Which collection sets it: without a fresh success of that one, the series is not exported. */
  readonly from: Collection;
}

/**
 * `state`: our own tables. `events`: the service's `event_backups`. `hot_check`: facts of the last minutes.
 * `rollout`, `pods`: watches on the API server. `exporter`: the process itself, always there.
 */
export type Collection = 'state' | 'events' | 'hot_check' | 'rollout' | 'pods' | 'exporter';

export const metrics = {
  // The exporter itself.
  counterfoil_exporter_info: {
    type: 'gauge',
    help: 'Always 1; the version of the bundle.',
    labels: ['version'],
    from: 'exporter',
  },
  counterfoil_collection_success: {
    type: 'gauge',
    help: 'Whether the last attempt of this collection succeeded: 1 or 0.',
    labels: ['collection'],
    from: 'exporter',
  },
  counterfoil_collection_timestamp_seconds: {
    type: 'gauge',
    help: 'When this collection last succeeded, by the exporter’s clock; 0 before it ever did. Its metrics are exported while it is recent.',
    labels: ['collection'],
    from: 'exporter',
  },
  counterfoil_collection_duration_seconds: {
    type: 'gauge',
    help: 'How long the last attempt of this collection took.',
    labels: ['collection'],
    from: 'exporter',
  },

  // Findings: state.
  billing_discrepancy_count: {
    type: 'gauge',
    help: 'Open findings that nobody has acknowledged. `cause` is none unless the kind is missing.',
    labels: ['check', 'kind', 'cause'],
    from: 'state',
  },
  billing_discrepancy_total: {
    type: 'counter',
    help: 'Findings opened since the check was declared, reopened ones again.',
    labels: ['check', 'kind'],
    from: 'state',
  },
  counterfoil_findings: {
    type: 'gauge',
    help: 'Unsettled findings by status: suspected, open, acknowledged.',
    labels: ['check', 'kind', 'status'],
    from: 'state',
  },
  counterfoil_findings_for_a_person: {
    type: 'gauge',
    help: 'Open findings that no job will mend: they need an approval or a decision.',
    labels: ['check'],
    from: 'state',
  },
  counterfoil_findings_resolved_total: {
    type: 'counter',
    help: 'Findings that a later look no longer saw.',
    labels: ['check'],
    from: 'state',
  },
  counterfoil_oldest_open_finding_timestamp_seconds: {
    type: 'gauge',
    help: 'When the oldest open finding’s fact happened. No series while none is open.',
    labels: ['check'],
    from: 'state',
  },
  counterfoil_next_acknowledgement_end_timestamp_seconds: {
    type: 'gauge',
    help: 'When the first acknowledgement ends and its finding pages again. No series while there is none.',
    labels: ['check'],
    from: 'state',
  },
  counterfoil_money_at_risk_minor: {
    type: 'gauge',
    help: 'Minor units of the currency in open, unacknowledged findings whose amount is known. Never summed across currencies.',
    labels: ['check', 'currency'],
    from: 'state',
  },
  counterfoil_findings_of_unknown_amount: {
    type: 'gauge',
    help: 'Open, unacknowledged findings of which nobody can say how much money is at risk.',
    labels: ['check'],
    from: 'state',
  },

  // Checks: state.
  counterfoil_check_declared_timestamp_seconds: {
    type: 'gauge',
    help: 'When a run first saw this check: the age of one that was never verified counts from here.',
    labels: ['check'],
    from: 'state',
  },
  counterfoil_verified_through_timestamp_seconds: {
    type: 'gauge',
    help: 'The time up to which every fact has been looked at and settled. No series before the first time.',
    labels: ['check'],
    from: 'state',
  },
  counterfoil_check_held_back: {
    type: 'gauge',
    help: 'Whether an old transaction holds the horizon of this check back: 1 or 0.',
    labels: ['check'],
    from: 'state',
  },

  // Runs: state.
  counterfoil_job_last_outcome: {
    type: 'gauge',
    help: 'The outcome of the newest run of this job and mode that has ended: 1 for that one, 0 for the others.',
    labels: ['counterfoil_job', 'mode', 'outcome'],
    from: 'state',
  },
  counterfoil_job_last_start_timestamp_seconds: {
    type: 'gauge',
    help: 'When the newest run of this job and mode began.',
    labels: ['counterfoil_job', 'mode'],
    from: 'state',
  },
  counterfoil_job_last_success_timestamp_seconds: {
    type: 'gauge',
    help: 'When a run of this job and mode last ended as succeeded. No series before the first time.',
    labels: ['counterfoil_job', 'mode'],
    from: 'state',
  },
  counterfoil_job_last_duration_seconds: {
    type: 'gauge',
    help: 'How long the newest run that has ended took.',
    labels: ['counterfoil_job', 'mode'],
    from: 'state',
  },
  counterfoil_job_runs_since_success: {
    type: 'gauge',
    help: 'Runs of this job and mode that have ended since the last success: failed, refused, partial and implausible ones, and endpoint_down; skipped ones are not counted.',
    labels: ['counterfoil_job', 'mode'],
    from: 'state',
  },
  counterfoil_job_seen_timestamp_seconds: {
    type: 'gauge',
    help: 'The last sign of life of the newest run that has not ended. No series while none is at work.',
    labels: ['counterfoil_job', 'mode'],
    from: 'state',
  },
  counterfoil_implausible: {
    type: 'gauge',
    help: 'Whether the newest run of some mode found more than can be true and a person has to release it: 1 or 0.',
    labels: ['check'],
    from: 'state',
  },

  // Replay, requests and freezes: state.
  counterfoil_replay_events: {
    type: 'gauge',
    help: 'Events in the hands of replay: due, claimed, handed_to_outbox.',
    labels: ['status'],
    from: 'state',
  },
  counterfoil_parked_events: {
    type: 'gauge',
    help: 'Events that replay has given up on, by reason.',
    labels: ['reason'],
    from: 'state',
  },
  counterfoil_oldest_parked_event_timestamp_seconds: {
    type: 'gauge',
    help: 'When the event that has been parked longest was parked. No series while none is.',
    labels: [],
    from: 'state',
  },
  counterfoil_oldest_handed_event_timestamp_seconds: {
    type: 'gauge',
    help: 'When the event that has waited longest for its bill was handed to the outbox. No series while none waits.',
    labels: [],
    from: 'state',
  },
  counterfoil_replayed_events_total: {
    type: 'counter',
    help: 'Events that replay has brought to their end since this exporter began to look.',
    labels: [],
    from: 'state',
  },
  counterfoil_open_requests: {
    type: 'gauge',
    help: 'Requests that are not done, by kind and whether one waits for the approval of another person (yes, no).',
    labels: ['kind', 'needs_approval'],
    from: 'state',
  },
  counterfoil_oldest_open_request_timestamp_seconds: {
    type: 'gauge',
    help: 'When the oldest request that is not done was made. No series while there is none.',
    labels: ['kind'],
    from: 'state',
  },
  counterfoil_frozen_until_timestamp_seconds: {
    type: 'gauge',
    help: 'Until when every run but its owner’s is skipped; 0 while no freeze lives.',
    labels: [],
    from: 'state',
  },

  // The service's events: events.
  counterfoil_pending_events: {
    type: 'gauge',
    help: 'Rows of event_backups that are pending, parked ones included; counted up to a limit.',
    labels: [],
    from: 'events',
  },
  counterfoil_overdue_events: {
    type: 'gauge',
    help: 'Pending events older than the grace, under no live lease and not parked; counted up to a limit.',
    labels: [],
    from: 'events',
  },
  counterfoil_oldest_overdue_event_timestamp_seconds: {
    type: 'gauge',
    help: 'When the oldest overdue event was written. No series while none is overdue.',
    labels: [],
    from: 'events',
  },
  counterfoil_newest_event_timestamp_seconds: {
    type: 'gauge',
    help: 'When the newest row of event_backups was written. No series while there is none, or no index on created_at.',
    labels: [],
    from: 'events',
  },

  // Facts and events of the last minutes, per version: hot_check.
  counterfoil_hot_facts: {
    type: 'gauge',
    help: 'Facts completed between 15 min and 20 s ago, by the hash of the version that published their event (unknown where nothing says).',
    labels: ['check', 'published_hash'],
    from: 'hot_check',
  },
  counterfoil_hot_discrepancies: {
    type: 'gauge',
    help: 'Of these facts, those with a discrepancy of this kind: missing, duplicate, or amount where the check compares amounts.',
    labels: ['check', 'published_hash', 'kind'],
    from: 'hot_check',
  },
  counterfoil_hot_events: {
    type: 'gauge',
    help: 'Events written between 15 min and the loss delay ago, by the hash of the version that published them.',
    labels: ['published_hash'],
    from: 'hot_check',
  },
  counterfoil_hot_lost_events: {
    type: 'gauge',
    help: 'Of these events, those still pending under no live lease, and those that replay had to send.',
    labels: ['published_hash'],
    from: 'hot_check',
  },
  counterfoil_hot_amounts_measured: {
    type: 'gauge',
    help: 'Whether the check compares amounts, so that wrong ones can be seen: 1 or 0.',
    labels: ['check'],
    from: 'hot_check',
  },
  counterfoil_hot_versions_measured: {
    type: 'gauge',
    help: 'Whether event_backups says which version published an event: 1 or 0.',
    labels: [],
    from: 'hot_check',
  },

  // The guarded rollout: rollout.
  counterfoil_rollout_phase: {
    type: 'gauge',
    help: 'The phase of the rollout: 1 for that one, 0 for the others (Healthy, Progressing, Paused, Degraded, Invalid).',
    labels: ['rollout', 'phase'],
    from: 'rollout',
  },
  counterfoil_rollout_version: {
    type: 'gauge',
    help: 'Always 1; the pod template hash of the stable and of the canary version. No canary series while there is none.',
    labels: ['rollout', 'role', 'published_hash'],
    from: 'rollout',
  },
  counterfoil_rollout_weight: {
    type: 'gauge',
    help: 'Per cent of the traffic that the canary is meant to get, as the controller last set it; 0 while there is no canary.',
    labels: ['rollout'],
    from: 'rollout',
  },
  counterfoil_rollout_step: {
    type: 'gauge',
    help: 'Index of the current step, from 0; equal to the number of steps when all are done.',
    labels: ['rollout'],
    from: 'rollout',
  },
  counterfoil_rollout_steps: {
    type: 'gauge',
    help: 'Number of steps.',
    labels: ['rollout'],
    from: 'rollout',
  },
  counterfoil_rollout_started_timestamp_seconds: {
    type: 'gauge',
    help: 'When the ReplicaSet of the current canary was made. No series while there is no canary.',
    labels: ['rollout'],
    from: 'rollout',
  },
  counterfoil_rollout_aborted: {
    type: 'gauge',
    help: 'Whether the rollout is aborted: 1 or 0.',
    labels: ['rollout'],
    from: 'rollout',
  },
  counterfoil_rollout_aborted_timestamp_seconds: {
    type: 'gauge',
    help: 'When it was aborted. No series while it is not.',
    labels: ['rollout'],
    from: 'rollout',
  },
  counterfoil_rollout_abort_info: {
    type: 'gauge',
    help: 'Always 1 while the rollout is aborted: the version, and the metric of the analysis that did it (progress_deadline or person where none did).',
    labels: ['rollout', 'published_hash', 'metric'],
    from: 'rollout',
  },
  counterfoil_rollout_paused: {
    type: 'gauge',
    help: 'Whether the controller waits: 1 for the reason (step, inconclusive, manual), 0 for the others.',
    labels: ['rollout', 'reason'],
    from: 'rollout',
  },
  counterfoil_rollout_router_error: {
    type: 'gauge',
    help: 'Whether the controller fails to set weights, so that nothing judges the canary: 1 or 0.',
    labels: ['rollout'],
    from: 'rollout',
  },
  counterfoil_analysis_measurement: {
    type: 'gauge',
    help: 'The newest value of this metric of the current analysis. No series where it is no number.',
    labels: ['rollout', 'published_hash', 'analysis', 'metric'],
    from: 'rollout',
  },
  counterfoil_analysis_limit: {
    type: 'gauge',
    help: 'The number that the condition of this metric compares with. No series where it compares with none.',
    labels: ['rollout', 'published_hash', 'analysis', 'metric'],
    from: 'rollout',
  },
  counterfoil_analysis_phase: {
    type: 'gauge',
    help: 'The phase of this metric of the current analysis: 1 for that one, 0 for the others (Pending, Running, Successful, Failed, Error, Inconclusive).',
    labels: ['rollout', 'published_hash', 'analysis', 'metric', 'phase'],
    from: 'rollout',
  },
  counterfoil_abort_repair: {
    type: 'gauge',
    help: 'Where the repair after the last abort stands: 1 for that state, 0 for the others (off, waiting, requested, repairing, clean, not_clean).',
    labels: ['rollout', 'published_hash', 'state'],
    from: 'rollout',
  },
  counterfoil_abort_repair_since_timestamp_seconds: {
    type: 'gauge',
    help: 'Since when it stands there. No series without an abort.',
    labels: ['rollout', 'published_hash'],
    from: 'rollout',
  },

  // The pods of the guarded service: pods.
  application_restart_total: {
    type: 'counter',
    help: 'Restarts of the service’s containers that this exporter has seen, by the version they belong to.',
    labels: ['published_hash'],
    from: 'pods',
  },
  counterfoil_service_pods: {
    type: 'gauge',
    help: 'Pods of the service that run and are ready, and those that are not (ready: yes, no), by version.',
    labels: ['published_hash', 'ready'],
    from: 'pods',
  },
} as const satisfies Record<string, MetricDeclaration>;

export type MetricName = keyof typeof metrics;
