/** The inhibition rules as data, and as the object of the Prometheus Operator. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parse, stringify } from 'yaml';
import { rulesFolder } from './rule-files.ts';

export interface InhibitRule {
  readonly source_matchers: readonly string[];
  readonly target_matchers: readonly string[];
  readonly equal: readonly string[];
}

export const inhibitRules = (folder = rulesFolder): InhibitRule[] =>
  (parse(readFileSync(join(folder, 'inhibition.yaml'), 'utf8')) as { inhibit_rules: InhibitRule[] })
    .inhibit_rules;

interface Matcher {
  readonly name: string;
  readonly matchType: string;
  readonly value: string;
}

export function matcherOf(text: string): Matcher {
  const [, name = '', matchType = '', quoted = ''] = /^(\w+)\s*(=~|!~|!=|=)\s*(.*)$/.exec(text) ?? [];
  if (name === '') throw new Error(`no matcher: ${text}`);
  return { name, matchType, value: quoted.replace(/^"(.*)"$/, '$1') };
}

export function matches(text: string, labels: Readonly<Record<string, string>>): boolean {
  const { name, matchType, value } = matcherOf(text);
  const is = labels[name] ?? '';
  const fits = matchType.endsWith('~') ? new RegExp(`^(?:${value})$`).test(is) : is === value;
  return matchType.startsWith('!') ? !fits : fits;
}

/** The same rules for people who configure Alertmanager by the operator. */
export const alertmanagerConfig = (rules: readonly InhibitRule[]): string =>
  `# alerts/inhibition.yaml for the Prometheus Operator; npx vitest run --project alerts -u writes it.
# The operator adds the namespace of this object to every matcher: put it where the alerts' namespace is.
${stringify(
  {
    apiVersion: 'monitoring.coreos.com/v1alpha1',
    kind: 'AlertmanagerConfig',
    metadata: { name: 'counterfoil-inhibition', namespace: 'counterfoil' },
    spec: {
      inhibitRules: rules.map(({ source_matchers: source, target_matchers: target, equal }) => ({
        sourceMatch: source.map(matcherOf),
        targetMatch: target.map(matcherOf),
        equal,
      })),
    },
  },
  { lineWidth: 0, aliasDuplicateObjects: false },
)}`;
