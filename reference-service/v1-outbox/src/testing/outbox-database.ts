import { readFileSync } from 'node:fs';
import { Client } from 'pg';
import { createTestDatabase, type TestDatabase } from '../../../../test/postgres/database.ts';

/** The text of a file in `v1-outbox/sql/`. */
export function sqlFile(name: string): string {
  return readFileSync(new URL(`../../sql/${name}`, import.meta.url), 'utf8');
}

/** A database of its own with the business tables, event_backups and the outbox. */
export async function createOutboxDatabase(): Promise<TestDatabase> {
  const database = await createTestDatabase();
  await database.query(sqlFile('domain_events.sql'));
  return database;
}

/** What a file reported in its INFO: the text for a person, and the JSON for a script. */
export interface Report {
  text: string;
  // biome-ignore lint/suspicious/noExplicitAny: a test says itself what it expects of it.
  detail: any;
}

/** Runs a file over a plain connection of its own, as a script would; rejects with the error of Postgres. */
export async function runFile(url: string, name: string, before = ''): Promise<Report> {
  const client = new Client({ connectionString: url });
  await client.connect();
  const reports: Report[] = [];
  client.on('notice', ({ severity, message, detail }) => {
    if (severity === 'INFO') reports.push({ text: message ?? '', detail: JSON.parse(detail ?? 'null') });
  });
  try {
    if (before !== '') await client.query(before);
    // The extended protocol takes one statement and no more: what holds in it holds as one transaction.
    const statement = { text: sqlFile(name), queryMode: 'extended' };
    await client.query(statement);
  } finally {
    await client.end();
  }
  const [report, ...more] = reports;
  if (report === undefined || more.length > 0) throw new Error(`${name} made ${reports.length} reports`);
  return report;
}

/** A connection with an open transaction in which `sql` has run; ends it by `commit` or `rollback`. */
export async function openTransaction(
  url: string,
  sql: string,
  params: readonly unknown[] = [],
): Promise<{ end(how: 'commit' | 'rollback'): Promise<void> }> {
  const client = new Client({ connectionString: url });
  client.on('error', () => undefined);
  await client.connect();
  await client.query('begin');
  await client.query(sql, [...params]);
  return {
    async end(how) {
      await client.query(how);
      await client.end();
    },
  };
}

/** Whether a connection of this database waits for a lock, with this in its statement. */
export async function isWaiting(database: TestDatabase, inStatement: string): Promise<boolean> {
  const rows = await database.query(
    `select 1 from pg_stat_activity
     where datname = current_database() and wait_event_type = 'Lock' and position($1 in query) > 0`,
    [inStatement],
  );
  return rows.length > 0;
}

/** How many rows of the outbox have each status. */
export async function statuses(database: TestDatabase): Promise<Record<string, number>> {
  const rows = await database.query<{ status: string; n: number }>(
    'select status, count(*)::integer as n from domain_events group by status order by status',
  );
  return Object.fromEntries(rows.map(({ status, n }) => [status, n]));
}

/** A row of the outbox with only what matters to a test; gives its id. */
export async function addOutboxRow(
  database: TestDatabase,
  row: {
    sessionId?: string;
    status?: string;
    claimedMinutesAgo?: number;
    type?: string;
    payload?: unknown;
  } = {},
): Promise<string> {
  const { sessionId = crypto.randomUUID(), status = 'pending', claimedMinutesAgo = null } = row;
  const payload = row.payload ?? sessionPayload(sessionId);
  const [added] = await database.query<{ id: string }>(
    `insert into domain_events (event_type, aggregate_id, payload, status, claimed_by, claimed_at, available_at, created_at)
     select $1, $2, $3, $4, case when t is not null then 'somebody' end, t, coalesce(t, now()), coalesce(t, now())
     from (select now() - $5::integer * interval '1 minute' as t) claim returning id`,
    [
      row.type ?? 'services.session.completed.v1',
      sessionId,
      JSON.stringify(payload),
      status,
      claimedMinutesAgo,
    ],
  );
  return added?.id ?? '';
}

/** The payload of a completed session. */
export function sessionPayload(sessionId: string): Record<string, unknown> {
  return { sessionId, contractId: 'contract-1', mentorId: 'mentor-1', amountMinor: 12_500, currency: 'EUR' };
}

/** How many bills each of these sessions has, in their order. */
export async function billCounts(database: TestDatabase, sessionIds: readonly string[]): Promise<number[]> {
  const rows = await database.query<{ n: number }>(
    `select count(l.id)::integer as n from unnest($1::uuid[]) with ordinality as s (id, place)
     left join mentor_payable_ledgers l on l.session_id = s.id group by s.id, s.place order by s.place`,
    [sessionIds],
  );
  return rows.map(({ n }) => n);
}
