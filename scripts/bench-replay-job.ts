/** event-replay as a contender of bench:replay: a real once-run of its main.ts, told by the tables how long it took. */
import { spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { BenchDatabase } from './bench-replay-database.ts';
import { TOKEN } from './bench-replay-events.ts';
import { job } from './bench-replay-settings.ts';

export interface JobOrder {
  readonly sinkUrl: string;
  readonly lanes: number;
  readonly eventsPerCall: number;
  /** Where its log goes: a file, as a pod's goes to one. */
  readonly folder: string;
  /** Such as those for a profile. */
  readonly nodeFlags: readonly string[];
}

export interface JobRun {
  /** From its row in `job_runs` to the commit of the last outcome. Intake is part of it. */
  readonly seconds: number;
  /** As `seconds`, but to the last outcome of an event that was processed. */
  readonly secondsToProcessed: number;
  /** By this run. */
  readonly processed: number;
  readonly parked: number;
  /** Events in the table that are neither: more than none, and the run is worth nothing. */
  readonly open: number;
  /** `counts` of its row in `job_runs`. */
  readonly counts: Readonly<Record<string, number>>;
  /** The most memory that it ever had resident; nothing where there is no /proc. */
  readonly rssMb: number | undefined;
}

const RSS_EVERY_MS = 50;

export async function runJob(database: BenchDatabase, order: JobOrder): Promise<JobRun> {
  const log = join(order.folder, 'event-replay.log');
  const output = openSync(log, 'w');
  const main = fileURLToPath(new URL('../jobs/event-replay/main.ts', import.meta.url));
  const child = spawn(process.execPath, [...order.nodeFlags, main], {
    env: {
      PATH: process.env.PATH,
      DATABASE_URL: database.jobsUrl,
      CF_REPLAY_URL: order.sinkUrl,
      CF_REPLAY_TOKEN: TOKEN,
      CF_LANES: String(order.lanes),
      CF_BATCH_SIZE: String(order.eventsPerCall),
      CF_CLAIM_SIZE: String(job.claimSize),
    },
    stdio: ['ignore', output, 'inherit'],
  });
  closeSync(output);
  const killAtExit = () => child.kill('SIGKILL');
  process.once('exit', killAtExit);
  let rssMb: number | undefined;
  const watching = setInterval(() => {
    rssMb = mostResidentMb(child.pid) ?? rssMb;
  }, RSS_EVERY_MS);
  const code = await new Promise<number | null>((resolve) => child.once('exit', resolve));
  clearInterval(watching);
  process.off('exit', killAtExit);
  if (code !== 0) {
    const lines = readFileSync(log, 'utf8').trimEnd().split('\n').slice(-5).join('\n');
    throw new Error(`event-replay ended with ${code}:\n${lines}`);
  }
  const { rows } = await database.client.query<Omit<JobRun, 'rssMb'>>(
    // The commits by the server's own record (track_commit_timestamp): an outcome counts once nobody can lose it.
    `WITH run AS (
       SELECT started_at, counts FROM counterfoil.job_runs ORDER BY started_at DESC LIMIT 1
     ), event AS (
       SELECT status, last_outcome, pg_xact_commit_timestamp(xmin) AS at FROM counterfoil.replay_events
     )
     SELECT extract(epoch FROM max(at) - started_at)::double precision AS seconds,
            extract(epoch FROM max(at) FILTER (WHERE status = 'done') - started_at)::double precision AS "secondsToProcessed",
            count(*) FILTER (WHERE status = 'done' AND last_outcome = 'processed' AND at > started_at)::integer AS processed,
            count(*) FILTER (WHERE status = 'parked' AND at > started_at)::integer AS parked,
            count(*) FILTER (WHERE status NOT IN ('done', 'parked'))::integer AS open,
            counts
       FROM run CROSS JOIN event GROUP BY started_at, counts`,
  );
  const [row] = rows;
  if (row === undefined) throw new Error('event-replay left no row in job_runs');
  return { ...row, rssMb };
}

/** The high-water mark that the kernel keeps: looked at often, since it goes with the process. */
function mostResidentMb(pid: number | undefined): number | undefined {
  try {
    const kilobytes = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
    return kilobytes === undefined ? undefined : Number(kilobytes) / 1024;
  } catch {
    return undefined;
  }
}
