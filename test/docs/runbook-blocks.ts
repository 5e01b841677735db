/** The blocks of a runbook that a person copies, and what is wrong with a command among them. */
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

export interface Block {
  readonly language: string;
  readonly text: string;
}

export const blocksOf = (markdown: string): Block[] =>
  [...markdown.matchAll(/^```(\w*)\n([\s\S]*?)^```/gm)].map(([, language = '', text = '']) => ({
    language,
    text: text.trim(),
  }));

/** Verbs of kubectl, and what each may be aimed at: kinds, or the form of a whole argument. */
const verbs: Readonly<Record<string, RegExp>> = {
  'argo rollouts': /^(?:abort|promote|undo|get) (?:rollout )?billing$/,
  'create job': /^--from=cronjob\/counterfoil-[\w-]+ [\w-]+$/,
  'rollout restart': /^deploy\/counterfoil-exporter$/,
  'patch cronjob': /^counterfoil-[\w-]+ -p '.*'$/,
  describe: /^(?:pods|rollout billing)$/,
  exec: /^deploy\/counterfoil-exporter -- node [\w/.-]+(?: --\w+)*$/,
  get: /^(?:(?:pods|jobs|cronjobs|rollouts|analysisruns)(?:,(?:pods|jobs|cronjobs))*)(?: --sort-by=[\w.]+)?$/,
  logs: /^(?:deploy\/counterfoil-exporter|-l app\.kubernetes\.io\/name=billing) --tail=\d+$/,
  top: /^pods$/,
};

/** Nothing, or why a person who copies this line would be refused. */
export function commandProblem(line: string): string | undefined {
  if (!line.startsWith('kubectl ')) return 'not a kubectl command: on-call has no clone';
  const rest = line.slice('kubectl '.length);
  const verb = Object.keys(verbs).find((name) => rest.startsWith(`${name} `));
  if (verb === undefined) return 'no verb that the runbooks use';
  const argument = rest
    .slice(verb.length + 1)
    .replace(/(?:^| )-n counterfoil(?: |$)/, ' ')
    .trim();
  if (!/ -n counterfoil(?: |$)/.test(rest.split(' -- ')[0] ?? '')) return 'no namespace';
  if (!verbs[verb]?.test(argument)) return `not what ${verb} is used for: ${argument}`;
  const job = /counterfoil-(billing-reconciliation|event-replay|flow-probe|backup-retention|[\w-]+)/.exec(
    /cronjob/.test(rest) ? argument : '',
  )?.[1];
  if (job !== undefined && !existsSync(fileURLToPath(new URL(`../../jobs/${job}/main.ts`, import.meta.url))))
    return `there is no job ${job}`;
  const patch = / -p '(.*)'$/.exec(line)?.[1];
  if (patch !== undefined) JSON.parse(patch);
  return undefined;
}

/** What runs in the pod, of a command by `kubectl exec`. */
export const innerCommand = (line: string): string | undefined => / exec .* -- (.*)$/.exec(line)?.[1];
