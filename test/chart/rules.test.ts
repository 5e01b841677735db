/** The alerts as the chart renders them: the files, with another namespace, installation and numbers. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, inject, test } from 'vitest';
import { parse } from 'yaml';
import { rulesFolder } from '../alerts/rule-files.ts';
import { chartFolder, render, renderFails, required, type Values } from './render.ts';
import { allJobs, guard, type Rule, renderedGroups, rulesOf, shippedGroups, thresholdsOf } from './rules.ts';

/** What `alerts/` is written for. */
const written = { release: 'counterfoil', namespace: 'counterfoil' };
const own = { namespace: 'counterfoil', installation: 'counterfoil', uids: 'counterfoil' };

const values = parse(readFileSync(join(chartFolder, 'values.yaml'), 'utf8')) as {
  thresholds: Record<string, number>;
};
const alertsNamed = (rules: readonly Rule[], name: string) => rules.filter(({ alert }) => alert === name);
const camelCase = (name: string) => name.replaceAll(/_(\w)/g, (_, letter: string) => letter.toUpperCase());

describe.skipIf(inject('chartTools') === undefined)('the rules of the chart', () => {
  const rulesWith = async (...layers: Values[]) =>
    rulesOf(renderedGroups(await render([required, ...layers])));

  test('are the files of alerts/ exactly, in the namespace and installation that those are written for', async () => {
    const rendered = renderedGroups(await render([required, allJobs], written));
    expect(rendered).toEqual(shippedGroups(own));
    expect(rulesOf(rendered).length).toBeGreaterThan(100);
  });

  test('are the same with another namespace and installation, and no word of the first is left', async () => {
    const rendered = await render([required, allJobs]);
    expect(renderedGroups(rendered)).toEqual(shippedGroups(guard));
    const leftOver = (text: string) =>
      text.match(/(namespace|installation)="counterfoil"|(namespace|installation): counterfoil$/gm) ?? [];
    expect(leftOver(rendered.text)).toEqual([]);
    expect(leftOver((await render([required, allJobs], written)).text).length).toBeGreaterThan(500);
  });

  test('have one object for each file, below what kubectl can apply', async () => {
    const objects = (await render([required, allJobs])).all('PrometheusRule');
    expect(objects.map(({ metadata }) => metadata.name)).toContain('guard-counterfoil-thresholds');
    expect(objects.length).toBe(shippedGroups(own).size);
    const kubectlKeeps = 262_144;
    const tooLarge = (all: readonly object[]) =>
      all.filter((object) => JSON.stringify(object).length > kubectlKeeps / 2);
    expect(tooLarge(objects)).toEqual([]);
    expect(tooLarge([objects])).not.toEqual([]);
  });

  test('find what they speak of by its name: the exporter, and each job that has a threshold', async () => {
    const missing = (rules: readonly Rule[], deployments: readonly string[], cronJobs: readonly string[]) => [
      ...rules.flatMap(({ annotations, alert }) =>
        [...(annotations?.description ?? '').matchAll(/deploy\/\{\{ \$labels\.installation \}\}(-[a-z-]+)/g)]
          .filter(([, end = '']) => !deployments.some((name) => name.endsWith(end)))
          .map(([place]) => `${alert} speaks of ${place}`),
      ),
      ...[...thresholdsOf(rules).keys()].flatMap((name) => {
        const [, job = '', mode = ''] = /^job_age_seconds (\S+) (\S+)$/.exec(name) ?? [];
        const found = cronJobs.some((cronJob) => new RegExp(`-${job}(-${mode})?$`).test(cronJob));
        return job === '' || found ? [] : [`no CronJob for ${job} ${mode}`];
      }),
    ];
    for (const installation of ['', 'i'.repeat(40)]) {
      const rendered = await render([required, allJobs, { installation }]);
      const names = (kind: string) => rendered.all(kind).map(({ metadata }) => metadata.name);
      const rules = rulesOf(renderedGroups(rendered));
      expect(missing(rules, names('Deployment'), names('CronJob'))).toEqual([]);
      const without = names('CronJob').filter((name) => !name.endsWith('-flow-probe'));
      expect(missing(rules, [], without)).toEqual(
        expect.arrayContaining([
          'no CronJob for flow-probe probe',
          'EventLossRateHigh speaks of deploy/{{ $labels.installation }}-exporter',
        ]),
      );
    }
  });

  test('are not there without the exporter, and not where they are switched off', async () => {
    expect(await rulesWith({ exporter: { enabled: false } })).toEqual([]);
    expect(await rulesWith({ prometheusRule: { enabled: false } })).toEqual([]);
  });
});

describe.skipIf(inject('chartTools') === undefined)('a threshold', () => {
  const thresholdsWith = async (...layers: Values[]) =>
    thresholdsOf(rulesOf(renderedGroups(await render([required, ...layers]))));

  test('has the number of its value, and every one has a value', async () => {
    const changed = Object.fromEntries(
      Object.entries(values.thresholds).map(([name, number]) => [name, number < 1 ? number / 2 : number + 1]),
    );
    // The gate counts in thousandths.
    const found = await thresholdsWith(allJobs, {
      thresholds: { ...changed, eventLossRatio: 0.007, billingErrorRatio: 0.02 },
    });
    const expected = new Map(Object.entries({ ...changed, eventLossRatio: 0.007, billingErrorRatio: 0.02 }));
    const ofValues = new Map(
      [...found]
        .filter(([name]) => !name.startsWith('job_age'))
        .map(([name, number]) => [camelCase(name), number]),
    );
    expect(ofValues).toEqual(expected);
    expect(expected.size).toBeGreaterThan(20);
  });

  test('by default has the number of alerts/', async () => {
    const shipped = thresholdsOf(rulesOf(shippedGroups(own)));
    expect(await thresholdsWith(allJobs)).toEqual(shipped);
    expect(await thresholdsWith(allJobs, { thresholds: { overdueEvents: 1 } })).not.toEqual(shipped);
  });

  test('keeps every digit of a large and of a small number', async () => {
    const found = await thresholdsWith({
      thresholds: { rolloutAgeSeconds: 1234567, eventLossAcceptedRatio: 0.00001 },
    });
    expect(found.get('rollout_age_seconds')).toBe(1234567);
    expect(found.get('event_loss_accepted_ratio')).toBe(0.00001);
  });

  const ages = async (...layers: Values[]) =>
    [...(await thresholdsWith(...layers))].flatMap(([name, number]) =>
      name.startsWith('job_age_seconds ') ? [`${name.slice('job_age_seconds '.length)} ${number}`] : [],
    );

  test('is there for each job that runs, and for no other: one that never runs is not overdue', async () => {
    expect(await ages()).toEqual([
      'billing-reconciliation tail 900',
      'billing-reconciliation incremental 7800',
      'billing-reconciliation full 180000',
      'event-replay once 900',
    ]);
    expect(
      await ages(allJobs, {
        jobs: {
          billingReconciliation: { tail: { enabled: false }, full: { maxAgeSeconds: 90000 } },
          eventReplay: { mode: 'deployment' },
          flowProbe: { maxAgeSeconds: 4000 },
        },
      }),
    ).toEqual([
      'billing-reconciliation incremental 7800',
      'billing-reconciliation full 90000',
      'event-replay continuous 300',
      'flow-probe probe 4000',
      'backup-retention purge 180000',
    ]);
    expect(
      await ages({
        jobs: { billingReconciliation: { enabled: false }, eventReplay: { maxAgeSeconds: 1200 } },
      }),
    ).toEqual(['event-replay once 1200']);
  });
});

describe.skipIf(inject('chartTools') === undefined)('an alert', () => {
  const rulesWith = async (prometheusRule: Values) =>
    rulesOf(renderedGroups(await render([required, { prometheusRule }])));
  const severitiesOf = (rules: readonly Rule[], name: string) =>
    alertsNamed(rules, name).map(({ labels }) => labels?.severity);

  test('that is disabled is left out, and its neighbours stay', async () => {
    const all = await rulesWith({});
    const rules = await rulesWith({
      disabled: {
        CounterfoilJobSilent: true,
        'BillingDiscrepancy/warning': true,
        CounterfoilParkedEvents: true,
        'CounterfoilParkedEvents/critical': false,
        EventPublishError: false,
      },
    });
    expect(severitiesOf(rules, 'CounterfoilJobSilent')).toEqual([]);
    expect(severitiesOf(rules, 'BillingDiscrepancy')).toEqual(['critical']);
    expect(severitiesOf(rules, 'CounterfoilParkedEvents')).toEqual(['critical']);
    expect(severitiesOf(rules, 'EventPublishError')).toEqual(['warning']);
    expect(rules.length).toBe(all.length - 3);
  });

  test('differs in what an override says, for one of its severities or for all', async () => {
    const rules = await rulesWith({
      overrides: {
        BillingDiscrepancy: {
          labels: { team: 'payments' },
          annotations: { owner: 'Payments: {{ $value }}' },
        },
        'BillingDiscrepancy/critical': { for: '10m' },
        EventPublishError: { severity: 'critical' },
      },
    });
    const [ticket, page] = alertsNamed(rules, 'BillingDiscrepancy');
    expect([ticket?.for, page?.for]).toEqual(['1m', '10m']);
    for (const rule of [ticket, page]) {
      expect(rule?.labels).toEqual({ severity: rule === page ? 'critical' : 'warning', team: 'payments' });
      expect(rule?.annotations).toMatchObject({
        owner: 'Payments: {{ $value }}',
        summary: expect.stringContaining('billed'),
      });
    }
    expect(severitiesOf(rules, 'EventPublishError')).toEqual(['critical']);
    expect(alertsNamed(rules, 'CounterfoilOverdueEvents')).toEqual(
      alertsNamed(await rulesWith({}), 'CounterfoilOverdueEvents'),
    );
  });

  test('has the labels that are meant for alerts, and the object those by which Prometheus selects it', async () => {
    const rendered = await render([
      required,
      {
        complaints: { query: 'sum(increase(complaints_total[1d]))' },
        prometheusRule: {
          labels: { release: 'kube-prometheus-stack' },
          annotations: { note: 'by us' },
          alertLabels: { team: 'payments' },
        },
      },
    ]);
    const objects = rendered.all('PrometheusRule');
    expect(objects.length).toBeGreaterThan(9);
    for (const { metadata } of objects) {
      expect(metadata.labels).toMatchObject({ release: 'kube-prometheus-stack' });
      expect(metadata.labels).not.toHaveProperty('team');
      expect(metadata.annotations).toEqual({ note: 'by us' });
    }
    for (const { alert, labels } of rulesOf(renderedGroups(rendered))) {
      expect(labels ?? {}).not.toHaveProperty('release');
      // A recorded series with another label would not join with its threshold any more.
      if (alert === undefined) expect(labels ?? {}).not.toHaveProperty('team');
      else expect(labels).toMatchObject({ team: 'payments' });
    }
  });

  test('leads to your runbooks and your Grafana, with or without a slash at the end', async () => {
    for (const slash of ['', '/']) {
      const rules = await rulesWith({
        runbookBaseUrl: `https://wiki.shop.example/counterfoil${slash}`,
        dashboardBaseUrl: `https://grafana.shop.example/d${slash}`,
      });
      const alerts = rules.filter(({ alert }) => alert !== undefined);
      expect(alerts.length).toBeGreaterThan(40);
      for (const { alert, annotations } of alerts) {
        expect(annotations?.runbook_url).toBe(`https://wiki.shop.example/counterfoil/${alert}.md`);
        expect(annotations?.dashboard_url).toMatch(
          /^https:\/\/grafana\.shop\.example\/d\/counterfoil-[0-9a-f]{8}-[a-z-]+\?var-namespace=/,
        );
      }
    }
  });

  test.each([
    ['no such alert', { disabled: { Counterfoil: true } }, 'prometheusRule.disabled names Counterfoil'],
    ['no such alert to override', { overrides: { Nothing: { for: '1m' } } }, 'overrides names Nothing'],
    [
      'no such severity',
      { disabled: { 'BillingDiscrepancy/info': true } },
      'the severities of that alert are warning, critical',
    ],
    ['no such field', { overrides: { EventPublishError: { expr: 'vector(1)' } } }, 'has expr: for, severity'],
    ['no duration', { overrides: { EventPublishError: { for: 'soon' } } }, 'for is no duration'],
    ['no severity', { overrides: { EventPublishError: { severity: 'loud' } } }, 'none of critical, warning'],
    [
      'two alike',
      { overrides: { 'BillingDiscrepancy/warning': { severity: 'critical' } } },
      'no two of its rules may have one',
    ],
    [
      'two at once',
      { overrides: { BillingDiscrepancy: { severity: 'info' } } },
      'no two of its rules may have one',
    ],
    ['a label that joins', { alertLabels: { installation: 'x' } }, 'alertLabels has installation'],
    [
      'a label that the canary reads',
      { overrides: { CounterfoilVersionCrashes: { labels: { published_hash: 'x' } } } },
      'labels has published_hash',
    ],
  ])('is refused with a sentence: %s', async (_, prometheusRule, sentence) => {
    expect(await renderFails([required, { prometheusRule }])).toContain(sentence);
  });
});

describe.skipIf(inject('chartTools') === undefined)('two installations', () => {
  const namesOf = async (values: Values, options: object) =>
    (await render([required, values], options)).all('PrometheusRule').map(({ metadata }) => metadata);

  test('in one namespace have one set of rules, and each its thresholds and complaints', async () => {
    const second = await render(
      [required, { prometheusRule: { shared: true }, complaints: { query: 'vector(1)' } }],
      { release: 'second' },
    );
    expect(second.all('PrometheusRule').map(({ metadata }) => metadata.name)).toEqual([
      'second-counterfoil-thresholds',
      'second-counterfoil-complaints',
    ]);
    const rules = rulesOf(renderedGroups(second));
    expect(rules.length).toBeGreaterThan(20);
    for (const { labels } of rules)
      expect(labels).toMatchObject({ namespace: 'shop', installation: 'second-counterfoil' });
  });

  test('of one name in two namespaces keep apart in a third, where their rules are', async () => {
    const elsewhere = { prometheusRule: { namespace: 'monitoring' } };
    const [first, second] = [
      await namesOf(elsewhere, { namespace: 'shop' }),
      await namesOf(elsewhere, { namespace: 'books' }),
    ];
    for (const { namespace } of [...first, ...second]) expect(namespace).toBe('monitoring');
    const names = [...first, ...second].map(({ name }) => name);
    expect(new Set(names).size).toBe(names.length);
    expect(names).toContain('shop-guard-counterfoil-thresholds');
    // In their own namespaces they need no such beginning.
    expect((await namesOf({}, { namespace: 'books' }))[0]?.name).toMatch(/^guard-counterfoil-/);
  });
});

describe.skipIf(inject('chartTools') === undefined)('complaints', () => {
  test('are recorded by the query as it stands, with both labels, in an object of their own', async () => {
    const query = 'sum(increase(complaints_total{channel=~"mail|phone",note!="{{ x }}"}[1d]))';
    const rendered = await render([required, { complaints: { query } }]);
    expect(rendered.get('PrometheusRule', 'guard-counterfoil-complaints').spec).toEqual({
      groups: [
        {
          name: 'counterfoil-complaints',
          interval: '1m',
          rules: [
            {
              record: 'installation:complaints_per_day:value',
              expr: query,
              labels: { namespace: 'shop', installation: 'guard-counterfoil' },
            },
          ],
        },
      ],
    });
  });

  test('are not recorded without a query', async () => {
    expect((await render(required)).text).not.toContain('record: installation:complaints_per_day:value');
  });
});

describe.skipIf(inject('chartTools') === undefined)('the inhibition', () => {
  const shipped = parse(
    readFileSync(join(rulesFolder, 'inhibition.alertmanagerconfig.yaml'), 'utf8'),
  ) as object & { spec: object };
  const enabled = { alertmanagerConfig: { enabled: true, labels: { alertmanager: 'main' } } };

  test('is that of alerts/, in the namespace of the alerts, whatever namespace their rules are in', async () => {
    const rendered = await render([required, enabled, { prometheusRule: { namespace: 'monitoring' } }]);
    const config = rendered.get('AlertmanagerConfig', 'guard-counterfoil-inhibition');
    expect(config.spec).toEqual(shipped.spec);
    expect(config.metadata.namespace).toBe('shop');
    expect(config.metadata.labels).toMatchObject({ alertmanager: 'main' });
  });

  test('is not there unless it is asked for, nor for a release that shares the rules of another', async () => {
    expect((await render(required)).all('AlertmanagerConfig')).toEqual([]);
    expect(
      (await render([required, enabled, { prometheusRule: { shared: true } }])).all('AlertmanagerConfig'),
    ).toEqual([]);
  });
});
