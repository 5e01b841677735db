/** Values that the chart refuses, each with what it says and with the nearest values that it takes. */
import { type RenderOptions, required, type Values } from './render.ts';

export interface Refusal {
  /** What it says, as far as it begins. */
  readonly sentence: string;
  readonly values: readonly Values[];
  readonly taken: readonly Values[];
  readonly options?: RenderOptions;
  readonly takenOptions?: RenderOptions;
}

/** A guarded release that is complete. */
const guarded: Values = {
  ...required,
  service: { name: 'billing', podLabels: { app: 'billing' } },
  metrics: { service: { enabled: true } },
  rollout: { enabled: true, deployment: 'billing', replicas: 4, router: { type: 'traefik' } },
};
const template = { metadata: { labels: { app: 'billing' } }, spec: { containers: [] } };
const rollout = (values: Values): Values => ({ rollout: values });
const last = { weight: 100, pause: '30m' };

const over =
  (base: Values) =>
  (sentence: string, values: Values, taken: Values): Refusal => ({
    sentence,
    values: [base, values],
    taken: [base, taken],
  });
const plain = over(required);
const canary = over(guarded);

export const refusals: readonly Refusal[] = [
  plain('service.name is required', { service: { name: '' } }, {}),
  plain('database.existingSecret is required', { database: { existingSecret: '' } }, {}),
  plain(
    'token.existingSecret is required',
    { token: { existingSecret: '' } },
    { token: { existingSecret: '' }, service: { republishFunction: 'republish_to_outbox' } },
  ),
  plain(
    'jobs.billingReconciliation.repair asks event-replay, which is off',
    { jobs: { eventReplay: { enabled: false } } },
    { jobs: { eventReplay: { enabled: false }, billingReconciliation: { repair: false } } },
  ),
  plain(
    'jobs.backupRetention.days is required',
    { jobs: { backupRetention: { enabled: true } } },
    { jobs: { backupRetention: { enabled: true, days: 7 } } },
  ),
  plain(
    'an entry of extraEnv has no name',
    { extraEnv: [{ value: 'x' }] },
    { extraEnv: [{ name: 'X', value: 'x' }] },
  ),
  plain(
    'extraEnv holds DATABASE_URL, which is a setting',
    { extraEnv: [{ name: 'DATABASE_URL', value: 'x' }] },
    { extraEnv: [{ name: 'OTHER_DATABASE_URL', value: 'x' }] },
  ),
  plain(
    'thresholds.eventLossRatio is finer than a thousandth',
    { thresholds: { eventLossRatio: 0.0045 } },
    { thresholds: { eventLossRatio: 0.004 } },
  ),
  plain(
    'jobs.eventReplay.overrides holds schedule, which jobs.defaults does not have',
    { jobs: { eventReplay: { overrides: { schedule: '* * * * *' } } } },
    { jobs: { eventReplay: { schedule: '* * * * *' } } },
  ),
  plain(
    'jobs.eventReplay.settings holds CF_GRACE_SECONDS, which the chart fills in',
    { jobs: { eventReplay: { settings: { CF_GRACE_SECONDS: 5 } } } },
    { jobs: { eventReplay: { graceSeconds: 5 } } },
  ),
  plain(
    'settings holds LOG_LEVEL, which is no setting',
    { settings: { LOG_LEVEL: 'info' } },
    { settings: { CF_LOG_LEVEL: 'info' } },
  ),
  {
    sentence: 'the release "releases-of-the-second-shop-of-the-north" is too long to begin every name',
    values: [required],
    options: { release: 'releases-of-the-second-shop-of-the-north' },
    taken: [required, { installation: 'north' }],
    takenOptions: { release: 'releases-of-the-second-shop-of-the-north' },
  },
  // A Service's name begins with a letter, and has no dot: the API server would refuse it after the migration has run.
  ...['9shop', 'north.shop'].map((release) => ({
    sentence: `the release "${release}" cannot begin the name of a Service`,
    values: [required],
    options: { release },
    taken: [required, { installation: 'shop-9' }],
    takenOptions: { release },
  })),
  plain(
    'metrics.podMonitor.enabled and metrics.serviceMonitor.enabled',
    { metrics: { serviceMonitor: { enabled: true } } },
    { metrics: { serviceMonitor: { enabled: true }, podMonitor: { enabled: false } } },
  ),
  canary(
    'metrics.service.enabled and metrics.service.elsewhere',
    { metrics: { service: { elsewhere: true } } },
    { metrics: { service: { elsewhere: true, enabled: false } } },
  ),
  plain(
    'metrics.service.enabled needs service.podLabels',
    { metrics: { service: { enabled: true } } },
    { metrics: { service: { enabled: true } }, service: { podLabels: { app: 'billing' } } },
  ),
  plain(
    'metrics.podMonitor.scrapeTimeout is longer than its interval',
    { metrics: { podMonitor: { scrapeTimeout: '1m', interval: '59s' } } },
    { metrics: { podMonitor: { scrapeTimeout: '1m', interval: '60s' } } },
  ),
  plain(
    'prometheusRule.disabled names BillingDiscrepancies: there is no such alert',
    { prometheusRule: { disabled: { BillingDiscrepancies: true } } },
    { prometheusRule: { disabled: { BillingDiscrepancy: true } } },
  ),
  plain(
    'prometheusRule.disabled names BillingDiscrepancy/info: the severities of that alert are',
    { prometheusRule: { disabled: { 'BillingDiscrepancy/info': true } } },
    { prometheusRule: { disabled: { 'BillingDiscrepancy/warning': true } } },
  ),
  plain(
    'prometheusRule.alertLabels has installation',
    { prometheusRule: { alertLabels: { installation: 'x' } } },
    { prometheusRule: { alertLabels: { team: 'x' } } },
  ),
  plain(
    'prometheusRule.overrides.EventLossRateHigh has expr',
    { prometheusRule: { overrides: { EventLossRateHigh: { expr: '1' } } } },
    { prometheusRule: { overrides: { EventLossRateHigh: { annotations: { summary: 'x' } } } } },
  ),
  plain(
    'prometheusRule.overrides.EventLossRateHigh.labels has namespace',
    { prometheusRule: { overrides: { EventLossRateHigh: { labels: { namespace: 'x' } } } } },
    { prometheusRule: { overrides: { EventLossRateHigh: { labels: { team: 'x' } } } } },
  ),
  plain(
    'prometheusRule.overrides.EventLossRateHigh.for is no duration',
    { prometheusRule: { overrides: { EventLossRateHigh: { for: '5' } } } },
    { prometheusRule: { overrides: { EventLossRateHigh: { for: '1h30m' } } } },
  ),
  plain(
    'prometheusRule.overrides.EventLossRateHigh.severity is none of',
    { prometheusRule: { overrides: { EventLossRateHigh: { severity: 'page' } } } },
    { prometheusRule: { overrides: { EventLossRateHigh: { severity: 'info' } } } },
  ),
  plain(
    'prometheusRule.overrides.BillingDiscrepancy.severity: the alert has the severities',
    { prometheusRule: { overrides: { BillingDiscrepancy: { severity: 'info' } } } },
    { prometheusRule: { overrides: { 'BillingDiscrepancy/warning': { severity: 'info' } } } },
  ),
  canary(
    'exporter.repairAfterAbort asks event-replay, which is off',
    { jobs: { eventReplay: { enabled: false }, billingReconciliation: { repair: false } } },
    {
      jobs: { eventReplay: { enabled: false }, billingReconciliation: { repair: false } },
      exporter: { repairAfterAbort: false },
    },
  ),
  canary(
    'rollout.enabled needs the exporter',
    { exporter: { enabled: false } },
    { exporter: { enabled: false }, rollout: { enabled: false }, metrics: { service: { enabled: false } } },
  ),
  canary(
    'rollout.deployment and rollout.template',
    rollout({ template, selector: { matchLabels: { app: 'billing' } } }),
    rollout({ deployment: '', template, selector: { matchLabels: { app: 'billing' } } }),
  ),
  canary(
    'rollout.enabled needs rollout.deployment',
    rollout({ deployment: '' }),
    rollout({ deployment: 'billing' }),
  ),
  canary(
    'rollout.selector.matchLabels is required with rollout.template',
    rollout({ deployment: '', template }),
    rollout({ deployment: '', template, selector: { matchLabels: { app: 'billing' } } }),
  ),
  canary(
    'rollout.selector.matchLabels has tier, which the labels of rollout.template do not have',
    rollout({ deployment: '', template, selector: { matchLabels: { app: 'billing', tier: 'one' } } }),
    rollout({
      deployment: '',
      template: { ...template, metadata: { labels: { app: 'billing', tier: 'one' } } },
      selector: { matchLabels: { app: 'billing', tier: 'one' } },
    }),
  ),
  canary(
    'rollout.name: the name of the service is too long for Services that end in -stable and -canary',
    { service: { name: 'b'.repeat(55) } },
    { service: { name: 'b'.repeat(54) } },
  ),
  canary('rollout.replicas is required', rollout({ replicas: null }), rollout({ replicas: 1 })),
  canary(
    'rollout.steps[0] has duration: a step has weight, pause and gates',
    rollout({ steps: [{ ...last, duration: '2h' }] }),
    rollout({ steps: [last] }),
  ),
  canary(
    'rollout.steps[0].pause is no duration',
    rollout({ steps: [{ weight: 1, pause: '2 hours' }, last] }),
    rollout({ steps: [{ weight: 1, pause: '2h' }, last] }),
  ),
  canary(
    'rollout.steps[1].weight must be above the one before it',
    rollout({ steps: [{ weight: 10, pause: '2h' }, { weight: 10, pause: '2h' }, last] }),
    rollout({ steps: [{ weight: 10, pause: '2h' }, { weight: 11, pause: '2h' }, last] }),
  ),
  canary(
    'rollout.steps[0].gates has smoke',
    rollout({ steps: [{ ...last, gates: ['smoke'] }] }),
    rollout({ steps: [{ ...last, gates: ['probe'] }] }),
  ),
  canary(
    'rollout.router.type is none: with 99 pods the smallest canary gets 1/100 of the traffic, never 1 %',
    rollout({ router: { type: 'none' }, replicas: 99 }),
    rollout({ router: { type: 'none' }, replicas: 100 }),
  ),
  canary(
    'the last of rollout.steps must have weight 100',
    rollout({ steps: [{ weight: 99, pause: '30m' }] }),
    rollout({ steps: [last] }),
  ),
  canary(
    'the last of rollout.steps must last',
    rollout({ steps: [{ ...last, pause: '6m' }] }),
    rollout({ steps: [{ ...last, pause: '7m' }] }),
  ),
  canary(
    'prometheusRule.disabled leaves out CounterfoilVersionLosesEvents',
    { prometheusRule: { disabled: { CounterfoilVersionLosesEvents: true } } },
    {
      prometheusRule: { disabled: { CounterfoilVersionLosesEvents: true } },
      rollout: { conditions: { loss: { mode: 'ignore' } } },
    },
  ),
  canary(
    'rollout.conditions.complaints.mode needs complaints.query',
    rollout({ conditions: { complaints: { mode: 'abort' } } }),
    { rollout: { conditions: { complaints: { mode: 'abort' } } }, complaints: { query: 'complaints' } },
  ),
  canary(
    'the gate sample is held for 29s and looked at every 30s',
    rollout({ gates: { sample: { hold: '29s' }, goodReadings: 1 } }),
    rollout({ gates: { sample: { hold: '30s' }, goodReadings: 1 } }),
  ),
  canary(
    'the gate errors is held for 60s, into which 3 good readings do not fit',
    rollout({ gates: { errors: { hold: '60s' } } }),
    rollout({ gates: { errors: { hold: '90s' } } }),
  ),
  canary(
    'rollout.gates.quiet is probe, and no probe decides at rollout.steps[0]',
    rollout({ gates: { quiet: 'probe' }, steps: [{ ...last, gates: ['sample'] }] }),
    rollout({ gates: { quiet: 'probe' }, steps: [{ ...last, gates: ['sample', 'probe'] }] }),
  ),
  canary(
    'rollout.gates.observe has latency, which is no gate of any step',
    rollout({ gates: { observe: ['latency'] }, steps: [{ ...last, gates: ['sample'] }] }),
    rollout({ gates: { observe: ['latency'] }, steps: [{ ...last, gates: ['latency'] }] }),
  ),
  canary(
    'rollout.router.create needs rollout.router.host',
    rollout({ router: { type: 'nginx', create: true } }),
    rollout({ router: { type: 'nginx', create: true, host: 'billing.example.org' } }),
  ),
  canary(
    'rollout.router.create needs rollout.router.gateway',
    rollout({ router: { type: 'gatewayAPI', create: true, host: 'billing.example.org' } }),
    rollout({ router: { type: 'gatewayAPI', create: true, host: 'billing.example.org', gateway: 'edge' } }),
  ),
  canary(
    'rollout.router.create with rollout.router.type none',
    rollout({ router: { type: 'none', create: true }, replicas: 100 }),
    rollout({ router: { type: 'none' }, replicas: 100 }),
  ),
  canary(
    "the gates errors and latency of rollout.steps would never see the canary: each series of the service has to name its pod's version",
    { metrics: { service: { enabled: false } } },
    { metrics: { service: { enabled: false, elsewhere: true } } },
  ),
];
