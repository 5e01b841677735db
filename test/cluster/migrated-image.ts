/** The jobs image of this checkout with one more migration, as the release after this one may have: it adds a column. */
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { CODE_LEVEL } from '../../jobs/runtime/schema-level.ts';

const run = promisify(execFile);
const level = CODE_LEVEL + 1;
const number = String(level).padStart(3, '0');

const migration = `ALTER TABLE job_runs ADD COLUMN remark text;
UPDATE schema_version SET level = ${level}, changed_at = clock_timestamp();
`;

const dockerfile = (from: string) => `FROM ${from}
COPY ${number}.do.remark.sql jobs/schema/migrations/
COPY schema-level.ts jobs/runtime/
`;

/** @param from the image of this checkout */
export async function migratedImage(from: string): Promise<{ name: string; tag: string; level: number }> {
  const written = await readFile(new URL('../../jobs/runtime/schema-level.ts', import.meta.url), 'utf8');
  const raised = written.replace(`CODE_LEVEL = ${CODE_LEVEL};`, `CODE_LEVEL = ${level};`);
  if (raised === written) throw new Error('jobs/runtime/schema-level.ts sets CODE_LEVEL in another way now');
  const folder = await mkdtemp(join(tmpdir(), 'counterfoil-migrated-'));
  try {
    await writeFile(join(folder, `${number}.do.remark.sql`), migration, { mode: 0o644 });
    await writeFile(join(folder, 'schema-level.ts'), raised, { mode: 0o644 });
    await writeFile(join(folder, 'Dockerfile'), dockerfile(from));
    const tag = `${from.slice(from.lastIndexOf(':') + 1)}-migrated`;
    const name = `counterfoil/jobs:${tag}`;
    await run('docker', ['build', '--tag', name, folder], { env: { ...process.env, DOCKER_BUILDKIT: '1' } });
    return { name, tag, level };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
