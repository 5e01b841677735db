/**
 * Packs the module and installs the tarball into a folder outside the repository per major version of Nest, compiles
 * the tiny services there and generates their Prisma client. Needs the npm registry, or npm's cache of it.
 */
import { execFile } from 'node:child_process';
import { cp, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { TestProject } from 'vitest/node';
import { packModule, TSC } from '../adoption/packed-module.ts';
import { ENVIRONMENTS, type Environment } from './environments.ts';

declare module 'vitest' {
  interface ProvidedContext {
    /** The folder of each environment, by name. */
    environments: Readonly<Record<string, string>>;
  }
}

const run = promisify(execFile);

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const root = await mkdtemp(join(tmpdir(), 'counterfoil-compatibility-'));
  const remove = (): Promise<void> => rm(root, { recursive: true, force: true });
  try {
    const { tarball, remove: removePackage } = await packModule();
    const folders: Record<string, string> = {};
    // One after another: two installs at once only wait for each other's network and disk.
    for (const environment of ENVIRONMENTS) {
      folders[environment.name] = await install(root, environment, tarball);
    }
    removePackage();
    project.provide('environments', folders);
  } catch (error) {
    await remove();
    // tsc reports on stdout, npm on stderr; execFile's own message has only the command.
    const { stdout = '', stderr = '' } = error as { stdout?: string; stderr?: string };
    throw new Error(`the compatibility environments could not be set up\n${stdout}${stderr}`, {
      cause: error,
    });
  }
  return remove;
}

async function install(root: string, environment: Environment, tarball: string): Promise<string> {
  const folder = join(root, environment.name);
  await mkdir(folder);
  await writeJson(join(folder, 'package.json'), {
    private: true,
    dependencies: { ...environment.dependencies, '@counterfoil/nestjs': `file:${tarball}` },
  });
  // Without scripts: Prisma's would download engines, which a client with a driver adapter does not use.
  await npm(
    folder,
    'install',
    '--prefer-offline',
    '--no-audit',
    '--no-fund',
    '--ignore-scripts',
    '--no-package-lock',
  );

  const services = fileURLToPath(new URL('services/', import.meta.url));
  if (environment.services.some(({ driver }) => driver === 'prisma')) await generatePrisma(folder, services);
  const tsc = environment.compiler === 'ours' ? TSC : join(folder, 'node_modules/typescript/bin/tsc');
  for (const kind of ['esm', 'cjs'] as const) {
    const files = environment.services
      .filter(({ module }) => module === kind)
      .map(({ driver }) => `${driver}.ts`);
    if (files.length === 0) continue;
    const source = join(folder, kind);
    await mkdir(source);
    await writeJson(join(source, 'package.json'), { type: kind === 'esm' ? 'module' : 'commonjs' });
    for (const file of ['service.ts', ...files]) await cp(join(services, file), join(source, file));
    await writeJson(join(source, 'tsconfig.json'), {
      compilerOptions: {
        ...environment.compilerOptions,
        target: 'es2022',
        strict: true,
        experimentalDecorators: true,
        emitDecoratorMetadata: true,
        esModuleInterop: true,
        skipLibCheck: true,
        types: ['node'],
      },
      files,
    });
    await run(process.execPath, [tsc, '-p', source]);
  }
  return folder;
}

async function generatePrisma(folder: string, services: string): Promise<void> {
  await cp(join(services, 'schema.prisma'), join(folder, 'schema.prisma'));
  await run(
    process.execPath,
    ['node_modules/prisma/build/index.js', 'generate', '--schema', 'schema.prisma'],
    {
      cwd: folder,
      env: {
        ...process.env,
        // The schema engine serves migrations, and `generate` only asks for its path: none is downloaded.
        PRISMA_SCHEMA_ENGINE_BINARY: process.execPath,
        CHECKPOINT_DISABLE: '1',
        PRISMA_HIDE_UPDATE_MESSAGE: '1',
      },
    },
  );
}

async function npm(cwd: string, ...args: string[]): Promise<void> {
  await run('npm', args, { cwd, env: environmentOfNpm(), shell: process.platform === 'win32' });
}

/** Without what a surrounding `npm test` has set for itself, such as its prefix and workspace. */
function environmentOfNpm(): NodeJS.ProcessEnv {
  return Object.fromEntries(
    Object.entries(process.env).filter(
      ([name]) => !/^npm_(?!config_(registry|cache|userconfig)$)/i.test(name),
    ),
  );
}

async function writeJson(path: string, content: object): Promise<void> {
  await writeFile(path, JSON.stringify(content, undefined, 2));
}
