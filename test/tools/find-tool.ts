/** Where the programs are that no npm package carries: on PATH where a fit one is there, else built with Go from `tools/`. */
import { execFile } from 'node:child_process';
import { accessSync, constants, existsSync, readdirSync, statSync } from 'node:fs';
import { rename } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const run = promisify(execFile);
const toolsFolder = fileURLToPath(new URL('../../tools', import.meta.url));

interface Tool {
  /** Names on PATH; Debian calls Alertmanager otherwise. None for a program of our own. */
  readonly names: readonly string[];
  /** The oldest fit version of those on PATH. */
  readonly oldest?: readonly [major: number, minor: number];
  /** Where another major version is another program. */
  readonly thisMajorOnly?: true;
  /** What makes it say its version; `--version` unless given. */
  readonly versionArguments?: readonly string[];
  readonly module: string;
  readonly package: string;
  /** How to get it without Go. */
  readonly install?: string;
}

const tools = {
  // Prometheus knows keep_firing_for from 2.42 on, Alertmanager matchers from 0.22 on.
  promtool: {
    names: ['promtool'],
    oldest: [2, 42],
    module: 'promtool',
    package: 'github.com/prometheus/prometheus/cmd/promtool',
    install: 'apt-get install prometheus',
  },
  prometheus: {
    names: ['prometheus'],
    oldest: [2, 42],
    module: 'promtool',
    package: 'github.com/prometheus/prometheus/cmd/prometheus',
    install: 'apt-get install prometheus',
  },
  alertmanager: {
    names: ['alertmanager', 'prometheus-alertmanager'],
    oldest: [0, 22],
    module: 'alertmanager',
    package: 'github.com/prometheus/alertmanager/cmd/alertmanager',
    install: 'apt-get install prometheus-alertmanager',
  },
  helm: {
    names: ['helm', 'helm4'],
    oldest: [4, 2],
    thisMajorOnly: true,
    versionArguments: ['version', '--short'],
    module: 'helm',
    package: 'helm.sh/helm/v4/cmd/helm',
    install: 'install Helm 4',
  },
  helm3: {
    names: ['helm3', 'helm'],
    oldest: [3, 21],
    thisMajorOnly: true,
    versionArguments: ['version', '--short'],
    module: 'helm3',
    package: 'helm.sh/helm/v3/cmd/helm',
    install: 'install Helm 3 as helm3',
  },
  kubeconform: {
    names: ['kubeconform'],
    oldest: [0, 7],
    versionArguments: ['-v'],
    module: 'kubeconform',
    package: 'github.com/yannh/kubeconform/cmd/kubeconform',
    install: 'install kubeconform',
  },
  'release-replay': { names: [], module: 'promtool', package: './release-replay' },
  'analysis-verdict': { names: [], module: 'argo-rollouts', package: './analysis-verdict' },
} as const satisfies Readonly<Record<string, Tool>>;

export type ToolName = keyof typeof tools;

/** @throws Error with one line that says what to install */
export async function findTool(
  name: ToolName,
  environment: Readonly<Record<string, string | undefined>> = process.env,
  folder = toolsFolder,
): Promise<string> {
  const tool: Tool = tools[name];
  const unfit: string[] = [];
  for (const path of onPath(tool.names, environment.PATH)) {
    const version = await versionOf(path, tool);
    if (version !== undefined && isFit(version, tool)) return path;
    unfit.push(`${path} ${version?.join('.') ?? 'does not say its version'}`);
  }
  const module = join(folder, tool.module);
  const built = join(module, 'bin', name);
  // A change of go.mod is a change of the version.
  if (existsSync(built) && writtenAt(built) > newestSource(module)) return built;
  const go = goOf(environment);
  if (go !== undefined && existsSync(join(module, 'go.mod'))) return await build(go, tool, built);
  throw new Error(
    `${name}${wanted(tool)} is missing${unfit.length === 0 ? '' : ` (${unfit.join(', ')})`}: ` +
      `${tool.install === undefined ? '' : `${tool.install}, or `}install Go, which builds it from tools/${tool.module}`,
  );
}

const wanted = ({ oldest, thisMajorOnly }: Tool) =>
  oldest === undefined ? '' : ` ${oldest.join('.')}${thisMajorOnly ? '' : ' or newer'}`;

/**
 * The paths of several, for a setup of vitest.
 * @returns undefined where one is missing, which is said in one line; only a machine of a developer may lack it
 */
export async function findTools<Name extends ToolName>(
  names: readonly Name[],
  untested: string,
): Promise<Readonly<Record<Name, string>> | undefined> {
  const found: Partial<Record<Name, string>> = {};
  try {
    for (const name of names) found[name] = await findTool(name);
  } catch (error) {
    if (process.env.CI === 'true') throw error;
    process.stderr.write(`${untested}: ${(error as Error).message}\n`);
    return undefined;
  }
  return found as Record<Name, string>;
}

/**
 * The Go that builds tools and downloads modules.
 * @throws Error with one line that says what to install
 */
export function findGo(environment: Readonly<Record<string, string | undefined>> = process.env): string {
  const go = goOf(environment);
  if (go === undefined) throw new Error('go is missing: install Go 1.26 or newer');
  return go;
}

/** Go's own instructions install it where few shells look. */
const goOf = ({ PATH = '' }: Readonly<Record<string, string | undefined>>): string | undefined =>
  onPath(['go'], `${PATH}${delimiter}/usr/local/go/bin`)[0];

function onPath(names: readonly string[], path = ''): string[] {
  return path
    .split(delimiter)
    .filter((folder) => folder !== '')
    .flatMap((folder) => names.map((name) => join(folder, name)))
    .filter((file) => {
      try {
        accessSync(file, constants.X_OK);
        return true;
      } catch {
        return false;
      }
    });
}

const writtenAt = (file: string) => statSync(file).mtimeMs;

const newestSource = (module: string) =>
  Math.max(
    0,
    ...readdirSync(module, { withFileTypes: true, recursive: true })
      .filter((entry) => entry.isFile() && /\.(go|mod|sum)$/.test(entry.name))
      .map((entry) => writtenAt(join(entry.parentPath, entry.name))),
  );

async function versionOf(path: string, tool: Tool): Promise<[number, number] | undefined> {
  try {
    const { stdout, stderr } = await run(path, [...(tool.versionArguments ?? ['--version'])]);
    const found = /v(?:ersion )?(\d+)\.(\d+)/.exec(stdout + stderr);
    return found === null ? undefined : [Number(found[1]), Number(found[2])];
  } catch {
    return undefined; // what cannot run is not fit
  }
}

const isFit = (
  [major, minor]: readonly [number, number],
  { oldest: [least, lesser] = [0, 0], thisMajorOnly }: Tool,
) => (major > least && !thisMajorOnly) || (major === least && minor >= lesser);

async function build(go: string, tool: Tool, built: string): Promise<string> {
  // Under another name until it is whole: two test runs may build at once.
  const unfinished = `${built}.${process.pid}`;
  await run(go, ['build', '-trimpath', '-o', unfinished, tool.package], {
    cwd: join(built, '..', '..'),
    maxBuffer: 64 * 1024 * 1024,
  });
  await rename(unfinished, built);
  return built;
}
