/** Thirty healthy days through the alerts: prints how long it took, and every alert that fired where none may. */
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { findTool } from '../tools/find-tool.ts';
import { healthyTrace } from './healthy-days.ts';
import { promtoolTest } from './promtool.ts';
import { ruleFiles, rulesFolder } from './rule-files.ts';

const { values } = parseArgs({
  options: { days: { type: 'string', default: '30' }, json: { type: 'boolean' } },
});
const days = Number(values.days);
const SAMPLE_SECONDS = 60;

const began = Date.now();
const trace = healthyTrace({ days, sampleSeconds: SAMPLE_SECONDS });
const { passed, output } = await promtoolTest(
  await findTool('promtool'),
  ruleFiles().map((file) => join(rulesFolder, file)),
  [
    {
      name: `${days} healthy days`,
      interval: `${SAMPLE_SECONDS}s`,
      input_series: [...trace].map(([series, written]) => ({ series, values: written })),
      promql_expr_test: [
        {
          expr: `count_over_time(ALERTS{alertstate="firing"}[${days}d])`,
          eval_time: `${days}d`,
          exp_samples: [],
        },
      ],
    },
  ],
  `${SAMPLE_SECONDS}s`,
);
const seconds = Math.round((Date.now() - began) / 1000);
if (!passed) process.stderr.write(output);
process.stdout.write(
  values.json
    ? `${JSON.stringify({ days, series: trace.size, falseAlerts: !passed, seconds })}\n`
    : `${days} days, ${trace.size} series: ${passed ? 'no alert fired' : 'an alert fired'} (${seconds} s)\n`,
);
process.exitCode = passed ? 0 : 1;
