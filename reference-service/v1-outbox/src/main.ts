import { startService } from './service.js';
import { makeLog } from './service-log.js';
import { readSettings, SettingsRefusedError } from './settings.js';

const log = makeLog();

// By default Node prints the message of what it dies of, and that may hold payload.
for (const event of ['uncaughtException', 'unhandledRejection'] as const) {
  process.on(event, (error: unknown) => {
    log.fatal({ err: error, event }, 'The process ends on an error nobody handled');
    process.exit(1);
  });
}

try {
  const settings = readSettings(process.env);
  log.level = settings.logLevel;
  const service = await startService(settings, log);
  log.info({ listening: service.port, serviceVersion: settings.serviceVersion }, 'Listening');
  const stopped = new Promise<void>((resolve) => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => resolve(service.stop()));
  });
  await stopped;
  process.exit(0);
} catch (error) {
  // Only of these is the text ours from end to end.
  const problem = error instanceof SettingsRefusedError ? error.message : undefined;
  log.fatal({ err: error, problem }, 'The service did not start');
  process.exit(1);
}
