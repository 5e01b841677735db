/**
 * How long the jobs' statements take, by the server's own log and clock: it is written for every statement of their role,
 * and says nothing of what others do. A statement that ran into its time limit is in it too, with the time it was given.
 */
import type { Client } from 'pg';
import { JOBS_ROLE } from './bench-reconciliation-data.ts';

/** Of a server that is started for the bench: a log of one file that SQL can read. */
export const logSettings = {
  logging_collector: 'on',
  log_destination: 'jsonlog',
  log_filename: 'bench.log',
  log_rotation_size: '0',
  log_rotation_age: '0',
  log_checkpoints: 'off',
  // LOG is above ERROR here: statements that are cancelled and the durations of all others.
  log_min_messages: 'error',
} as const;

export interface LoggedStatement {
  /** As the first line of its text says, such as `compareWindow`; `transaction control` without one. */
  readonly name: string;
  /** Parsing, planning and execution. */
  readonly ms: number;
  /** Milliseconds since 1970 by the server's clock. */
  readonly endedAt: number;
  /** Ended by its time limit. */
  readonly cancelled: boolean;
}

interface Line {
  readonly timestamp: string;
  readonly user?: string;
  readonly pid: number;
  readonly error_severity: string;
  readonly state_code?: string;
  readonly message: string;
  readonly statement?: string;
}

export interface ServerLog {
  /** Passes over what was written so far. */
  skip(): Promise<void>;
  /** The statements of the jobs since the last call, until one of the name `last` has ended. */
  until(last: string): Promise<readonly LoggedStatement[]>;
}

const PATIENCE_MS = 10_000;

/** Turns the log on for the jobs' role; what is measured is a run that begins after this. */
export async function openServerLog(client: Client): Promise<ServerLog> {
  // Names of the statement suffice: parameters are keys of rows, up to megabytes of them.
  await client.query(`ALTER ROLE ${JOBS_ROLE} SET log_min_duration_statement = 0`);
  await client.query(`ALTER ROLE ${JOBS_ROLE} SET log_parameter_max_length = 0`);
  const [place] = (
    await client.query<{ path: string | null }>(`SELECT pg_current_logfile('jsonlog') AS path`)
  ).rows;
  if (typeof place?.path !== 'string') throw new Error('the server writes no log that SQL can read');
  const { path } = place;
  let offset = 0;
  let rest = Buffer.alloc(0);
  const readLines = async (): Promise<Line[]> => {
    const [read] = (
      await client.query<{ chunk: Buffer }>(
        'SELECT pg_read_binary_file($1::text, $2::bigint, 1 << 28, true) AS chunk',
        [path, offset],
      )
    ).rows;
    if (read === undefined) return [];
    offset += read.chunk.length;
    const all = Buffer.concat([rest, read.chunk]);
    const end = all.lastIndexOf(0x0a) + 1;
    rest = all.subarray(end);
    return all
      .subarray(0, end)
      .toString()
      .split('\n')
      .filter((text) => text !== '')
      .map((text) => JSON.parse(text) as Line);
  };
  return {
    async skip() {
      await readLines();
    },
    async until(last) {
      const lines: Line[] = [];
      const deadline = Date.now() + PATIENCE_MS;
      for (;;) {
        const more = await readLines();
        lines.push(...more.filter(({ user }) => user === JOBS_ROLE));
        const statements = statementsOf(lines);
        if (statements.some(({ name }) => name === last)) return statements;
        if (Date.now() > deadline) throw new Error(`the server's log says nothing of ${last}`);
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
    },
  };
}

/** A statement with parameters has three lines: parse, bind (with planning) and execute. */
export function statementsOf(lines: readonly Line[]): readonly LoggedStatement[] {
  const statements: LoggedStatement[] = [];
  const prepared = new Map<number, { name: string; ms: number }>();
  const lastAt = new Map<number, number>();
  for (const { timestamp, pid, message, error_severity: severity, state_code: code, statement } of lines) {
    const endedAt = Date.parse(timestamp.replace(' UTC', 'Z').replace(' ', 'T'));
    const [, ms, step, text] =
      /^duration: ([\d.]+) ms {2}(parse|bind|execute|statement)[^:]*: (.*)/s.exec(message) ?? [];
    if (severity === 'ERROR' && code === '57014') {
      const ranMs = endedAt - (lastAt.get(pid) ?? endedAt);
      statements.push({ name: nameOf(statement ?? ''), ms: ranMs, endedAt, cancelled: true });
      prepared.delete(pid);
    } else if (ms !== undefined && text !== undefined) {
      const name = nameOf(text);
      const before = prepared.get(pid);
      const total = Number(ms) + (before?.name === name ? before.ms : 0);
      if (step === 'parse' || step === 'bind') prepared.set(pid, { name, ms: total });
      else {
        statements.push({ name, ms: total, endedAt, cancelled: false });
        prepared.delete(pid);
      }
    }
    lastAt.set(pid, endedAt);
  }
  return statements;
}

const nameOf = (text: string): string => /^-- [\w-]+: (\w+)/.exec(text)?.[1] ?? 'transaction control';
