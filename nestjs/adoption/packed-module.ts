/** The module as npm would publish it from the sources that stand here now, whatever lies in `dist`. */
import { execFile } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** The folder of the module's package. */
export const MODULE = fileURLToPath(new URL('..', import.meta.url));

/** The repository's compiler. */
export const TSC = join(MODULE, '../node_modules/typescript/bin/tsc');

/** A tarball in a folder of its own. */
export interface PackedModule {
  /** Its path. */
  tarball: string;
  /** What is in it, as paths from the package's root. */
  files: string[];
  /** Removes it. */
  remove(): void;
}

/** Compiles and packs the module. */
export async function packModule(): Promise<PackedModule> {
  const folder = mkdtempSync(join(tmpdir(), 'counterfoil-packed-'));
  const staged = join(folder, 'package');
  mkdirSync(staged);
  for (const name of ['package.json', 'README.md', 'LICENSE', 'sql', 'src']) {
    cpSync(join(MODULE, name), join(staged, name), { recursive: true });
  }
  await run(process.execPath, [TSC, '-p', 'tsconfig.build.json', '--outDir', join(staged, 'dist')], {
    cwd: MODULE,
  });
  const { stdout } = await run(
    'npm',
    ['pack', '--json', '--ignore-scripts', '--pack-destination', folder, staged],
    { cwd: folder },
  );
  const [packed] = JSON.parse(stdout) as [{ filename: string; files: { path: string }[] }];
  return {
    tarball: join(folder, packed.filename),
    files: packed.files.map(({ path }) => path).sort(),
    remove: () => rmSync(folder, { recursive: true, force: true }),
  };
}
