/** Two installations in one Prometheus: each alerts on its own thresholds, in one namespace and in two. */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';
import { PASSED } from './passed.ts';
import { promtoolTest, type UnitTest } from './promtool.ts';
import { ruleFiles, rulesFolder } from './rule-files.ts';

const tools = inject('alertTools');

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'counterfoil-installations-'));
});
afterAll(async () => {
  await rm(folder, { recursive: true, force: true });
});

/** As the chart does it: the literal namespace, the two labels, and the thresholds. */
async function install(
  namespace: string,
  installation: string,
  thresholds: Readonly<Record<string, number>>,
  files = ruleFiles(),
): Promise<string[]> {
  const written: string[] = [];
  for (const file of files) {
    let text = (await readFile(join(rulesFolder, file), 'utf8'))
      .replaceAll('namespace="counterfoil"', `namespace="${namespace}"`)
      .replaceAll(/^( +)namespace: counterfoil$/gm, `$1namespace: ${namespace}`)
      .replaceAll(/^( +)installation: counterfoil$/gm, `$1installation: ${installation}`);
    for (const [name, value] of Object.entries(thresholds))
      text = text.replace(
        new RegExp(`(record: installation:${name}:threshold\\s+expr: )vector\\([^)]*\\)`),
        `$1vector(${value})`,
      );
    const path = join(folder, `${namespace}-${installation}-${file}`);
    await writeFile(path, text);
    written.push(path);
  }
  return written;
}

const events = (namespace: string, installation: string) => ({
  [`counterfoil_hot_events{namespace="${namespace}",installation="${installation}",published_hash="v"}`]:
    '1000x60',
  [`counterfoil_hot_lost_events{namespace="${namespace}",installation="${installation}",published_hash="v"}`]:
    '8x60',
  [`counterfoil_exporter_info{namespace="${namespace}",installation="${installation}",version="1"}`]: '1x60',
});

/** 0.8 % lost in both: only the one that tolerates 0.5 % alerts. */
const both = (name: string, other: { namespace: string; installation: string }): UnitTest => ({
  name,
  interval: '15s',
  input_series: Object.entries({
    ...events('counterfoil', 'counterfoil'),
    ...events(other.namespace, other.installation),
  }).map(([series, values]) => ({ series, values })),
  promql_expr_test: [
    {
      expr: 'ALERTS{alertname="EventLossRateHigh",alertstate="firing"}',
      eval_time: '10m',
      exp_samples: [
        {
          labels:
            'ALERTS{alertname="EventLossRateHigh",alertstate="firing",namespace="counterfoil",installation="counterfoil",severity="critical"}',
          value: 1,
        },
      ],
    },
    {
      expr: 'count by (namespace, installation) (installation:event_loss_ratio:threshold)',
      eval_time: '10m',
      exp_samples: [
        { labels: '{namespace="counterfoil",installation="counterfoil"}', value: 1 },
        { labels: `{namespace="${other.namespace}",installation="${other.installation}"}`, value: 1 },
      ],
    },
  ],
});

describe.skipIf(tools === undefined)('two installations', () => {
  test('in namespaces of their own keep their own thresholds, and neither alerts for the other', async () => {
    const other = { namespace: 'payments', installation: 'payments' };
    const files = [
      ...(await install('counterfoil', 'counterfoil', {})),
      ...(await install(other.namespace, other.installation, { event_loss_ratio: 0.01 })),
    ];
    expect(await promtoolTest(tools?.promtool ?? '', files, [both('two namespaces', other)])).toEqual(PASSED);
  });

  test('in one namespace share the rules, and each brings its thresholds', async () => {
    const other = { namespace: 'counterfoil', installation: 'second' };
    const files = [
      ...(await install('counterfoil', 'counterfoil', {})),
      ...(await install('counterfoil', 'second', { event_loss_ratio: 0.01 }, ['thresholds.yaml'])),
    ];
    expect(await promtoolTest(tools?.promtool ?? '', files, [both('one namespace', other)])).toEqual(PASSED);
  });

  test('with one threshold for both, both would alert', async () => {
    const other = { namespace: 'payments', installation: 'payments' };
    const files = [
      ...(await install('counterfoil', 'counterfoil', {})),
      ...(await install(other.namespace, other.installation, {})),
    ];
    const answer = await promtoolTest(tools?.promtool ?? '', files, [both('the same', other)]);
    expect(answer).toMatchObject({
      passed: false,
      output: expect.stringContaining('namespace="payments", severity="critical"'),
    });
  });
});
