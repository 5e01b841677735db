import { expect, test } from 'vitest';
import { listFiles, readText, repository } from './files.ts';
import { tableUnder } from './markdown.ts';

/** What the design calls things; columns, metrics, alerts and docs are named by these. */
const wordsOfTheDesign = [
  'fact',
  'ledger row',
  'check',
  'discrepancy',
  'finding',
  'cause',
  'pending event',
  'parked event',
  'horizon',
  'verified through',
  'request',
  'installation',
];

const glossary = tableUnder(readText(repository, 'docs/glossary.md'), 'Words');
const words = glossary.map(([word = '']) => word);

/** Words that no file but the glossary uses: stale, or an invention. */
function unusedWords(candidates: readonly string[], texts: readonly string[]): string[] {
  const all = texts.join('\n').toLowerCase();
  return candidates.filter(
    (word) => !new RegExp(`(?<![\\w-])${word.toLowerCase()}(?:s|es)?(?![\\w-])`).test(all),
  );
}

const texts = listFiles(repository, '.ts', '.sql', '.md')
  .filter((path) => path !== 'docs/glossary.md' && !path.startsWith('test/repo/'))
  .map((path) => readText(repository, path));

test('the glossary holds the words of the design, each once and with a meaning', () => {
  expect(words).toEqual(expect.arrayContaining(wordsOfTheDesign));
  expect(new Set(words).size).toBe(words.length);
  for (const [word = '', meaning = ''] of glossary) expect([word, meaning.length > 10]).toEqual([word, true]);
});

test('every word of the glossary is used somewhere else', () => {
  expect(unusedWords(words, texts)).toEqual([]);
});

test('a word that nobody uses would be noticed, and a part of another word does not count as use', () => {
  expect(unusedWords(['finding', 'fact', 'flibber'], ['Findings in a factory.'])).toEqual([
    'fact',
    'flibber',
  ]);
});
