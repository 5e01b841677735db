import { clientOf, type ServiceClient } from '../../../src/testing/service-client.js';
import { startService } from '../service.js';
import { makeLog } from '../service-log.js';
import { readSettings } from '../settings.js';
import { OUTBOX_SETTINGS } from './outbox-process.js';

/** The predecessor within the process of the test: what is asked of it is seen by the coverage. */
export interface OutboxHere extends ServiceClient {
  /** Everything it has written so far. */
  output(): string;
  /** Ends it as SIGTERM would. */
  stop(): Promise<void>;
}

/** Starts the predecessor on a free port of this process. */
export async function startOutboxHere(
  databaseUrl: string,
  env: Readonly<Record<string, string>> = {},
): Promise<OutboxHere> {
  let output = '';
  const log = makeLog({
    write(line) {
      output += line;
    },
  });
  const settings = readSettings({ ...OUTBOX_SETTINGS, DATABASE_URL: databaseUrl, ...env });
  const service = await startService(settings, log);
  return {
    ...clientOf(`http://127.0.0.1:${service.port}`),
    output: () => output,
    stop: () => service.stop(),
  };
}
