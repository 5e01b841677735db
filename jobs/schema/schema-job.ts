import type { Job } from '../runtime/run-job.ts';
import { migrate } from './migrate.ts';

/** Brings the state schema to the level of this code. Has no record of its own: the table may not be there yet. */
export const schemaJob: Job<Record<never, never>> = {
  name: 'schema',
  settings: {},
  mode: () => 'once',
  hasState: () => false,
  exitsOnFindings: () => false,
  async run({ database, logger, settings }) {
    const result = await migrate(database, logger, settings.CF_SCHEMA);
    return {
      outcome: 'succeeded',
      counts: { applied: result.applied.length, level: result.level },
      message:
        result.applied.length === 0 ? 'the state schema is up to date' : 'the state schema was migrated',
    };
  },
};
