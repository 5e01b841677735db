/**
 * For whoever was woken: what is wrong, how much money, since when, what to do, what the machine is already doing.
 * Read from the top left. Everything else is one link away.
 */
import type { Dashboard } from '@grafana/grafana-foundation-sdk/dashboard';
import { frame } from './frame.ts';
import { moneyAtRisk } from './money.ts';
import { chart, list, notDrawn, notMeasured, stat, table } from './panels.ts';
import { ofService, one, own, threshold } from './selectors.ts';
import {
  abortedBy,
  canaryWeight,
  causeColours,
  limit,
  needsAPerson,
  openByCause,
  openFindings,
  openOverTime,
  overdueEvents,
  repairAfterAbort,
  rolloutPhase,
  verdict,
  verdictWords,
  verifiedAges,
} from './verdicts.ts';

/** A run that has not ended and has given a sign of life within it is at work. */
const SIGN_OF_LIFE_SECONDS = 120;

const oldestFact = own('counterfoil_oldest_open_finding_timestamp_seconds');
const oldestEvent = own('counterfoil_oldest_overdue_event_timestamp_seconds');
const oldestParked = own('counterfoil_oldest_parked_event_timestamp_seconds');
const firing = own('ALERTS', 'alertstate="firing"');
/** Since when, in milliseconds: what pages first, oldest first; no alert twice. */
const ofSeverity = (severity: string) =>
  `min by (alertname, severity) (${own('ALERTS_FOR_STATE', `severity="${severity}"`)} and ignoring (alertstate) ${firing}) * 1000`;
const firingAlerts = `sort(${ofSeverity('critical')})
or sort(${ofSeverity('warning')} unless on (alertname) ${ofSeverity('critical')})
or sort(${ofSeverity('info')})`;
const rulesLoaded = own('installation:open_findings:threshold');
const inReplay = one('counterfoil_replay_events', ['status'], 'status=~"due|claimed|handed_to_outbox"');
const requests = one('counterfoil_open_requests', ['kind', 'needs_approval'], 'needs_approval="no"');
const signOfLife = `time() - ${one('counterfoil_job_seen_timestamp_seconds', ['counterfoil_job', 'mode'])}`;
const frozen = `max(${own('counterfoil_frozen_until_timestamp_seconds')}) - time()`;

export const onCall = (): Dashboard =>
  frame('on-call', {
    description: 'What is wrong, how much money is at risk, since when, what to do. Read from the top left.',
    from: 'now-6h',
    panels: [
      stat({
        title: 'Verdict',
        description:
          'OPEN: unacknowledged discrepancies stand. NOT VERIFIED: nobody has looked lately. EVENTS OVERDUE: events are past their grace and nobody works on them. SUSPECTED: seen once, the next run looks again. CLEAN: every fact looked at has its bill. NOT MEASURED: the exporter or the rules do not answer, so nobody knows.',
        unit: 'none',
        at: [0, 0, 5, 6],
        filled: true,
        shows: 'values',
        size: 34,
        runbooks: ['BillingDiscrepancy'],
        queries: [{ refId: 'verdict', expr: verdict, legend: 'bills', words: verdictWords }],
      }),
      list({
        title: 'Open discrepancies, by cause',
        description:
          'Open findings that nobody has acknowledged. missing: a fact without a bill, with the cause; duplicate: more bills than allowed; amount: a wrong amount; orphan: a bill without a fact.',
        unit: 'locale',
        at: [5, 0, 6, 6],
        runbooks: ['BillingDiscrepancy'],
        queries: openByCause(),
      }),
      stat({
        title: 'Money at risk',
        description:
          'Expected amounts of open, unacknowledged findings, in whole units of each currency and never summed across currencies. Unknown: findings of which nobody can say the amount; that is not 0.',
        unit: 'locale',
        at: [11, 0, 4, 6],
        queries: [
          ...moneyAtRisk().map((query) => ({ ...query, legend: '{{currency}}', colour: 'red' as const })),
          {
            refId: 'unknown',
            expr: `sum(${one('counterfoil_findings_of_unknown_amount', ['check'])}) > 0`,
            legend: 'unknown amount',
            unit: 'suffix: findings',
            decimals: 0,
            colour: 'orange',
          },
          {
            refId: 'none',
            expr: `sum(${openFindings}) == 0`,
            legend: 'at risk',
            decimals: 0,
            words: { 0: ['nothing', 'green'] },
          },
          notMeasured('billing_discrepancy_count', 'at risk'),
        ],
      }),
      stat({
        title: 'Wrong since (UTC)',
        description:
          'When the oldest open fact happened, the oldest overdue event was written, and the event parked longest was parked.',
        unit: 'dateTimeAsIso',
        at: [15, 0, 5, 6],
        queries: [
          { refId: 'fact', expr: `min(${oldestFact}) * 1000`, legend: 'oldest open fact', colour: 'red' },
          {
            refId: 'event',
            expr: `min(${oldestEvent}) * 1000`,
            legend: 'oldest overdue event',
            colour: 'orange',
          },
          {
            refId: 'parked',
            expr: `min(${oldestParked}) * 1000`,
            legend: 'parked longest',
            colour: 'orange',
          },
          {
            refId: 'none',
            expr: `(sum(${openFindings}) == 0) unless on () (${oldestFact} or ${oldestEvent} or ${oldestParked})`,
            legend: 'wrong',
            words: { 0: ['nothing', 'green'] },
          },
          notMeasured('billing_discrepancy_count', 'wrong'),
        ],
      }),
      stat({
        title: 'Verified through: age',
        description:
          'How long ago the time lies up to which every fact of the check was looked at and settled. Red beyond its threshold: what is newer has not been looked at.',
        unit: 's',
        size: 34,
        at: [20, 0, 4, 6],
        decimals: 1,
        runbooks: ['CounterfoilVerifiedThroughTooOld'],
        queries: verifiedAges(),
      }),
      table({
        title: 'What to do: alerts that fire',
        description:
          'Each alert leads to its runbook. Since: when its condition became true. NOT MEASURED: no rules are evaluated, so that no alert can fire.',
        unit: 'none',
        at: [0, 6, 11, 9],
        queries: [
          {
            refId: 'firing',
            expr: `${firingAlerts}
or label_replace((${threshold('open_findings')} * 0) unless on () ${firing}, "severity", "none fires", "", "")
or label_replace(absent(${rulesLoaded}), "severity", "NOT MEASURED", "", "")`,
          },
        ],
        columns: [
          {
            from: 'firing',
            title: 'Since (UTC)',
            unit: 'dateTimeAsIso',
            width: 170,
            words: { 0: ['', 'text'], 1: ['', 'purple'] },
          },
          {
            from: 'severity',
            title: 'Severity',
            width: 125,
            words: {
              critical: ['critical', 'red'],
              warning: ['warning', 'orange'],
              info: ['info', 'blue'],
              'none fires': ['none fires', 'green'],
              'NOT MEASURED': ['NOT MEASURED', 'purple'],
            },
          },
          {
            from: 'alertname',
            title: 'Alert: its runbook',
            runbook: true,
          },
        ],
      }),
      list({
        title: 'Needs you',
        description:
          'What no job will mend by itself: findings to decide, requests that wait for the approval of another person, parked events. `node jobs/status/main.ts` in the exporter’s pod prints the command for each.',
        unit: 'locale',
        at: [11, 6, 5, 9],
        runbooks: ['CounterfoilParkedEvents'],
        queries: needsAPerson(),
      }),
      list({
        title: 'What the machine is doing',
        description:
          'Events in the hands of replay, requests that a run will take up, runs at work with the time since their last sign of life, and a freeze with the time it still lasts.',
        unit: 'locale',
        at: [16, 6, 8, 9],
        queries: [
          {
            refId: 'frozen',
            expr: `${frozen} > 0`,
            legend: 'FROZEN, still for',
            unit: 's',
            decimals: 0,
            colour: 'orange',
          },
          { refId: 'replay', expr: `${inReplay} > 0`, legend: 'replay: {{status}}', colour: 'blue' },
          {
            refId: 'requests',
            expr: `sum by (kind) (${requests}) > 0`,
            legend: 'asked for: {{kind}}',
            colour: 'blue',
          },
          {
            refId: 'runs',
            expr: `(${signOfLife}) < ${SIGN_OF_LIFE_SECONDS}`,
            legend: 'at work: {{counterfoil_job}}, seen',
            unit: 's',
            decimals: 0,
            colour: 'text',
          },
          {
            refId: 'none',
            expr: `(sum(${inReplay}) + sum(${requests}) == 0) unless on () (${frozen} > 0) unless on () ((${signOfLife}) < ${SIGN_OF_LIFE_SECONDS})`,
            legend: 'at work',
            words: { 0: ['nothing to do', 'green'] },
          },
          notMeasured('counterfoil_replay_events', 'at work'),
        ],
      }),
      stat({
        title: 'Release',
        description:
          'The phase of the guarded rollout. Paused is what a step does; inconclusive waits for a person.',
        unit: 'none',
        at: [0, 15, 5, 4],
        shows: 'names',
        runbooks: ['CounterfoilRolloutStuck'],
        queries: rolloutPhase(),
      }),
      stat({
        title: 'Traffic by version',
        description: 'Per cent of the traffic that each version is meant to get, by pod template hash.',
        unit: 'percent',
        at: [5, 15, 7, 4],
        decimals: 0,
        queries: canaryWeight(),
      }),
      stat({
        title: 'Aborted by',
        description:
          'When the release was aborted (UTC), and by which metric of its analysis; person where somebody did, progress_deadline where it never came up.',
        unit: 'dateTimeAsIso',
        at: [12, 15, 6, 4],
        runbooks: ['CounterfoilRolloutAborted'],
        queries: abortedBy(),
      }),
      stat({
        title: 'Repair after the abort',
        description:
          'Whether what the bad version broke is mended. clean: replayed and verified through the end of its time. off: nobody asked the exporter to do it.',
        unit: 'none',
        at: [18, 15, 6, 4],
        shows: 'names',
        runbooks: ['CounterfoilAbortRepairNotClean'],
        queries: repairAfterAbort(),
      }),
      chart({
        title: 'Open discrepancies: growing or shrinking',
        description:
          'Open, unacknowledged findings over time, by kind and cause, and the threshold of the alert.',
        unit: 'locale',
        at: [0, 19, 8, 8],
        colours: causeColours,
        queries: openOverTime(),
      }),
      chart({
        title: 'Events waiting',
        description:
          'Rows of event_backups that are pending, and of them those past their grace that nobody works on. Pending ones come and go; overdue ones are lost until replay has them.',
        unit: 'locale',
        at: [8, 19, 8, 8],
        queries: [
          {
            refId: 'pending',
            expr: `max(${own('counterfoil_pending_events')})`,
            legend: 'pending',
            colour: 'blue',
          },
          { refId: 'overdue', expr: overdueEvents, legend: 'overdue', colour: 'orange' },
          notDrawn(own('counterfoil_overdue_events')),
          limit('overdue_events', 'overdue: limit'),
        ],
      }),
      chart({
        title: 'Flow of events',
        description:
          'What the service’s own pods count: events committed, events whose listeners have all succeeded, events left pending. The gap between the first two is no loss: work in flight and restarts make one.',
        unit: 'eps',
        at: [16, 19, 8, 8],
        queries: [
          {
            refId: 'committed',
            expr: `sum(rate(${ofService('event_published_total', 'status="committed"')}[$__rate_interval]))`,
            legend: 'committed',
            colour: 'blue',
          },
          {
            refId: 'processed',
            expr: `sum(rate(${ofService('event_processed_total', 'status="processed"')}[$__rate_interval]))`,
            legend: 'processed',
            colour: 'green',
          },
          {
            refId: 'left',
            expr: `sum(rate(${ofService('counterfoil_event_left_pending_total')}[$__rate_interval]))`,
            legend: 'left pending',
            colour: 'orange',
          },
        ],
      }),
    ],
  });
