/** That the alerts of the night in the pictures are those that our rules make of its samples, and not a story of their own. */
import { join } from 'node:path';
import { describe, expect, inject, test } from 'vitest';
import { PASSED } from '../alerts/passed.ts';
import { promtoolTest } from '../alerts/promtool.ts';
import { ruleFiles, rulesFolder } from '../alerts/rule-files.ts';
import { incident } from './days.ts';

const tools = inject('alertTools');
/** From here on, a while before the first of them. */
const HOURS = 2.5;
const SAMPLE_SECONDS = 15;

const day = incident();
const began = day.end - HOURS * 3_600;
/** promtool’s clock begins at 0. */
const here = (name: string, value: number) =>
  name.endsWith('_timestamp_seconds') && value > 0 ? value - began : value;
const nameOf = (key: string) => key.slice(0, key.indexOf('{'));
const scraped = [...day.series].filter(
  ([key]) =>
    !nameOf(key).startsWith('ALERTS') &&
    (!nameOf(key).includes(':') || nameOf(key) === 'installation:complaints_per_day:value'),
);
const told = [...day.series].filter(([key]) => nameOf(key) === 'ALERTS_FOR_STATE');

describe.skipIf(tools === undefined)('in the night of the incident', () => {
  test('exactly the alerts fire that the dashboard lists, since when it says', async () => {
    const answer = await promtoolTest(
      tools?.promtool ?? '',
      ruleFiles().map((file) => join(rulesFolder, file)),
      [
        {
          name: 'the night',
          interval: `${SAMPLE_SECONDS}s`,
          input_series: scraped.map(([key, at]) => {
            const values: string[] = [];
            for (let time = began; time <= day.end; time += SAMPLE_SECONDS) {
              const value = at(time);
              values.push(value === undefined ? '_' : String(here(nameOf(key), value)));
            }
            return { series: key, values: values.join(' ') };
          }),
          promql_expr_test: [
            {
              expr: 'min by (alertname, severity) (ALERTS_FOR_STATE and ignoring (alertstate) ALERTS{alertstate="firing"})',
              eval_time: `${HOURS * 60}m`,
              exp_samples: told.map(([key, at]) => ({
                labels: `{${key
                  .slice(nameOf(key).length + 1, -1)
                  .split(',')
                  .filter((label) => /^(alertname|severity)=/.test(label))
                  .join(', ')}}`,
                value: (at(day.end) ?? 0) - began,
              })),
            },
          ],
        },
      ],
    );
    expect(told.length).toBeGreaterThan(5);
    expect(answer).toEqual(PASSED);
  });
});
