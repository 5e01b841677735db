/**
 * The collection `hot_check`: the facts and events of the last minutes, judged per version that published them. Only by
 * index: what none leads to is not measured, its series are absent, and one line says which index would do.
 */
import type { InspectedCheck } from '../checks/inspect.ts';
import type { Database, Transaction } from '../runtime/database.ts';
import type { Logger } from '../runtime/logger.ts';
import type { Collected } from './collect.ts';
import type { SetSeries } from './collection.ts';
import { readVersionEvents, type VersionEvents } from './event-queries.ts';
import { HOT_FROM_MS, hotFacts, measuresAmounts, type VersionFacts } from './hot-sql.ts';
import type { CheckPlan, EventsSource, ServiceTables } from './service-tables.ts';

export interface HotCheckOptions {
  readonly lossDelayMs: number;
  readonly statementTimeoutMs: number;
}

/** Versions with series of their own: more than a rollout has, and few enough for any Prometheus. */
const MOST_VERSIONS = 20;
/** As Kubernetes allows it in a label. */
const publishedHash = /^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$/;

export const isPublishedHash = (text: string): boolean => publishedHash.test(text);

/** A check that can be judged now, and the table that tells which version published what, where there is one. */
export interface HotPlan {
  readonly name: string;
  readonly plan: InspectedCheck;
  readonly source: EventsSource | undefined;
}

/** Which of the checks can be judged within milliseconds, and why the others cannot. */
export function hotPlans(
  plans: readonly CheckPlan[],
  events: EventsSource | undefined,
): { readonly plans: readonly HotPlan[]; readonly problems: readonly string[] } {
  const good: HotPlan[] = [];
  const problems: string[] = [];
  for (const { check, plan, problem } of plans) {
    if (plan === undefined) {
      problems.push(problem ?? `check ${check.name} cannot be judged`);
      continue;
    }
    const source = check.event !== null && events?.hasPublishedHash === true ? events : undefined;
    const lacking = source === undefined ? undefined : lackingIndex(source, check.event?.key ?? []);
    if (lacking === undefined) good.push({ name: check.name, plan, source });
    else problems.push(`check ${check.name}: no index leads from a fact to its event: ${lacking}`);
  }
  return { plans: good, problems };
}

/** The statement that makes the index by which facts come to their events. */
function lackingIndex(source: EventsSource, keys: readonly string[]): string | undefined {
  if (!source.hasTimeIndex) return `CREATE INDEX CONCURRENTLY ON ${source.name} (created_at)`;
  if (keys.some((key) => source.indexedKeys.has(key))) return undefined;
  return `CREATE INDEX CONCURRENTLY ON ${source.name} ((payload ->> '${keys[0]}'))`;
}

export class HotCheck {
  readonly #database: Database;
  readonly #tables: ServiceTables;
  readonly #logger: Logger;
  readonly #options: HotCheckOptions;
  #said = '';

  constructor(database: Database, tables: ServiceTables, logger: Logger, options: HotCheckOptions) {
    this.#database = database;
    this.#tables = tables;
    this.#logger = logger;
    this.#options = options;
  }

  async read(signal: AbortSignal): Promise<Collected<'hot_check'>> {
    const events = await this.#tables.events(signal);
    const { plans, problems } = hotPlans(await this.#tables.plans(signal), events);
    const timed = events?.hasTimeIndex === true ? events : undefined;
    if (plans.length === 0 && timed === undefined) return problems.join('; ') || 'no check is declared';
    this.#say(problems);
    try {
      const facts = new Map<string, readonly VersionFacts[]>();
      let versions: readonly VersionEvents[] | undefined;
      for (const plan of plans) facts.set(plan.name, await this.#facts(plan, signal));
      if (timed !== undefined) versions = await this.#events(timed, signal);
      return (set) =>
        setHot(set, { plans, facts, versions, versionsMeasured: events?.hasPublishedHash === true });
    } catch (error) {
      this.#tables.forget();
      throw error;
    }
  }

  async #facts(plan: HotPlan, signal: AbortSignal): Promise<readonly VersionFacts[]> {
    const { text, params } = hotFacts(plan.plan, plan.source, this.#tables.timeZone);
    return await this.#read(
      signal,
      true,
      async (transaction) => await transaction.query<VersionFacts>(text, params),
    );
  }

  async #events(source: EventsSource, signal: AbortSignal): Promise<readonly VersionEvents[]> {
    const window = { fromMs: HOT_FROM_MS, toMs: this.#options.lossDelayMs };
    // By our own search path: it looks at what replay has sent, too.
    return await this.#read(
      signal,
      false,
      async (transaction) => await readVersionEvents(transaction, source, window),
    );
  }

  /** Each statement in a transaction of its own: none holds the others' snapshot open. */
  async #read<Result>(
    signal: AbortSignal,
    userSearchPath: boolean,
    work: (transaction: Transaction) => Promise<Result>,
  ): Promise<Result> {
    return await this.#database.read(work, {
      userSearchPath,
      signal,
      statementTimeoutMs: this.#options.statementTimeoutMs,
    });
  }

  #say(problems: readonly string[]): void {
    const text = problems.join('; ');
    if (text !== this.#said && text !== '')
      this.#logger.warn({ collection: 'hot_check' }, `not measured by the hot check: ${text}`);
    this.#said = text;
  }
}

interface Hot {
  readonly plans: readonly HotPlan[];
  readonly facts: ReadonlyMap<string, readonly VersionFacts[]>;
  /** Nothing where no index leads to a window of events. */
  readonly versions: readonly VersionEvents[] | undefined;
  readonly versionsMeasured: boolean;
}

function setHot(set: SetSeries<'hot_check'>, hot: Hot): void {
  const labelOf = versionLabels(hot);
  const labels = new Set(['unknown', ...labelOf.values()]);
  for (const { name: check, plan } of hot.plans) {
    const amounts = measuresAmounts(plan);
    set('counterfoil_hot_amounts_measured', { check }, amounts ? 1 : 0);
    for (const label of labels) {
      const rows = (hot.facts.get(check) ?? []).filter((row) => labelOf.get(row.published_hash) === label);
      const labelled = { check, published_hash: label };
      set('counterfoil_hot_facts', labelled, sumOf(rows, 'facts'));
      for (const kind of ['missing', 'duplicate', ...(amounts ? (['amount'] as const) : [])] as const)
        set('counterfoil_hot_discrepancies', { ...labelled, kind }, sumOf(rows, kind));
    }
  }
  if (hot.versions !== undefined) {
    for (const label of labels) {
      const rows = hot.versions.filter((row) => labelOf.get(row.published_hash) === label);
      set('counterfoil_hot_events', { published_hash: label }, sumOf(rows, 'events'));
      set('counterfoil_hot_lost_events', { published_hash: label }, sumOf(rows, 'lost'));
    }
  }
  set('counterfoil_hot_versions_measured', {}, hot.versionsMeasured ? 1 : 0);
}

/** The label of each hash that occurs: its own for those with most rows, `other` for the rest and for what is none. */
function versionLabels({ facts, versions }: Hot): ReadonlyMap<string | null, string> {
  const weights = new Map<string, number>();
  const labels = new Map<string | null, string>();
  const add = (hash: string | null, rows: number) => {
    if (hash === null || hash === '') labels.set(hash, 'unknown');
    else if (isPublishedHash(hash)) weights.set(hash, (weights.get(hash) ?? 0) + rows);
    else labels.set(hash, 'other');
  };
  for (const rows of facts.values()) for (const row of rows) add(row.published_hash, row.facts);
  for (const row of versions ?? []) add(row.published_hash, row.events);
  const byWeight = [...weights].sort(([one, a], [other, b]) => b - a || (one < other ? -1 : 1));
  for (const [n, [hash]] of byWeight.entries()) labels.set(hash, n < MOST_VERSIONS ? hash : 'other');
  return labels;
}

const sumOf = <Field extends string>(
  rows: readonly { readonly [Name in Field]: number }[],
  field: Field,
): number => rows.reduce((sum, row) => sum + row[field], 0);
