/**
 * Finds the service's tables once per run and says what they look like. Refuses by name what is missing, with
 * the statement that mends it; the names it gives out are quoted, and nothing else of a setting enters a statement.
 */
import { type Database, quoteIdentifier } from '../runtime/database.ts';
import { RunFailure } from '../runtime/failures.ts';
import { checkTimeZone, type FoundColumn, type FoundTable, findTable } from './table-queries.ts';

/** The types that an event id may have; `integer` counts as `bigint`. */
export type IdType = 'text' | 'uuid' | 'bigint';

export interface EventsTable {
  /** Qualified and quoted. */
  readonly name: string;
  readonly idType: IdType;
  /** Whether `created_at` knows its own time zone. */
  readonly createdAtType: 'timestamp' | 'timestamptz';
  /** Of a `created_at` that does not. */
  readonly timeZone: string;
  readonly hasPublishedHash: boolean;
  /** The payload field by which events are kept in order; nothing: the payload is never read. */
  readonly aggregateKey: string | undefined;
  readonly deliveries: { readonly name: string; readonly idType: IdType } | undefined;
}

export interface EventsTableSettings {
  readonly eventsTable: string;
  readonly deliveriesTable: string;
  readonly timeZone: string;
  readonly aggregateKey: string | undefined;
}

const idTypes: Readonly<Record<string, IdType>> = {
  text: 'text',
  'character varying': 'text',
  uuid: 'uuid',
  bigint: 'bigint',
  integer: 'bigint',
};

const timeTypes: Readonly<Record<string, EventsTable['createdAtType']>> = {
  'timestamp without time zone': 'timestamp',
  'timestamp with time zone': 'timestamptz',
};

/** @throws RunFailure `table_missing`, `column_missing`, `grant_missing`, `settings_invalid` */
export async function readEventsTable(
  database: Database,
  settings: EventsTableSettings,
): Promise<EventsTable> {
  if (!(await checkTimeZone(database, settings.timeZone))) {
    throw new RunFailure('settings_invalid', 'CF_SERVICE_TIME_ZONE: the database knows no such time zone');
  }
  const table = await findTable(database, parseName('CF_EVENTS_TABLE', settings.eventsTable));
  if (table === undefined) {
    throw new RunFailure(
      'table_missing',
      `the events table ${settings.eventsTable} does not exist or is not visible to this role: ` +
        `create it, or name it in CF_EVENTS_TABLE, or GRANT USAGE ON its schema TO ${await roleOf(database)}`,
    );
  }
  const name = nameOf(table);
  const names = [
    'event_id',
    'event_name',
    'status',
    'created_at',
    ...(settings.aggregateKey === undefined ? [] : ['payload']),
  ];
  const columns = await requireColumns(database, table, names);
  // json keeps escapes that no text can hold; one such row would fail every statement that reads a field.
  if (settings.aggregateKey !== undefined) typeOf(table, columns.payload, { jsonb: 'jsonb' }, 'jsonb');
  const hash = table.columns.find((column) => column.name === 'published_hash');
  return {
    name,
    idType: typeOf(table, columns.event_id, idTypes, 'text, uuid or bigint'),
    createdAtType: typeOf(table, columns.created_at, timeTypes, 'timestamp or timestamptz'),
    timeZone: settings.timeZone,
    aggregateKey: settings.aggregateKey,
    hasPublishedHash: hash?.readable === true,
    deliveries: await findDeliveries(database, settings.deliveriesTable),
  };
}

/** Optional: where it is missing or closed to us, age alone decides what is overdue. */
async function findDeliveries(database: Database, given: string): Promise<EventsTable['deliveries']> {
  const table = await findTable(database, parseName('CF_DELIVERIES_TABLE', given));
  const id = table?.columns.find((column) => column.name === 'event_id');
  const lease = table?.columns.find((column) => column.name === 'lease_until');
  const idType = id === undefined ? undefined : idTypes[id.type];
  if (table === undefined || idType === undefined) return undefined;
  if (id?.readable !== true || lease?.readable !== true) return undefined;
  // A lease without a time zone could not be compared with the database's clock.
  return lease.type === 'timestamp with time zone' ? { name: nameOf(table), idType } : undefined;
}

async function requireColumns(
  database: Database,
  table: FoundTable,
  names: readonly string[],
): Promise<Readonly<Record<string, FoundColumn | undefined>>> {
  const found = Object.fromEntries(
    names.map((name) => [name, table.columns.find((column) => column.name === name)] as const),
  );
  const missing = names.filter((name) => found[name] === undefined);
  if (missing.length > 0) {
    throw new RunFailure(
      'column_missing',
      `${nameOf(table)} has no column ${missing.join(', ')}: ` +
        missing.map((name) => `ALTER TABLE ${nameOf(table)} ADD COLUMN ${name} …`).join('; '),
    );
  }
  const closed = names.filter((name) => found[name]?.readable === false);
  if (closed.length > 0 || !table.schemaUsable) {
    const role = await roleOf(database);
    throw new RunFailure(
      'grant_missing',
      `this role may not read ${nameOf(table)}: GRANT USAGE ON SCHEMA ${quoteIdentifier(table.schema)} TO ${role}; ` +
        `GRANT SELECT ON ${nameOf(table)} TO ${role}`,
    );
  }
  return found;
}

function typeOf<Type>(
  table: FoundTable,
  column: FoundColumn | undefined,
  types: Readonly<Record<string, Type>>,
  wanted: string,
): Type {
  const type = types[column?.type ?? ''];
  if (type === undefined) {
    throw new RunFailure(
      'column_missing',
      `${nameOf(table)}.${column?.name} has the type ${column?.type}, which replay cannot use: make it ${wanted}`,
    );
  }
  return type;
}

/**
 * The parts of a name as SQL reads it: what is quoted stands as it is, a doubled quote is one. What is not
 * quoted stands as it is too: a setting is no statement, and a folded capital would name another table.
 */
function parseName(setting: string, text: string): { schema: string | undefined; name: string } {
  const parts: string[] = [];
  const part = /(?:"((?:[^"]|"")+)"|([^".]+))(\.|$)/y;
  while (part.lastIndex < text.length) {
    const match = part.exec(text);
    if (match === null || text.includes('\0')) break;
    parts.push(match[1]?.replaceAll('""', '"') ?? match[2] ?? '');
    if (match[3] === '') {
      const [last, schema, ...rest] = parts.reverse();
      if (last !== undefined && rest.length === 0) return { schema, name: last };
      break;
    }
  }
  throw new RunFailure('settings_invalid', `${setting}: must be a table, or schema.table`);
}

const nameOf = (table: FoundTable): string =>
  `${quoteIdentifier(table.schema)}.${quoteIdentifier(table.name)}`;

const roleOf = async (database: Database): Promise<string> =>
  await database.read(async (transaction) => {
    const [row] = await transaction.query<{ role: string }>(
      `-- event-replay: roleOf
       SELECT quote_ident(current_user) AS role`,
    );
    return row?.role ?? 'the role of this job';
  });

/** An id in the form that the database gives it back in; nothing where it cannot be one. */
const normalForm: Readonly<Record<IdType, (id: string) => string | undefined>> = {
  text: (id) => (id.includes('\0') ? undefined : id),
  uuid: (id) => (/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(id) ? id.toLowerCase() : undefined),
  bigint: (id) =>
    /^-?\d{1,19}$/.test(id) && BigInt.asIntN(64, BigInt(id)) === BigInt(id)
      ? BigInt(id).toString()
      : undefined,
};

/** Ids in the form that the database gives them back in, each once; those that cannot be one are left out. */
export function normalizeIds(ids: readonly string[], idType: IdType): string[] {
  return [...new Set(ids.map(normalForm[idType]).filter((id) => id !== undefined))];
}
