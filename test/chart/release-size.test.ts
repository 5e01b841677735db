/** Helm keeps a release, with the chart and all that it rendered, in one Secret. */
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { gzipSync } from 'node:zlib';
import { expect, inject, test } from 'vitest';
import { chartFolder, required } from './render.ts';
import { allJobs } from './rules.ts';

const tools = inject('chartTools');

/** What the API server takes for one Secret, halved: values of yours and extraObjects come to it. */
const MOST_BYTES = 1_048_576 / 2;

/** As helm stores it. */
const storedBytes = (release: string) => gzipSync(release).toString('base64').length;

test.skipIf(tools === undefined)('a release fits into one Secret, twice', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'counterfoil-release-'));
  try {
    const values = join(folder, 'values.json');
    writeFileSync(values, JSON.stringify({ ...required, ...allJobs, alertmanagerConfig: { enabled: true } }));
    const { stdout } = await promisify(execFile)(
      tools?.helm ?? '',
      ['install', 'guard', chartFolder, '--dry-run=client', '--output=json', '--values', values],
      {
        env: { PATH: process.env.PATH, HOME: folder, KUBECONFIG: '/dev/null' },
        maxBuffer: 64 * 1024 * 1024,
      },
    );
    // The chart's files and the manifest are in it.
    expect(stdout).toContain('counterfoil-reconciliation');
    expect(JSON.parse(stdout)).toMatchObject({ chart: { files: expect.any(Array) } });
    expect(storedBytes(stdout)).toBeLessThan(MOST_BYTES);
    expect(storedBytes(stdout + randomBytes(MOST_BYTES).toString('hex'))).toBeGreaterThan(MOST_BYTES);
  } finally {
    rmSync(folder, { recursive: true });
  }
});
