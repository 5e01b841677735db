import { parseArgs } from 'node:util';
import { type Environment, readSettings } from '../runtime/config.ts';
import { Database } from '../runtime/database.ts';
import { createLogger } from '../runtime/logger.ts';
import { checkSchemaVersion } from '../runtime/schema-level.ts';
import { toRunFailure } from '../runtime/sqlstates.ts';
import { statusSettings } from './env.ts';
import { renderScreen } from './screen.ts';
import { readStatus } from './status.ts';

const help = `What is open, since when, what is being done about it, and whether it needs you.

  node jobs/status/main.ts [--json]

Reads DATABASE_URL, CF_SCHEMA, CF_INSTALLATION and, if there is one, CF_EXPORTER_URL; in the exporter's pod it finds it by itself.
Exit code: 0; 1 or 2 when the state cannot be read; 3 with CF_EXIT_ON_FINDINGS=true while discrepancies are open.
`;

export interface StatusOutput {
  readonly write: (text: string) => void;
  readonly writeError: (text: string) => void;
  readonly colour: boolean;
}

/** Shows the first screen once and gives the exit code; never throws. */
export async function showStatus(
  args: readonly string[],
  environment: Environment,
  output: StatusOutput,
): Promise<number> {
  let database: Database | undefined;
  try {
    const flags = parseArgs({
      args: [...args],
      options: { json: { type: 'boolean', default: false }, help: { type: 'boolean', default: false } },
    }).values;
    if (flags.help) {
      output.write(help);
      return 0;
    }
    // It runs in the pod of another process, among settings that are not its own: those it leaves alone.
    const own = Object.fromEntries(Object.keys(statusSettings).map((name) => [name, environment[name]]));
    const settings = readSettings(statusSettings, own);
    const logger = createLogger(
      { job: 'status', level: 'warn', installation: settings.CF_INSTALLATION },
      { write: output.writeError },
    );
    database = new Database(
      {
        url: settings.DATABASE_URL,
        applicationName: 'counterfoil-status',
        schema: settings.CF_SCHEMA,
        poolSize: 2,
        connectTimeoutMs: settings.CF_DATABASE_CONNECT_TIMEOUT_SECONDS,
        lockTimeoutMs: settings.CF_LOCK_TIMEOUT_SECONDS,
        retryMs: 0,
      },
      logger,
    );
    await checkSchemaVersion(database);
    const { CF_EXPORTER_URL: url, CF_LISTEN_PORT: port } = settings;
    const status = await readStatus(database, {
      installation: settings.CF_INSTALLATION,
      exporterUrl: url ?? (port === 0 ? undefined : `http://127.0.0.1:${port}`),
    });
    output.write(
      flags.json
        ? `${JSON.stringify(status)}\n`
        : renderScreen(status, settings.CF_INSTALLATION, output.colour),
    );
    return settings.CF_EXIT_ON_FINDINGS && status.verdict === 'open' ? 3 : 0;
  } catch (error) {
    const usage = (error as { code?: unknown }).code;
    if (typeof usage === 'string' && usage.startsWith('ERR_PARSE_ARGS')) {
      output.writeError(`${(error as Error).message}\n\n${help}`);
      return 2;
    }
    const failure = toRunFailure(error);
    output.writeError(`${failure.id}: ${failure.message}\n`);
    return failure.exitCode;
  } finally {
    await database?.close();
  }
}
