/** Where promtool, Prometheus and Alertmanager are: on PATH, else built with Go from `tools/`. */
import { execFile } from 'node:child_process';
import { accessSync, constants, existsSync } from 'node:fs';
import { rename } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const run = promisify(execFile);
const toolsFolder = fileURLToPath(new URL('../../tools', import.meta.url));

export type ToolName = 'promtool' | 'prometheus' | 'alertmanager';

interface Tool {
  /** Names on PATH; Debian calls Alertmanager otherwise. */
  readonly names: readonly string[];
  /** The oldest fit version: Prometheus knows keep_firing_for from 2.42 on, Alertmanager matchers from 0.22 on. */
  readonly oldest: readonly [major: number, minor: number];
  readonly module: string;
  readonly package: string;
  readonly debian: string;
}

const tools: Readonly<Record<ToolName, Tool>> = {
  promtool: {
    names: ['promtool'],
    oldest: [2, 42],
    module: 'promtool',
    package: 'github.com/prometheus/prometheus/cmd/promtool',
    debian: 'prometheus',
  },
  prometheus: {
    names: ['prometheus'],
    oldest: [2, 42],
    module: 'promtool',
    package: 'github.com/prometheus/prometheus/cmd/prometheus',
    debian: 'prometheus',
  },
  alertmanager: {
    names: ['alertmanager', 'prometheus-alertmanager'],
    oldest: [0, 22],
    module: 'alertmanager',
    package: 'github.com/prometheus/alertmanager/cmd/alertmanager',
    debian: 'prometheus-alertmanager',
  },
};

/** @throws Error with one line that says what to install */
export async function findTool(
  name: ToolName,
  environment: Readonly<Record<string, string | undefined>> = process.env,
  folder = toolsFolder,
): Promise<string> {
  const tool = tools[name];
  const tooOld: string[] = [];
  for (const path of onPath(tool.names, environment.PATH)) {
    const version = await versionOf(path);
    if (version !== undefined && isFit(version, tool.oldest)) return path;
    tooOld.push(`${path} ${version?.join('.') ?? 'does not say its version'}`);
  }
  const built = join(folder, tool.module, 'bin', name);
  if (existsSync(built)) return built;
  const [go] = onPath(['go'], environment.PATH);
  if (go !== undefined && existsSync(join(folder, tool.module, 'go.mod')))
    return await build(go, tool, built);
  throw new Error(
    `${name} ${tool.oldest.join('.')} or newer is missing${tooOld.length === 0 ? '' : ` (${tooOld.join(', ')})`}: ` +
      `apt-get install ${tool.debian}, or install Go, which builds it from tools/${tool.module}`,
  );
}

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

async function versionOf(path: string): Promise<[number, number] | undefined> {
  try {
    const { stdout, stderr } = await run(path, ['--version']);
    const found = /version (\d+)\.(\d+)/.exec(stdout + stderr);
    return found === null ? undefined : [Number(found[1]), Number(found[2])];
  } catch {
    return undefined; // what cannot run is not fit
  }
}

const isFit = ([major, minor]: readonly [number, number], [least, lesser]: readonly [number, number]) =>
  major > least || (major === least && minor >= lesser);

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
