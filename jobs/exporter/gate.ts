/**
 * Whether a version may go on: one verdict with its evidence, from SQL at the time of asking, for gates outside Argo.
 * Never `pass` for want of data: what cannot be measured says so, and what was seen too seldom says that.
 */
import type { Database, Transaction } from '../runtime/database.ts';
import type { RolloutView } from './collection.ts';
import { type GateCheck, type GateEvents, readGateChecks, readGateEvents } from './gate-queries.ts';
import { type HotPlan, hotPlans } from './hot-check.ts';
import { factsOfVersion, MOST_READ, measuresAmounts, type VersionFacts } from './hot-sql.ts';
import type { EventsSource, ServiceTables } from './service-tables.ts';

/**
 * `fail`: a share is above its threshold, and enough was seen to say so. `pass`: enough was seen, and no share is above.
 * `not_enough_data`: ask again later. `not_measured`: something that is needed is not there; asking again does not help.
 */
export type Verdict = 'pass' | 'fail' | 'not_enough_data' | 'not_measured';

export interface GateThresholds {
  readonly billingShare: number;
  readonly lossShare: number;
  readonly minimumBad: number;
  readonly minimumJudged: number;
  readonly sample: number;
}

/** One check, of the facts whose event this version has published. */
interface BillingEvidence {
  readonly check: string;
  readonly judged: number;
  /** `amount` is null where the check compares no amounts. */
  readonly discrepancies: {
    readonly missing: number;
    readonly duplicate: number;
    readonly amount: number | null;
  };
  /** Unsettled findings of this version that nobody has acknowledged, first seen since it published its first event. */
  readonly findings: { readonly suspected: number; readonly open: number };
  readonly verifiedThrough: string | null;
  readonly verifiedThroughAgeSeconds: number | null;
}

export interface GateEvidence {
  readonly hash: string;
  /** By the database's clock. */
  readonly at: string | null;
  readonly windowSeconds: number;
  /** False where more events were written in the window than one look reads: the newest were judged. */
  readonly windowWhole: boolean;
  readonly events: {
    readonly published: number;
    readonly lost: number;
    readonly firstAt: string | null;
    readonly firstAgeSeconds: number | null;
  };
  readonly billing: readonly BillingEvidence[];
  /** Why something is not measured. */
  readonly notMeasured: readonly string[];
  readonly thresholds: GateThresholds;
  readonly rollout: RolloutView | null;
}

export interface GateAnswer extends GateEvidence {
  readonly verdict: Verdict;
  readonly reasons: readonly string[];
}

/** Decides; reads no clock and no table. */
export function judge(evidence: GateEvidence): Pick<GateAnswer, 'verdict' | 'reasons'> {
  const { events, thresholds: limits } = evidence;
  const billing = evidence.billing.filter(({ judged }) => judged > 0);
  const shares = [
    { what: 'lost events', bad: events.lost, judged: events.published, limit: limits.lossShare },
    ...billing.map((one) => ({
      what: `wrong bills of ${one.check}`,
      bad: badOf(one),
      judged: one.judged,
      limit: limits.billingShare,
    })),
  ];
  const above = shares.filter(({ bad, judged, limit }) => bad > judged * limit);
  const sure = above.filter(({ bad, judged }) => bad >= limits.minimumBad && judged >= limits.minimumJudged);
  const told = ({ what, bad, judged }: (typeof shares)[number]) => `${what}: ${bad} of ${judged}`;
  if (sure.length > 0) return { verdict: 'fail', reasons: sure.map(told) };
  if (evidence.notMeasured.length > 0) return { verdict: 'not_measured', reasons: evidence.notMeasured };
  if (above.length > 0) {
    return {
      verdict: 'not_enough_data',
      reasons: above.map(
        (share) =>
          `${told(share)}: too few to say so (at least ${limits.minimumBad} of ${limits.minimumJudged})`,
      ),
    };
  }
  const few = shares.filter(({ judged }) => judged < limits.sample);
  if (billing.length === 0)
    return { verdict: 'not_enough_data', reasons: ['no fact of this version was judged'] };
  if (few.length > 0) {
    return {
      verdict: 'not_enough_data',
      reasons: few.map((share) => `${told(share)}: too few to pass (at least ${limits.sample})`),
    };
  }
  return { verdict: 'pass', reasons: shares.map(told) };
}

/** What is wrong now, or what is on record: a fact that was judged long ago is not looked at any more. */
const badOf = ({ discrepancies, findings }: BillingEvidence): number =>
  Math.max(
    discrepancies.missing + discrepancies.duplicate + (discrepancies.amount ?? 0),
    findings.suspected + findings.open,
  );

export interface GateOptions {
  readonly installation: string;
  readonly windowMs: number;
  readonly lossDelayMs: number;
  readonly statementTimeoutMs: number;
  readonly thresholds: GateThresholds;
}

/** Whoever asks again within this time gets the same answer, and the database is not asked. */
const REMEMBERED_MS = 5_000;
const MOST_REMEMBERED = 50;
/** Looks at one time: more callers than that are told to come again. */
const MOST_AT_ONCE = 2;

/** Too many different hashes are asked for at this moment. */
export class GateBusy extends Error {}

export class Gate {
  readonly #database: Database;
  readonly #tables: ServiceTables;
  readonly #options: GateOptions;
  readonly #view: () => RolloutView | undefined;
  readonly #answers = new Map<string, { readonly until: number; readonly answer: Promise<GateAnswer> }>();
  #atWork = 0;

  constructor(
    database: Database,
    tables: ServiceTables,
    options: GateOptions,
    view: () => RolloutView | undefined,
  ) {
    this.#database = database;
    this.#tables = tables;
    this.#options = options;
    this.#view = view;
  }

  /**
   * @throws RunFailure where the database cannot be asked
   * @throws GateBusy where it is asked too much
   */
  async ask(hash: string, signal: AbortSignal): Promise<GateAnswer> {
    const known = this.#answers.get(hash);
    if (known !== undefined && performance.now() < known.until) return await known.answer;
    if (this.#atWork >= MOST_AT_ONCE) throw new GateBusy();
    const answer = this.#look(hash, signal);
    this.#answers.delete(hash);
    this.#answers.set(hash, { until: performance.now() + REMEMBERED_MS, answer });
    for (const [oldest] of this.#answers) {
      if (this.#answers.size <= MOST_REMEMBERED) break;
      this.#answers.delete(oldest);
    }
    // What failed is asked for anew.
    answer.catch(() => this.#answers.delete(hash));
    return await answer;
  }

  async #look(hash: string, signal: AbortSignal): Promise<GateAnswer> {
    this.#atWork += 1;
    try {
      const evidence = await this.#gather(hash, signal);
      return { ...judge(evidence), ...evidence };
    } finally {
      this.#atWork -= 1;
    }
  }

  /** The whole window, or, of the canary of now, the time since it is judged: a retry is not judged by what went before. */
  #windowMs(hash: string, view: RolloutView | undefined): number {
    const since = view?.canaryHash === hash ? view.canaryJudgedSince : undefined;
    const { windowMs } = this.#options;
    return since === undefined ? windowMs : Math.min(windowMs, Math.max(1, Date.now() - Date.parse(since)));
  }

  async #gather(hash: string, signal: AbortSignal): Promise<GateEvidence> {
    const { lossDelayMs, thresholds, installation } = this.#options;
    const view = this.#view();
    const windowMs = this.#windowMs(hash, view);
    const source = await this.#tables.events(signal);
    const { plans, problems } = hotPlans(await this.#tables.plans(signal), source);
    const judged = plans.filter((one) => one.source !== undefined);
    const notMeasured = [...problems, ...whyUnmeasured(source, judged)];
    const able = source?.hasPublishedHash === true && source.hasTimeIndex ? source : undefined;
    const events: GateEvents | undefined =
      able === undefined
        ? undefined
        : await this.#read(
            signal,
            false,
            async (transaction) =>
              await readGateEvents(transaction, able, { hash, windowMs, lossDelayMs, most: MOST_READ }),
          );
    const whole = events === undefined || events.read < MOST_READ;
    const checks = await this.#read(
      signal,
      false,
      async (transaction) =>
        await readGateChecks(transaction, {
          installation,
          hash,
          // Of an older beginning that one look does not reach, all findings of this version count.
          since: whole ? (events?.first_at ?? null) : null,
        }),
    );
    const billing: BillingEvidence[] = [];
    if (able !== undefined) {
      for (const one of judged) {
        const facts = await this.#facts(one, able, { hash, windowMs }, signal);
        billing.push(
          evidenceOf(
            one,
            facts,
            checks.find(({ name }) => name === one.name),
          ),
        );
      }
    }
    return {
      hash,
      at: isoTime(events?.now),
      windowSeconds: windowMs / 1000,
      windowWhole: whole,
      events: {
        published: events?.published ?? 0,
        lost: events?.lost ?? 0,
        firstAt: isoTime(events?.first_at),
        firstAgeSeconds: events?.first_age ?? null,
      },
      billing,
      notMeasured,
      thresholds,
      rollout: view ?? null,
    };
  }

  async #facts(
    { plan }: HotPlan,
    source: EventsSource,
    asked: { readonly hash: string; readonly windowMs: number },
    signal: AbortSignal,
  ): Promise<VersionFacts | undefined> {
    const { text, params } = factsOfVersion(plan, source, this.#tables.timeZone, asked);
    const [row] = await this.#read(
      signal,
      true,
      async (transaction) => await transaction.query<VersionFacts>(text, params),
    );
    return row;
  }

  async #read<Result>(
    signal: AbortSignal,
    userSearchPath: boolean,
    work: (transaction: Transaction) => Promise<Result>,
  ): Promise<Result> {
    const { statementTimeoutMs } = this.#options;
    return await this.#database.read(work, { signal, userSearchPath, statementTimeoutMs });
  }
}

function whyUnmeasured(source: EventsSource | undefined, judged: readonly HotPlan[]): readonly string[] {
  if (source === undefined) return ['there is no table of events'];
  if (!source.hasPublishedHash)
    return [`${source.name} has no column published_hash that this role may read`];
  if (!source.hasTimeIndex) return [`no index leads to a window of ${source.name} by created_at`];
  return judged.length === 0 ? ['no check says how its facts are found in the events'] : [];
}

function evidenceOf(
  { name, plan }: HotPlan,
  facts: VersionFacts | undefined,
  state: GateCheck | undefined,
): BillingEvidence {
  return {
    check: name,
    judged: facts?.facts ?? 0,
    discrepancies: {
      missing: facts?.missing ?? 0,
      duplicate: facts?.duplicate ?? 0,
      amount: measuresAmounts(plan) ? (facts?.amount ?? 0) : null,
    },
    findings: { suspected: state?.suspected ?? 0, open: state?.open ?? 0 },
    verifiedThrough: isoTime(state?.verified_through),
    verifiedThroughAgeSeconds: state?.verified_age ?? null,
  };
}

/** Postgres' text of a time in UTC, as other programs read it. */
const isoTime = (time: string | null | undefined): string | null =>
  time === null || time === undefined ? null : time.replace(' ', 'T').replace(/\+00$/, 'Z');
