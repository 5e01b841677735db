/** Every value of the chart changes something, and no template reads one that there is not. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, inject, test } from 'vitest';
import { readValues } from '../../scripts/chart-values-comments.ts';
import { chartFolder } from './render.ts';
import { unknownReads } from './template-reads.ts';
import { type Base, unreadValues } from './unread-values.ts';

const fixture = fileURLToPath(new URL('fixtures/read-and-unread', import.meta.url));
function example(name: string): string {
  return join(chartFolder, 'examples', `${name}.yaml`);
}
const documented = (chart: string) => readValues(readFileSync(join(chart, 'values.yaml'), 'utf8'));

test('the templates read no value that there is not', () => {
  expect(unknownReads(chartFolder, documented(chartFolder))).toEqual([]);
});

test('a read of a value that there is not is found, through with, variables and dicts', () => {
  expect(unknownReads(fixture, documented(fixture))).toEqual([
    '_job.tpl:3 reads .deadline, which nothing of the chart is called',
    'map.yaml:15 reads .Values.job.gone, which there is not',
    'map.yaml:18 reads .Values.lost, which there is not',
    'map.yaml:9 reads .Values.gone, which there is not',
  ]);
});

const settings = { CF_LOG_LEVEL: 'debug' };
const overrides = { backoffLimit: 7 };

/** Settings that the rules of a value do not give: their form is a template's, or Kubernetes'. */
const samples: Readonly<Record<string, unknown>> = {
  settings,
  checks: [{ name: 'orders', facts: { table: 'orders' } }],
  'database.schema': 'guard',
  'exporter.settings': settings,
  extraEnv: [{ name: 'TZ', value: 'UTC' }],
  extraObjects: ['apiVersion: v1\nkind: ConfigMap\nmetadata: {name: more}\n'],
  'image.digest': `sha256:${'1'.repeat(64)}`,
  'jobs.backupRetention.overrides': overrides,
  'jobs.backupRetention.settings': settings,
  'jobs.billingReconciliation.full.overrides': overrides,
  'jobs.billingReconciliation.incremental.overrides': overrides,
  'jobs.billingReconciliation.settings': settings,
  'jobs.billingReconciliation.tail.overrides': overrides,
  'jobs.eventReplay.overrides': overrides,
  'jobs.eventReplay.settings': settings,
  'jobs.flowProbe.overrides': overrides,
  'jobs.flowProbe.settings': settings,
  'jobs.schema.settings': settings,
  'metrics.podMonitor.scrapeTimeout': '7s',
  'metrics.service.scrapeTimeout': '7s',
  'metrics.serviceMonitor.scrapeTimeout': '7s',
  'networkPolicy.extraEgress': [{ ports: [{ port: 4317 }] }],
  'networkPolicy.metricsNamespaces': [{ team: 'observers' }],
  'pod.runAsUser': 1007,
  'pod.tolerations': [{ key: 'jobs', operator: 'Exists' }],
  'prometheusRule.disabled': { BillingDiscrepancy: true },
  'prometheusRule.overrides': { BillingDiscrepancy: { for: '7m' } },
  'rollout.conditions.loss.interval': '17s',
  'rollout.deployment': 'other',
  'rollout.gates.goodReadings': 7,
  'rollout.gates.interval': '37s',
  'rollout.gates.observe': ['sample'],
  'rollout.steps': [{ weight: 100, pause: '37m', gates: ['sample'] }],
};

/** A release that owns its pods, one that adopts them, and one through a Gateway: no part of the chart is in none. */
const bases: readonly Base[] = [
  [example('production')],
  [
    example('staging'),
    {
      metrics: { podMonitor: { enabled: false }, serviceMonitor: { enabled: true } },
      rollout: { gates: { quiet: 'probe' } },
      jobs: { flowProbe: { token: { existingSecret: 'billing-probe' } } },
    },
  ],
  [
    example('production'),
    {
      jobs: { eventReplay: { mode: 'cronjob' } },
      rollout: {
        router: { type: 'gatewayAPI', create: true, host: 'billing.example.org', gateway: 'edge' },
        conditions: { loss: { mode: 'hold' }, billing: { mode: 'hold' }, crashes: { mode: 'hold' } },
      },
    },
  ],
];

describe.skipIf(inject('chartTools') === undefined)('rendering', () => {
  test('changes with every value', { timeout: 300_000 }, async () => {
    expect(await unreadValues(documented(chartFolder), bases, samples)).toEqual([]);
  });

  test('does not change with a value that nothing reads, nor with one that is read only elsewhere', async () => {
    const values = documented(fixture);
    expect(await unreadValues(values, [[{}], [{ enabled: false }]], {}, { chart: fixture })).toEqual([
      'job.shedule changes nothing',
      'unread changes nothing',
    ]);
    expect(await unreadValues(values, [[{}]], { few: 2 }, { chart: fixture })).toEqual([
      'job.shedule changes nothing',
      'list changes nothing',
      'unread changes nothing',
    ]);
  });

  test('is not tried where nobody knows another setting', async () => {
    const values = readValues('# @section One\n# Text.\n# @items object\na: []\n# Text.\n# @enum x\nb: x\n');
    expect(await unreadValues(values, [], {})).toEqual([
      'a: give a sample that differs from the default',
      'b: give a sample that differs from the default',
    ]);
  });
});
