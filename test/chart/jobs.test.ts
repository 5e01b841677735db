/** What the processes are told, and when they run: both ways, and with the job's own reading of its settings. */
import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, inject, test } from 'vitest';
import { backupRetentionSettings } from '../../jobs/backup-retention/env.ts';
import { billingReconciliationSettings } from '../../jobs/billing-reconciliation/env.ts';
import { eventReplaySettings } from '../../jobs/event-replay/env.ts';
import { exporterSettings } from '../../jobs/exporter/env.ts';
import { flowProbeSettings } from '../../jobs/flow-probe/env.ts';
import { readSettings, type SettingsShape } from '../../jobs/runtime/config.ts';
import { runtimeSettings } from '../../jobs/runtime/env.ts';
import { wiringSettings } from '../../jobs/wiring/env.ts';
import { ruleGroups } from '../../jobs/wiring/prometheus.ts';
import { environmentOf, jobOf, podsOf } from './pods.ts';
import { type KubernetesObject, type Layers, render, renderFails, required } from './render.ts';
import { everything, guarded } from './values-of-jobs.ts';

const settingsOf: Readonly<Record<string, SettingsShape>> = {
  schema: {},
  'billing-reconciliation': billingReconciliationSettings,
  'event-replay': eventReplaySettings,
  'flow-probe': flowProbeSettings,
  'backup-retention': backupRetentionSettings,
  exporter: exporterSettings,
  wiring: wiringSettings,
};

/** As the process would find it: what a Secret or a field holds, made up. */
const filledIn = (environment: Readonly<Record<string, string>>) =>
  Object.fromEntries(
    Object.entries(environment).map(([name, value]) => [
      name,
      value.startsWith('secret/') || value.startsWith('field/')
        ? name === 'DATABASE_URL'
          ? 'postgresql://somebody@database/service'
          : 'made-up'
        : // What an analysis fills in.
          value.replace(/^\{\{args\.[\w-]+\}\}$/, '2h'),
    ]),
  );

/** Why a job would end with exit 2 for what it is told; nothing where it would not. */
function refusal(job: string, environment: Readonly<Record<string, string>>): string | undefined {
  const shape = settingsOf[job];
  if (shape === undefined) return `there is no job ${job}`;
  try {
    readSettings({ ...runtimeSettings, ...shape }, filledIn(environment));
    return undefined;
  } catch (error) {
    return (error as Error).message;
  }
}

const told = async (values: Layers, kind: string, name: string) => {
  const rendered = await render(values);
  rendered.get(kind, name);
  const pod = podsOf(rendered).find(({ owner }) => owner === `${kind} ${name}`);
  return environmentOf(pod?.spec);
};

describe.skipIf(inject('chartTools') === undefined)('each process', () => {
  test.each<[string, Layers]>([
    ['three values', required],
    ['everything', everything],
    [
      'an outbox in place of the endpoint',
      { ...required, token: {}, service: { name: 'billing', republishFunction: 'republish_to_outbox' } },
    ],
    ['a canary, whose gates are Jobs', [required, guarded]],
    ['replay that runs always', { ...required, jobs: { eventReplay: { mode: 'deployment' } } }],
  ])('takes what it is told, with %s', async (_, values) => {
    const pods = podsOf(await render(values));
    expect(pods.length).toBeGreaterThan(5);
    for (const { owner, spec } of pods)
      expect([owner, refusal(jobOf(spec), environmentOf(spec))]).toEqual([owner, undefined]);
  });

  test('would not take a setting that it does not know, or a wrong one', () => {
    const environment = { DATABASE_URL: 'secret/a/b', CF_MODE: 'once', CF_REPLAY_TOKEN: 'secret/a/b' };
    expect(refusal('event-replay', environment)).toBeUndefined();
    expect(refusal('event-replay', { ...environment, CF_PORT: '1' })).toContain('CF_PORT');
    expect(refusal('event-replay', { ...environment, CF_MODE: 'tail' })).toContain('CF_MODE');
    expect(refusal('status', environment)).toBe('there is no job status');
  });

  const ofAll = {
    CF_POD_NAME: 'field/metadata.name',
    CF_INSTALLATION: 'orders',
    CF_SCHEMA: 'net',
    CF_LOG_LEVEL: 'warn',
    CF_SHUTDOWN_SECONDS: '40',
    HTTPS_PROXY: 'http://proxy',
  };
  const ofTables = {
    ...ofAll,
    CF_CHECKS_FILE: '/etc/counterfoil/checks/checks.yaml',
    CF_EVENTS_TABLE: 'shop.events',
    CF_SERVICE_TIME_ZONE: 'Europe/Madrid',
  };
  const ofDeliveries = { ...ofTables, CF_DELIVERIES_TABLE: 'shop.deliveries' };
  const reconciliation = {
    ...ofTables,
    DATABASE_URL: 'secret/orders-database/b',
    CF_REPAIR: 'true',
    CF_REPAIR_LIMIT: '7',
    CF_SLACK_SECONDS: '10',
  };
  const replay = {
    ...ofDeliveries,
    DATABASE_URL: 'secret/orders-database/b',
    CF_REPLAY_URL: 'http://orders:8080/internal/replay',
    CF_CORRECTIONS_URL: 'http://orders:8080/internal/corrections',
    CF_REPLAY_TOKEN: 'secret/orders-token/bearer',
    CF_GRACE_SECONDS: '90',
    CF_LANES: '3',
  };

  test.each<[kind: string, name: string, told: Readonly<Record<string, string>>]>([
    [
      'Job',
      'orders-schema',
      { ...ofAll, DATABASE_URL: 'secret/orders-database/a', CF_LOCK_TIMEOUT_SECONDS: '2' },
    ],
    ['CronJob', 'orders-billing-reconciliation-tail', { ...reconciliation, CF_MODE: 'tail' }],
    ['CronJob', 'orders-billing-reconciliation-incremental', { ...reconciliation, CF_MODE: 'incremental' }],
    ['CronJob', 'orders-billing-reconciliation-full', { ...reconciliation, CF_MODE: 'full' }],
    ['CronJob', 'orders-event-replay', { ...replay, CF_MODE: 'once' }],
    [
      'CronJob',
      'orders-flow-probe',
      {
        ...ofDeliveries,
        DATABASE_URL: 'secret/orders-database/b',
        CF_PROBE_URL: 'http://orders:8080',
        CF_PROBE_FILE: '/etc/counterfoil/flow/flow.yaml',
        CF_PROBE_SEED: "field/metadata.labels['batch.kubernetes.io/job-name']",
        CF_PROBE_TOKEN: 'secret/orders-public/public',
        CF_PROBE_BILL_SECONDS: '5',
      },
    ],
    [
      'CronJob',
      'orders-backup-retention',
      {
        ...ofDeliveries,
        DATABASE_URL: 'secret/orders-database/d',
        CF_RETENTION_DAYS: '30',
        CF_DRY_RUN: 'true',
        CF_RETENTION_BATCH_SIZE: '10',
      },
    ],
    [
      'Deployment',
      'orders-exporter',
      {
        ...ofDeliveries,
        DATABASE_URL: 'secret/orders-database/c',
        CF_LISTEN_PORT: '9999',
        CF_GRACE_SECONDS: '90',
        CF_GATE_LOSS_PER_MILLE: '7',
        CF_GATE_BILLING_PER_MILLE: '29',
        CF_GATE_MINIMUM_BAD: '4',
        CF_GATE_MINIMUM_JUDGED: '500',
        CF_GATE_SAMPLE: '60',
      },
    ],
    [
      'Pod',
      'orders-test-endpoint',
      {
        ...ofTables,
        DATABASE_URL: 'secret/orders-database/b',
        CF_SUBJECT: 'endpoint',
        CF_EVENTS_NEEDED: 'true',
        CF_VERSIONS: 'true',
        CF_REPLAY_URL: 'http://orders:8080/internal/replay',
        CF_REPLAY_TOKEN: 'secret/orders-token/bearer',
      },
    ],
    [
      'Pod',
      'orders-test-prometheus',
      {
        ...ofTables,
        DATABASE_URL: 'secret/orders-database/c',
        CF_SUBJECT: 'prometheus',
        CF_EVENTS_NEEDED: 'true',
        CF_VERSIONS: 'true',
        CF_NAMESPACE: 'shop',
        CF_RULE_GROUPS: ruleGroups.join(','),
        CF_PROMETHEUS_URL: 'http://prometheus-operated.monitoring:9090',
      },
    ],
    [
      'Pod',
      'orders-test-exporter',
      {
        ...ofTables,
        DATABASE_URL: 'secret/orders-database/c',
        CF_SUBJECT: 'exporter',
        CF_EVENTS_NEEDED: 'true',
        CF_VERSIONS: 'true',
        CF_EXPORTER_URL: 'http://orders-exporter:9999',
      },
    ],
  ])('is told what the values say, and nothing else: %s %s', async (kind, name, all) => {
    expect(await told(everything, kind, name)).toEqual(all);
  });

  test('is tried by helm test with the URL of each role that something uses, and of no other', async () => {
    const roles = async (values: Layers) =>
      (await render(values))
        .all('Pod')
        .map(({ metadata }) => metadata.name)
        .filter((name) => name.includes('-test-database-'))
        .map((name) => name.split('-').at(-1));
    expect(await roles(everything)).toEqual(['exporter', 'jobs', 'owner', 'retention']);
    expect(
      await roles({
        ...required,
        jobs: { schema: { mode: 'none' } },
        exporter: { enabled: false },
      }),
    ).toEqual(['jobs']);
  });

  test('asks Prometheus for the groups of rules that this release renders', async () => {
    const asked = async (values: object) =>
      (await told([required, values] as Layers, 'Pod', 'guard-counterfoil-test-prometheus')).CF_RULE_GROUPS;
    const rendered = async (values: object) =>
      (await render([required, values] as Layers))
        .all('PrometheusRule')
        .flatMap(({ spec }) => spec.groups as { name: string }[])
        .map(({ name }) => name)
        .sort()
        .join(',');
    // A group whose alerts are all left out keeps what it records.
    const disabled = { CounterfoilAcceptanceLoss: true, CounterfoilAcceptanceComplaints: true };
    for (const values of [{}, { prometheusRule: { shared: true } }, { prometheusRule: { disabled } }])
      expect(await asked(values)).toBe(await rendered(values));
    expect(await asked({ prometheusRule: { shared: true } })).toBe('counterfoil-thresholds');
  });

  test('gives events to the outbox where a function is named, and then neither needs nor gets a token', async () => {
    const values = {
      ...required,
      token: {},
      service: { name: 'billing', republishFunction: 'republish_to_outbox' },
    };
    const environment = await told(values, 'CronJob', 'guard-counterfoil-event-replay');
    expect(environment).toMatchObject({ CF_REPUBLISH_FUNCTION: 'republish_to_outbox' });
    expect(Object.keys(environment)).not.toContain('CF_REPLAY_URL');
    expect(Object.keys(environment)).not.toContain('CF_REPLAY_TOKEN');
    expect((await render(values)).has('Pod', 'guard-counterfoil-test-endpoint')).toBe(false);
  });

  test('replays always where it is a Deployment, and then there is no schedule', async () => {
    const rendered = await render({
      ...required,
      jobs: { eventReplay: { mode: 'deployment', replicas: 2 } },
    });
    const name = 'guard-counterfoil-event-replay';
    expect(rendered.has('CronJob', name)).toBe(false);
    const deployment = rendered.get('Deployment', name);
    expect(deployment.spec.replicas).toBe(2);
    expect(environmentOf(deployment.spec.template.spec)).toMatchObject({ CF_MODE: 'continuous' });
    expect(deployment.spec.template.spec.restartPolicy).toBeUndefined();
  });

  test('knows of the Rollout where there is one: the exporter watches it, and replay goes past the canary', async () => {
    const values = [required, guarded, { rollout: { name: 'bills', gates: { sample: { judged: 77 } } } }];
    expect(await told(values, 'Deployment', 'guard-counterfoil-exporter')).toMatchObject({
      CF_ROLLOUT_NAME: 'bills',
      CF_REPAIR_AFTER_ABORT: 'true',
      CF_GATE_SAMPLE: '77',
      // 14.5 hours of steps, four waits of a day each, and a minute.
      CF_GATE_WINDOW_SECONDS: String(14.5 * 3600 + 4 * 86_400 + 60),
    });
    const longer = [required, guarded, { rollout: { gates: { sample: { hold: '3d' } } } }];
    expect(await told(longer, 'Deployment', 'guard-counterfoil-exporter')).toMatchObject({
      CF_GATE_WINDOW_SECONDS: String(7 * 86_400),
    });
    expect(await told(values, 'CronJob', 'guard-counterfoil-event-replay')).toMatchObject({
      CF_REPLAY_URL: 'http://bills-stable/admin/events/replay',
    });
    expect(await told(values, 'Pod', 'guard-counterfoil-test-exporter')).toMatchObject({
      CF_ROLLOUT_NAME: 'bills',
    });
    expect(await told(values, 'Pod', 'guard-counterfoil-test-database-jobs')).toMatchObject({
      CF_STATS_NEEDED: 'true',
    });
    const without = await told(required, 'Deployment', 'guard-counterfoil-exporter');
    expect(without).not.toHaveProperty('CF_ROLLOUT_NAME');
    expect(without).not.toHaveProperty('CF_REPAIR_AFTER_ABORT');
    expect(await told(required, 'Pod', 'guard-counterfoil-test-database-jobs')).not.toHaveProperty(
      'CF_STATS_NEEDED',
    );
  });

  test('does not say 1e+06 for a large number', async () => {
    const environment = await told(
      {
        ...required,
        jobs: { billingReconciliation: { repairLimit: 100_000, settings: { CF_SLACK_SECONDS: 604_800 } } },
      },
      'CronJob',
      'guard-counterfoil-billing-reconciliation-full',
    );
    expect(environment).toMatchObject({ CF_REPAIR_LIMIT: '100000', CF_SLACK_SECONDS: '604800' });
  });
});

describe.skipIf(inject('chartTools') === undefined)('values that cannot be', () => {
  test('are refused all at once where they are missing', async () => {
    const sentence = await renderFails({ jobs: { backupRetention: { enabled: true } } });
    expect(sentence.trim().split('\n')).toEqual([
      expect.stringMatching(/^service\.name is required: /),
      expect.stringMatching(/^database\.existingSecret is required: /),
      expect.stringMatching(/^token\.existingSecret is required: /),
      expect.stringMatching(/^jobs\.backupRetention\.days is required: /),
    ]);
  });

  test.each<[string, object, string]>([
    [
      'repair without anybody who repairs',
      { jobs: { eventReplay: { enabled: false } } },
      'jobs.billingReconciliation.repair asks event-replay, which is off',
    ],
    [
      'a setting that has a value of its own',
      { jobs: { eventReplay: { settings: { CF_GRACE_SECONDS: 5 } } } },
      'jobs.eventReplay.settings holds CF_GRACE_SECONDS, which the chart fills in',
    ],
    [
      'a setting that no schedule may have',
      { jobs: { billingReconciliation: { settings: { CF_EXIT_ON_FINDINGS: 'true' } } } },
      'jobs.billingReconciliation.settings holds CF_EXIT_ON_FINDINGS',
    ],
    [
      'a token as a plain value',
      { jobs: { eventReplay: { settings: { CF_REPLAY_TOKEN: 'a-secret-token' } } } },
      'jobs.eventReplay.settings holds CF_REPLAY_TOKEN',
    ],
    [
      'a setting of no process',
      { settings: { LOG_LEVEL: 'info' } },
      'settings holds LOG_LEVEL, which is no setting',
    ],
    [
      'a setting among the variables',
      { extraEnv: [{ name: 'CF_LOG_LEVEL', value: 'debug' }] },
      'extraEnv holds CF_LOG_LEVEL, which is a setting',
    ],
    [
      'an override of something else',
      { jobs: { eventReplay: { overrides: { schedule: '* * * * *' } } } },
      'jobs.eventReplay.overrides holds schedule, which jobs.defaults does not have',
    ],
    [
      'a share that the gate cannot judge',
      { thresholds: { eventLossRatio: 0.0025 } },
      'thresholds.eventLossRatio is finer than a thousandth',
    ],
  ])('are refused: %s', async (_, values, sentence) => {
    const said = await renderFails([required, values as Record<string, unknown>]);
    expect(said).toContain(sentence);
    expect(said).not.toContain('a-secret-token');
  });

  test('are not refused where repair is off together with replay', async () => {
    const rendered = await render([
      required,
      {
        token: { existingSecret: '' },
        jobs: { eventReplay: { enabled: false }, billingReconciliation: { repair: false } },
      },
    ]);
    expect(rendered.has('CronJob', 'guard-counterfoil-event-replay')).toBe(false);
    expect(rendered.has('CronJob', 'guard-counterfoil-billing-reconciliation-tail')).toBe(true);
  });
});

describe.skipIf(inject('chartTools') === undefined)('a schedule', () => {
  test('is the plan’s where the values say nothing: reconciliation each hour, the flow every four hours', async () => {
    const rendered = await render([required, { jobs: { flowProbe: { enabled: true } } }]);
    const schedule = (job: string) => rendered.get('CronJob', `guard-counterfoil-${job}`).spec.schedule;
    expect(schedule('billing-reconciliation-incremental')).toMatch(/^\d+ \* \* \* \*$/);
    expect(schedule('flow-probe')).toMatch(/^\d+ \*\/4 \* \* \*$/);
    expect(schedule('billing-reconciliation-full')).toMatch(/^\d+ \d+ \* \* \*$/);
  });

  const name = 'orders-billing-reconciliation-incremental';

  test('has the times and limits of the values', async () => {
    const { spec } = (await render(everything)).get('CronJob', name);
    expect(spec).toMatchObject({
      schedule: '2 * * * *',
      timeZone: 'Europe/Lisbon',
      suspend: false,
      concurrencyPolicy: 'Forbid',
      startingDeadlineSeconds: 77,
      successfulJobsHistoryLimit: 5,
      failedJobsHistoryLimit: 4,
    });
    expect(spec.jobTemplate.spec).toMatchObject({
      backoffLimit: 6,
      activeDeadlineSeconds: 12,
      ttlSecondsAfterFinished: 99,
    });
    expect(spec.jobTemplate.spec.template.spec.restartPolicy).toBe('Never');
  });

  test('has what is different for one job, and the others have not', async () => {
    const rendered = await render(everything);
    const limit = (job: string) => rendered.get('CronJob', job).spec.jobTemplate.spec.backoffLimit;
    expect(limit('orders-billing-reconciliation-tail')).toBe(1);
    expect(limit(name)).toBe(6);
  });

  const zeros = {
    backoffLimit: 0,
    ttlSecondsAfterFinished: 0,
    successfulJobsHistoryLimit: 0,
    failedJobsHistoryLimit: 0,
  };
  test.each<[string, object]>([
    ['of jobs.defaults', { jobs: { defaults: zeros } }],
    ['of one job, over others of jobs.defaults', { jobs: { eventReplay: { overrides: zeros } } }],
  ])('keeps a 0 %s', async (_, values) => {
    const { spec } = (await render([everything, values as Record<string, unknown>])).get(
      'CronJob',
      'orders-event-replay',
    );
    expect({ ...spec, ...spec.jobTemplate.spec }).toMatchObject(zeros);
  });

  test('keeps finished Jobs as its history says where no time is named', async () => {
    const { spec } = (await render(required)).get('CronJob', 'guard-counterfoil-event-replay');
    expect(spec.jobTemplate.spec).not.toHaveProperty('ttlSecondsAfterFinished');
    expect(spec.jobTemplate.spec.backoffLimit).toBe(2);
  });

  test('ends on exit 2, and does not count a pod that had to give way', async () => {
    for (const values of [required, everything]) {
      const rendered = await render(values);
      const specs = [
        ...rendered.all('CronJob').map(({ spec }) => spec.jobTemplate.spec),
        ...rendered.all('Job').map(({ spec }) => spec),
      ];
      expect(specs.length).toBeGreaterThan(4);
      for (const spec of specs)
        expect(spec.podFailurePolicy.rules).toEqual([
          {
            action: 'FailJob',
            // One of another name would never be looked at.
            onExitCodes: {
              containerName: spec.template.spec.containers[0].name,
              operator: 'In',
              values: [2],
            },
          },
          { action: 'Ignore', onPodConditions: [{ type: 'DisruptionTarget', status: 'True' }] },
        ]);
    }
  });

  test('leaves a run longer to stop than the run takes', async () => {
    for (const [values, seconds] of [
      [required, 25],
      [everything, 40],
    ] as const)
      for (const { owner, spec } of podsOf(await render(values)))
        expect([owner, spec.terminationGracePeriodSeconds]).toEqual([owner, seconds + 10]);
  });

  test('stands still where it is suspended, and the exporter does not', async () => {
    const rendered = await render([
      required,
      { jobs: { defaults: { suspend: true }, eventReplay: { mode: 'deployment' } } },
    ]);
    expect(rendered.all('CronJob').map(({ spec }) => spec.suspend)).toEqual([true, true, true]);
    expect(rendered.get('Deployment', 'guard-counterfoil-event-replay').spec.replicas).toBe(0);
    expect(rendered.get('Deployment', 'guard-counterfoil-exporter').spec.replicas).toBe(1);
  });

  test('has a name that fits, ends in job and mode, and is another for another installation', async () => {
    const names = async (installation: string) =>
      (await render([everything, { installation }])).all('CronJob').map(({ metadata }) => metadata.name);
    const one = await names(`${'a'.repeat(38)}-1`);
    const other = await names(`${'a'.repeat(38)}-2`);
    for (const name of [...one, ...other]) {
      expect(name.length, name).toBeLessThanOrEqual(52);
      expect(name).toMatch(
        /-(billing-reconciliation-(tail|incremental|full)|event-replay|flow-probe|backup-retention)$/,
      );
    }
    expect(one).toHaveLength(6);
    expect(new Set([...one, ...other]).size).toBe(12);
  });
});

/** `kind name` of each object of ours that a command of the runbooks names. */
function namedBy(runbooks: readonly string[]): string[] {
  const kinds: Readonly<Record<string, string>> = { cronjob: 'CronJob', deploy: 'Deployment' };
  const found = runbooks.flatMap((text) =>
    [...text.matchAll(/\b(cronjob|deploy)[/ ](counterfoil-[\w-]+)/g)].map(
      ([, kind = '', name]) => `${kinds[kind]} ${name}`,
    ),
  );
  return [...new Set(found)].sort();
}

test.skipIf(inject('chartTools') === undefined)(
  'what the runbooks name is there, in a release as they are written for',
  async () => {
    const folder = new URL('../../docs/runbooks/', import.meta.url);
    const texts = readdirSync(folder).map((name) => readFileSync(new URL(name, folder), 'utf8'));
    const named = namedBy(texts);
    expect(named).toContain('CronJob counterfoil-billing-reconciliation-incremental');
    expect(named).toContain('Deployment counterfoil-exporter');
    const rendered = await render(required, { release: 'counterfoil', namespace: 'counterfoil' });
    const there = new Set(rendered.objects.map(({ kind, metadata }) => `${kind} ${metadata.name}`));
    expect(named.filter((name) => !there.has(name))).toEqual([]);
    expect(there.has(namedBy(['--from=cronjob/counterfoil-billing-reconciliation x'])[0] ?? '')).toBe(false);
  },
);

describe.skipIf(inject('chartTools') === undefined)('the schema job', () => {
  const schemaJobs = async (values: Layers) =>
    (await render(values))
      .all('Job')
      .filter(({ metadata }) => metadata.labels?.['app.kubernetes.io/component'] === 'schema');
  const hookOf = ({ metadata }: KubernetesObject) => metadata.annotations?.['helm.sh/hook'];
  const weightOf = ({ metadata }: KubernetesObject) => Number(metadata.annotations?.['helm.sh/hook-weight']);

  test('runs before each install and upgrade, after the account and the policy that it needs', async () => {
    const rendered = await render(required);
    const job = rendered.get('Job', 'guard-counterfoil-schema');
    for (const kind of ['ServiceAccount', 'NetworkPolicy']) {
      const needed = rendered.get(kind, 'guard-counterfoil-schema');
      expect([kind, hookOf(needed)]).toEqual([kind, 'pre-install,pre-upgrade']);
      expect(weightOf(needed)).toBeLessThan(weightOf(job));
    }
    expect(hookOf(job)).toBe('pre-install,pre-upgrade');
    // Nothing else of the release is there yet, and it asks for nothing else.
    expect(job.spec.template.spec.volumes).toBeUndefined();
  });

  test('as a plain Job has a name for each content, since none of its fields can be changed', async () => {
    const plain = { jobs: { schema: { mode: 'job' } } };
    const [first] = await schemaJobs([required, plain]);
    const [same] = await schemaJobs([required, plain, { jobs: { eventReplay: { schedule: '* * * * *' } } }]);
    const [other] = await schemaJobs([required, plain, { image: { tag: '9.9.9' } }]);
    expect(hookOf(first as KubernetesObject)).toBeUndefined();
    expect(first?.metadata.name).toMatch(/^guard-counterfoil-schema-[0-9a-f]{8}$/);
    expect(same?.metadata.name).toBe(first?.metadata.name);
    expect(other?.metadata.name).not.toBe(first?.metadata.name);
    expect(first?.spec).not.toHaveProperty('ttlSecondsAfterFinished');
  });

  test('as a plain Job keeps a 0 of its time to live', async () => {
    const [job] = await schemaJobs([
      required,
      { jobs: { schema: { mode: 'job', ttlSecondsAfterFinished: 0, backoffLimit: 0 } } },
    ]);
    expect(job?.spec).toMatchObject({ ttlSecondsAfterFinished: 0, backoffLimit: 0 });
  });

  test('is not there where somebody else runs it, and neither is its account', async () => {
    const values = [required, { jobs: { schema: { mode: 'none' } } }];
    expect(await schemaJobs(values)).toEqual([]);
    expect((await render(values)).has('ServiceAccount', 'guard-counterfoil-schema')).toBe(false);
  });
});

describe.skipIf(inject('chartTools') === undefined)('the files', () => {
  test('of checks and flow are what the values say, and where they are told to be', async () => {
    const rendered = await render(everything);
    const { parse } = await import('yaml');
    expect(parse(rendered.get('ConfigMap', 'orders-checks').data['checks.yaml'])).toEqual({
      checks: everything.checks,
    });
    const { flow } = (everything.jobs as { flowProbe: { flow: object } }).flowProbe;
    expect(parse(rendered.get('ConfigMap', 'orders-flow').data['flow.yaml'])).toEqual(flow);
    for (const { owner, spec } of podsOf(rendered)) {
      const mounts = (spec.containers[0].volumeMounts ?? []) as { name: string; mountPath: string }[];
      const environment = environmentOf(spec);
      for (const path of [environment.CF_CHECKS_FILE, environment.CF_PROBE_FILE]) {
        if (path === undefined) continue;
        const mount = mounts.find(({ mountPath }) => path.startsWith(`${mountPath}/`));
        const volume = (spec.volumes as { name: string; configMap: { name: string } }[]).find(
          ({ name }) => name === mount?.name,
        );
        const file = path.slice((mount?.mountPath.length ?? 0) + 1);
        expect([owner, Object.keys(rendered.get('ConfigMap', volume?.configMap.name ?? '').data)]).toEqual([
          owner,
          [file],
        ]);
      }
    }
  });

  test('are not there where the built-in ones are enough', async () => {
    const rendered = await render(required);
    expect(rendered.has('ConfigMap', 'guard-counterfoil-checks')).toBe(false);
    for (const { owner, spec } of podsOf(rendered)) {
      expect([owner, spec.volumes]).toEqual([owner, undefined]);
      expect(environmentOf(spec)).not.toHaveProperty('CF_CHECKS_FILE');
    }
  });

  test('begin pods anew when they change, and only then', async () => {
    const sum = async (...layers: Record<string, unknown>[]) =>
      podsOf(await render([everything, ...layers])).find(
        ({ owner }) => owner === 'Deployment orders-exporter',
      )?.annotations['checksum/config'];
    const before = await sum();
    expect(before).toMatch(/^[0-9a-f]{64}$/);
    expect(await sum({ checks: [{ name: 'other' }] })).not.toBe(before);
    expect(await sum({ exporter: { replicas: 3 } })).toBe(before);
  });
});
