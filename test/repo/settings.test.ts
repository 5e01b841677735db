/** The settings table of each README, and the schema that reads them: the same names, the same defaults. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { expect, test } from 'vitest';
import { z } from 'zod';
import { count, flag, optional, required, type SettingsShape, seconds } from '../../jobs/runtime/config.ts';
import { listFiles, readText, repository } from './files.ts';

/** `CF_NAME` → default as a person would write it, `required` or `none`. */
function defaultsOf(shape: SettingsShape): Record<string, string> {
  return Object.fromEntries(
    Object.entries(shape).map(([name, rule]) => {
      const result = rule.safeParse(undefined);
      if (!result.success) return [name, 'required'];
      if (result.data === undefined) return [name, 'none'];
      const unit = name.endsWith('_SECONDS') ? 1000 : 1;
      return [name, typeof result.data === 'number' ? String(result.data / unit) : String(result.data)];
    }),
  );
}

/** The rows of every table whose first column is headed `setting`. */
function tableOf(markdown: string): Record<string, string> {
  const rows: [string, string][] = [];
  let inTable = false;
  for (const line of markdown.split('\n')) {
    if (/^\|\s*setting\s*\|\s*default\s*\|/.test(line)) inTable = true;
    else if (!line.startsWith('|')) inTable = false;
    else if (inTable && !/^\|[\s|:-]+$/.test(line)) {
      const [, name = '', initial = ''] = line.split('|').map((cell) => cell.trim().replaceAll('`', ''));
      // An empty cell says the same as `none`.
      rows.push([name, initial === '' ? 'none' : initial]);
    }
  }
  return Object.fromEntries(rows);
}

const environments = listFiles(join(repository, 'jobs'), '/env.ts').map((path) => `jobs/${path}`);

test.each(environments)('the README beside %s lists its settings with their defaults', async (path) => {
  const module = (await import(pathToFileURL(join(repository, path)).href)) as Record<string, unknown>;
  const [shape, ...more] = Object.entries(module)
    .filter(([name]) => name.endsWith('Settings'))
    .map(([, value]) => value as SettingsShape);
  expect(more).toEqual([]);
  // The settings of every job stand in the README of the jobs.
  const readme = path === 'jobs/runtime/env.ts' ? 'jobs/README.md' : path.replace('env.ts', 'README.md');
  expect(existsSync(join(repository, readme)), readme).toBe(true);
  expect(tableOf(readText(repository, readme))).toEqual(defaultsOf(shape ?? {}));
});

test('a wrong default, a missing row and a row too many would be noticed', () => {
  const shape = {
    CF_A: required(),
    CF_B_SECONDS: seconds(60, 0, 100),
    CF_C: count(5, 0, 10),
    CF_D: flag(true),
    CF_E: optional(),
    CF_F: z.enum(['one', 'two']).default('two'),
  };
  expect(defaultsOf(shape)).toEqual({
    CF_A: 'required',
    CF_B_SECONDS: '60',
    CF_C: '5',
    CF_D: 'true',
    CF_E: 'none',
    CF_F: 'two',
  });
  const head = '| setting | default | meaning |\n|---|---|---|\n';
  expect(tableOf(`${head}| \`CF_A\` | required | x |\n\n| other | table |\n|---|---|\n| a | b |\n`)).toEqual({
    CF_A: 'required',
  });
});
