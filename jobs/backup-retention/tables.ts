/**
 * Finds the table of events once per run, and how its rows may go: deleted, or by the day through the owner's function.
 * Refuses by name what is missing, with the statement that mends it; the names it gives out are quoted, and nothing else
 * of a setting enters a statement.
 */
import { splitTableName } from '../checks/parse.ts';
import { quoteIdentifier, type Transaction } from '../runtime/database.ts';
import { RunFailure } from '../runtime/failures.ts';
import { type FoundTable, findDropFunction, findPartitions, findTable, hasCascade } from './table-queries.ts';

/** What one walk goes over: a table, its default partition, or one day of it. */
export interface Walked {
  /** Qualified and quoted. */
  readonly name: string;
  readonly idType: 'text' | 'uuid' | 'bigint';
  readonly createdAtType: 'timestamp' | 'timestamptz';
  /** Nothing where there is no such column. */
  readonly processedAtType: 'timestamp' | 'timestamptz' | undefined;
  /** Only of a jsonb payload are the declared keys read. */
  readonly readsPayload: boolean;
  /** Whether an index leads by `created_at`; else the walk goes over the blocks of the table. */
  readonly hasTimeIndex: boolean;
  /** Size in blocks of 8 kB. */
  readonly blocks: number;
  /** Of the service's `timestamp` columns. */
  readonly timeZone: string;
  /** Where rows of deliveries do not go by themselves: their table. */
  readonly deliveries: Deliveries | undefined;
  /** Of a partitioned table the one day, `2026-11-27`: it is read through its parent, on which alone there is a right. */
  readonly day: string | undefined;
}

export interface Deliveries {
  /** Qualified and quoted. */
  readonly name: string;
  readonly idType: Walked['idType'];
}

export type Day = Walked & { readonly day: string };

export interface EventsTable {
  /** Whose rows are deleted: the table, or the default partition of one that is partitioned. Nothing: no rows are. */
  readonly deletable: Walked | undefined;
  /** Days that may be dropped whole, oldest first. */
  readonly days: readonly Day[];
  /** The owner's function; there is one where there are days. */
  readonly dropFunction: string | undefined;
}

export interface TableSettings {
  readonly eventsTable: string;
  readonly deliveriesTable: string;
  readonly dropFunction: string;
  readonly timeZone: string;
}

const idTypes: Readonly<Record<string, Walked['idType']>> = {
  text: 'text',
  'character varying': 'text',
  uuid: 'uuid',
  bigint: 'bigint',
  integer: 'bigint',
};
const timeTypes: Readonly<Record<string, Walked['createdAtType']>> = {
  'timestamp without time zone': 'timestamp',
  'timestamp with time zone': 'timestamptz',
};

/** @throws RunFailure `table_missing`, `column_missing`, `index_missing`, `grant_missing`, `function_missing` */
export async function findEventsTable(
  transaction: Transaction,
  settings: TableSettings,
): Promise<EventsTable> {
  const table = await findTable(transaction, splitTableName(settings.eventsTable));
  if (table === undefined) {
    throw new RunFailure(
      'table_missing',
      `the events table ${settings.eventsTable} does not exist or is not visible to this role: name it in CF_EVENTS_TABLE, or run jobs/schema/retention-role.sql`,
    );
  }
  requireRight(table, 'SELECT', table.may_select);
  const walked = readColumns(table, settings.timeZone);
  const deliveries = await findTable(transaction, splitTableName(settings.deliveriesTable));
  if (table.kind === 'p') return await partitioned(transaction, table, walked, deliveries, settings);
  if (table.kind !== 'r') {
    throw new RunFailure(
      'table_missing',
      `${nameOf(table)} is no table: name the table below it in CF_EVENTS_TABLE`,
    );
  }
  requireRight(table, 'DELETE', table.may_delete);
  const alone = deliveries === undefined || (await hasCascade(transaction, deliveries.oid, table.oid));
  return {
    deletable: { ...walked, deliveries: alone ? undefined : deletableDeliveries(deliveries) },
    days: [],
    dropFunction: undefined,
  };
}

async function partitioned(
  transaction: Transaction,
  table: FoundTable,
  walked: Walked,
  deliveries: FoundTable | undefined,
  settings: TableSettings,
): Promise<EventsTable> {
  const found = await findDropFunction(transaction, settings.dropFunction);
  if (found === undefined) {
    throw new RunFailure(
      'function_missing',
      `${nameOf(table)} is partitioned, and CF_RETENTION_DROP_FUNCTION names no function (date) that drops a day: its owner installs the one of nestjs/sql/event_backups.partitioned.sql`,
    );
  }
  if (!found.may_execute) {
    throw new RunFailure(
      'grant_missing',
      `this role may not call ${found.name}: GRANT EXECUTE ON FUNCTION ${found.name}(date) TO ${table.role};`,
    );
  }
  if (!table.has_time_index) {
    throw new RunFailure(
      'index_missing',
      `${nameOf(table)} has no index on created_at, so a day of it would be read as a whole each time: CREATE INDEX ON ${nameOf(table)} (created_at);`,
    );
  }
  const partitions = await findPartitions(transaction, table.oid);
  const rest = partitions.find(({ is_default }) => is_default);
  // The function deletes what is left of a day's; in portions beforehand, it need not take long over it.
  const ours =
    deliveries?.may_delete === true && deliveries.may_select ? readDeliveries(deliveries) : undefined;
  return {
    // Without the right its rows stay, and the run says so: days are what matters.
    deletable:
      rest === undefined || !rest.may_delete
        ? undefined
        : {
            ...walked,
            name: `${quoteIdentifier(rest.schema)}.${quoteIdentifier(rest.name)}`,
            blocks: rest.blocks,
            deliveries: deliveries === undefined ? undefined : deletableDeliveries(deliveries),
          },
    days: partitions
      .flatMap(({ date }) => (date === null ? [] : [date]))
      .sort()
      .map((day) => ({ ...walked, deliveries: ours, day })),
    dropFunction: found.name,
  };
}

function deletableDeliveries(deliveries: FoundTable): Deliveries {
  if (!deliveries.may_delete || !deliveries.may_select) {
    throw new RunFailure(
      'grant_missing',
      `the rows of ${nameOf(deliveries)} do not go with their events: give it a foreign key with ON DELETE CASCADE, or: GRANT SELECT, DELETE ON ${nameOf(deliveries)} TO ${deliveries.role};`,
    );
  }
  return readDeliveries(deliveries);
}

function readDeliveries(deliveries: FoundTable): Deliveries {
  const type = deliveries.columns.find(({ name }) => name === 'event_id')?.type ?? '';
  const idType = idTypes[type];
  if (idType === undefined) {
    throw new RunFailure(
      'column_missing',
      `${nameOf(deliveries)} has no column event_id of the type text, uuid or bigint: name the table of deliveries in CF_DELIVERIES_TABLE`,
    );
  }
  return { name: nameOf(deliveries), idType };
}

function requireRight(table: FoundTable, right: 'SELECT' | 'DELETE', held: boolean): void {
  if (held) return;
  throw new RunFailure(
    'grant_missing',
    `this role may not ${right} on ${nameOf(table)}: run jobs/schema/retention-role.sql, or: GRANT SELECT, DELETE ON ${nameOf(table)} TO ${table.role};`,
  );
}

function readColumns(table: FoundTable, timeZone: string): Walked {
  const typeOf = (column: string) => table.columns.find(({ name }) => name === column)?.type;
  const missing = ['event_id', 'event_name', 'status', 'created_at', 'payload'].filter(
    (column) => typeOf(column) === undefined,
  );
  if (missing.length > 0)
    throw new RunFailure('column_missing', `${nameOf(table)} has no column ${missing.join(', ')}`);
  const wrong = (column: string, wanted: string): never => {
    throw new RunFailure(
      'column_missing',
      `${nameOf(table)}.${column} has the type ${typeOf(column)}, which retention cannot use: make it ${wanted}`,
    );
  };
  const processed = typeOf('processed_at');
  return {
    name: nameOf(table),
    idType: idTypes[typeOf('event_id') ?? ''] ?? wrong('event_id', 'text, uuid or bigint'),
    createdAtType: timeTypes[typeOf('created_at') ?? ''] ?? wrong('created_at', 'timestamp or timestamptz'),
    processedAtType:
      processed === undefined
        ? undefined
        : (timeTypes[processed] ?? wrong('processed_at', 'timestamp or timestamptz')),
    readsPayload: typeOf('payload') === 'jsonb',
    hasTimeIndex: table.has_time_index,
    blocks: table.blocks,
    timeZone,
    deliveries: undefined,
    day: undefined,
  };
}

const nameOf = (table: FoundTable): string =>
  `${quoteIdentifier(table.schema)}.${quoteIdentifier(table.name)}`;
