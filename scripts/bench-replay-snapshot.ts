/**
 * Replay beside a transaction that stays open: what it could see may not be vacuumed, so that every change of a row
 * leaves a dead one behind. Two databases of one server, one with such a transaction and one without, take turns: a
 * snapshot holds back the vacuum of its own database only.
 */
import { Client } from 'pg';
import { type BenchDatabase, emptyTables } from './bench-replay-database.ts';
import { type Bench, replay } from './bench-replay-rounds.ts';

export interface SnapshotMeasured {
  /** How long the transaction was open. */
  readonly heldSeconds: number;
  /** Events per second of each turn. */
  readonly held: readonly number[];
  readonly free: readonly number[];
  /** Dead rows of `replay_events` at the end, as the server counts them. */
  readonly deadRows: { readonly held: number; readonly free: number };
}

/** @param seconds how long replay is at work beside the transaction; it stays open for the other's turns as well */
export async function measureSnapshot(
  bench: Bench,
  databases: { readonly held: BenchDatabase; readonly free: BenchDatabase },
  seconds: number,
  report: (share: number) => void,
): Promise<SnapshotMeasured> {
  const rates = { held: [] as number[], free: [] as number[] };
  for (const database of Object.values(databases)) await emptyTables(database);
  const holder = new Client({ connectionString: databases.held.url });
  await holder.connect();
  try {
    await holder.query('BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY');
    await holder.query('SELECT count(*) FROM event_backups');
    const openedAt = performance.now();
    let worked = 0;
    for (let turn = 0; worked < seconds; turn += 1) {
      for (const name of turn % 2 === 0 ? (['held', 'free'] as const) : (['free', 'held'] as const)) {
        const beganAt = performance.now();
        const database = databases[name];
        const first = turn * bench.events + 1;
        const run = await replay({ ...bench, database }, { handlerMs: 0, first });
        rates[name].push(bench.events / run.seconds);
        await markProcessed(database);
        if (name === 'held') worked += (performance.now() - beganAt) / 1_000;
        report(worked / seconds);
      }
    }
    const heldSeconds = (performance.now() - openedAt) / 1_000;
    await holder.query('COMMIT');
    return {
      heldSeconds,
      ...rates,
      deadRows: { held: await deadRows(databases.held), free: await deadRows(databases.free) },
    };
  } finally {
    await holder.end();
  }
}

/** As the service does with what it has processed; else the next run would find it pending again. */
async function markProcessed({ client }: BenchDatabase): Promise<void> {
  await client.query(
    `UPDATE event_backups SET status = 'processed', processed_at = now() WHERE status = 'pending'`,
  );
}

async function deadRows({ client }: BenchDatabase): Promise<number> {
  const { rows } = await client.query<{ dead: number }>(
    `SELECT n_dead_tup::integer AS dead FROM pg_stat_user_tables
      WHERE schemaname = 'counterfoil' AND relname = 'replay_events'`,
  );
  return rows[0]?.dead ?? Number.NaN;
}
