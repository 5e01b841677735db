/** Each pair of values that cannot be had together is refused with its sentence, and the nearest that can is not. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, inject, test } from 'vitest';
import { refusals } from './refused.ts';
import { chartFolder, render, renderFails } from './render.ts';

/** What the templates of a chart may say instead of rendering: `fail`, and the lists of problems, by their formats. */
function sentencesOf(texts: readonly string[]): string[] {
  return texts.flatMap((text) =>
    [
      ...text.matchAll(
        /\bfail \(?(?:printf )?"((?:\\.|[^"\\])*)"|^\s*- (?:\{\{ printf )?"((?:\\.|[^"\\])*)"/gm,
      ),
    ].map(([, failing, listed]) => JSON.parse(`"${failing ?? listed ?? ''}"`) as string),
  );
}

/** A sentence with whatever its placeholders may become. */
const asPattern = (format: string) =>
  new RegExp(
    format
      .split(/(%[sdq%])/)
      .map((part) =>
        /^%[sdq]$/.test(part) ? '.*' : (part === '%%' ? '%' : part).replace(/[.*+?^${}()|[\]\\]/g, '\\$&'),
      )
      .join(''),
  );

const untried = (formats: readonly string[], said: readonly string[]) =>
  formats.filter((format) => !said.some((sentence) => asPattern(format).test(sentence)));

describe.skipIf(inject('chartTools') === undefined)('refused', () => {
  test.concurrent.each(refusals)('$sentence', async ({ sentence, values, taken, options, takenOptions }) => {
    const said = (await renderFails(values, options)).trim();
    expect(said.split('\n')).toEqual([expect.stringContaining(sentence)]);
    expect((await render(taken, takenOptions)).text).not.toBe('');
  });

  test('is nothing that this table does not try', async () => {
    const said = await Promise.all(refusals.map(({ values, options }) => renderFails(values, options)));
    const templates = readdirSync(join(chartFolder, 'templates'), { withFileTypes: true, recursive: true })
      // NOTES.txt is told, and refuses nothing; what joins the list of problems has no words of its own.
      .filter((entry) => entry.isFile() && !['_notes.tpl', 'NOTES.txt', 'refused.yaml'].includes(entry.name))
      .map((entry) => readFileSync(join(entry.parentPath, entry.name), 'utf8'));
    expect(sentencesOf(templates).length).toBeGreaterThan(40);
    expect(untried(sentencesOf(templates), said)).toEqual([]);
  });
});

test('a sentence that no row of the table brings about is found', () => {
  const formats = sentencesOf([
    '{{ fail (printf "%s.for is no duration of %d %%" $place 5) }}',
    '- "one is two"\n- {{ printf "%s is \\"three\\"" . | quote }}\n',
  ]);
  expect(formats).toEqual(['%s.for is no duration of %d %%', 'one is two', '%s is "three"']);
  expect(untried(formats, ['a.for is no duration of 5 %', 'x is "three"'])).toEqual(['one is two']);
});
