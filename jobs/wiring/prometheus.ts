/** Prometheus: it has loaded the rules, can evaluate them, and has the series of this installation. */
import { z } from 'zod';
import { ask, described, jsonOf } from './ask.ts';
import { type Attempt, needed } from './job.ts';

/** The groups of alerts/; a test holds the list. */
export const ruleGroups = [
  'acceptance',
  'billing',
  'canary',
  'events',
  'exporter',
  'jobs',
  'requests',
  'service',
  'thresholds',
].map((name) => `counterfoil-${name}`);

const rulesAnswer = z.object({
  data: z.object({
    groups: z.array(
      z.object({
        name: z.string(),
        rules: z.array(z.object({ name: z.string(), health: z.string() })).default([]),
      }),
    ),
  }),
});
const queryAnswer = z.object({
  data: z.object({ result: z.array(z.object({ value: z.tuple([z.number(), z.string()]) })) }),
});

export const tryPrometheus: Attempt = async (context) => {
  const { settings, signal } = context;
  const url = needed(context, 'CF_PROMETHEUS_URL').replace(/\/+$/, '');
  const asked = await ask(`${url}/api/v1/rules`, signal);
  const parsed = rulesAnswer.safeParse(jsonOf(asked));
  if (asked.kind !== 'answered' || asked.status !== 200) return [`Prometheus ${described(asked)}`];
  if (!parsed.success) return ['what answers is no Prometheus: it gives no list of rules'];
  const groups = parsed.data.data.groups;
  const problems: string[] = [];
  const wanted = settings.CF_RULE_GROUPS?.split(',') ?? ruleGroups;
  const absent = wanted.filter((name) => !groups.some((group) => group.name === name));
  if (absent.length > 0)
    problems.push(
      `Prometheus has not loaded ${absent.join(', ')}: do prometheusRule.labels fit its ruleSelector?`,
    );
  for (const { name, rules } of groups)
    for (const rule of rules)
      if (wanted.includes(name) && rule.health === 'err')
        problems.push(`Prometheus cannot evaluate ${rule.name} of ${name}`);
  const namespace = needed(context, 'CF_NAMESPACE');
  const labels = `namespace="${namespace}",installation="${settings.CF_INSTALLATION}"`;
  const series: readonly [query: string, what: string, hint: string][] = [
    [
      `count({__name__=~"installation:.+:threshold",${labels}})`,
      'the thresholds',
      'are its rules evaluated?',
    ],
    [
      `count(counterfoil_collection_success{${labels}})`,
      'what the exporter shows',
      'do the labels of the PodMonitor fit its podMonitorSelector?',
    ],
  ];
  for (const [query, what, hint] of series) {
    const answer = await ask(`${url}/api/v1/query?${new URLSearchParams({ query })}`, signal);
    const result = queryAnswer.safeParse(jsonOf(answer)).data?.data.result ?? [];
    if (Number(result[0]?.value[1] ?? 0) === 0)
      problems.push(`Prometheus has no series of ${what} with ${labels}: ${hint}`);
  }
  return problems;
};
