import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';
import type { SettingsShape } from './config.ts';
import { flag } from './config.ts';
import { RunFailure } from './failures.ts';
import { bundleVersion, exitCodeOf, type Job, type RunContext, type RunResult, runJob } from './run-job.ts';
import type { RunOutcome } from './run-record.ts';

let postgres: TestDatabase;
beforeAll(async () => {
  postgres = await createTestDatabase();
});
afterAll(async () => {
  await postgres.drop();
});
beforeEach(async () => {
  await postgres.query('DELETE FROM counterfoil.job_runs');
});

type Context = RunContext<SettingsShape>;
type Work = (context: Context) => Promise<RunResult>;

const done: RunResult = { outcome: 'succeeded', counts: { looked_at: 3 } };

const jobOf = (work: Work, parts: Partial<Job<SettingsShape>> = {}): Job<SettingsShape> => ({
  name: 'made-up',
  settings: { CF_EXIT_ON_FINDINGS: flag(false) },
  mode: () => 'once',
  hasState: () => true,
  exitsOnFindings: (settings) => settings.CF_EXIT_ON_FINDINGS === true,
  run: work,
  ...parts,
});

interface Ended {
  readonly exitCode: number;
  readonly log: Record<string, unknown>[];
  readonly text: string;
  /** The code with which the process would have been ended at the deadline. */
  readonly forced: number[];
}

async function run(
  work: Work,
  environment: Record<string, string> = {},
  parts: Partial<Job<SettingsShape>> = {},
): Promise<Ended> {
  const lines: string[] = [];
  const forced: number[] = [];
  const exitCode = await runJob(jobOf(work, parts), {
    environment: {
      DATABASE_URL: postgres.urlAs('counterfoil_jobs'),
      CF_DATABASE_RETRY_SECONDS: '0',
      ...environment,
    },
    logDestination: { write: (line) => lines.push(line) },
    exit: (code) => forced.push(code),
  });
  return { exitCode, log: lines.map((line) => JSON.parse(line)), text: lines.join(''), forced };
}

const records = async () => await postgres.query('SELECT * FROM counterfoil.job_runs ORDER BY started_at');

describe('the exit code', () => {
  test.each<[Exclude<RunOutcome, 'failed' | 'refused'>, boolean, number, number]>([
    ['succeeded', false, 0, 0],
    ['succeeded', true, 0, 3],
    ['partial', false, 0, 4],
    ['partial', true, 0, 4],
    ['skipped', false, 0, 4],
    ['implausible', true, 0, 4],
    ['endpoint_down', false, 1, 1],
  ])(
    'of %s with open findings %s is %i, and %i where findings were asked for',
    (outcome, open, plain, asked) => {
      expect(exitCodeOf({ outcome, openFindings: open }, false)).toBe(plain);
      expect(exitCodeOf({ outcome, openFindings: open }, true)).toBe(asked);
    },
  );
});

describe('a run', () => {
  test('is recorded with what it did', async () => {
    const { exitCode, log } = await run(async () => ({ ...done, message: 'all looked at' }), {
      CF_INSTALLATION: 'eu',
      CF_POD_NAME: 'made-up-1',
    });
    expect(exitCode).toBe(0);
    expect(await records()).toEqual([
      expect.objectContaining({
        job: 'made-up',
        mode: 'once',
        installation: 'eu',
        outcome: 'succeeded',
        exit_code: 0,
        failure_id: null,
        message: 'all looked at',
        counts: { looked_at: 3 },
        pod: 'made-up-1',
        version: bundleVersion,
        finished_at: expect.any(Date),
      }),
    ]);
    expect(log).toEqual([
      expect.objectContaining({ level: 'info', outcome: 'succeeded', exitCode: 0, msg: 'all looked at' }),
    ]);
  });

  test('stands as running while it works, and shows that it is alive', async () => {
    await run(async ({ runId, touch }) => {
      const [before] = await records();
      expect(before).toMatchObject({ run_id: runId, outcome: 'running', finished_at: null, counts: {} });
      await touch({ looked_at: 1 });
      const [after] = await records();
      expect(after).toMatchObject({ outcome: 'running', counts: { looked_at: 1 } });
      expect(Number(after?.seen_at)).toBeGreaterThan(Number(before?.seen_at));
      return done;
    });
  });

  test.each<[RunResult, number]>([
    [{ outcome: 'partial', counts: {} }, 4],
    [{ outcome: 'skipped', counts: {} }, 4],
    [{ outcome: 'implausible', counts: {} }, 4],
    [{ outcome: 'succeeded', counts: {}, openFindings: true }, 3],
    [{ outcome: 'endpoint_down', counts: {} }, 1],
  ])('that ends as %o is recorded so, with the exit code that was asked for', async (result, asked) => {
    const { exitCode } = await run(async () => result, { CF_EXIT_ON_FINDINGS: 'true' });
    expect(exitCode).toBe(asked);
    expect(await records()).toEqual([expect.objectContaining({ outcome: result.outcome, exit_code: asked })]);
  });

  test.each([
    [new RunFailure('index_missing', 'make this index'), 'refused', 2, 'index_missing'],
    [new RunFailure('lease_lost', 'lost'), 'failed', 1, 'lease_lost'],
    [new RunFailure('endpoint_down', 'down'), 'endpoint_down', 1, 'endpoint_down'],
    [new TypeError('a defect'), 'failed', 1, 'internal'],
  ])('that throws %s is recorded as %s and ends with %i', async (thrown, outcome, code, failureId) => {
    const { exitCode, log } = await run(async () => {
      throw thrown;
    });
    expect(exitCode).toBe(code);
    expect(await records()).toEqual([
      expect.objectContaining({
        outcome,
        exit_code: code,
        failure_id: failureId,
        message: thrown.message,
        counts: {},
      }),
    ]);
    expect(log).toEqual([
      expect.objectContaining({ level: 'error', failureId, exitCode: code, msg: thrown.message }),
    ]);
  });

  test('that fails keeps the counts that it has shown', async () => {
    await run(async ({ touch }) => {
      await touch({ looked_at: 2 });
      throw new RunFailure('lease_lost', 'lost');
    });
    expect((await records())[0]).toMatchObject({ outcome: 'failed', counts: { looked_at: 2 } });
  });

  test('that met an error of Postgres says nothing of the row in log or record', async () => {
    const { text } = await run(async ({ database }) => {
      await database.read(async (transaction) => await transaction.query(`SELECT 'canary-in-a-value'::uuid`));
      return done;
    });
    const [record] = await records();
    expect(record).toMatchObject({ outcome: 'failed', failure_id: 'database_error' });
    expect(text + JSON.stringify(record)).not.toContain('canary');
  });

  test('without state needs no schema and leaves no record', async () => {
    const { exitCode, log } = await run(
      async ({ touch }) => {
        await touch({ looked_at: 1 });
        return done;
      },
      { CF_SCHEMA: 'not_there' },
      { hasState: () => false },
    );
    expect([exitCode, log.length, await records()]).toEqual([0, 1, []]);
  });
});

describe('settings that cannot be used', () => {
  test('end the run with 2 before anything is touched, in one line without values', async () => {
    const { exitCode, log, text } = await run(async () => done, {
      DATABASE_URL: 'mysql://u:canary@db/app',
      CF_LOG_LEVEL: 'canary',
      CF_MADE_UP: 'canary',
    });
    expect(exitCode).toBe(2);
    expect(log).toHaveLength(1);
    expect(log[0]).toMatchObject({ failureId: 'settings_invalid', exitCode: 2, installation: 'unknown' });
    for (const name of ['DATABASE_URL', 'CF_LOG_LEVEL', 'CF_MADE_UP']) expect(text).toContain(name);
    expect(text).not.toContain('canary');
    expect(await records()).toEqual([]);
  });
});

describe('the database', () => {
  test('that cannot be reached ends the run with 1', async () => {
    const url = new URL(postgres.url);
    url.port = '1';
    const { exitCode, log } = await run(async () => done, { DATABASE_URL: url.href });
    expect([exitCode, log[0]?.failureId]).toEqual([1, 'database_unreachable']);
  });

  test('that refuses the login ends the run with 2', async () => {
    const url = new URL(postgres.url);
    url.password = 'canary';
    const { exitCode, log, text } = await run(async () => done, { DATABASE_URL: url.href });
    expect([exitCode, log[0]?.failureId]).toEqual([2, 'database_refused']);
    expect(text).not.toContain('canary');
  });
});

describe('the state schema', () => {
  const setVersion = async (level: number, minCompatibleCode: number) =>
    await postgres.query('UPDATE counterfoil.schema_version SET level = $1, min_compatible_code = $2', [
      level,
      minCompatibleCode,
    ]);
  let original: { level: number; min_compatible_code: number };
  beforeAll(async () => {
    [original] = (await postgres.query('SELECT * FROM counterfoil.schema_version')) as [typeof original];
  });
  afterAll(async () => {
    await setVersion(original.level, original.min_compatible_code);
  });

  test('that is absent may still be on its way: 1, and no record can be written', async () => {
    const { exitCode, log } = await run(async () => done, { CF_SCHEMA: 'not_there' });
    expect([exitCode, log[0]?.failureId, log[0]?.msg]).toEqual([
      1,
      'schema_absent',
      expect.stringContaining('npm run schema'),
    ]);
  });

  test('that was begun and has no version yet counts as absent', async () => {
    await postgres.query('BEGIN');
    await postgres.query('CREATE SCHEMA begun');
    await postgres.query('CREATE TABLE begun.schema_version (LIKE counterfoil.schema_version)');
    await postgres.query('GRANT USAGE ON SCHEMA begun TO counterfoil_jobs');
    await postgres.query('GRANT SELECT ON begun.schema_version TO counterfoil_jobs');
    await postgres.query('COMMIT');
    const { log } = await run(async () => done, { CF_SCHEMA: 'begun' });
    expect(log[0]?.failureId).toBe('schema_absent');
  });

  test('that the role may not use is no absent one: 2, with the statement that mends it', async () => {
    await postgres.query('CREATE SCHEMA closed');
    const { exitCode, log } = await run(async () => done, { CF_SCHEMA: 'closed' });
    expect([exitCode, log[0]?.failureId]).toEqual([2, 'grant_missing']);
    expect(log[0]?.msg).toContain('GRANT USAGE ON SCHEMA "closed" TO counterfoil_jobs;');
  });

  test('that is older may still be on its way: 1', async () => {
    await setVersion(0, 0);
    const { exitCode, log } = await run(async () => done);
    expect([exitCode, log[0]?.failureId, await records()]).toEqual([1, 'schema_older', []]);
  });

  test('that is newer and still admits this code is used', async () => {
    await setVersion(99, original.level);
    expect((await run(async () => done)).exitCode).toBe(0);
  });

  test('that is newer and has dropped what this code needs is refused: 2', async () => {
    await setVersion(99, original.level + 1);
    const { exitCode, log } = await run(async () => done);
    expect([exitCode, log[0]?.failureId]).toEqual([2, 'schema_newer']);
    expect(log[0]?.msg).toContain('use a newer image');
  });
});

describe('a freeze', () => {
  const freeze = async (until: string, released: string | null = null): Promise<string> => {
    const [row] = await postgres.query<{ id: string }>(
      `INSERT INTO counterfoil.freezes (reason, frozen_until, released_at)
       VALUES ('rollback', clock_timestamp() + $1::interval, $2::timestamptz) RETURNING id`,
      [until, released],
    );
    return row?.id ?? '';
  };
  beforeEach(async () => {
    await postgres.query('DELETE FROM counterfoil.freezes');
  });

  test('makes a run end as skipped before it has done anything', async () => {
    const id = await freeze('1 hour');
    let ran = false;
    const { exitCode } = await run(async () => {
      ran = true;
      return done;
    });
    expect([exitCode, ran]).toEqual([0, false]);
    expect(await records()).toEqual([
      expect.objectContaining({
        outcome: 'skipped',
        message: expect.stringMatching(new RegExp(`^frozen until .*: freeze ${id}$`)),
      }),
    ]);
  });

  test('lets its owner run, and nobody else', async () => {
    const id = await freeze('1 hour');
    await run(async () => done, { CF_FREEZE_ID: id });
    await run(async () => done, { CF_FREEZE_ID: String(Number(id) + 1) });
    expect((await records()).map((record) => record.outcome)).toEqual(['succeeded', 'skipped']);
  });

  test('that begins while a run lasts is seen by a run that asks; its owner does not mind it', async () => {
    const answers: boolean[] = [];
    await run(async ({ isFrozen }) => {
      answers.push(await isFrozen());
      const id = await freeze('1 hour');
      answers.push(await isFrozen());
      await run(
        async (owner) => {
          answers.push(await owner.isFrozen());
          return done;
        },
        { CF_FREEZE_ID: id },
      );
      return done;
    });
    await run(
      async ({ isFrozen }) => {
        answers.push(await isFrozen());
        return done;
      },
      {},
      { hasState: () => false },
    );
    expect(answers).toEqual([false, true, false, false]);
  });

  test('that has run out or was released holds nobody up', async () => {
    await freeze('-1 second');
    await freeze('1 hour', '2026-01-01');
    await run(async () => done);
    expect((await records())[0]).toMatchObject({ outcome: 'succeeded' });
  });
});

describe('leases', () => {
  const leases = async () => await postgres.query('SELECT name, holder FROM counterfoil.job_leases');

  test('are held by the run and given back at its end, be it good or bad', async () => {
    for (const fail of [false, true]) {
      await run(async ({ lease, runId }) => {
        expect(await lease('one', { ttlMs: 30_000, waitMs: 0 })).toBeDefined();
        expect(await lease('one', { ttlMs: 30_000, waitMs: 0 })).toBeUndefined();
        expect(await leases()).toEqual([{ name: 'one', holder: runId }]);
        if (fail) throw new RunFailure('internal', 'failed');
        return done;
      });
      expect(await leases()).toEqual([]);
    }
  });

  test('that cannot be given back run out by themselves; the run’s outcome stands', async () => {
    const { exitCode, log } = await run(async ({ lease }) => {
      await lease('stuck', { ttlMs: 30_000, waitMs: 0 });
      await postgres.query('REVOKE DELETE ON counterfoil.job_leases FROM counterfoil_jobs');
      return done;
    });
    await postgres.query('GRANT DELETE ON counterfoil.job_leases TO counterfoil_jobs');
    expect(exitCode).toBe(0);
    expect(log.at(-1)).toMatchObject({ level: 'warn', lease: 'stuck' });
    expect((await records())[0]).toMatchObject({ outcome: 'succeeded' });
    await postgres.query('DELETE FROM counterfoil.job_leases');
  });
});

describe('a record that cannot be written', () => {
  test('at the start refuses the run before it has done anything', async () => {
    await postgres.query('REVOKE INSERT ON counterfoil.job_runs FROM counterfoil_jobs');
    let ran = false;
    const { exitCode, log } = await run(async () => {
      ran = true;
      return done;
    });
    await postgres.query('GRANT INSERT ON counterfoil.job_runs TO counterfoil_jobs');
    expect([exitCode, ran, log[0]?.failureId]).toEqual([2, false, 'grant_missing']);
  });

  test('at the end makes a good run fail: nobody could see that it was good', async () => {
    const { exitCode, log } = await run(async () => {
      await postgres.query('REVOKE UPDATE ON counterfoil.job_runs FROM counterfoil_jobs');
      return done;
    });
    await postgres.query('GRANT UPDATE ON counterfoil.job_runs TO counterfoil_jobs');
    expect(exitCode).toBe(2);
    expect(log.map((entry) => entry.level)).toEqual(['info', 'error']);
    expect((await records())[0]).toMatchObject({ outcome: 'running' });
  });

  test('at the end leaves a refusal a refusal', async () => {
    const { exitCode } = await run(async () => {
      await postgres.query('ALTER TABLE counterfoil.job_runs RENAME TO hidden');
      throw new RunFailure('index_missing', 'make this index');
    });
    await postgres.query('ALTER TABLE counterfoil.hidden RENAME TO job_runs');
    expect(exitCode).toBe(2);
  });
});

describe.each(['SIGTERM', 'SIGINT'] as const)('%s', (name) => {
  /** Only the listeners of the run: those of the test runner must not hear it. */
  const send = (before: readonly unknown[]) => {
    for (const listener of process.listeners(name))
      if (!before.includes(listener)) (listener as (signal: string) => void)(name);
  };

  test('tells the run to stop; what it then gives back is its outcome', async () => {
    const before = process.listeners(name);
    const { exitCode, forced } = await run(async ({ signal }) => {
      expect(signal.aborted).toBe(false);
      send(before);
      send(before);
      expect(signal.aborted).toBe(true);
      return { outcome: 'partial', counts: {} };
    });
    expect([exitCode, forced]).toEqual([0, []]);
    expect((await records())[0]).toMatchObject({ outcome: 'partial' });
    expect(process.listeners(name)).toEqual(before);
  });
});

test('a run that has not stopped at its deadline is cut off with 1', async () => {
  const before = process.listeners('SIGTERM');
  let cutOff = () => {};
  const isCutOff = new Promise<void>((resolve) => {
    cutOff = resolve;
  });
  const lines: string[] = [];
  const codes: number[] = [];
  await runJob(
    jobOf(async () => {
      for (const listener of process.listeners('SIGTERM'))
        if (!before.includes(listener)) (listener as (signal: string) => void)('SIGTERM');
      await isCutOff;
      return done;
    }),
    {
      environment: { DATABASE_URL: postgres.urlAs('counterfoil_jobs'), CF_SHUTDOWN_SECONDS: '1' },
      logDestination: { write: (line) => lines.push(line) },
      exit: (code) => {
        codes.push(code);
        cutOff();
      },
    },
  );
  expect(codes).toEqual([1]);
  expect(JSON.parse(lines[0] ?? '')).toMatchObject({ failureId: 'deadline_exceeded', exitCode: 1 });
});

test('a lease that the job gave back itself is not given back a second time', async () => {
  const { exitCode, text } = await run(async (context) => {
    const lease = await context.lease('given-back', { ttlMs: 5_000, waitMs: 0 });
    await lease?.release();
    await postgres.query('REVOKE DELETE ON counterfoil.job_leases FROM counterfoil_jobs');
    return done;
  });
  await postgres.query('GRANT DELETE ON counterfoil.job_leases TO counterfoil_jobs');
  expect(exitCode).toBe(0);
  expect(text).not.toContain('a lease was not given back');
});
