/** Builds the images of the jobs and of the reference service: `npm run images [-- --tag TAG] [--no-cache]`. */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const root = fileURLToPath(new URL('..', import.meta.url));
export const { version } = JSON.parse(readFileSync(`${root}package.json`, 'utf8')) as { version: string };

/** Named as the chart and the examples name them. */
export const images: Readonly<Record<string, string>> = {
  'counterfoil/jobs': 'jobs/Dockerfile',
  'counterfoil/reference-service': 'reference-service/Dockerfile',
};

/** The bases, and where the source is published, may be given from outside: docs/release.md. */
const fromOutside = ['BUILD_IMAGE', 'RUN_IMAGE', 'SOURCE'];

function revision(): string {
  const git = (...args: string[]) => spawnSync('git', args, { cwd: root, encoding: 'utf8' });
  const head = git('rev-parse', 'HEAD');
  if (head.status !== 0) return 'unknown';
  // What git does not know of could be in the image all the same.
  return head.stdout.trim() + (git('status', '--porcelain').stdout === '' ? '' : '-changed');
}

/** Builds one image and gives its whole name; throws where the build fails. */
export function buildImage(name: string, { tag = version, cache = true } = {}): string {
  const dockerfile = images[name];
  if (dockerfile === undefined)
    throw new Error(`no image is called ${name}: ${Object.keys(images).join(', ')}`);
  const given = fromOutside.flatMap((argument) => {
    const value = process.env[argument] ?? '';
    return value === '' ? [] : ['--build-arg', `${argument}=${value}`];
  });
  const { status, error } = spawnSync(
    'docker',
    [
      ...['build', '--file', dockerfile, '--tag', `${name}:${tag}`, ...(cache ? [] : ['--no-cache'])],
      ...['--build-arg', `VERSION=${version}`, '--build-arg', `REVISION=${revision()}`, ...given, '.'],
    ],
    // All but errors on standard error, so that a caller can read names from standard output.
    { cwd: root, stdio: ['ignore', 2, 2], env: { ...process.env, DOCKER_BUILDKIT: '1' } },
  );
  if (error !== undefined)
    throw new Error('docker is not on the PATH: install it, or put podman there as docker');
  if (status !== 0) throw new Error(`${name} was not built: see above`);
  return `${name}:${tag}`;
}

if (import.meta.main) {
  const { values } = parseArgs({ options: { tag: { type: 'string' }, 'no-cache': { type: 'boolean' } } });
  try {
    for (const name of Object.keys(images)) {
      const built = buildImage(name, {
        ...(values.tag === undefined ? {} : { tag: values.tag }),
        cache: values['no-cache'] !== true,
      });
      process.stdout.write(`${built}\n`);
    }
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n`);
    process.exitCode = 1;
  }
}
