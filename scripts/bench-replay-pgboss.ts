/**
 * A contender of bench:replay: pg-boss, by its `fetch` and `complete` of batches, on several loops at once that share
 * the lanes: while one fetches or completes, the others send. `work()` does the same with pauses between.
 */
import { PgBoss } from 'pg-boss';
import { contend } from './bench-replay-contender.ts';
import { onLanes, openPoster } from './bench-replay-events.ts';
import { pgBoss } from './bench-replay-settings.ts';

await contend(async ({ databaseUrl, sinkUrl, lanes }) => {
  // Nothing by itself: no supervision, no schedules.
  const boss = new PgBoss({
    connectionString: databaseUrl,
    max: pgBoss.loops,
    supervise: false,
    schedule: false,
  });
  boss.on('error', (error) => process.stderr.write(`pg-boss: ${error.message}\n`));
  await boss.start();
  const poster = openPoster(sinkUrl, lanes);
  return {
    async work() {
      await onLanes(pgBoss.loops, async () => {
        const jobs = await boss.fetch<{ eventId: string }>(pgBoss.queue, { batchSize: pgBoss.batchSize });
        if (jobs.length === 0) return false;
        let next = 0;
        await onLanes(Math.max(1, Math.floor(lanes / pgBoss.loops)), async () => {
          const job = jobs[next];
          if (job === undefined) return false;
          next += 1;
          await poster.post(job.data.eventId);
          return true;
        });
        await boss.complete(
          pgBoss.queue,
          jobs.map(({ id }) => id),
        );
        return true;
      });
    },
    async close() {
      await poster.close();
      await boss.stop({ graceful: false });
    },
  };
});
