/** What every metric of an analysis must have, so that it can fail, and cannot pause a rollout for ever. */
import type { Metric } from './rollout-files.ts';

/** Argo cuts the names of Jobs so that two longer metrics could share one. */
const LONGEST_NAME = 22;

/** @param finite whether it is a gate, which ends, or watches in the background until the rollout does */
export function metricProblems(metric: Metric, finite: boolean): string[] {
  const problems: string[] = [];
  const { count, failureLimit = 0, consecutiveSuccessLimit: good = 0, provider } = metric;
  const say = (problem: string) => problems.push(`${metric.name}: ${problem}`);
  const conditions = [metric.successCondition, metric.failureCondition].filter((one) => one !== undefined);
  if (conditions.length !== (provider.job === undefined ? 1 : 0))
    say(`${conditions.length} conditions: with none it always passes, with two it can be inconclusive`);
  if (metric.name.length > LONGEST_NAME) say('its name is too long for a Job of its own');
  if (metric.consecutiveErrorLimit === undefined) say('how long its source may be away is left to Argo');
  if (finite && count === undefined) say('a gate without count runs for ever');
  if (!finite && count !== undefined) say('watches no more once its count is reached');
  if (failureLimit >= 0 && good > 0) say('a limit on failures and one on successes: can be inconclusive');
  if (failureLimit < 0 && good < 1) say('neither limit: cannot end');
  if (failureLimit > 0) say('tolerates failures, whenever they come');
  if (count !== undefined && failureLimit >= count) say('cannot fail');
  if (count !== undefined && good > count) say('cannot succeed');
  if (count !== undefined && count > 1 && metric.interval === undefined) say('no interval');
  if (provider.prometheus !== undefined && !/len\(result\)/.test(conditions[0] ?? ''))
    say('does not say what becomes of an empty answer');
  return problems;
}
