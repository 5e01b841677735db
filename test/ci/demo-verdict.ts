/** Fails unless the last line of `npm run demo -- --json` says that all was found, mended and billed once. */
import { readFileSync } from 'node:fs';

const mustBeZero = ['missed', 'falselyFound', 'openAfter', 'lost', 'billedTwice'] as const;

const lastLine =
  readFileSync(process.argv[2] ?? '', 'utf8')
    .trimEnd()
    .split('\n')
    .at(-1) ?? '';
const verdict = JSON.parse(lastLine) as Record<string, unknown>;
const wrong: string[] = mustBeZero.filter((name) => verdict[name] !== 0);
if (typeof verdict.facts !== 'number' || verdict.facts === 0) wrong.push('facts');
if (wrong.length > 0) {
  process.stderr.write(
    `the demo did not end as it must: ${wrong.map((name) => `${name} ${verdict[name]}`)}\n`,
  );
  process.exitCode = 1;
}
