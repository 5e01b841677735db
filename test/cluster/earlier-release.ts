/** The release before this one, from the history of the repository: its chart, and its jobs image, built by its own Dockerfile. */
import { execFile } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { promisify } from 'node:util';

const run = promisify(execFile);
const root = fileURLToPath(new URL('../..', import.meta.url));

const VERSION_TAG = 'v0.1.0';
/** The same commit, for a clone without tags. */
const COMMIT = 'b1e626d2983bf278e02413032ed75580bdcbfb5b';

export interface EarlierRelease {
  readonly chart: string;
  readonly image: { readonly name: string; readonly tag: string };
  remove(): Promise<void>;
}

/** @throws Error with one line where the history of this clone does not go back so far */
export async function earlierCommit(names: readonly string[] = [VERSION_TAG, COMMIT]): Promise<string> {
  for (const name of names) {
    try {
      const { stdout } = await run('git', ['rev-parse', '--verify', '--quiet', `${name}^{commit}`], {
        cwd: root,
      });
      return stdout.trim();
    } catch {
      // The next name may be known.
    }
  }
  throw new Error(`this clone has neither ${names.join(' nor ')}: git fetch --unshallow --tags`);
}

export async function earlierRelease(): Promise<EarlierRelease> {
  const commit = await earlierCommit();
  const folder = await mkdtemp(join(tmpdir(), 'counterfoil-earlier-'));
  const remove = async () => await rm(folder, { recursive: true, force: true });
  try {
    const archive = join(folder, 'archive.tar');
    await run('git', ['archive', '--output', archive, commit], { cwd: root });
    await run('tar', ['--extract', '--file', archive, '--directory', folder]);
    await rm(archive);
    const tag = `earlier-${commit.slice(0, 12)}`;
    const script = pathToFileURL(join(folder, 'scripts/images.ts')).href;
    const build = `const { buildImage } = await import('${script}'); buildImage('counterfoil/jobs', { tag: '${tag}' });`;
    await run(process.execPath, ['--input-type=module', '--eval', build], { maxBuffer: 64_000_000 });
    return {
      chart: join(folder, 'charts/counterfoil'),
      image: { name: `counterfoil/jobs:${tag}`, tag },
      remove,
    };
  } catch (error) {
    await remove();
    throw error;
  }
}
