/**
 * What the service's tables look like, found in the catalogs and remembered for a while: their columns, and whether an
 * index leads to what is asked for every few seconds. What no index leads to is not measured at all.
 */
import { type InspectedCheck, inspectCheck } from '../checks/inspect.ts';
import { type Check, splitTableName } from '../checks/parse.ts';
import { type Database, quoteIdentifier, type Transaction } from '../runtime/database.ts';
import { RunFailure } from '../runtime/failures.ts';
import {
  checkTimeZone,
  type FoundIndex,
  type FoundTable,
  findTable,
  hasReplayEvents,
} from './table-queries.ts';

/** The table of events as it stands. */
export interface EventsSource {
  /** Qualified and quoted. */
  readonly name: string;
  /** Whether `created_at` knows its own time zone. */
  readonly createdAtType: 'timestamp' | 'timestamptz';
  /** Of a `created_at` that does not. */
  readonly timeZone: string;
  readonly hasPublishedHash: boolean;
  /** How an index leads to what is pending: by age, in no order, or not at all. */
  readonly pendingIndex: 'by_age' | 'unordered' | 'none';
  /** Whether an index leads to a window of time. */
  readonly hasTimeIndex: boolean;
  /** The payload keys from which an index leads to the rows. */
  readonly indexedKeys: ReadonlySet<string>;
  /** The table of leases, and the cast by which an event's id is looked up in it. */
  readonly deliveries: { readonly name: string; readonly idCast: '' | '::text' } | undefined;
  /** Whether our own record of what replay has sent is there: the schema job may not have run yet. */
  readonly hasReplayRecord: boolean;
}

/** A check that can be judged every few seconds, or why it cannot. */
export interface CheckPlan {
  readonly check: Check;
  readonly plan: InspectedCheck | undefined;
  readonly problem: string | undefined;
}

export interface ServiceTablesSettings {
  readonly eventsTable: string;
  readonly deliveriesTable: string;
  readonly timeZone: string;
}

/** How long what was found is taken for true: a column or an index that was added is seen after this time. */
const REMEMBERED_MS = 120_000;

export class ServiceTables {
  readonly #database: Database;
  readonly #settings: ServiceTablesSettings;
  readonly #checks: readonly Check[];
  #events: Remembered<EventsSource | undefined> | undefined;
  #plans: Remembered<readonly CheckPlan[]> | undefined;

  constructor(database: Database, settings: ServiceTablesSettings, checks: readonly Check[]) {
    this.#database = database;
    this.#settings = settings;
    this.#checks = checks;
  }

  get timeZone(): string {
    return this.#settings.timeZone;
  }

  /**
   * Nothing where there is no such table: then nothing that comes from it can be measured.
   * @throws RunFailure where it is there and cannot be used
   */
  async events(signal: AbortSignal): Promise<EventsSource | undefined> {
    if (this.#events === undefined || performance.now() > this.#events.until) {
      const found = await this.#read(
        signal,
        async (transaction) => await findEvents(transaction, this.#settings),
      );
      const hasReplayRecord = await this.#database.read(hasReplayEvents, { signal });
      const value = found === undefined ? undefined : { ...found, hasReplayRecord };
      this.#events = { value, until: performance.now() + REMEMBERED_MS };
    }
    return this.#events.value;
  }

  /** The declared checks. Each is looked at by itself: one whose index is missing takes no other with it. */
  async plans(signal: AbortSignal): Promise<readonly CheckPlan[]> {
    if (this.#plans === undefined || performance.now() > this.#plans.until) {
      const value: CheckPlan[] = [];
      for (const check of this.#checks) value.push(await this.#planOf(check, signal));
      this.#plans = { value, until: performance.now() + REMEMBERED_MS };
    }
    return this.#plans.value;
  }

  /** After a statement has failed: what was remembered may be what is wrong. */
  forget(): void {
    this.#events = undefined;
    this.#plans = undefined;
  }

  async #planOf(check: Check, signal: AbortSignal): Promise<CheckPlan> {
    try {
      const plan = await this.#read(signal, async (transaction) => await inspectCheck(transaction, check));
      return { check, plan, problem: undefined };
    } catch (error) {
      if (!(error instanceof RunFailure) || !missing.has(error.id)) throw error;
      return { check, plan: undefined, problem: error.message };
    }
  }

  async #read<Result>(
    signal: AbortSignal,
    work: (transaction: Transaction) => Promise<Result>,
  ): Promise<Result> {
    // Names from settings mean what they mean to this role everywhere else.
    return await this.#database.read(work, { userSearchPath: true, signal });
  }
}

interface Remembered<Value> {
  readonly value: Value;
  readonly until: number;
}

/** What a person has to mend before a check can be judged; all else is an outage. */
const missing: ReadonlySet<string> = new Set([
  'table_missing',
  'column_missing',
  'index_missing',
  'grant_missing',
]);

const timeTypes: Readonly<Record<string, EventsSource['createdAtType']>> = {
  'timestamp without time zone': 'timestamp',
  'timestamp with time zone': 'timestamptz',
};

async function findEvents(
  transaction: Transaction,
  settings: ServiceTablesSettings,
): Promise<Omit<EventsSource, 'hasReplayRecord'> | undefined> {
  if (!(await checkTimeZone(transaction, settings.timeZone)))
    throw new RunFailure('settings_invalid', 'CF_SERVICE_TIME_ZONE: the database knows no such time zone');
  const table = await findTable(transaction, splitTableName(settings.eventsTable));
  if (table === undefined) return undefined;
  const columns = requireColumns(table, ['event_id', 'event_name', 'status', 'created_at']);
  const createdAtType = timeTypes[columns.get('created_at')?.type ?? ''];
  if (createdAtType === undefined) {
    throw new RunFailure(
      'column_missing',
      `${nameOf(table)}.created_at has the type ${columns.get('created_at')?.type}: make it timestamp or timestamptz`,
    );
  }
  return {
    name: nameOf(table),
    createdAtType,
    timeZone: settings.timeZone,
    hasPublishedHash: columns.get('published_hash')?.readable === true,
    pendingIndex: pendingIndexOf(table.indices),
    hasTimeIndex: table.indices.some(
      ({ predicate, columns: [first] }) => predicate === null && first === 'created_at',
    ),
    indexedKeys: new Set(
      table.indices.flatMap(({ predicate, columns: [first = ''] }) => {
        const key = /^\(?payload ->> '([\w.-]+)'::text\)?$/.exec(first)?.[1];
        return predicate === null && key !== undefined ? [key] : [];
      }),
    ),
    deliveries: await findDeliveries(transaction, settings.deliveriesTable, columns.get('event_id')?.type),
  };
}

/** Optional: where it is missing, closed to us or without an index, age alone decides what is overdue. */
async function findDeliveries(
  transaction: Transaction,
  given: string,
  eventIdType: string | undefined,
): Promise<EventsSource['deliveries']> {
  const table = await findTable(transaction, splitTableName(given));
  const id = table?.columns.find(({ name }) => name === 'event_id');
  const lease = table?.columns.find(({ name }) => name === 'lease_until');
  if (table === undefined || id?.readable !== true || lease?.readable !== true) return undefined;
  // A lease without a time zone could not be compared with the database's clock.
  if (lease.type !== 'timestamp with time zone') return undefined;
  const indexed = table.indices.some(
    ({ predicate, columns: [first] }) => predicate === null && first === 'event_id',
  );
  if (!indexed) return undefined;
  if (id.type === eventIdType) return { name: nameOf(table), idCast: '' };
  return id.type === 'text' ? { name: nameOf(table), idCast: '::text' } : undefined;
}

/** @throws RunFailure with the statement that mends it */
function requireColumns(
  table: FoundTable,
  names: readonly string[],
): ReadonlyMap<string, FoundTable['columns'][number]> {
  const columns = new Map(table.columns.map((column) => [column.name, column]));
  const absent = names.filter((name) => !columns.has(name));
  if (absent.length > 0)
    throw new RunFailure('column_missing', `${nameOf(table)} has no column ${absent.join(', ')}`);
  if (!table.usable || names.some((name) => columns.get(name)?.readable !== true)) {
    throw new RunFailure(
      'grant_missing',
      `this role may not read ${nameOf(table)}: GRANT USAGE ON SCHEMA ${quoteIdentifier(table.schema)} TO ${table.role}; ` +
        `GRANT SELECT ON ${nameOf(table)} TO ${table.role}`,
    );
  }
  return columns;
}

function pendingIndexOf(indices: readonly FoundIndex[]): EventsSource['pendingIndex'] {
  const leading = indices.flatMap(({ predicate, columns }) => {
    if (predicate === null) return columns[0] === 'status' ? [columns.slice(1)] : [];
    // As Postgres prints it, of a text, a varchar or an enumeration.
    if (!/^\(*status\)*(::text)?\)* = 'pending'::/.test(predicate)) return [];
    return [columns[0] === 'status' ? columns.slice(1) : columns];
  });
  if (leading.some(([first]) => first === 'created_at')) return 'by_age';
  return leading.length > 0 ? 'unordered' : 'none';
}

const nameOf = ({ schema, name }: Pick<FoundTable, 'schema' | 'name'>): string =>
  `${quoteIdentifier(schema)}.${quoteIdentifier(name)}`;
