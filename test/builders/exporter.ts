/** Collections of the exporter on a test database, with its own role and its own grants. */
import type { Collected } from '../../jobs/exporter/collect.ts';
import type { FilledCollection } from '../../jobs/exporter/collection.ts';
import { SeriesCache } from '../../jobs/exporter/series-cache.ts';
import type { TestDatabase } from '../postgres/database.ts';

/** What a scrape shows after one success of a collection; the reason where it is off. */
export async function scrapeOf<C extends FilledCollection>(
  collection: C,
  collected: Collected<C>,
): Promise<string> {
  if (typeof collected === 'string') return `# off: ${collected}`;
  const cache = new SeriesCache({ installation: 'counterfoil', version: '1', maxAgeMs: 60_000 }, []);
  cache.publish(collection, collected);
  return await cache.render();
}

interface FindingRow {
  readonly check: string;
  readonly kind: 'missing' | 'duplicate' | 'amount' | 'orphan';
  readonly key: string;
  readonly status: 'suspected' | 'open' | 'acknowledged' | 'resolved' | 'waived';
  readonly cause: string | null;
  readonly hash: string | null;
  /** As Postgres reads it. */
  readonly factAt: string | null;
  readonly firstSeenAt: string;
  readonly openedAt: string | null;
  readonly expectedMinor: string | null;
  readonly actualMinor: string | null;
  readonly currency: string | null;
  readonly reopenCount: number;
  readonly acknowledgedUntil: string | null;
}

let findings = 0;

/** A finding as a run has left it; gives its id. */
export async function addFinding(database: TestDatabase, row: Partial<FindingRow> = {}): Promise<string> {
  findings += 1;
  const status = row.status ?? 'open';
  const kind = row.kind ?? 'missing';
  const finding: FindingRow = {
    check: 'session-billing',
    kind,
    key: `["${findings}"]`,
    status,
    cause: kind === 'missing' ? 'unknown' : null,
    hash: null,
    factAt: new Date().toISOString(),
    firstSeenAt: new Date().toISOString(),
    openedAt: status === 'suspected' ? null : new Date().toISOString(),
    expectedMinor: null,
    actualMinor: null,
    currency: null,
    reopenCount: 0,
    acknowledgedUntil: status === 'acknowledged' ? new Date(Date.now() + 3_600_000).toISOString() : null,
    ...row,
  };
  const [inserted] = await database.query<{ id: string }>(
    `INSERT INTO counterfoil.discrepancies
       (check_name, kind, key, status, cause, published_hash, fact_at, first_seen_at, opened_at, ledger_rows,
        expected_minor, actual_minor, currency, reopen_count, acknowledged_until, acknowledged_by, first_run_id)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 0, $10, $11, $12, $13, $14,
             CASE WHEN $4 = 'acknowledged' THEN 'ann' END, gen_random_uuid())
     RETURNING id`,
    [
      finding.check,
      finding.kind,
      finding.key,
      finding.status,
      finding.cause,
      finding.hash,
      finding.factAt,
      finding.firstSeenAt,
      finding.openedAt,
      finding.expectedMinor,
      finding.actualMinor,
      finding.currency,
      finding.reopenCount,
      finding.acknowledgedUntil,
    ],
  );
  return inserted?.id ?? '';
}

/** A check as a run has declared it. */
export async function addCheck(
  database: TestDatabase,
  row: {
    readonly name?: string;
    readonly installation?: string;
    readonly verifiedThrough?: string | null;
    readonly heldBackBy?: string | null;
  } = {},
): Promise<void> {
  await database.query(
    `INSERT INTO counterfoil.checks (name, installation, definition_hash, definition, declared_at, verified_through, held_back_by)
     VALUES ($1, $2, 'x', '{}', '2026-01-02T00:00:00Z', $3, $4)`,
    [
      row.name ?? 'session-billing',
      row.installation ?? 'counterfoil',
      row.verifiedThrough ?? null,
      row.heldBackBy ?? null,
    ],
  );
}

/** A run that began so many seconds ago; it took one second unless it is at work. */
export async function addRun(
  database: TestDatabase,
  row: {
    readonly job?: string;
    readonly mode?: string;
    readonly outcome?: string;
    readonly secondsAgo?: number;
    readonly installation?: string;
  } = {},
): Promise<void> {
  const outcome = row.outcome ?? 'succeeded';
  await database.query(
    `INSERT INTO counterfoil.job_runs (run_id, job, mode, installation, outcome, pod, version, started_at, seen_at, finished_at)
     SELECT gen_random_uuid(), $1, $2, $3, $4, 'pod', '1', began.at, began.at + interval '1 second',
            CASE WHEN $4 <> 'running' THEN began.at + interval '1 second' END
       FROM (SELECT now() - $5::double precision * interval '1 second' AS at) AS began`,
    [
      row.job ?? 'billing-reconciliation',
      row.mode ?? 'tail',
      row.installation ?? 'counterfoil',
      outcome,
      row.secondsAgo ?? 60,
    ],
  );
}
