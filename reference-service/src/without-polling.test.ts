import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

/** All that this version is made of, the module among it. */
const folders = ['.', '../migrations', '../sql', '../../nestjs/src', '../../nestjs/sql'].map((path) =>
  fileURLToPath(new URL(path, import.meta.url)),
);

const NAMES = /outbox|domain_?events?/i;

/** Files that name the predecessor's way of publishing, in code or comment. */
function naming(root: string): string[] {
  return readdirSync(root, { recursive: true, encoding: 'utf8' })
    .filter((path) => /\.(ts|sql|json)$/.test(path) && !path.endsWith('without-polling.test.ts'))
    .filter((path) => NAMES.test(readFileSync(`${root}/${path}`, 'utf8')))
    .sort();
}

test('nothing of this service names the outbox or its table: it can be retired without a look at the code', () => {
  for (const folder of folders) expect(naming(folder), folder).toEqual([]);
});

test('the predecessor, which does name them, would be seen', () => {
  expect(naming(fileURLToPath(new URL('../v1-outbox/src/', import.meta.url)))).not.toEqual([]);
});
