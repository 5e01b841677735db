/** Where the tools are looked for. The programs here are scripts that say a version; the real ones run in the other files. */
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
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

test('says in one line what to install where it is missing, too old, or does not run', async () => {
  await expect(find('promtool')).rejects.toThrow(
    /^promtool 2\.42 or newer is missing: apt-get install prometheus, or install Go, which builds it from tools\/promtool$/,
  );
  await program('promtool', 'echo "promtool, version 2.41.0"');
  await expect(find('promtool')).rejects.toThrow(/missing \(.*promtool 2\.41\)/);
  await program('promtool', 'exit 1');
  await expect(find('promtool')).rejects.toThrow(/does not say its version/);
});

test('builds it with Go where PATH has none, once', async () => {
  await mkdir(join(modules, 'promtool'));
  await writeFile(join(modules, 'promtool/go.mod'), 'module tools/promtool\n');
  const log = join(folder, 'calls');
  await program(
    'go',
    `echo "$PWD $*" >> ${log}; /bin/mkdir -p "$(/usr/bin/dirname "$4")"; echo built > "$4"`,
  );
  const built = join(modules, 'promtool/bin/promtool');
  expect(await find('promtool')).toBe(built);
  expect(await find('promtool')).toBe(built);
  const calls = (await readFile(log, 'utf8')).trim().split('\n');
  expect(calls).toHaveLength(1);
  expect(calls[0]).toContain(join(modules, 'promtool'));
  expect(calls[0]).toContain('github.com/prometheus/prometheus/cmd/promtool');
});
