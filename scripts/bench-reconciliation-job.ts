/** billing-reconciliation as its schedule starts it: a process of its own, with the jobs' role and default settings. */
import { spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { FactsDatabase } from './bench-reconciliation-data.ts';
import type { LoggedStatement, ServerLog } from './bench-reconciliation-log.ts';

/** The check that the README declares, without reversals: the queries written by hand know none either. */
const CHECKS = `checks:
- name: session-billing
  facts: { table: sessions, key: [id], at: completed_at, amount: amount_minor, currency: currency }
  ledger: { table: mentor_payable_ledgers, key: [session_id], at: created_at, amount: amount_minor, currency: currency }
  event: { name: services.session.completed.v1, key: [sessionId] }
`;
/** So often is the memory of the process looked at; the system keeps its peak, so that only the very end is missed. */
const LOOK_EVERY_MS = 20;

export interface JobRun {
  /** From the start of the process to its end. */
  readonly wholeMs: number;
  /** From the lease to the record of the run, by the server's clock. */
  readonly ms: number;
  /** Those within that time. */
  readonly statements: readonly LoggedStatement[];
  /** Of all statements of the run, from its first look at the schema on. */
  readonly databaseMs: number;
  /** The most resident memory; undefined where the system does not tell. */
  readonly peakMb: number | undefined;
  readonly counts: Readonly<Record<string, number>>;
}

export interface Reconciliation {
  run(facts: FactsDatabase, mode: 'full' | 'incremental' | 'tail'): Promise<JobRun>;
  /** Starts `full` and gives its end, and a way to end it before; what it did is not looked at. */
  start(facts: FactsDatabase): { readonly ended: Promise<unknown>; stop(): void };
}

/** @param folder for the file of checks and for what the runs write to standard output */
export function openReconciliation(folder: string, log: ServerLog): Reconciliation {
  const checksFile = join(folder, 'checks.yaml');
  writeFileSync(checksFile, CHECKS);
  const launch = (facts: FactsDatabase, mode: string) => {
    const output = openSync(join(folder, 'runs.log'), 'a');
    const child = spawn(
      process.execPath,
      [fileURLToPath(new URL('../jobs/billing-reconciliation/main.ts', import.meta.url))],
      {
        env: {
          PATH: process.env.PATH,
          DATABASE_URL: facts.jobsUrl,
          CF_MODE: mode,
          CF_CHECKS_FILE: checksFile,
        },
        stdio: ['ignore', output, 'inherit'],
      },
    );
    closeSync(output);
    const killAtExit = () => child.kill('SIGKILL');
    process.once('exit', killAtExit);
    const ended = new Promise<number | null>((resolve) =>
      child.once('exit', (code) => {
        process.off('exit', killAtExit);
        resolve(code);
      }),
    );
    return { child, ended };
  };
  return {
    async run(facts, mode) {
      await log.skip();
      const began = performance.now();
      const { child, ended } = launch(facts, mode);
      let peakMb: number | undefined;
      const timer = setInterval(() => {
        peakMb = peakOf(child.pid) ?? peakMb;
      }, LOOK_EVERY_MS);
      const code = await ended;
      const wholeMs = performance.now() - began;
      clearInterval(timer);
      const counts = await countsOfRun(facts, folder, code);
      const statements = await log.until('finishRunRecord');
      const taken = statements.find(({ name }) => name === 'tryAcquire');
      const recorded = statements.find(({ name }) => name === 'finishRunRecord');
      if (taken === undefined || recorded === undefined) throw new Error('the log says nothing of the lease');
      return {
        wholeMs,
        ms: recorded.endedAt - taken.endedAt,
        statements: statements.slice(statements.indexOf(taken) + 1),
        databaseMs: statements.reduce((sum, { ms }) => sum + ms, 0),
        peakMb,
        counts,
      };
    },
    start(facts) {
      const { child, ended } = launch(facts, 'full');
      return { ended, stop: () => child.kill('SIGTERM') };
    },
  };
}

/** @throws Error for a run that did not do all that its mode asks for */
async function countsOfRun(
  { client }: FactsDatabase,
  folder: string,
  code: number | null,
): Promise<Readonly<Record<string, number>>> {
  const [row] = (
    await client.query<{ outcome: string; message: string | null; counts: Record<string, number> }>(
      `SELECT outcome, message, counts FROM counterfoil.job_runs ORDER BY started_at DESC LIMIT 1`,
    )
  ).rows;
  if (code === 0 && row?.outcome === 'succeeded') return row.counts;
  const lines = readFileSync(join(folder, 'runs.log'), 'utf8').trimEnd().split('\n');
  throw new Error(
    `the run ended with ${code}, outcome ${row?.outcome}: ${row?.message ?? lines.at(-1)?.slice(0, 1_000)}`,
  );
}

/** `kind key` of each finding that stands. */
export async function standingFindings({ client }: FactsDatabase): Promise<ReadonlySet<string>> {
  const { rows } = await client.query<{ print: string }>(
    `SELECT kind || ' ' || (key::jsonb ->> 0) AS print FROM counterfoil.discrepancies
      WHERE status IN ('suspected', 'open', 'acknowledged')`,
  );
  return new Set(rows.map(({ print }) => print));
}

function peakOf(pid: number | undefined): number | undefined {
  try {
    const peak = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
    return peak === undefined ? undefined : Number(peak) / 1024;
  } catch {
    return undefined; // no /proc, or the process has ended
  }
}
