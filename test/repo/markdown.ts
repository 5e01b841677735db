/** What the Markdown of this repository names: paths, links, npm scripts; and whether it is there. */
import { existsSync, globSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { listFiles, readText } from './files.ts';
import type { Manifest } from './manifest.ts';

const topLevel =
  'jobs|charts|rollouts|alerts|dashboards|scripts|nestjs|reference-service|test|docs|tools|\\.ci';
/** A path from the root, wherever it stands: prose, backticks or a block of commands. */
const rootPath = new RegExp(`(?<![\\w/.@:-])(?:${topLevel})/[\\w./@*{},-]*[\\w*}/]`, 'g');
/** A code file named alone in backticks: it stands beside the Markdown file. */
const bareFile = /`([\w-]+(?:\.[\w-]+)*\.(?:ts|sql))`/g;
const link = /\]\(([^)\s]+)\)/g;
const npmRun = /\bnpm run (?:--?[\w-]+ )*([\w:-]+)/g;

/** GitHub's rule for the anchor of a heading. */
const anchorOf = (heading: string): string =>
  heading
    .toLowerCase()
    .replace(/[`*]/g, '')
    .replace(/[^\p{L}\p{N}\s_-]/gu, '')
    .trim()
    .replace(/\s/g, '-');

export const headingsOf = (markdown: string): string[] =>
  [...markdown.replace(/^```[\s\S]*?^```/gm, '').matchAll(/^#{1,6} (.+)$/gm)].map((match) => match[1] ?? '');

/** One sentence for each thing that a Markdown file under `root` names and that is not there. */
export function markdownProblems(root: string, scripts: Manifest['scripts']): string[] {
  const problems: string[] = [];
  for (const file of listFiles(root, '.md')) {
    const text = readText(root, file);
    for (const [path] of text.matchAll(rootPath)) {
      if (globSync(path, { cwd: root }).length === 0) problems.push(`${file} names ${path}: not there`);
    }
    for (const [, name = ''] of text.matchAll(bareFile)) {
      if (!existsSync(join(root, dirname(file), name)))
        problems.push(`${file} names ${name}: not beside it, so write the whole path`);
    }
    for (const [, target = ''] of text.matchAll(link)) {
      if (/^[a-z]+:/.test(target)) continue;
      const [path = '', anchor] = target.split('#');
      const place = path === '' ? file : join(dirname(file), path);
      if (!existsSync(join(root, place))) problems.push(`${file} links ${target}: not there`);
      else if (anchor !== undefined && !headingsOf(readText(root, place)).map(anchorOf).includes(anchor))
        problems.push(`${file} links ${target}: no such heading`);
    }
    for (const [, name = ''] of text.matchAll(npmRun)) {
      if (scripts?.[name] === undefined) problems.push(`${file} says npm run ${name}: no such script`);
    }
  }
  return [...new Set(problems)].sort();
}

/** The rows of the table that follows a heading, without its head; cells without backticks. */
export function tableUnder(markdown: string, heading: string): string[][] {
  const lines = markdown.split('\n');
  const at = lines.findIndex((line) => /^#{1,6} /.test(line) && line.replace(/^#+ /, '') === heading);
  if (at < 0) throw new Error(`no heading "${heading}"`);
  const rest = lines.slice(at + 1);
  const first = rest.findIndex((line) => line.startsWith('|'));
  const rows: string[][] = [];
  for (const line of rest.slice(first)) {
    if (!line.startsWith('|')) break;
    rows.push(
      line
        .replace(/^\||\|\s*$/g, '')
        .split('|')
        .map((cell) => cell.trim().replaceAll('`', '')),
    );
  }
  return rows.slice(2);
}
