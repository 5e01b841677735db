/** Whether every fact is looked at, what was found, and what becomes of it. */
import type { Dashboard } from '@grafana/grafana-foundation-sdk/dashboard';
import { frame } from './frame.ts';
import { AS_MONEY, moneyAtRisk } from './money.ts';
import { chart, list, notDrawn, notMeasured, stat } from './panels.ts';
import { runs } from './runs.ts';
import { growth, one, own } from './selectors.ts';
import {
  causeColours,
  limit,
  needsAPerson,
  openByCause,
  openFindings,
  openOverTime,
  verifiedAge,
  verifiedAges,
} from './verdicts.ts';

const heldBack = one('counterfoil_check_held_back', ['check']);
const implausible = one('counterfoil_implausible', ['check']);
const findings = one('counterfoil_findings', ['check', 'kind', 'status']);
const acknowledgementEnds = own('counterfoil_next_acknowledgement_end_timestamp_seconds');

export const reconciliation = (): Dashboard =>
  frame('reconciliation', {
    description: 'Whether every fact is looked at in time, what is found, and what becomes of it.',
    from: 'now-24h',
    panels: [
      stat({
        title: 'Verified through: age',
        description:
          'How long ago the time lies up to which every fact of the check was looked at and settled. Red beyond its threshold.',
        unit: 's',
        size: 34,
        at: [0, 0, 5, 6],
        decimals: 1,
        runbooks: ['CounterfoilVerifiedThroughTooOld'],
        queries: verifiedAges(),
      }),
      stat({
        title: 'Can it look, and may it write?',
        description:
          'held back: an old transaction keeps the horizon still; `node jobs/status/main.ts` names its pid. implausible: the newest run found more than can be true, opened nothing, and waits until a person releases it.',
        unit: 'none',
        at: [5, 0, 4, 6],
        shows: 'names',
        runbooks: ['CounterfoilImplausible', 'CounterfoilCheckHeldBack'],
        queries: [
          {
            refId: 'implausible',
            expr: `${implausible} == 1`,
            legend: '{{check}}: implausible',
            colour: 'red',
          },
          { refId: 'held', expr: `${heldBack} == 1`, legend: '{{check}}: held back', colour: 'orange' },
          {
            refId: 'none',
            expr: `sum(${implausible}) + sum(${heldBack}) == 0`,
            legend: 'yes',
            colour: 'green',
          },
          { ...notMeasured('counterfoil_check_held_back', 'NOT MEASURED'), colour: 'purple' },
        ],
      }),
      list({
        title: 'Open, by cause',
        description: 'Open findings that nobody has acknowledged, by kind and, for a missing bill, by cause.',
        unit: 'locale',
        at: [9, 0, 6, 6],
        runbooks: ['BillingDiscrepancy'],
        queries: openByCause(),
      }),
      list({
        title: 'Unsettled findings, by status',
        description:
          'suspected: seen once, the next run looks again. open: confirmed, pages. acknowledged: a person knows of it, until a date.',
        unit: 'locale',
        at: [15, 0, 5, 6],
        queries: [
          {
            refId: 'findings',
            expr: `sort_desc(sum by (status) (${findings}) > 0)`,
            legend: '{{status}}',
            colour: 'orange',
          },
          {
            refId: 'ends',
            expr: `min(${acknowledgementEnds}) - time()`,
            legend: 'first pages again in',
            unit: 's',
            decimals: 0,
            colour: 'text',
          },
          {
            refId: 'none',
            expr: `sum(${findings}) == 0`,
            legend: 'unsettled',
            colour: 'green',
            words: { 0: ['none', 'green'] },
          },
          notMeasured('counterfoil_findings', 'unsettled'),
        ],
      }),
      list({
        title: 'Needs you',
        description:
          'What no job will mend by itself. `node jobs/status/main.ts` in the exporter’s pod prints the command for each.',
        unit: 'locale',
        at: [20, 0, 4, 6],
        queries: needsAPerson(),
      }),
      chart({
        title: 'Age of verified through',
        description:
          'It saws: each run draws it back to the grace. A line that only rises means that nobody verifies.',
        unit: 's',
        at: [0, 6, 12, 8],
        runbooks: ['CounterfoilVerifiedThroughTooOld'],
        queries: [
          { refId: 'age', expr: verifiedAge, legend: '{{check}}' },
          notDrawn(own('counterfoil_check_declared_timestamp_seconds')),
          limit('verified_through_age_seconds', 'pages above'),
        ],
      }),
      chart({
        title: 'Open, unacknowledged findings',
        description: 'Over time, by kind and cause, with the threshold of the alert.',
        unit: 'locale',
        at: [12, 6, 12, 8],
        runbooks: ['BillingDiscrepancy'],
        colours: causeColours,
        queries: openOverTime(),
      }),
      chart({
        title: 'Opened and resolved in an hour',
        description:
          'Findings opened in the hour before each point, by kind, and those that a later look no longer saw. Resolved above opened: it gets better.',
        unit: 'locale',
        at: [0, 14, 12, 8],
        colours: {
          'opened: missing': 'orange',
          'opened: amount': 'blue',
          'opened: duplicate': 'light-blue',
          'opened: orphan': 'dark-blue',
        },
        queries: [
          {
            refId: 'opened',
            expr: `sum by (kind) (${growth('billing_discrepancy_total', ['check', 'kind'], '1h')})`,
            legend: 'opened: {{kind}}',
          },
          {
            refId: 'resolved',
            expr: `sum(${growth('counterfoil_findings_resolved_total', ['check'], '1h')})`,
            legend: 'resolved',
            colour: 'green',
          },
        ],
      }),
      chart({
        title: 'Money at risk',
        description:
          'Expected amounts of open, unacknowledged findings in whole units of each currency, never summed across currencies, on a logarithmic scale. Findings of unknown amount are not in it.',
        unit: AS_MONEY,
        at: [12, 14, 12, 8],
        // Yen and euros differ by orders of magnitude.
        log: true,
        queries: [
          ...moneyAtRisk().map((query) => ({ ...query, legend: '{{currency}}' })),
          { refId: 'none', expr: `sum(${openFindings}) == 0`, legend: 'nothing at risk', colour: 'text' },
        ],
      }),
      runs(
        {
          title: 'Runs of billing-reconciliation',
          at: [0, 22, 24, 6],
          runbooks: ['CounterfoilJobOverdue', 'CounterfoilJobFailed'],
        },
        'billing-reconciliation',
      ),
    ],
  });
