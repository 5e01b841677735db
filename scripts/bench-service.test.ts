import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Client } from 'pg';
import { describe, expect, test } from 'vitest';
import { type Complete, runClosed, runPaced, sessionIdOf } from './bench-service-load.ts';
import { summarizeProfile } from './bench-service-profile.ts';
import { newWritten, pgbenchScript, writesOf } from './bench-service-statements.ts';
import { startEmbeddedPostgres } from './embedded-postgres.ts';

const sessions = { first: 1, count: 10_000 };
const atOnce: Complete = () => ({ published: Promise.resolve(), processed: Promise.resolve() });

describe('the paced load', () => {
  test('lets every event that was due in a stall see the stall', async () => {
    let started = 0;
    const stalling: Complete = (id) => {
      started += 1;
      if (started === 50) for (const until = performance.now() + 300; performance.now() < until; );
      return atOnce(id);
    };
    const { events, publishMs, leftPending } = await runPaced(stalling, sessions, 500, 0.6);
    expect({ events, leftPending }).toEqual({ events: 300, leftPending: 0 });
    // 150 of the 300 were due while nothing moved; a load that waits for its answers would have sent none of them.
    expect(publishMs.p99).toBeGreaterThan(250);
  });

  test('measures no stall where there was none', async () => {
    const { publishMs, processedMs } = await runPaced(atOnce, sessions, 500, 0.6);
    expect(publishMs.p50).toBeLessThan(100);
    expect(processedMs.p50).toBeLessThan(100);
  });

  test('counts events that nobody finishes, and waits for those that are only late', async () => {
    let started = 0;
    const partly: Complete = () => {
      started += 1;
      const late = new Promise((resolve) => setTimeout(resolve, 400));
      return {
        published: Promise.resolve(),
        processed: started <= 3 ? new Promise(() => undefined) : late,
      };
    };
    const { events, leftPending, processedMs } = await runPaced(partly, sessions, 100, 0.2, 300);
    expect({ events, leftPending }).toEqual({ events: 20, leftPending: 3 });
    expect(processedMs.p50).toBeGreaterThan(390);
  });

  test('ends with the error of a completion that fails', async () => {
    const failing: Complete = () => {
      const published = Promise.reject(new Error('refused'));
      return { published, processed: published };
    };
    await expect(runPaced(failing, sessions, 500, 0.1)).rejects.toThrow('refused');
  });
});

describe('the load at full speed', () => {
  test('keeps as many events under way as it has clients, and no more', async () => {
    let open = 0;
    let most = 0;
    const ids = new Set<string>();
    const counting: Complete = (id) => {
      ids.add(id);
      open += 1;
      most = Math.max(most, open);
      const processed = new Promise<void>((resolve) => setImmediate(resolve)).then(() => {
        open -= 1;
      });
      return { published: Promise.resolve(), processed };
    };
    const { events } = await runClosed(counting, { first: 1, count: 10_000_000 }, 7, 0.1);
    expect(most).toBe(7);
    expect(events).toBe(ids.size);
    expect(open).toBe(0);
  });

  test('fails when its sessions run out, as the rest would be no completions', async () => {
    await expect(runClosed(atOnce, { first: 1, count: 3 }, 1, 5)).rejects.toThrow('no sessions left');
  });
});

describe('the writes of one completion', () => {
  test('leave a completed session, a processed event, a delivery and a bill', async () => {
    const server = await startEmbeddedPostgres();
    const client = new Client({ connectionString: server.url });
    try {
      await client.connect();
      for (const name of [
        'reference-service/sql/schema.sql',
        'nestjs/sql/event_backups.sql',
        'nestjs/sql/event_deliveries.sql',
      ]) {
        await client.query(readFileSync(new URL(`../${name}`, import.meta.url), 'utf8'));
      }
      const sessionId = sessionIdOf(100_000_000_000);
      await client.query(
        `insert into sessions (id, contract_id, mentor_id, amount_minor, currency)
         values ($1, 'contract-1', 'mentor-1', 4200, 'EUR')`,
        [sessionId],
      );
      const { publish, bill, mark } = writesOf(newWritten(sessionId));
      const changed: (number | null)[] = [];
      for (const [text, params] of [...publish, ...bill, ...mark]) {
        changed.push((await client.query(text, [...params])).rowCount);
      }
      expect(changed).toEqual([1, 1, 1, 1, 1, 1]);
      const { rows } = await client.query(
        `select s.completed_at is not null as completed, b.status as event, d.status as delivery, l.amount_minor as amount
           from sessions s
           join mentor_payable_ledgers l on l.session_id = s.id
           join event_backups b on b.payload ->> 'sessionId' = s.id::text
           join event_deliveries d on d.event_id = b.event_id`,
      );
      expect(rows).toEqual([{ completed: true, event: 'processed', delivery: 'succeeded', amount: '4200' }]);
    } finally {
      await client.end();
      await server.stop();
    }
  });

  test.each([
    { commits: 1, begins: 1 },
    { commits: 3, begins: 3 },
  ] as const)('are the same six for pgbench under $commits commits', ({ commits, begins }) => {
    const lines = pgbenchScript(commits, 10, 5).split('\n');
    expect(lines.filter((line) => line === 'begin;')).toHaveLength(begins);
    expect(lines.filter((line) => line === 'commit;')).toHaveLength(begins);
    expect(lines.filter((line) => /^(update|insert) /.test(line))).toHaveLength(6);
    expect(lines.join('\n')).not.toMatch(/\$\d/);
  });
});

test('a profile is summed up by who owns the code, without the idle time', () => {
  const folder = mkdtempSync(join(tmpdir(), 'counterfoil-profile-'));
  try {
    const frame = (functionName: string, url: string) => ({ functionName, url, lineNumber: 0 });
    writeFileSync(
      join(folder, 'CPU.cpuprofile'),
      JSON.stringify({
        nodes: [
          { id: 1, callFrame: frame('(idle)', '') },
          { id: 2, callFrame: frame('query', 'file:///app/node_modules/pg/lib/client.js') },
          { id: 3, callFrame: frame('writev', '') },
        ],
        samples: [1, 2, 3],
        timeDeltas: [900, 25, 75],
      }),
    );
    const summary = summarizeProfile(folder);
    expect(summary).toContain('75.0 %  native writev');
    expect(summary).toContain('25.0 %  pg');
    expect(summary).not.toContain('idle');
    expect(summarizeProfile(tmpdir())).toContain('there is no profile');
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

test.each([
  { args: ['--help'], code: 0 },
  { args: ['--rounds', 'many'], code: 2 },
  { args: ['--fsync', 'maybe'], code: 2 },
  { args: ['--what'], code: 2 },
])('bench:service $args ends with $code before anything starts', async ({ args, code }) => {
  const ended = await new Promise<{ code: unknown; text: string }>((resolve) => {
    execFile(
      process.execPath,
      [fileURLToPath(new URL('bench-service.ts', import.meta.url)), ...args],
      (error, stdout, stderr) => resolve({ code: error?.code ?? 0, text: stdout + stderr }),
    );
  });
  expect(ended.code).toBe(code);
  expect(ended.text).toContain('--');
});
