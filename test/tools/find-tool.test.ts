/** Where the tools are looked for. The programs here are scripts that say a version; the real ones run in the other files. */
import { chmod, mkdir, mkdtemp, readFile, rm, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { findTool } from './find-tool.ts';

let folder: string;
let path: string;
let modules: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'counterfoil-tools-'));
  path = join(folder, 'bin');
  modules = join(folder, 'tools');
  await mkdir(path);
  await mkdir(modules);
});
afterEach(async () => {
  await rm(folder, { recursive: true, force: true });
});

async function program(name: string, script: string): Promise<string> {
  const file = join(path, name);
  await writeFile(file, `#!/bin/sh\n${script}\n`);
  await chmod(file, 0o755);
  return file;
}
const find = (name: Parameters<typeof findTool>[0]) => findTool(name, { PATH: path }, modules);

test('takes promtool from PATH where it is new enough', async () => {
  const file = await program('promtool', 'echo "promtool, version 2.42.0 (branch: HEAD)"');
  expect(await find('promtool')).toBe(file);
});

test('takes Alertmanager under the name that Debian gives it', async () => {
  const file = await program('prometheus-alertmanager', 'echo "alertmanager, version 0.25.0" >&2');
  expect(await find('alertmanager')).toBe(file);
});

test('takes no other Helm than that of its major version', async () => {
  const file = await program('helm', 'echo "v3.21.4+gabcdef"');
  expect(await find('helm3')).toBe(file);
  await expect(find('helm')).rejects.toThrow(
    /^helm 4\.2 is missing \(.*helm 3\.21\): install Helm 4, or install Go, which builds it from tools\/helm$/,
  );
  await program('helm', 'echo "v4.2.0"');
  expect(await find('helm')).toBe(file);
  await expect(find('helm3')).rejects.toThrow(/^helm3 3\.21 is missing/);
});

test('says in one line what to install where it is missing, too old, or does not run', async () => {
  await expect(find('promtool')).rejects.toThrow(
    /^promtool 2\.42 or newer is missing: apt-get install prometheus, or install Go, which builds it from tools\/promtool$/,
  );
  await program('promtool', 'echo "promtool, version 2.41.0"');
  await expect(find('promtool')).rejects.toThrow(/missing \(.*promtool 2\.41\)/);
  await program('promtool', 'exit 1');
  await expect(find('promtool')).rejects.toThrow(/does not say its version/);
});

test('builds it with Go where PATH has none, once, and again where its module has changed', async () => {
  const module = join(modules, 'promtool/go.mod');
  await mkdir(join(modules, 'promtool'));
  await writeFile(module, 'module tools/promtool\n');
  const log = join(folder, 'calls');
  await program(
    'go',
    `echo "$PWD $*" >> ${log}; /bin/mkdir -p "$(/usr/bin/dirname "$4")"; echo built > "$4"`,
  );
  const built = join(modules, 'promtool/bin/promtool');
  const calls = async () => (await readFile(log, 'utf8')).trim().split('\n');
  await utimes(module, 1, 1);
  expect(await find('promtool')).toBe(built);
  expect(await find('promtool')).toBe(built);
  expect(await calls()).toHaveLength(1);
  expect((await calls())[0]).toContain(join(modules, 'promtool'));
  expect((await calls())[0]).toContain('github.com/prometheus/prometheus/cmd/promtool');
  const inAnHour = Date.now() / 1000 + 3600;
  await utimes(module, inAnHour, inAnHour);
  expect(await find('promtool')).toBe(built);
  expect(await calls()).toHaveLength(2);
});

test('says of a program of our own that Go is missing', async () => {
  await expect(find('analysis-verdict')).rejects.toThrow(
    /^analysis-verdict is missing: install Go, which builds it from tools\/argo-rollouts$/,
  );
});
