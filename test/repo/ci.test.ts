import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { readText, repository } from './files.ts';

const folder = mkdtempSync(join(tmpdir(), 'counterfoil-ci-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function run(script: string, ...args: readonly string[]) {
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [join(repository, 'test/ci', script), ...args],
    { encoding: 'utf8' },
  );
  return { status, stdout, stderr };
}

test('.ci/run can be run, stops at the first failure, and installs, tests and shows', () => {
  expect(statSync(join(repository, '.ci/run')).mode & 0o111).not.toBe(0);
  const script = readText(repository, '.ci/run');
  for (const line of [
    'set -euo pipefail',
    'export CI=true',
    'npm ci',
    'npm test',
    'npm run --silent demo',
    'npm run --silent test:containers',
    'npm run --silent images',
    'npm run --silent test:cluster',
  ])
    expect(script).toContain(line);
});

describe('the closing line', () => {
  const line = (report: unknown, status: string, ofCluster?: unknown): string => {
    const path = join(folder, 'tests.json');
    writeFileSync(path, JSON.stringify(report));
    const other = join(folder, 'cluster-tests.json');
    rmSync(other, { force: true });
    if (ofCluster !== undefined) writeFileSync(other, JSON.stringify(ofCluster));
    return run('closing-line.ts', status, path, other).stdout;
  };
  const passed = { status: 'passed', assertionResults: [{ status: 'passed' }] };
  const failed = { status: 'failed', assertionResults: [{ status: 'failed' }] };
  const unloaded = { status: 'failed', assertionResults: [] };

  test('counts tests', () => {
    expect(line({ numPassedTests: 5, numFailedTests: 0, testResults: [passed] }, '0')).toBe(
      '5 passed, 0 failed\n',
    );
    expect(line({ numPassedTests: 5, numFailedTests: 2, testResults: [passed, failed] }, '1')).toBe(
      '5 passed, 2 failed\n',
    );
  });

  test('counts those of the cluster as well, where there are any', () => {
    const one = { numPassedTests: 5, numFailedTests: 0, testResults: [passed] };
    const other = { numPassedTests: 3, numFailedTests: 1, testResults: [failed] };
    expect(line(one, '0', { ...other, numFailedTests: 0, testResults: [passed] })).toBe(
      '8 passed, 0 failed\n',
    );
    expect(line(one, '1', other)).toBe('8 passed, 1 failed\n');
  });

  test('counts a file that could not be loaded, and a step that failed beside the tests', () => {
    expect(line({ numPassedTests: 5, numFailedTests: 0, testResults: [unloaded] }, '1')).toBe(
      '5 passed, 1 failed\n',
    );
    expect(line({ numPassedTests: 5, numFailedTests: 0, testResults: [passed] }, '1')).toBe(
      '5 passed, 1 failed\n',
    );
  });

  test('says that something failed where no test was run', () => {
    expect(run('closing-line.ts', '1', join(folder, 'nothing.json')).stdout).toBe('0 passed, 1 failed\n');
  });
});

describe('the verdict on the demo', () => {
  const good = { facts: 200_000, missed: 0, falselyFound: 0, openAfter: 0, lost: 0, billedTwice: 0 };
  const verdict = (result: unknown) => {
    const path = join(folder, 'demo.out');
    writeFileSync(path, `a table\n\n${JSON.stringify(result)}\n`);
    return run('demo-verdict.ts', path);
  };

  test('is good when nothing was overlooked, falsely found, left, lost or billed twice', () => {
    expect(verdict(good)).toMatchObject({ status: 0, stderr: '' });
  });

  test.each(['missed', 'falselyFound', 'openAfter', 'lost', 'billedTwice'])('is bad when %s is 1', (name) => {
    const { status, stderr } = verdict({ ...good, [name]: 1 });
    expect([status, stderr]).toEqual([1, expect.stringContaining(`${name} 1`)]);
  });

  test('is bad when a figure is absent, or nothing was looked at', () => {
    expect(verdict({ ...good, lost: undefined }).status).toBe(1);
    expect(verdict({ ...good, facts: 0 }).status).toBe(1);
    expect(run('demo-verdict.ts', join(folder, 'nothing.out')).status).not.toBe(0);
  });
});
