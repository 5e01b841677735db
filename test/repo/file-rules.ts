/** Rules about single files: names, length, words, and what must not be in them. */
import { basename } from 'node:path';
import { listEntries, readText, withoutComments } from './files.ts';

const LONGEST_MAIN = 15;

/** Words that mean the same as a word of the glossary, or are misspelt. */
const bannedWords: readonly (readonly [RegExp, string])[] = [
  [/\bmis-?match(?:es|ed)?\b/i, 'discrepancy'],
  [/\bdead[ -]?letters?\b/i, 'parked event'],
  [/\bpoison(?:ed)? queue\b/i, 'parked event'],
  [/\breconcil?lation\b|\breconcilliation\b/i, 'reconciliation'],
];
/** Files that quote the words they ban, or speak of another system's term. */
const mayUseBannedWords = (path: string) => path.startsWith('test/repo/') || path === 'CHANGELOG.md';

const emptyNames = /^(?:utils?|common|shared|lib|helpers?|misc)$|(?:^|-)(manager|handler|info)$/;
// Not what is imported under such a name, which a comma or a brace follows: others chose that.
const emptyDeclaration = /\b(?:class|interface|type|enum)\s+(\w+(?:Manager|Handler|Data|Info))\b(?!\s*[,}])/;
const machinePath = /(?<![\w.])\/(?:home|Users|work|root)\/\w/;
const todo = /\b(?:TODO|FIXME|XXX|HACK)\b/;

const textEndings = ['.ts', '.mts', '.js', '.mjs', '.sql', '.md', '.json', '.yaml', '.yml', '.sh', '.ci/run'];

/** One sentence for each broken rule in the tree under `root`. */
export function fileProblems(root: string): string[] {
  const problems: string[] = [];
  for (const { path, isLink } of listEntries(root)) {
    if (isLink) {
      problems.push(`${path}: a symbolic link: Flux drops them`);
      continue;
    }
    for (const part of path.split('/').map((name) => name.replace(/\..*$/, '')))
      if (emptyNames.test(part)) problems.push(`${path}: "${part}" says nothing: name what it owns`);
    if (!textEndings.some((ending) => path.endsWith(ending)) || path === 'package-lock.json') continue;
    const text = readText(root, path);
    if (path.startsWith('jobs/') && basename(path) === 'main.ts') {
      const length = text.trimEnd().split('\n').length;
      if (length > LONGEST_MAIN)
        problems.push(`${path}: ${length} lines, at most ${LONGEST_MAIN}: it only calls runJob`);
    }
    problems.push(...lineProblems(path, text).map(([line, problem]) => `${path}:${line}: ${problem}`));
  }
  return problems.sort();
}

function lineProblems(path: string, text: string): [number, string][] {
  const problems: [number, string][] = [];
  const isCode = /\.m?[tj]s$/.test(path);
  const code = isCode ? withoutComments(text).split('\n') : [];
  for (const [index, line] of text.split('\n').entries()) {
    const report = (problem: string) => problems.push([index + 1, problem]);
    if (machinePath.test(line) && !path.startsWith('test/repo/')) report('a path of one machine');
    if (todo.test(line) && !path.startsWith('test/repo/')) report('a to-do: open an issue');
    if (!mayUseBannedWords(path)) {
      for (const [pattern, word] of bannedWords) {
        const found = pattern.exec(line)?.[0];
        if (found !== undefined) report(`"${found}": the word is ${word} (docs/glossary.md)`);
      }
    }
    if (path.startsWith('jobs/') && /\bconsole\s*\./.test(code[index] ?? ''))
      report('a console call: the log is pino');
    if (path.startsWith('test/repo/')) continue;
    const declared = emptyDeclaration.exec(code[index] ?? '')?.[1];
    if (declared !== undefined) report(`class ${declared}: name what it owns`);
  }
  return problems;
}
