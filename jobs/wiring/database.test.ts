import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { checksFile, sessionBilling } from '../../test/builders/checks.ts';
import { run } from '../../test/builders/run.ts';
import { createTestDatabase, type TestDatabase, type TestRole } from '../../test/postgres/database.ts';
import { wiringJob } from './job.ts';

/** Not of this database alone, so it goes by itself. */
const SEEING = `wiring_${randomBytes(6).toString('hex')}`;

let database: TestDatabase;
beforeAll(async () => {
  database = await createTestDatabase();
});
afterAll(async () => {
  await database.query(`DROP ROLE IF EXISTS ${SEEING}`);
  await database.drop();
});

/** @param login whose URL stands at the key of `role` */
const tryLogin = async (role: string, login: TestRole, changes: Readonly<Record<string, string>> = {}) =>
  await run(wiringJob, {
    DATABASE_URL: database.urlAs(login),
    CF_SUBJECT: 'database',
    CF_ROLE: role,
    CF_CHECKS_FILE: checksFile(sessionBilling()),
    CF_WAIT_SECONDS: '0',
    ...changes,
  });

/** As long as `work` takes, the database is otherwise. */
const during = async (begin: string, end: string, work: () => Promise<void>) => {
  await database.query(begin);
  try {
    await work();
  } finally {
    await database.query(end);
  }
};

describe('the login of a role', () => {
  test.each(['owner', 'jobs', 'exporter', 'retention'])('is right for %s with its own URL', async (role) => {
    const end = await tryLogin(role, `counterfoil_${role}` as TestRole);
    expect(end.exitCode, end.log).toBe(0);
    expect(end.message).toBe('database: wired as it must be');
  });

  test.each<[role: string, login: TestRole, lacks: string]>([
    ['owner', 'counterfoil_jobs', 'CREATE on the state schema'],
    ['jobs', 'counterfoil_exporter', 'INSERT on job_runs'],
    ['jobs', 'counterfoil_retention', 'UPDATE on discrepancies'],
    ['exporter', 'counterfoil_retention', 'INSERT on audit'],
    ['retention', 'counterfoil_jobs', 'DELETE on job_runs'],
  ])('of %s is refused where it is that of %s, which lacks %s', async (role, login, lacks) => {
    const end = await tryLogin(role, login);
    expect(end.exitCode).toBe(2);
    expect(end.message).toContain(`the URL of ${role} logs in as ${login}, which lacks `);
    expect(end.message).toContain(lacks);
    expect(end.message).toContain(`it has to be the URL of counterfoil_${role}`);
  });

  test('of the jobs is refused where it may change a bill', async () => {
    await during(
      'GRANT UPDATE ON mentor_payable_ledgers TO counterfoil_jobs',
      'REVOKE UPDATE ON mentor_payable_ledgers FROM counterfoil_jobs',
      async () => {
        const end = await tryLogin('jobs', 'counterfoil_jobs');
        expect(end.exitCode).toBe(1);
        expect(end.message).toContain(
          'which may change "public"."mentor_payable_ledgers": this role only reads',
        );
      },
    );
    expect((await tryLogin('jobs', 'counterfoil_jobs')).exitCode).toBe(0);
  });

  test('of the service itself, put at the key of the jobs, is refused', async () => {
    const end = await tryLogin('jobs', 'counterfoil_jobs', { DATABASE_URL: database.url });
    expect(end.exitCode).toBe(1);
    expect(end.message).toContain('which may change "public"."sessions", "public"."mentor_payable_ledgers"');
  });

  test('of nobody is refused, and its password is not repeated', async () => {
    const url = new URL(database.urlAs('counterfoil_jobs'));
    url.password = 'a-wrong-one';
    const end = await tryLogin('jobs', 'counterfoil_jobs', { DATABASE_URL: url.href });
    expect(end.exitCode).toBe(2);
    expect(end.log).toContain('database_refused');
    expect(end.log).not.toContain('a-wrong-one');
  });
});

describe('what the checks need', () => {
  test('is named where a right to read is missing', async () => {
    await during(
      'REVOKE SELECT ON sessions FROM counterfoil_jobs',
      'GRANT SELECT ON sessions TO counterfoil_jobs',
      async () => {
        const end = await tryLogin('jobs', 'counterfoil_jobs');
        expect(end.exitCode).toBe(2);
        expect(end.message).toContain('GRANT SELECT ON');
      },
    );
  });

  test('is named where the table of events is another one; where nothing is replayed it may be', async () => {
    const events = { CF_EVENTS_TABLE: 'no_such_table' };
    const end = await tryLogin('jobs', 'counterfoil_jobs', events);
    expect(end.exitCode).toBe(2);
    expect(end.message).toContain('no_such_table');
    const without = await tryLogin('jobs', 'counterfoil_jobs', { ...events, CF_EVENTS_NEEDED: 'false' });
    expect(without.exitCode, without.log).toBe(0);
  });

  test('is named where the table of events names versions and is said not to, and the other way round', async () => {
    const versions = async (said: string) =>
      await tryLogin('exporter', 'counterfoil_exporter', { CF_VERSIONS: said });
    expect((await versions('false')).exitCode).toBe(0);
    const without = await versions('true');
    expect(without.exitCode).toBe(1);
    expect(without.message).toContain('event_backups has no column published_hash');
    await during(
      'ALTER TABLE event_backups ADD COLUMN published_hash text',
      'ALTER TABLE event_backups DROP COLUMN published_hash',
      async () => {
        expect((await versions('true')).exitCode).toBe(0);
        const named = await versions('false');
        expect(named.exitCode).toBe(1);
        expect(named.message).toContain('set service.versions to true');
        // Where nobody says anything, nothing is asked.
        expect((await tryLogin('exporter', 'counterfoil_exporter')).exitCode).toBe(0);
      },
    );
  });

  test('is named where retention may not delete an event', async () => {
    await during(
      'REVOKE DELETE ON event_backups FROM counterfoil_retention',
      'GRANT DELETE ON event_backups TO counterfoil_retention',
      async () => {
        const end = await tryLogin('retention', 'counterfoil_retention');
        expect(end.exitCode).toBe(2);
        expect(end.message).toContain('lacks DELETE on "public"."event_backups"');
      },
    );
  });
});

test('a role that does not see the transactions of others is refused where a gate needs it, and only there', async () => {
  const stats = { CF_STATS_NEEDED: 'true' };
  const blind = await tryLogin('jobs', 'counterfoil_jobs', stats);
  expect(blind.exitCode).toBe(2);
  expect(blind.message).toContain('GRANT pg_read_all_stats TO counterfoil_jobs;');
  expect((await tryLogin('exporter', 'counterfoil_exporter', stats)).exitCode).toBe(0);
  // As a login of its own with the grant: roles belong to the whole server, where other tests are blind on purpose.
  await database.query(
    `CREATE ROLE ${SEEING} LOGIN PASSWORD 'x' IN ROLE counterfoil_jobs, pg_read_all_stats`,
  );
  const url = new URL(database.url);
  url.username = SEEING;
  url.password = 'x';
  const seeing = await tryLogin('jobs', 'counterfoil_jobs', { ...stats, DATABASE_URL: url.href });
  expect(seeing.exitCode, seeing.log).toBe(0);
});

test('a time zone that the database does not know is refused', async () => {
  const end = await tryLogin('jobs', 'counterfoil_jobs', { CF_SERVICE_TIME_ZONE: 'Mars/Olympus' });
  expect(end.exitCode).toBe(2);
  expect(end.message).toContain('CF_SERVICE_TIME_ZONE');
  const known = await tryLogin('jobs', 'counterfoil_jobs', { CF_SERVICE_TIME_ZONE: 'Europe/Madrid' });
  expect(known.exitCode, known.log).toBe(0);
});

test('a state schema that is not there yet is no refusal: the schema job may be on its way', async () => {
  const end = await tryLogin('jobs', 'counterfoil_jobs', { CF_SCHEMA: 'elsewhere' });
  expect(end.exitCode).toBe(1);
  expect(end.log).toContain('schema_absent');
});

test('nothing is written: neither a run nor a lease', async () => {
  await tryLogin('jobs', 'counterfoil_jobs');
  expect(await database.query('SELECT FROM counterfoil.job_runs')).toEqual([]);
  expect(await database.query('SELECT FROM counterfoil.job_leases')).toEqual([]);
});
