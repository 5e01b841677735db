/** Prints "N passed, N failed" from the exit code of all steps and vitest's JSON reports, those that there are. */
import { existsSync, readFileSync } from 'node:fs';

interface Report {
  readonly numPassedTests: number;
  readonly numFailedTests: number;
  readonly testResults: readonly {
    readonly status: string;
    readonly assertionResults: readonly { readonly status: string }[];
  }[];
}

const [status = '1', ...paths] = process.argv.slice(2);
let passed = 0;
let failed = 0;
for (const path of paths.filter((one) => existsSync(one))) {
  const report = JSON.parse(readFileSync(path, 'utf8')) as Report;
  passed += report.numPassedTests;
  // A file that could not be loaded has failed without a single failed test.
  const unloaded = report.testResults.filter(
    (file) => file.status === 'failed' && !file.assertionResults.some((one) => one.status === 'failed'),
  );
  failed += report.numFailedTests + unloaded.length;
}
// Installation, checks, coverage thresholds and the demo fail outside of any test.
if (status !== '0' && failed === 0) failed = 1;
process.stdout.write(`${passed} passed, ${failed} failed\n`);
