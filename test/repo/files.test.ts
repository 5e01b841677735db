import { join } from 'node:path';
import { expect, test } from 'vitest';
import { fileProblems } from './file-rules.ts';
import { fixtures, repository } from './files.ts';

test('every file keeps the rules of CONTRIBUTING.md', () => {
  expect(fileProblems(repository)).toEqual([]);
});

test('each broken rule is named, and its nearest right form is not', () => {
  expect(fileProblems(join(fixtures, 'files'))).toEqual([
    'docs/notes.md:3: a path of one machine',
    'jobs/one/main.ts: 17 lines, at most 15: it only calls runJob',
    'jobs/one/queue-manager.ts: "queue-manager" says nothing: name what it owns',
    'jobs/one/reconcile.ts:2: "mismatch": the word is discrepancy (docs/glossary.md)',
    'jobs/one/reconcile.ts:3: "dead letter": the word is parked event (docs/glossary.md)',
    'jobs/one/reconcile.ts:4: a console call: the log is pino',
    'jobs/one/reconcile.ts:6: class JobManager: name what it owns',
    'jobs/one/reconcile.ts:9: a to-do: open an issue',
    'jobs/utils/text.ts: "utils" says nothing: name what it owns',
    'link.md: a symbolic link: Flux drops them',
  ]);
});
