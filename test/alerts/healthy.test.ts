/** A day on which nothing is wrong: not one alert in all of it. `npm run bench:alerts` asks the same of thirty. */
import { join } from 'node:path';
import { describe, expect, inject, test } from 'vitest';
import { healthyTrace } from './healthy-days.ts';
import { PASSED } from './passed.ts';
import { promtoolTest, type UnitTest } from './promtool.ts';
import { ruleFiles, rulesFolder } from './rule-files.ts';

const tools = inject('alertTools');
const rules = ruleFiles().map((file) => join(rulesFolder, file));
const SAMPLE_SECONDS = 30;

/** @param assertions promtool's */
const day = (assertions: UnitTest['promql_expr_test'], lossAtHour?: number): UnitTest => ({
  name: 'a day',
  interval: `${SAMPLE_SECONDS}s`,
  input_series: [
    ...healthyTrace({
      days: 1,
      sampleSeconds: SAMPLE_SECONDS,
      ...(lossAtHour === undefined ? {} : { lossAtHour }),
    }),
  ].map(([series, values]) => ({ series, values })),
  promql_expr_test: assertions,
});

describe.skipIf(tools === undefined)('on a healthy day', () => {
  test('with deploys, restarts and steps from 0 to 1,000 events a second, no alert fires, and the same day with a loss has one', {
    timeout: 600_000,
  }, async () => {
    const answer = await promtoolTest(
      tools?.promtool ?? '',
      rules,
      [
        day([
          { expr: 'count_over_time(ALERTS{alertstate="firing"}[1d])', eval_time: '1d', exp_samples: [] },
          // That the day was one: traffic was judged, versions were, and jobs.
          {
            expr: 'max_over_time(installation:judged_events:sum[1d]) > bool 800000',
            eval_time: '1d',
            exp_samples: [{ labels: '{namespace="counterfoil",installation="counterfoil"}', value: 1 }],
          },
          {
            expr: 'count(count_over_time(job:age_seconds:max[1d]))',
            eval_time: '1d',
            exp_samples: [{ labels: '{}', value: 4 }],
          },
        ]),
        {
          ...day(
            [
              {
                expr: 'ALERTS{alertname="EventLossRateHigh",alertstate="firing"}',
                eval_time: '8h36m',
                exp_samples: [
                  {
                    labels:
                      'ALERTS{alertname="EventLossRateHigh",alertstate="firing",namespace="counterfoil",installation="counterfoil",severity="critical"}',
                    value: 1,
                  },
                ],
              },
            ],
            8.5,
          ),
          name: 'a day with a loss',
        },
      ],
      `${SAMPLE_SECONDS}s`,
    );
    expect(answer).toEqual(PASSED);
  });
});
