/**
 * A contender of bench:replay: what one writes by hand first. Each lane takes the oldest pending event that nobody has
 * locked, POSTs it, marks it, and commits; its transaction and its connection are held for the whole call.
 */
import { Pool } from 'pg';
import { contend } from './bench-replay-contender.ts';
import { onLanes, openPoster } from './bench-replay-events.ts';

await contend(async ({ databaseUrl, sinkUrl, lanes }) => {
  const pool = new Pool({
    connectionString: databaseUrl,
    max: lanes,
    application_name: 'bench row at a time',
  });
  const poster = openPoster(sinkUrl, lanes);
  const clients = await Promise.all(Array.from({ length: lanes }, () => pool.connect()));
  for (const client of clients) client.release();
  return {
    async work() {
      await onLanes(lanes, async () => {
        const client = await pool.connect();
        try {
          await client.query('BEGIN');
          const { rows } = await client.query<{ event_id: string; payload: unknown }>(
            `SELECT event_id, payload FROM event_backups WHERE status = 'pending'
              ORDER BY created_at LIMIT 1 FOR UPDATE SKIP LOCKED`,
          );
          const [row] = rows;
          if (row !== undefined) {
            await poster.post(row.event_id);
            await client.query(
              `UPDATE event_backups SET status = 'processed', processed_at = now()
                WHERE event_id = $1::text AND status = 'pending'`,
              [row.event_id],
            );
          }
          await client.query('COMMIT');
          return row !== undefined;
        } finally {
          client.release();
        }
      });
    },
    async close() {
      await poster.close();
      await pool.end();
    },
  };
});
