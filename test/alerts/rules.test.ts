/** The rule files and the tests beside them, by promtool. */
import { describe, expect, inject, test } from 'vitest';
import { PASSED } from './passed.ts';
import { promtool, promtoolTest } from './promtool.ts';
import { ruleFiles, rulesFolder, testFiles } from './rule-files.ts';

const tools = inject('alertTools');

describe.skipIf(tools === undefined)('promtool', () => {
  const path = tools?.promtool ?? '';

  test('takes every rule file as it stands, without Helm', async () => {
    const { passed, output } = await promtool(path, 'check', 'rules', '--lint-fatal', ...ruleFiles());
    expect([passed, output]).toEqual([true, expect.stringContaining('SUCCESS')]);
  });

  test.each(testFiles())('alerts/%s holds', { timeout: 300_000 }, async (file) => {
    expect(await promtool(path, 'test', 'rules', file)).toEqual(PASSED);
  });

  test('refuses an expectation that is wrong', async () => {
    const answer = await promtoolTest(
      path,
      [`${rulesFolder}/thresholds.yaml`],
      [
        {
          name: 'wrong',
          interval: '15s',
          input_series: [],
          promql_expr_test: [
            {
              expr: 'installation:event_loss_ratio:threshold',
              eval_time: '1m',
              exp_samples: [
                {
                  labels:
                    'installation:event_loss_ratio:threshold{namespace="counterfoil",installation="counterfoil"}',
                  value: 0.006,
                },
              ],
            },
          ],
        },
      ],
    );
    expect(answer).toMatchObject({ passed: false, output: expect.stringContaining('FAILED') });
  });
});
