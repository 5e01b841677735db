/** Collects what the first screen shows, in one short read; decides nothing but the verdict. */
import type { Database } from '../runtime/database.ts';
import { type PersonStep, stepsForAPerson } from './person.ts';
import {
  type CheckState,
  type FindingGroup,
  type Freeze,
  type LatestRun,
  type OpenRequest,
  type ReplayGroup,
  readChecks,
  readFindingGroups,
  readFreezes,
  readLatestRuns,
  readOpenRequests,
  readReplayGroups,
  readTrend,
  type Trend,
} from './queries.ts';
import { type RolloutState, readRolloutState } from './rollout-state.ts';

/**
 * `open`: at least one finding is. `unverified`: none is, but some check has not been verified lately. `suspected`:
 * findings that wait for their second look. `clean`: none of these.
 */
export type Verdict = 'open' | 'unverified' | 'suspected' | 'clean';

/** `incremental` verifies every hour; twice that without progress is no basis for "clean". */
const VERIFIED_LATELY_SECONDS = 7_200;

export interface Status {
  readonly at: string;
  readonly verdict: Verdict;
  readonly findings: readonly FindingGroup[];
  readonly trend: Trend;
  readonly checks: readonly CheckState[];
  readonly replay: readonly ReplayGroup[];
  readonly runs: readonly LatestRun[];
  readonly requests: readonly OpenRequest[];
  readonly freezes: readonly Freeze[];
  readonly rollout: RolloutState;
  /** What waits for an approval or a decision; all else is the machine's. */
  readonly forAPerson: readonly PersonStep[];
}

/** @throws RunFailure when the database or the state schema cannot be read */
export async function readStatus(
  database: Database,
  options: { readonly installation: string; readonly exporterUrl: string | undefined },
): Promise<Status> {
  const rollout = readRolloutState(options.exporterUrl);
  const fromDatabase = await database.read(async (transaction) => {
    const [clock] = await transaction.query<{ at: string }>(
      '-- status: readStatus\nSELECT clock_timestamp() AS at',
    );
    return {
      at: clock?.at ?? '',
      findings: await readFindingGroups(transaction),
      trend: await readTrend(transaction),
      checks: await readChecks(transaction),
      replay: await readReplayGroups(transaction),
      runs: await readLatestRuns(transaction, options.installation),
      requests: await readOpenRequests(transaction),
      freezes: await readFreezes(transaction),
    };
  });
  return {
    ...fromDatabase,
    verdict: verdictOf(fromDatabase),
    forAPerson: stepsForAPerson(fromDatabase),
    rollout: await rollout,
  };
}

/** Nothing found is not clean as long as nobody has looked. */
function verdictOf({ findings, checks }: Pick<Status, 'findings' | 'checks'>): Verdict {
  if (findings.some(({ status }) => status === 'open')) return 'open';
  const verified = checks.every(({ age_seconds: age }) => age !== null && age <= VERIFIED_LATELY_SECONDS);
  if (checks.length === 0 || !verified) return 'unverified';
  return findings.some(({ status }) => status === 'suspected') ? 'suspected' : 'clean';
}
