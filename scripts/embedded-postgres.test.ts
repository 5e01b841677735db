import { execFile } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';

test('a process that ends without stopping its server leaves neither server nor folder behind', async () => {
  const temporary = mkdtempSync(join(tmpdir(), 'counterfoil-exit-'));
  const launcher = new URL('./embedded-postgres.ts', import.meta.url).href;
  const program = `
    const { startEmbeddedPostgres } = await import(${JSON.stringify(launcher)});
    const { readdirSync } = await import('node:fs');
    const server = await startEmbeddedPostgres();
    console.log(JSON.stringify({ port: server.port, folders: readdirSync(${JSON.stringify(temporary)}).length }));
    process.exit(3);`;
  try {
    // The folder of the server must be open to the user that it runs as.
    await promisify(execFile)('chmod', ['755', temporary]);
    const run = await promisify(execFile)(
      process.execPath,
      ['--input-type=module-typescript', '-e', program],
      {
        env: { ...process.env, TMPDIR: temporary },
      },
    ).catch((error: { code: number; stdout: string; stderr: string }) => error);
    expect(run, run.stderr).toMatchObject({ code: 3 });
    const started = JSON.parse(run.stdout) as { port: number; folders: number };
    expect(started.folders).toBe(1);
    expect(readdirSync(temporary)).toEqual([]);
    await expect(fetch(`http://127.0.0.1:${started.port}/`)).rejects.toThrow();
  } finally {
    rmSync(temporary, { recursive: true, force: true });
  }
  expect(existsSync(temporary)).toBe(false);
});
