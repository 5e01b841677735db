import { migrateDatabase } from './migrations.js';
import { makeLog } from './service-log.js';
import { readDatabaseUrl } from './settings.js';

// A command of its own, run before a rollout: a service that migrated at its start would do it once per pod.

const log = makeLog(process.env.LOG_LEVEL || 'info');
try {
  await migrateDatabase(readDatabaseUrl(process.env));
  log.info('Migrated');
} catch (error) {
  log.fatal(
    {
      err: error,
      problem: error instanceof Error && error.name === 'SettingsRefusedError' ? error.message : undefined,
    },
    'Not migrated',
  );
  process.exitCode = 1;
}
