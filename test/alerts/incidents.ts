/** Incidents as series, and which alerts fire in their course: promtool holds it, Alertmanager is given it. */

export type Severity = 'critical' | 'warning' | 'info';
export type Firing = readonly [alertname: string, severity: Severity];

export interface Incident {
  readonly name: string;
  /** In samples every 15 s, as promtool writes them. */
  readonly series: Readonly<Record<string, string>>;
  readonly stages: readonly { readonly at: string; readonly firing: readonly Firing[] }[];
  readonly pages: readonly string[];
}

const exporter = (name: string, labels = '') =>
  `${name}{namespace="counterfoil",installation="counterfoil"${labels === '' ? '' : `,${labels}`}}`;

const alive = { [exporter('counterfoil_exporter_info', 'version="1"')]: '1x600' };
const of = (hash: string) => `published_hash="${hash}"`;
const facts = (hash: string) => exporter('counterfoil_hot_facts', `check="c",${of(hash)}`);
const wrong = (hash: string) =>
  exporter('counterfoil_hot_discrepancies', `check="c",${of(hash)},kind="missing"`);
const events = (hash: string) => exporter('counterfoil_hot_events', of(hash));
const lost = (hash: string) => exporter('counterfoil_hot_lost_events', of(hash));
const open = (cause: string) =>
  exporter('billing_discrepancy_count', `check="c",kind="missing",cause="${cause}"`);
const forAPerson = exporter('counterfoil_findings_for_a_person', 'check="c"');
const overdue = exporter('counterfoil_overdue_events');
const oldestOverdue = exporter('counterfoil_oldest_overdue_event_timestamp_seconds');
const parked = exporter('counterfoil_parked_events', 'reason="attempts_exhausted"');
const rollout = 'rollout="billing"';
const aborted = exporter('counterfoil_rollout_aborted', rollout);
const canary = exporter('counterfoil_rollout_version', `${rollout},role="canary",${of('c1')}`);
const repair = (state: string) =>
  exporter('counterfoil_abort_repair', `${rollout},${of('c1')},state="${state}"`);
const repairSince = exporter('counterfoil_abort_repair_since_timestamp_seconds', `${rollout},${of('c1')}`);
const restarts = (hash: string) => exporter('application_restart_total', of(hash));
const collected = (name: string) =>
  exporter('counterfoil_collection_timestamp_seconds', `collection="${name}"`);
const job = 'counterfoil_job="billing-reconciliation",mode="incremental"';
const cronjob = (name: string) => `${name}{namespace="counterfoil",cronjob="x-billing-reconciliation"}`;

/** A canary that loses 3 % of its events from minute 2 on, and crashes; aborted 2.5 min later. */
const badCanary = {
  ...alive,
  [facts('c1')]: '1000x600',
  [wrong('c1')]: '0x7 30x60 0x500',
  [events('c1')]: '1000x600',
  [lost('c1')]: '0x7 30x60 0x500',
  [canary]: '1x17 _x600',
  [restarts('c1')]: '0x7 1x2 3x2 4x600',
  [aborted]: '0x17 1x600',
  [exporter('counterfoil_rollout_aborted_timestamp_seconds', rollout)]: '_x17 260x600',
  [exporter('counterfoil_rollout_abort_info', `${rollout},${of('c1')},metric="billing-errors"`)]:
    '_x17 1x600',
  [open('event_pending')]: '0x60 30x40 0x500',
  [overdue]: '0x50 30x20 0x500',
};

export const incidents: readonly Incident[] = [
  {
    name: 'a bad canary is aborted, and what it broke is repaired: nobody is woken',
    series: {
      ...badCanary,
      [repair('waiting')]: '0x17 1x10 0x600',
      [repair('repairing')]: '0x28 1x72 0x600',
      [repair('clean')]: '0x101 1x600',
      [repairSince]: '_x17 270x10 435x72 1530x500',
    },
    stages: [
      { at: '3m30s', firing: [['CounterfoilVersionBillsWrong', 'warning']] },
      {
        at: '8m',
        firing: [
          ['ApplicationRestart', 'warning'],
          ['CounterfoilAbortInRepair', 'info'],
          ['CounterfoilRolloutAborted', 'warning'],
          ['CounterfoilVersionBillsWrong', 'warning'],
          ['CounterfoilVersionCrashes', 'warning'],
          ['CounterfoilVersionLosesEvents', 'warning'],
          ['EventLossRateHigh', 'critical'],
        ],
      },
      {
        at: '17m',
        firing: [
          ['ApplicationRestart', 'warning'],
          ['BillingDiscrepancy', 'warning'],
          ['CounterfoilAbortInRepair', 'info'],
          ['CounterfoilOverdueEvents', 'warning'],
          ['CounterfoilRolloutAborted', 'warning'],
          ['CounterfoilVersionBillsWrong', 'warning'],
          ['CounterfoilVersionCrashes', 'warning'],
          ['CounterfoilVersionLosesEvents', 'warning'],
          ['EventLossRateHigh', 'critical'],
        ],
      },
      {
        at: '40m',
        firing: [
          ['ApplicationRestart', 'warning'],
          ['CounterfoilAcceptanceLoss', 'warning'],
          ['CounterfoilRolloutAborted', 'warning'],
          ['CounterfoilVersionCrashes', 'warning'],
        ],
      },
    ],
    pages: [],
  },
  {
    name: 'a bad canary is aborted, and the repair does not end clean: one page, for that',
    series: {
      ...badCanary,
      [open('event_pending')]: '0x60 30x600',
      [forAPerson]: '0x100 5x600',
      [parked]: '0x100 5x600',
      [repair('repairing')]: '0x17 1x83 0x600',
      [repair('not_clean')]: '0x101 1x600',
      [repairSince]: '_x17 270x83 1530x600',
    },
    stages: [
      {
        at: '8m',
        firing: [
          ['ApplicationRestart', 'warning'],
          ['CounterfoilAbortInRepair', 'info'],
          ['CounterfoilRolloutAborted', 'warning'],
          ['CounterfoilVersionBillsWrong', 'warning'],
          ['CounterfoilVersionCrashes', 'warning'],
          ['CounterfoilVersionLosesEvents', 'warning'],
          ['EventLossRateHigh', 'critical'],
        ],
      },
      {
        at: '27m',
        firing: [
          ['ApplicationRestart', 'warning'],
          ['BillingDiscrepancy', 'critical'],
          ['BillingDiscrepancy', 'warning'],
          ['CounterfoilAbortRepairNotClean', 'critical'],
          ['CounterfoilAcceptanceLoss', 'warning'],
          ['CounterfoilParkedEvents', 'warning'],
          ['CounterfoilRolloutAborted', 'warning'],
          ['CounterfoilVersionCrashes', 'warning'],
        ],
      },
      {
        at: '45m',
        firing: [
          ['ApplicationRestart', 'warning'],
          ['BillingDiscrepancy', 'critical'],
          ['BillingDiscrepancy', 'warning'],
          ['CounterfoilAbortRepairNotClean', 'critical'],
          ['CounterfoilAcceptanceLoss', 'warning'],
          ['CounterfoilParkedEvents', 'critical'],
          ['CounterfoilParkedEvents', 'warning'],
          ['CounterfoilRolloutAborted', 'warning'],
          ['CounterfoilVersionCrashes', 'warning'],
        ],
      },
    ],
    pages: ['CounterfoilAbortRepairNotClean'],
  },
  {
    name: 'a bad version is in production and replay does not help: one page, the first',
    series: {
      ...alive,
      [facts('s1')]: '1000x600',
      [wrong('s1')]: '0x7 30x600',
      [events('s1')]: '1000x600',
      [lost('s1')]: '0x7 30x600',
      [open('event_pending')]: '0x60 90x600',
      [forAPerson]: '0x100 5x600',
      [parked]: '0x100 5x600',
      [overdue]: '0x50 90x600',
      [oldestOverdue]: '_x50 120x600',
    },
    stages: [
      {
        at: '3m30s',
        firing: [
          ['CounterfoilVersionBillsWrong', 'critical'],
          ['CounterfoilVersionBillsWrong', 'warning'],
        ],
      },
      {
        at: '8m',
        firing: [
          ['CounterfoilVersionBillsWrong', 'critical'],
          ['CounterfoilVersionBillsWrong', 'warning'],
          ['CounterfoilVersionLosesEvents', 'warning'],
          ['EventLossRateHigh', 'critical'],
        ],
      },
      {
        at: '70m',
        firing: [
          ['BillingDiscrepancy', 'critical'],
          ['BillingDiscrepancy', 'warning'],
          ['CounterfoilAcceptanceLoss', 'warning'],
          ['CounterfoilOverdueEventTooOld', 'critical'],
          ['CounterfoilOverdueEvents', 'warning'],
          ['CounterfoilParkedEvents', 'critical'],
          ['CounterfoilParkedEvents', 'warning'],
          ['CounterfoilVersionBillsWrong', 'critical'],
          ['CounterfoilVersionBillsWrong', 'warning'],
          ['CounterfoilVersionLosesEvents', 'warning'],
          ['EventLossRateHigh', 'critical'],
        ],
      },
    ],
    pages: ['CounterfoilVersionBillsWrong'],
  },
  {
    name: 'the exporter is gone while events are overdue: one page',
    series: {
      [exporter('counterfoil_exporter_info', 'version="1"')]: '1x40 stale',
      [overdue]: '5x40 stale',
    },
    stages: [
      { at: '9m', firing: [['CounterfoilOverdueEvents', 'warning']] },
      {
        at: '14m',
        firing: [
          ['CounterfoilExporterDown', 'critical'],
          ['CounterfoilOverdueEvents', 'warning'],
        ],
      },
      { at: '25m', firing: [['CounterfoilExporterDown', 'critical']] },
    ],
    pages: ['CounterfoilExporterDown'],
  },
  {
    name: 'the database is away: one page, whatever fails with it',
    series: {
      ...alive,
      [collected('state')]: '0+15x20 300x100',
      [collected('events')]: '0+15x20 300x100',
      [collected('hot_check')]: '0+15x20 300x100',
      'event_publish_error_total{namespace="counterfoil",pod="p"}': '0x20 0+20x100',
    },
    stages: [
      { at: '7m', firing: [['EventPublishError', 'warning']] },
      {
        at: '15m',
        firing: [
          ['CounterfoilCollectionFailing', 'critical'],
          ['CounterfoilCollectionFailing', 'warning'],
          ['EventPublishError', 'warning'],
        ],
      },
    ],
    pages: ['CounterfoilCollectionFailing'],
  },
  {
    name: 'the router is broken and the canary is bad: one page, for the router',
    series: {
      ...alive,
      [exporter('counterfoil_rollout_router_error', rollout)]: '0x7 1x200',
      [facts('c1')]: '1000x200',
      [wrong('c1')]: '0x7 30x200',
      [canary]: '1x200',
      [aborted]: '0x200',
      [open('never_published')]: '0x60 9x200',
      [forAPerson]: '0x60 9x200',
    },
    stages: [
      {
        at: '4m30s',
        firing: [
          ['CounterfoilRolloutRouterError', 'critical'],
          ['CounterfoilVersionBillsWrong', 'warning'],
        ],
      },
      {
        at: '20m',
        firing: [
          ['BillingDiscrepancy', 'critical'],
          ['BillingDiscrepancy', 'warning'],
          ['CounterfoilCanaryNotAborted', 'critical'],
          ['CounterfoilRolloutRouterError', 'critical'],
          ['CounterfoilVersionBillsWrong', 'warning'],
        ],
      },
    ],
    pages: ['CounterfoilRolloutRouterError'],
  },
  {
    name: 'reconciliation is not started any more: one page, and no tickets that say the same',
    series: {
      [exporter('counterfoil_exporter_info', 'version="1"')]: '1x700',
      [exporter('counterfoil_verified_through_timestamp_seconds', 'check="c"')]: '0x700',
      [exporter('counterfoil_job_last_success_timestamp_seconds', job)]: '0x700',
      [cronjob('kube_cronjob_info')]: '1x700',
      [cronjob('kube_cronjob_created')]: '-90000x700',
      [cronjob('kube_cronjob_status_last_schedule_time')]: '0x700',
      [cronjob('kube_cronjob_spec_suspend')]: '0x700',
    },
    stages: [
      {
        at: '2h25m',
        firing: [
          ['CounterfoilJobNotScheduled', 'warning'],
          ['CounterfoilJobOverdue', 'warning'],
          ['CounterfoilVerifiedThroughTooOld', 'critical'],
        ],
      },
    ],
    pages: ['CounterfoilVerifiedThroughTooOld'],
  },
];
