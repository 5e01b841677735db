import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { checksFile } from '../../test/builders/checks.ts';
import { kindsOf, reconcile } from '../../test/builders/reconciliation.ts';
import { minutesAgo } from '../../test/builders/service.ts';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';
import { settledInstant } from '../checks/window-sql.ts';

let database: TestDatabase;

beforeAll(async () => {
  database = await createTestDatabase();
  // The server lives in a zone of its own, and so does the service that writes wall-clock times.
  await database.query(`ALTER DATABASE ${database.name} SET timezone = 'Asia/Kathmandu'`);
  await database.query(`CREATE TABLE visits (id bigint PRIMARY KEY, at timestamp)`);
  await database.query(
    `CREATE TABLE visit_bills (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, visit bigint, at timestamp)`,
  );
  for (const index of ['visits (at)', 'visit_bills (visit)', 'visit_bills (at)'])
    await database.query(`CREATE INDEX ON ${index}`);
  await database.query('GRANT SELECT ON visits, visit_bills TO counterfoil_jobs');
});
afterAll(async () => {
  await database.drop();
});
beforeEach(async () => {
  await database.query('TRUNCATE visits, visit_bills');
  await database.query(
    'TRUNCATE counterfoil.discrepancies, counterfoil.reconciliation_windows, counterfoil.checks, counterfoil.waivers',
  );
});

const checks = () =>
  checksFile({
    name: 'visits',
    facts: { table: 'visits', key: ['id'], at: 'at' },
    ledger: { table: 'visit_bills', key: ['visit'], at: 'at' },
  });
const run = (mode: string, zone: string, environment: Record<string, string> = {}) =>
  reconcile(database, {
    CF_MODE: mode,
    CF_CHECKS_FILE: checks(),
    CF_SERVICE_TIME_ZONE: zone,
    ...environment,
  });
/** Writes a row at the wall clock that a zone shows at an instant. */
const insertAt = (id: number, instant: string, zone: string) =>
  database.query('INSERT INTO visits VALUES ($1, $2::timestamptz AT TIME ZONE $3)', [id, instant, zone]);

describe('times without a zone', () => {
  test.each(['Asia/Kathmandu', 'America/New_York', 'UTC'])(
    'the grace is counted in the zone of the service, %s, whatever that of the server',
    async (zone) => {
      await insertAt(1, minutesAgo(11), zone);
      await insertAt(2, minutesAgo(9), zone);
      await run('tail', zone);
      expect(await kindsOf(database)).toEqual(['missing 1']);
    },
  );

  test('what a finding says of its time is the instant', async () => {
    await insertAt(1, '2026-07-01T10:00:00.123456Z', 'America/New_York');
    await run('full', 'America/New_York');
    const [finding] = await database.query<{ fact_at: Date }>(
      'SELECT fact_at FROM counterfoil.discrepancies',
    );
    expect(finding?.fact_at.toISOString()).toBe('2026-07-01T10:00:00.123Z');
  });

  test.each([
    ['the night an hour happens twice', '2026-10-24T22:00:00Z', '2026-10-25T05:00:00Z'],
    ['the night an hour is left out', '2026-03-28T22:00:00Z', '2026-03-29T05:00:00Z'],
  ])('on %s each row is read once, whatever the windows', async (_, from, to) => {
    const minutes = (Date.parse(to) - Date.parse(from)) / 60_000;
    await database.query(
      `INSERT INTO visits SELECT n, ($1::timestamptz + n * interval '1 minute') AT TIME ZONE 'Europe/Berlin'
         FROM generate_series(0, $2::integer - 1) AS n`,
      [from, minutes],
    );
    let facts = 0;
    // Windows of odd widths, so that edges fall into the doubled hour and on both of its ends.
    const edges = [0, 13, 59, 60, 90, 119, 120, 125, 150, 179, 180, 181, 200, 240, 241, 300, minutes];
    for (const [position, edge] of edges.slice(0, -1).entries()) {
      const end = await run('verify', 'Europe/Berlin', {
        CF_VERIFY_FROM: new Date(Date.parse(from) + edge * 60_000).toISOString(),
        CF_VERIFY_TO: new Date(Date.parse(from) + (edges[position + 1] ?? 0) * 60_000).toISOString(),
      });
      facts += end.counts.facts ?? 0;
    }
    expect(facts).toBe(minutes);
    expect(await kindsOf(database)).toHaveLength(minutes);
  });

  const settled = async (time: string, zone: string): Promise<string> => {
    const { text, params } = settledInstant(time, zone);
    const [row] = await database.query<{ at: Date }>(text, params);
    return row?.at.toISOString() ?? '';
  };

  test('in the first pass of an hour that comes again, nothing of it is settled; in the second all is', async () => {
    // Berlin shows 02:00 to 03:00 from 00:00Z, and again from 01:00Z.
    expect(await settled('2026-10-24T23:59:59Z', 'Europe/Berlin')).toBe('2026-10-24T23:59:59.000Z');
    expect(await settled('2026-10-25T00:00:00Z', 'Europe/Berlin')).toBe('2026-10-25T00:00:00.000Z');
    expect(await settled('2026-10-25T00:30:00Z', 'Europe/Berlin')).toBe('2026-10-25T00:00:00.000Z');
    expect(await settled('2026-10-25T00:59:59Z', 'Europe/Berlin')).toBe('2026-10-25T00:00:00.000Z');
    expect(await settled('2026-10-25T01:00:00Z', 'Europe/Berlin')).toBe('2026-10-25T01:00:00.000Z');
    expect(await settled('2026-10-25T01:30:00Z', 'Europe/Berlin')).toBe('2026-10-25T01:30:00.000Z');
  });

  test('in spring, and where the clock moves by half an hour, the same holds', async () => {
    expect(await settled('2026-03-29T00:59:59Z', 'Europe/Berlin')).toBe('2026-03-29T00:59:59.000Z');
    expect(await settled('2026-03-29T01:30:00Z', 'Europe/Berlin')).toBe('2026-03-29T01:30:00.000Z');
    // Lord Howe is set back from 02:00 to 01:30 at 15:00Z.
    expect(await settled('2026-04-04T14:45:00Z', 'Australia/Lord_Howe')).toBe('2026-04-04T14:30:00.000Z');
    expect(await settled('2026-04-04T15:15:00Z', 'Australia/Lord_Howe')).toBe('2026-04-04T15:15:00.000Z');
  });

  test('bills beside visits of the doubled hour are found in both passes, and a second bill too', async () => {
    for (const [id, instant] of [
      [1, '2026-10-25T00:10:00Z'],
      [2, '2026-10-25T01:10:00Z'],
      [3, '2026-10-25T00:50:00Z'],
    ] as const) {
      await insertAt(id, instant, 'Europe/Berlin');
      await database.query(
        `INSERT INTO visit_bills (visit, at) VALUES ($1, $2::timestamptz AT TIME ZONE 'Europe/Berlin')`,
        [id, instant],
      );
    }
    await database.query(
      `INSERT INTO visit_bills (visit, at) VALUES (3, timestamptz '2026-10-25T01:55:00Z' AT TIME ZONE 'Europe/Berlin')`,
    );
    await run('full', 'Europe/Berlin', { CF_SLACK_SECONDS: '60' });
    expect(await kindsOf(database)).toEqual(['duplicate 3']);
  });
});
