/** Runs promtool's unit tests, those in files and those that are made. */
import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { stringify } from 'yaml';
import { rulesFolder } from './rule-files.ts';

export interface Answer {
  readonly passed: boolean;
  readonly output: string;
}

export interface UnitTest {
  readonly name: string;
  /** Distance of the samples, such as `15s`. */
  readonly interval: string;
  readonly input_series: readonly { readonly series: string; readonly values: string }[];
  readonly promql_expr_test: readonly {
    readonly expr: string;
    readonly eval_time: string;
    readonly exp_samples: readonly { readonly labels: string; readonly value: number }[];
  }[];
}

export async function promtool(path: string, ...args: readonly string[]): Promise<Answer> {
  try {
    const { stdout, stderr } = await promisify(execFile)(path, [...args], {
      cwd: rulesFolder,
      maxBuffer: 64 * 1024 * 1024,
    });
    return { passed: true, output: stdout + stderr };
  } catch (error) {
    const { code, stdout = '', stderr = '' } = error as { code?: unknown; stdout?: string; stderr?: string };
    if (typeof code !== 'number') throw error; // promtool itself did not run
    return { passed: false, output: stdout + stderr };
  }
}

/** @param ruleFiles whole paths */
export async function promtoolTest(
  path: string,
  ruleFiles: readonly string[],
  tests: readonly UnitTest[],
  evaluationInterval = '15s',
): Promise<Answer> {
  const folder = await mkdtemp(join(tmpdir(), 'counterfoil-promtool-'));
  try {
    const file = join(folder, 'made.test.yaml');
    await writeFile(
      file,
      stringify(
        { rule_files: ruleFiles, evaluation_interval: evaluationInterval, tests },
        { lineWidth: 0, aliasDuplicateObjects: false },
      ),
    );
    return await promtool(path, 'test', 'rules', file);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
