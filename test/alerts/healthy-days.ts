/**
 * Healthy traffic as Prometheus would have scraped it: steps from 0 to 1,000 events a second, deploys with their canary,
 * pods replaced in between, an exporter that restarts, and all that is normal in it: events in flight, a run that fails once,
 * findings that resolve by themselves before anybody would look. No alert may fire.
 */

/** Value at a time in seconds since the beginning; undefined: no sample. */
type At = (seconds: number) => number | undefined;

export interface TraceOptions {
  readonly days: number;
  readonly sampleSeconds: number;
  /** A fault planted at this hour, to prove that the alerts are awake: 2 % of the events are lost for 20 minutes. */
  readonly lossAtHour?: number;
}

const HOUR = 3_600;
const DAY = 24 * HOUR;

/** Events a second at each hour of the day: nothing at night, steps of 10 to 1,000 and back. */
const dayPlan = [
  0, 0, 0, 0, 0, 1, 10, 10, 1_000, 1_000, 200, 0, 0, 1_000, 500, 100, 100, 1_000, 50, 10, 1, 1, 0, 0,
];

/** Pods live 9 hours: a deploy, a node that is drained. */
const POD_SECONDS = 9 * HOUR;
const SCRAPES_MISSED = 2;

export function healthyTrace({ days, sampleSeconds, lossAtHour }: TraceOptions): Map<string, string> {
  const series = new Map<string, string>();
  const total = days * DAY;
  const steps = Math.floor(total / sampleSeconds);
  const here = 'namespace="counterfoil",installation="counterfoil"';
  const put = (name: string, labels: string, at: At) => {
    const values: string[] = [];
    for (let step = 0; step <= steps; step += 1) values.push(String(at(step * sampleSeconds) ?? '_'));
    series.set(`${name}{${labels}}`, runLengths(values));
  };
  const exporter = (name: string, labels: string, at: At) =>
    // It restarts once a day, and two scrapes are missed.
    put(name, `${here},pod="e"${labels === '' ? '' : `,${labels}`}`, (t) =>
      t % DAY >= 5 * HOUR && t % DAY < 5 * HOUR + SCRAPES_MISSED * sampleSeconds ? undefined : at(t),
    );
  const rate = (t: number) => dayPlan[Math.floor((t % DAY) / HOUR)] ?? 0;
  const counted: number[] = [0];
  for (let step = 1; step <= steps; step += 1)
    counted.push((counted[step - 1] ?? 0) + rate((step - 1) * sampleSeconds) * sampleSeconds);
  /** Events of the service since the beginning. */
  const eventsBy = (t: number) => counted[Math.max(0, Math.min(steps, Math.floor(t / sampleSeconds)))] ?? 0;
  const within = (t: number, seconds: number) => eventsBy(t) - eventsBy(t - seconds);

  // Two pods at a time; each counter begins at 0 with its pod, and ends with it.
  for (let pod = 0; pod * POD_SECONDS < total; pod += 1)
    for (const twin of [0, 1]) {
      // The second follows two minutes later, as in a rolling update.
      const born = pod * POD_SECONDS + twin * 120;
      const own =
        (share: number): At =>
        (t) =>
          t < born || t >= born + POD_SECONDS
            ? undefined
            : Math.round((eventsBy(t) - eventsBy(born)) * share);
      const labels = `namespace="counterfoil",pod="p${pod}-${twin}"`;
      put('event_published_total', `${labels},event_type="e",status="committed"`, own(0.5));
      put('event_published_total', `${labels},event_type="e",status="failed"`, own(0));
      put('event_publish_error_total', labels, own(0));
      put(
        'counterfoil_event_left_pending_total',
        `${labels},event_type="e",reason="listener_failed"`,
        own(0.0001),
      );
      put(
        'counterfoil_listener_runs_total',
        `${labels},event_type="e",listener="l",outcome="succeeded"`,
        own(0.5),
      );
      put(
        'counterfoil_listener_runs_total',
        `${labels},event_type="e",listener="l",outcome="failed"`,
        own(0.0001),
      );
      put('event_duration_seconds_bucket', `${labels},event_type="e",le="0.1"`, own(0.48));
      put('event_duration_seconds_bucket', `${labels},event_type="e",le="0.5"`, own(0.499));
      put('event_duration_seconds_bucket', `${labels},event_type="e",le="+Inf"`, own(0.5));
      put('counterfoil_service_info', `${labels},service_version="1"`, (t) =>
        own(0)(t) === undefined ? undefined : 1,
      );
    }

  // The exporter and what it collects.
  exporter('counterfoil_exporter_info', 'version="1"', () => 1);
  for (const collection of ['state', 'events', 'hot_check', 'rollout', 'pods']) {
    exporter('counterfoil_collection_success', `collection="${collection}"`, () => 1);
    exporter('counterfoil_collection_timestamp_seconds', `collection="${collection}"`, (t) => t - 7);
  }
  exporter('counterfoil_check_declared_timestamp_seconds', 'check="c"', () => 0);
  exporter('counterfoil_verified_through_timestamp_seconds', 'check="c"', (t) => t - 660 - (t % 60));
  exporter('counterfoil_check_held_back', 'check="c"', (t) => (t % DAY < 1_800 ? 1 : 0));
  exporter('counterfoil_implausible', 'check="c"', () => 0);
  // One finding a day that resolves by itself within the minute.
  exporter('billing_discrepancy_count', 'check="c",kind="missing",cause="event_pending"', (t) =>
    t % DAY >= 9 * HOUR && t % DAY < 9 * HOUR + 45 ? 1 : 0,
  );
  exporter('counterfoil_findings_for_a_person', 'check="c"', () => 0);
  for (const [job, mode, period] of [
    ['billing-reconciliation', 'tail', 60],
    ['billing-reconciliation', 'incremental', HOUR],
    ['event-replay', 'once', 300],
    ['flow-probe', 'probe', 4 * HOUR],
  ] as const) {
    const labels = `counterfoil_job="${job}",mode="${mode}"`;
    exporter('counterfoil_job_last_success_timestamp_seconds', labels, (t) => t - (t % period));
    exporter('counterfoil_job_last_start_timestamp_seconds', labels, (t) => t - (t % period));
    // One run a day fails, and the next mends it. A failed probe is told of, so it does not.
    exporter('counterfoil_job_runs_since_success', labels, (t) =>
      period < 4 * HOUR && t % DAY >= 7 * HOUR && t % DAY < 7 * HOUR + period ? 1 : 0,
    );
    for (const outcome of ['succeeded', 'skipped', 'failed', 'refused'])
      exporter('counterfoil_job_last_outcome', `${labels},outcome="${outcome}"`, (t) => {
        const ended =
          t % DAY >= 3 * HOUR && t % DAY < 3 * HOUR + 1_200
            ? 'skipped'
            : period < 4 * HOUR && t % DAY >= 7 * HOUR && t % DAY < 7 * HOUR + period
              ? 'failed'
              : 'succeeded';
        return ended === outcome ? 1 : 0;
      });
    // At work for a tenth of its period, with a sign of life every ten seconds.
    exporter('counterfoil_job_seen_timestamp_seconds', labels, (t) =>
      t % period < period / 10 ? t - (t % 10) : undefined,
    );
    const cronjob = `namespace="counterfoil",cronjob="x-${job}${mode === 'tail' ? '-tail' : ''}"`;
    put('kube_cronjob_info', cronjob, () => 1);
    put('kube_cronjob_created', cronjob, () => -HOUR);
    put('kube_cronjob_spec_suspend', cronjob, () => 0);
    put('kube_cronjob_status_last_schedule_time', cronjob, (t) => t - (t % period));
  }
  exporter('counterfoil_frozen_until_timestamp_seconds', '', (t) =>
    t % DAY >= 3 * HOUR && t % DAY < 3 * HOUR + 1_200 ? t - (t % DAY) + 3 * HOUR + 1_200 : 0,
  );
  exporter('counterfoil_open_requests', 'kind="replay",needs_approval="no"', (t) => (t % HOUR < 300 ? 1 : 0));
  exporter('counterfoil_oldest_open_request_timestamp_seconds', 'kind="replay"', (t) =>
    t % HOUR < 300 ? t - (t % HOUR) : undefined,
  );
  // A pod that is replaced leaves a few events, which replay takes in before the next look.
  const leftByPod = (t: number) => (t > 0 && t % POD_SECONDS < sampleSeconds ? 3 : 0);
  exporter('counterfoil_overdue_events', '', (t) => lost(t) + leftByPod(t));
  exporter('counterfoil_oldest_overdue_event_timestamp_seconds', '', (t) =>
    leftByPod(t) > 0 ? t - 75 : undefined,
  );
  exporter('counterfoil_parked_events', 'reason="attempts_exhausted"', () => 0);

  // Versions: a deploy every 12 hours; its canary gets 1, 10 and 50 % for 20 minutes each.
  const version = (t: number) => Math.floor(t / (12 * HOUR));
  const intoDeploy = (t: number) => t % (12 * HOUR);
  const weight = (t: number) => (t < 12 * HOUR ? 0 : ([1, 10, 50][Math.floor(intoDeploy(t) / 1_200)] ?? 0));
  function lost(t: number): number {
    if (lossAtHour === undefined || t < lossAtHour * HOUR || t >= lossAtHour * HOUR + 1_200) return 0;
    return Math.round(within(t, 900) * 0.02);
  }
  for (let one = 0; one <= version(total); one += 1) {
    const labels = `published_hash="v${one}"`;
    const alive = (t: number) => version(t) === one || (version(t) === one + 1 && intoDeploy(t) < HOUR);
    const share = (t: number) =>
      version(t) === one ? (weight(t) > 0 ? weight(t) / 100 : 1) : 1 - (weight(t) > 0 ? weight(t) / 100 : 1);
    const part = (t: number, of: number): number | undefined =>
      alive(t) ? Math.round(of * share(t)) : undefined;
    exporter('counterfoil_hot_events', labels, (t) => part(t, within(t, 900)));
    // In flight for longer than the loss delay, now and then: 1 of 10,000.
    exporter('counterfoil_hot_lost_events', labels, (t) => part(t, within(t, 900) * 0.0001 + lost(t)));
    exporter('counterfoil_hot_facts', `check="c",${labels}`, (t) => part(t, within(t, 880)));
    exporter('counterfoil_hot_discrepancies', `check="c",${labels},kind="missing"`, (t) =>
      part(t, within(t, 880) * 0.001),
    );
    exporter('counterfoil_rollout_version', `rollout="billing",role="canary",${labels}`, (t) =>
      version(t) === one && weight(t) > 0 ? 1 : undefined,
    );
    // One pod of each version is restarted once.
    exporter('application_restart_total', labels, (t) =>
      alive(t) ? (intoDeploy(t) > 2 * HOUR ? 1 : 0) : undefined,
    );
  }
  exporter('counterfoil_hot_versions_measured', '', () => 1);
  const rollout = 'rollout="billing"';
  exporter('counterfoil_rollout_weight', rollout, weight);
  exporter('counterfoil_rollout_step', rollout, (t) =>
    weight(t) > 0 ? Math.floor(intoDeploy(t) / 1_200) : 3,
  );
  exporter('counterfoil_rollout_started_timestamp_seconds', rollout, (t) =>
    weight(t) > 0 ? t - intoDeploy(t) : undefined,
  );
  exporter('counterfoil_rollout_aborted', rollout, () => 0);
  exporter('counterfoil_rollout_router_error', rollout, () => 0);
  exporter('counterfoil_rollout_paused', `${rollout},reason="inconclusive"`, () => 0);
  for (const phase of ['Healthy', 'Progressing', 'Paused', 'Degraded'])
    exporter('counterfoil_rollout_phase', `${rollout},phase="${phase}"`, (t) => {
      const is = weight(t) === 0 ? 'Healthy' : intoDeploy(t) % 1_200 < 120 ? 'Progressing' : 'Paused';
      return is === phase ? 1 : 0;
    });
  put('installation:complaints_per_day:value', here, (t) => Math.floor((t % DAY) / (10 * HOUR)));
  return series;
}

/** As promtool writes values: `1x3` for four times 1, `_x2` for two missing, `0+5x3` for steps of 5. */
function runLengths(values: readonly string[]): string {
  const written: string[] = [];
  for (let at = 0; at < values.length; ) {
    const value = values[at] ?? '_';
    let end = at + 1;
    if (value === '_') {
      while (values[end] === '_') end += 1;
      written.push(`_x${end - at}`);
    } else {
      const step = Number(values[end]) - Number(value);
      while (Number.isFinite(step) && Number(values[end]) - Number(values[end - 1]) === step) end += 1;
      written.push(
        end - at === 1 ? value : `${value}${step < 0 ? '-' : '+'}${Math.abs(step)}x${end - at - 1}`,
      );
    }
    at = end;
  }
  return written.join(' ');
}
