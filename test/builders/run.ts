/** Runs a job in this process as a scheduler would, and keeps what it logged. */
import type { SettingsShape } from '../../jobs/runtime/config.ts';
import { type Job, runJob } from '../../jobs/runtime/run-job.ts';

export interface FinishedRun {
  readonly exitCode: number;
  /** Its log lines, parsed. */
  readonly lines: readonly Readonly<Record<string, unknown>>[];
  /** Its log as it was written. */
  readonly log: string;
  /** The outcome and counts of its last line, where it has them. */
  readonly outcome: string | undefined;
  readonly counts: Readonly<Record<string, number>>;
  readonly message: string;
}

export async function run<Shape extends SettingsShape>(
  job: Job<Shape>,
  environment: Readonly<Record<string, string>>,
): Promise<FinishedRun> {
  let log = '';
  const exitCode = await runJob(job, {
    environment: { CF_DATABASE_RETRY_SECONDS: '0', ...environment },
    logDestination: {
      write(text: string) {
        log += text;
      },
    },
  });
  const lines = log
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as Record<string, unknown>);
  const last = lines.findLast((line) => 'outcome' in line) ?? lines.at(-1) ?? {};
  return {
    exitCode,
    lines,
    log,
    outcome: last.outcome as string | undefined,
    counts: (last.counts ?? {}) as Record<string, number>,
    message: String(last.msg ?? ''),
  };
}
