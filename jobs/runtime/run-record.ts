/** The row of `job_runs` that tells what became of a run. Written first, by the run itself; the exporter reads it. */
import type { Database } from './database.ts';
import type { FailureId } from './failures.ts';

/** How a run ended; only `succeeded` counts as success in metrics and alerts. */
export type RunOutcome =
  | 'succeeded'
  | 'partial'
  | 'skipped'
  | 'implausible'
  | 'endpoint_down'
  | 'failed'
  | 'refused';

export type RunCounts = Readonly<Record<string, number>>;

export interface RunStart {
  readonly runId: string;
  readonly job: string;
  readonly mode: string;
  readonly installation: string;
  readonly pod: string;
  readonly version: string;
}

export interface RunEnd {
  readonly outcome: RunOutcome;
  readonly exitCode: number;
  readonly counts: RunCounts;
  readonly failureId?: FailureId;
  readonly message?: string;
}

export const startRunRecord = async (database: Database, run: RunStart): Promise<void> =>
  await database.transaction({ repeatable: true }, async (transaction) => {
    await transaction.execute(
      `-- runtime: startRunRecord
       INSERT INTO job_runs (run_id, job, mode, installation, outcome, pod, version)
       VALUES ($1::uuid, $2::text, $3::text, $4::text, 'running', $5::text, $6::text)
       ON CONFLICT (run_id) DO NOTHING`,
      [run.runId, run.job, run.mode, run.installation, run.pod, run.version],
    );
  });

/** Shows that a long run is alive, and what it has done so far. */
export const touchRunRecord = async (database: Database, runId: string, counts: RunCounts): Promise<void> =>
  await database.transaction({ repeatable: true }, async (transaction) => {
    await transaction.execute(
      `-- runtime: touchRunRecord
       UPDATE job_runs SET seen_at = clock_timestamp(), counts = $2::jsonb
        WHERE run_id = $1::uuid AND outcome = 'running'`,
      [runId, JSON.stringify(counts)],
    );
  });

export const finishRunRecord = async (database: Database, runId: string, end: RunEnd): Promise<void> =>
  await database.transaction({ repeatable: true }, async (transaction) => {
    await transaction.execute(
      `-- runtime: finishRunRecord
       UPDATE job_runs
          SET outcome = $2::text, exit_code = $3::smallint, counts = $4::jsonb, failure_id = $5::text,
              message = $6::text, seen_at = clock_timestamp(), finished_at = clock_timestamp()
        WHERE run_id = $1::uuid AND outcome = 'running'`,
      [
        runId,
        end.outcome,
        end.exitCode,
        JSON.stringify(end.counts),
        end.failureId ?? null,
        end.message ?? null,
      ],
    );
  });
