/** A `Database` of jobs/runtime on a test database, and what it logged. */
import { Database, type DatabaseSettings } from '../../jobs/runtime/database.ts';
import { createLogger, type Logger } from '../../jobs/runtime/logger.ts';

interface LogEntry {
  readonly level: string;
  readonly msg: string;
  readonly [field: string]: unknown;
}

export interface CollectedLog {
  readonly logger: Logger;
  /** Every line as it was written. */
  readonly lines: string[];
  entries(): LogEntry[];
  messages(): string[];
}

export function collectLog(): CollectedLog {
  const lines: string[] = [];
  const logger = createLogger(
    { job: 'test', level: 'debug', installation: 'test' },
    { write: (line) => lines.push(line) },
  );
  const entries = () => lines.map((line) => JSON.parse(line) as LogEntry);
  return { logger, lines, entries, messages: () => entries().map((entry) => entry.msg) };
}

/** No retry and a short lock timeout, unless the test says otherwise. */
export function openDatabase(
  url: string,
  settings: Partial<DatabaseSettings> = {},
  log: CollectedLog = collectLog(),
): Database {
  return new Database(
    {
      url,
      applicationName: 'counterfoil-test',
      schema: 'counterfoil',
      poolSize: 2,
      connectTimeoutMs: 10_000,
      lockTimeoutMs: 200,
      retryMs: 0,
      ...settings,
    },
    log.logger,
  );
}
