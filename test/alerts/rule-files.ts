/** The rule files of `alerts/`, and their tests, as data. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parse } from 'yaml';

export const rulesFolder = fileURLToPath(new URL('../../alerts', import.meta.url));

export interface Rule {
  readonly file: string;
  readonly record?: string;
  readonly alert?: string;
  readonly expr: string;
  readonly for?: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly annotations?: Readonly<Record<string, string>>;
}

/** One `promql_expr_test` of one test. */
export interface Assertion {
  readonly file: string;
  readonly expr: string;
  readonly samples: number;
}

const yamlFiles = (folder: string) => readdirSync(folder).filter((name) => name.endsWith('.yaml'));

/** Rule files by name: every YAML file with groups. */
export const ruleFiles = (folder = rulesFolder): string[] =>
  yamlFiles(folder)
    .filter((name) => !name.endsWith('.test.yaml') && 'groups' in read(folder, name))
    .sort();

export const testFiles = (folder = rulesFolder): string[] =>
  yamlFiles(folder)
    .filter((name) => name.endsWith('.test.yaml'))
    .sort();

export const readRules = (folder = rulesFolder): Rule[] =>
  ruleFiles(folder).flatMap((file) =>
    (read(folder, file) as { groups: { rules: Omit<Rule, 'file'>[] }[] }).groups.flatMap(({ rules }) =>
      rules.map((rule) => ({ file, ...rule })),
    ),
  );

export const readAssertions = (folder = rulesFolder): Assertion[] =>
  testFiles(folder).flatMap((file) =>
    (
      read(folder, file) as {
        tests: { promql_expr_test?: { expr: string; exp_samples?: unknown[] }[] }[];
      }
    ).tests.flatMap(({ promql_expr_test: assertions = [] }) =>
      assertions.map(({ expr, exp_samples: samples = [] }) => ({ file, expr, samples: samples.length })),
    ),
  );

function read(folder: string, name: string): object {
  return parse(readFileSync(join(folder, name), 'utf8')) as object;
}
