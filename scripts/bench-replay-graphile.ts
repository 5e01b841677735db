/**
 * A contender of bench:replay: graphile-worker with the settings of its own performance test, `localQueue` of 500 and
 * completions in batches without a delay, and as many jobs at once as there are lanes. Its run ends when the last job
 * is removed from its table.
 */
import { Logger, runOnce } from 'graphile-worker';
import { Pool } from 'pg';
import { contend } from './bench-replay-contender.ts';
import { openPoster } from './bench-replay-events.ts';
import { graphile } from './bench-replay-settings.ts';

await contend(async ({ databaseUrl, sinkUrl, lanes }) => {
  // One for each job and one beside them, as in its test: that many are never in use at once, thanks to the batches.
  const pool = new Pool({ connectionString: databaseUrl, max: lanes + 1 });
  pool.on('error', (error) => process.stderr.write(`graphile-worker: ${error.message}\n`));
  const poster = openPoster(sinkUrl, lanes);
  const clients = await Promise.all(Array.from({ length: 4 }, () => pool.connect()));
  for (const client of clients) client.release();
  return {
    async work() {
      await runOnce(
        {
          pgPool: pool,
          noHandleSignals: true,
          logger: new Logger(() => (level, message) => {
            if (level === 'error') process.stderr.write(`graphile-worker: ${message}\n`);
          }),
          preset: {
            worker: {
              concurrentJobs: lanes,
              localQueue: { size: graphile.queueSize },
              completeJobBatchDelay: graphile.completeJobBatchDelayMs,
              failJobBatchDelay: 0,
            },
          },
        },
        { [graphile.task]: async (payload) => await poster.post((payload as { eventId: string }).eventId) },
      );
    },
    async close() {
      await poster.close();
      await pool.end();
    },
  };
});
