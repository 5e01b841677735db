/**
 * Says what an image is made of, as CycloneDX: `npm run --silent sbom -- counterfoil/jobs:0.1.0`. It is read from the image
 * and not from the lockfile: `npm sbom` leaves out of a workspace's root what the workspaces need as well.
 * The same image gives the same text: no serial number, no time.
 */
import { spawnSync } from 'node:child_process';

export interface Component {
  readonly type: 'library' | 'application';
  readonly name: string;
  readonly version: string;
  readonly purl: string;
  readonly licenses?: readonly object[];
}

/** Runs in the image, with what is in it: Node, the names of the packages, Debian's list. */
const inside = `
  const { globSync, readFileSync } = require('node:fs');
  const packages = globSync(['/app/{.,*}/package.json', '/app/**/node_modules/{*,@*/*}/package.json'])
    .map((path) => JSON.parse(readFileSync(path, 'utf8')))
    .map(({ name, version, license }) => ({ name, version, license }));
  const debian = readFileSync('/var/lib/dpkg/status', 'utf8').split('\\n\\n')
    .map((entry) => Object.fromEntries([...entry.matchAll(/^(Package|Version|Architecture|Status): (.*)$/gm)].map(([, k, v]) => [k, v])))
    .filter(({ Status = '' }) => Status.endsWith(' installed'));
  console.log(JSON.stringify({ node: process.version, packages, debian }));
`;

interface Contents {
  readonly node: string;
  readonly packages: readonly { name: string; version?: string; license?: string }[];
  readonly debian: readonly { Package: string; Version: string; Architecture: string }[];
}

/** What is in an image; throws where it cannot be run. */
export function componentsOf(image: string): Component[] {
  const { status, stdout, stderr } = spawnSync(
    'docker',
    ['run', '--rm', '--network', 'none', '--read-only', image, 'node', '--eval', inside],
    { encoding: 'utf8', maxBuffer: 64_000_000 },
  );
  if (status !== 0) throw new Error(`${image} cannot be run: ${stderr}`);
  const { node, packages, debian } = JSON.parse(stdout) as Contents;
  const version = node.slice(1);
  const components: Component[] = [
    { type: 'application', name: 'node', version, purl: `pkg:generic/node@${version}` },
    ...packages.flatMap(({ name, version = '', license }): Component[] =>
      // Some packages hold others in folders of their own that carry no version: they are no packages.
      version === ''
        ? []
        : [
            {
              type: 'library',
              name,
              version,
              purl: `pkg:npm/${name.replace('@', '%40')}@${version}`,
              ...(typeof license === 'string' ? { licenses: [{ expression: license }] } : {}),
            },
          ],
    ),
    ...debian.map(
      ({ Package, Version, Architecture }): Component => ({
        type: 'library',
        name: Package,
        version: Version,
        purl: `pkg:deb/debian/${Package}@${encodeURIComponent(Version)}?arch=${Architecture}`,
      }),
    ),
  ];
  const byPurl = new Map(components.map((component) => [component.purl, component]));
  return [...byPurl.keys()].sort().flatMap((purl) => byPurl.get(purl) ?? []);
}

if (import.meta.main) {
  const [image] = process.argv.slice(2);
  if (image === undefined) {
    process.stderr.write('which image? npm run --silent sbom -- counterfoil/jobs:0.1.0\n');
    process.exitCode = 2;
  } else {
    const [name = '', version = ''] = image.split(':');
    const document = {
      bomFormat: 'CycloneDX',
      specVersion: '1.6',
      version: 1,
      metadata: { component: { type: 'container', name, version } },
      components: componentsOf(image),
    };
    process.stdout.write(`${JSON.stringify(document, undefined, 2)}\n`);
  }
}
