/**
 * Makes `values.schema.json` and the tables of the chart's README from the comments in `values.yaml`; with `--check`
 * writes nothing and says what differs.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { readValues } from './chart-values-comments.ts';
import { schemaOf } from './chart-values-schema.ts';
import { withTables } from './chart-values-table.ts';

const usage = 'npm run chart-values, or npm run chart-values -- --check; another chart by a path behind it';
const args = process.argv.slice(2);
const isCheck = args[0] === '--check';
const [folder = fileURLToPath(new URL('../charts/counterfoil', import.meta.url)), ...others] = args.slice(
  isCheck ? 1 : 0,
);
const say = (line: string) => process.stdout.write(`${line}\n`);

if (others.length > 0 || folder.startsWith('-')) {
  say(usage);
  process.exitCode = 2;
} else process.exitCode = run();

function run(): number {
  const documented = readValues(readFileSync(join(folder, 'values.yaml'), 'utf8'));
  if (documented.problems.length > 0) {
    for (const problem of documented.problems) say(`values.yaml, ${problem}`);
    return 1;
  }
  const readme = join(folder, 'README.md');
  const made: readonly [path: string, text: string][] = [
    [join(folder, 'values.schema.json'), `${JSON.stringify(schemaOf(documented), null, 2)}\n`],
    [readme, withTables(readFileSync(readme, 'utf8'), documented)],
  ];
  const different = made.filter(([path, text]) => !existsSync(path) || readFileSync(path, 'utf8') !== text);
  if (!isCheck) for (const [path, text] of different) writeFileSync(path, text);
  for (const [path] of different) say(isCheck ? `${path} differs from values.yaml` : path);
  if (!isCheck || different.length === 0) return 0;
  say('npm run chart-values writes it anew');
  return 1;
}
