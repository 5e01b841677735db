/** Makes the chart's copies of rules, dashboards and rollouts anew; with `--check` writes nothing and says what differs. */
import { fileURLToPath } from 'node:url';
import { COPIES, copyAll, differences } from './chart-files.ts';

const root = fileURLToPath(new URL('..', import.meta.url));
const say = (line: string) => process.stdout.write(`${line}\n`);
const [mode, ...others] = process.argv.slice(2);

if (others.length > 0 || (mode !== undefined && mode !== '--check')) {
  say('npm run sync-chart, or npm run sync-chart -- --check');
  process.exitCode = 2;
} else if (mode === undefined) say(`${copyAll(root)} files in ${COPIES}`);
else {
  const problems = differences(root);
  for (const problem of problems) say(problem);
  if (problems.length > 0) {
    say('npm run sync-chart makes them equal: change the originals, never the copies');
    process.exitCode = 1;
  }
}
