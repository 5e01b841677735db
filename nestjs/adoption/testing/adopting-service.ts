/** A small service that adopts the module by its README: installed from the tarball, compiled, run as a process. */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { waitFor } from '../../../test/builders/wait-for.ts';
import { MODULE, TSC } from '../packed-module.ts';
import { readAdoption } from '../readme.ts';

const run = promisify(execFile);
const REPOSITORY = join(MODULE, '..');

/** What the service's package.json would name beside the module, and what its compiler needs. */
const BESIDE = [
  '@nestjs/common',
  '@nestjs/core',
  '@nestjs/event-emitter',
  '@nestjs/platform-express',
  '@types/node',
  '@types/pg',
  'pg',
  'prom-client',
  'reflect-metadata',
  'rxjs',
];

/** Runs one SQL file of the tarball, named as after installation. */
export type ApplySql = (text: string) => Promise<unknown>;

/** The service on disk. */
export interface AdoptingService {
  folder: string;
  /** Starts it; `listening` gives its port. */
  start(env: Readonly<Record<string, string>>): Promise<RunningService>;
  remove(): void;
}

/** The service as a process. */
export interface RunningService {
  port: number;
  output(): string;
  /** Sends a signal and waits for the end. */
  end(signal: NodeJS.Signals): Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
}

/** Follows the README in a new folder, up to a compiled service; `applySql` is what its psql lines come to. */
export async function adopt(tarball: string, applySql: ApplySql): Promise<AdoptingService> {
  const folder = mkdtempSync(join(tmpdir(), 'counterfoil-adopting-'));
  cpSync(fileURLToPath(new URL('../service', import.meta.url)), folder, { recursive: true });
  const { files, commands } = readAdoption();
  for (const [path, text] of files) {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), text);
  }
  for (const command of commands) {
    if (command.startsWith('npm install @counterfoil/nestjs ')) await install(folder, tarball, command);
    const [, file] = /^psql "\$DATABASE_URL" -f (\S+)$/.exec(command) ?? [];
    if (file !== undefined) await applySql(readFileSync(join(folder, file), 'utf8'));
  }
  await run(process.execPath, [TSC, '-p', 'tsconfig.json'], { cwd: folder }).catch(
    (error: { stdout: string }) => {
      throw new Error(`the service of the README does not compile:\n${error.stdout}`);
    },
  );
  return {
    folder,
    start: (env) => startProcess(folder, env),
    remove: () => rmSync(folder, { recursive: true, force: true }),
  };
}

/** The tarball by npm itself; what stands beside it by links to what the repository has installed, to ask no registry. */
async function install(folder: string, tarball: string, command: string): Promise<void> {
  const flags = ['--ignore-scripts', '--legacy-peer-deps', '--no-package-lock', '--no-audit', '--no-fund'];
  await run('npm', ['install', '--offline', ...flags, tarball], { cwd: folder });
  for (const name of command.split(' ').slice(3)) {
    if (!BESIDE.includes(name)) throw new Error(`the README installs ${name}, which is not here`);
  }
  for (const name of BESIDE) {
    const found = [join(MODULE, 'node_modules', name), join(REPOSITORY, 'node_modules', name)].find(
      existsSync,
    );
    if (found === undefined) throw new Error(`${name} is not installed in the repository`);
    const link = join(folder, 'node_modules', name);
    mkdirSync(dirname(link), { recursive: true });
    symlinkSync(realpathSync(found), link);
  }
}

async function startProcess(folder: string, env: Readonly<Record<string, string>>): Promise<RunningService> {
  const port = await freePort();
  const child: ChildProcess = spawn(process.execPath, ['dist/main.js'], {
    cwd: folder,
    env: { PATH: process.env.PATH, PORT: String(port), NO_COLOR: '1', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  const exited = new Promise<{ code: number | null; signal: NodeJS.Signals | null }>((resolve) => {
    child.on('exit', (code, signal) => resolve({ code, signal }));
  });
  await new Promise<void>((resolve, reject) => {
    const read = (chunk: Buffer): void => {
      output += chunk.toString();
      if (output.includes('Nest application successfully started')) resolve();
    };
    child.stdout?.on('data', read);
    child.stderr?.on('data', read);
    void exited.then(() => reject(new Error(`the service ended:\n${output}`)));
  });
  // Nest says so before it listens.
  await waitFor('the service answers', () =>
    fetch(`http://localhost:${port}/health/live`).then(
      () => true,
      () => false,
    ),
  );
  return {
    port,
    output: () => output,
    async end(signal) {
      child.kill(signal);
      return await exited;
    },
  };
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}
