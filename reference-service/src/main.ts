import 'reflect-metadata';
import type { AddressInfo } from 'node:net';
import { ListenersRefusedError, OptionsRefusedError } from '@counterfoil/nestjs';
import { createApplication } from './application.js';
import { makeLog } from './service-log.js';
import { readSettings, type Settings, SettingsRefusedError } from './settings.js';

const log = makeLog(process.env.LOG_LEVEL || 'info');

// By default Node prints the message of what it dies of, and that may hold payload.
for (const event of ['uncaughtException', 'unhandledRejection'] as const) {
  process.on(event, (error: unknown) => {
    log.fatal({ err: error, event }, 'The process ends on an error nobody handled');
    process.exit(1);
  });
}

async function serve(settings: Settings): Promise<void> {
  const app = await createApplication(settings, log);
  app.enableShutdownHooks(['SIGTERM', 'SIGINT'], { useProcessExit: true });
  await app.listen(settings.port, settings.host);
  const { port } = app.getHttpServer().address() as AddressInfo;
  log.info({ listening: port }, 'Listening');
}

try {
  await serve(readSettings(process.env));
} catch (error) {
  // Only of these is the text ours from end to end.
  const own = [SettingsRefusedError, OptionsRefusedError, ListenersRefusedError].some(
    (kind) => error instanceof kind,
  );
  const problem = own ? (error as Error).message : undefined;
  log.fatal({ err: error, problem }, 'The service did not start');
  process.exit(1);
}
