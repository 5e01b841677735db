/** The collection `state`: what our own tables say, in one short read. Every set of closed words is there at 0. */
import type { Database } from '../runtime/database.ts';
import type { RunOutcome } from '../runtime/run-record.ts';
import type { SetSeries } from './collection.ts';
import {
  type CheckRow,
  countReplayed,
  type FindingGroup,
  type FindingsForAPerson,
  type FindingTotals,
  type JobRow,
  type ParkedGroup,
  type ReplayState,
  type RequestGroup,
  readChecks,
  readFindings,
  readForAPerson,
  readFrozenUntil,
  readJobs,
  readParked,
  readReplay,
  readRequests,
  readTotals,
} from './queries.ts';

const kinds = ['missing', 'duplicate', 'amount', 'orphan'] as const;
const causes = [
  'event_pending',
  'event_parked',
  'processed_without_ledger',
  'never_published',
  'unknown',
] as const;
const statuses = ['suspected', 'open', 'acknowledged'] as const;
const outcomes: readonly RunOutcome[] = [
  'succeeded',
  'partial',
  'skipped',
  'implausible',
  'endpoint_down',
  'failed',
  'refused',
];
const parkedReasons = [
  'attempts_exhausted',
  'crashes_the_service',
  'no_listener',
  'unknown_version',
  'invalid_payload',
  'not_retryable',
  'fact_changed',
] as const;
const requestKinds = ['replay', 'verify', 'rebuild', 'correction'] as const;

/** Currencies of one check that get series of their own; there are some 180 in the world. */
const MOST_CURRENCIES = 50;
/** What a currency looks like: a text of a row that is none becomes no label. */
const currencyCode = /^[A-Z0-9]{1,10}$/;

type Set = SetSeries<'state'>;

interface State {
  readonly checks: readonly CheckRow[];
  readonly findings: readonly FindingGroup[];
  readonly totals: readonly FindingTotals[];
  readonly forAPerson: readonly FindingsForAPerson[];
  readonly jobs: readonly JobRow[];
  readonly replay: ReplayState;
  readonly parked: readonly ParkedGroup[];
  readonly replayed: number;
  readonly requests: readonly RequestGroup[];
  readonly frozenUntil: number | undefined;
}

export class StateCollection {
  readonly #database: Database;
  readonly #installation: string;
  readonly #statementTimeoutMs: number;
  readonly #replayed = new ReplayedCounter();
  /** Findings resolved, by check: the most there ever were, since a waiver may take one out of the count. */
  readonly #resolved = new Map<string, number>();

  constructor(
    database: Database,
    options: { readonly installation: string; readonly statementTimeoutMs: number },
  ) {
    this.#database = database;
    this.#installation = options.installation;
    this.#statementTimeoutMs = options.statementTimeoutMs;
  }

  async read(signal: AbortSignal): Promise<(set: Set) => void> {
    const installation = this.#installation;
    const state = await this.#database.read(
      async (transaction): Promise<State> => ({
        checks: await readChecks(transaction, installation),
        findings: await readFindings(transaction),
        totals: await readTotals(transaction),
        forAPerson: await readForAPerson(transaction),
        jobs: await readJobs(transaction, installation),
        replay: await readReplay(transaction, installation),
        parked: await readParked(transaction, installation),
        replayed: this.#replayed.take(await countReplayed(transaction, this.#replayed.since)),
        requests: await readRequests(transaction, installation),
        frozenUntil: await readFrozenUntil(transaction),
      }),
      { signal, statementTimeoutMs: this.#statementTimeoutMs },
    );
    return (set) => {
      for (const check of state.checks) {
        setCheck(set, check, state);
        const { name } = check;
        const totals = state.totals.filter(({ check_name: of }) => of === name);
        const resolved = Math.max(this.#resolved.get(name) ?? 0, sum(totals.map((one) => one.resolved)));
        this.#resolved.set(name, resolved);
        set('counterfoil_findings_resolved_total', { check: name }, resolved);
      }
      for (const job of state.jobs) setJob(set, job);
      setReplay(set, state);
      setRequests(set, state);
    };
  }
}

/** How long a moment is counted from: the index holds 30 days of events, and only these few are read again. */
const COUNTED_FROM_MS = 3_600_000;

/**
 * Counts what replay has brought to its end since this process began, and never back: rows are purged in time, and a
 * total of those that are left would look like a counter that was reset.
 */
class ReplayedCounter {
  /** Events before `since`. */
  #before = 0;
  #since: string | undefined;
  #sinceMs = 0;
  #total = 0;

  /** From when on the next count is to be made; nothing at first. */
  get since(): string | undefined {
    return this.#since;
  }

  take({ events, now }: { readonly events: number; readonly now: string }): number {
    // A row that was done and fell due again is counted once more, and takes nothing back.
    this.#total = Math.max(this.#total, this.#before + events);
    if (this.#since === undefined || performance.now() - this.#sinceMs > COUNTED_FROM_MS) {
      this.#before = this.#total;
      this.#since = now;
      this.#sinceMs = performance.now();
    }
    return this.#total;
  }
}

function setCheck(set: Set, { name: check, ...row }: CheckRow, state: State): void {
  const findings = state.findings.filter(({ check_name: of }) => of === check);
  const open = findings.filter(({ status }) => status === 'open');
  for (const kind of kinds) {
    const ofKind = findings.filter((group) => group.kind === kind);
    for (const status of statuses) {
      const alike = ofKind.filter((group) => group.status === status);
      set('counterfoil_findings', { check, kind, status }, total(alike));
    }
    const openOfKind = open.filter((group) => group.kind === kind);
    if (kind === 'missing') {
      for (const cause of causes) {
        const alike = openOfKind.filter((group) => (group.cause ?? 'unknown') === cause);
        set('billing_discrepancy_count', { check, kind, cause }, total(alike));
      }
    } else {
      set('billing_discrepancy_count', { check, kind, cause: 'none' }, total(openOfKind));
    }
    const totals = state.totals.find((one) => one.check_name === check && one.kind === kind);
    set('billing_discrepancy_total', { check, kind }, totals?.opened ?? 0);
  }
  const person = state.forAPerson.find(({ check_name: of }) => of === check);
  set('counterfoil_findings_for_a_person', { check }, person?.findings ?? 0);
  setMoney(set, check, open);
  setTime(set, 'counterfoil_oldest_open_finding_timestamp_seconds', check, least(open, 'oldest'));
  setTime(
    set,
    'counterfoil_next_acknowledgement_end_timestamp_seconds',
    check,
    least(findings, 'acknowledged_until'),
  );
  set('counterfoil_check_declared_timestamp_seconds', { check }, row.declared);
  setTime(set, 'counterfoil_verified_through_timestamp_seconds', check, row.verified_through);
  set('counterfoil_check_held_back', { check }, row.held_back ? 1 : 0);
  const implausible = state.jobs.some(
    (job) => job.job === 'billing-reconciliation' && job.verdict === 'implausible',
  );
  set('counterfoil_implausible', { check }, implausible ? 1 : 0);
}

/** Per currency, and never in one sum; what cannot be named or told is counted as unknown, and never as 0. */
function setMoney(set: Set, check: string, open: readonly FindingGroup[]): void {
  const sums = new Map<string, number>();
  let unknown = 0;
  for (const { currency, at_risk_minor: minor, unknown_amounts: more, findings } of open) {
    const known = currency !== null && currencyCode.test(currency);
    if (!known || (!sums.has(currency) && sums.size >= MOST_CURRENCIES)) {
      unknown += findings;
      continue;
    }
    unknown += more;
    // A gauge is a float: exact up to 2^53 minor units, and the first screen tells the rest.
    sums.set(currency, (sums.get(currency) ?? 0) + Number(minor ?? 0));
  }
  for (const [currency, minor] of sums) set('counterfoil_money_at_risk_minor', { check, currency }, minor);
  set('counterfoil_findings_of_unknown_amount', { check }, unknown);
}

function setTime(
  set: Set,
  name:
    | 'counterfoil_oldest_open_finding_timestamp_seconds'
    | 'counterfoil_next_acknowledgement_end_timestamp_seconds'
    | 'counterfoil_verified_through_timestamp_seconds',
  check: string,
  at: number | null | undefined,
): void {
  if (at !== null && at !== undefined) set(name, { check }, at);
}

function setJob(set: Set, row: JobRow): void {
  const labels = { counterfoil_job: row.job, mode: row.mode };
  for (const outcome of outcomes)
    set('counterfoil_job_last_outcome', { ...labels, outcome }, row.outcome === outcome ? 1 : 0);
  set('counterfoil_job_last_start_timestamp_seconds', labels, row.last_start);
  set('counterfoil_job_runs_since_success', labels, row.since_success);
  if (row.last_success !== null)
    set('counterfoil_job_last_success_timestamp_seconds', labels, row.last_success);
  if (row.duration !== null) set('counterfoil_job_last_duration_seconds', labels, row.duration);
  if (row.seen !== null) set('counterfoil_job_seen_timestamp_seconds', labels, row.seen);
}

function setReplay(set: Set, { replay, parked, replayed }: State): void {
  for (const status of ['due', 'claimed', 'handed_to_outbox'] as const)
    set('counterfoil_replay_events', { status }, replay[status]);
  for (const reason of parkedReasons) {
    const events = parked.find((group) => group.reason === reason)?.events ?? 0;
    set('counterfoil_parked_events', { reason }, events);
  }
  if (replay.oldest_parked !== null)
    set('counterfoil_oldest_parked_event_timestamp_seconds', {}, replay.oldest_parked);
  if (replay.oldest_handed !== null)
    set('counterfoil_oldest_handed_event_timestamp_seconds', {}, replay.oldest_handed);
  set('counterfoil_replayed_events_total', {}, replayed);
}

function setRequests(set: Set, { requests, frozenUntil }: State): void {
  for (const kind of requestKinds) {
    const ofKind = requests.filter((group) => group.kind === kind);
    for (const needsApproval of [false, true]) {
      const alike = ofKind.filter((group) => group.needs_approval === needsApproval);
      set(
        'counterfoil_open_requests',
        { kind, needs_approval: needsApproval ? 'yes' : 'no' },
        sum(alike.map((group) => group.requests)),
      );
    }
    const oldest = least(ofKind, 'oldest');
    if (oldest !== undefined) set('counterfoil_oldest_open_request_timestamp_seconds', { kind }, oldest);
  }
  set('counterfoil_frozen_until_timestamp_seconds', {}, frozenUntil ?? 0);
}

const sum = (values: readonly number[]): number => values.reduce((before, value) => before + value, 0);

const total = (groups: readonly FindingGroup[]): number => sum(groups.map(({ findings }) => findings));

/** The least of a field, of those rows that have it. */
function least<Field extends string>(
  rows: readonly { readonly [Name in Field]: number | null }[],
  field: Field,
): number | undefined {
  const values = rows.map((row) => row[field]).filter((value) => value !== null);
  return values.length === 0 ? undefined : Math.min(...values);
}
