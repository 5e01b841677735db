/**
 * The look at the catalogs before a check runs: that its tables, columns, indices and rights are there. What is
 * missing is one refusal that lists everything with the statement that mends it; a check never crawls for want
 * of an index and never compares the wrong table.
 */
import { quoteIdentifier, type Transaction } from '../runtime/database.ts';
import { type FailureId, RunFailure } from '../runtime/failures.ts';
import { type Check, type CheckSide, splitTableName } from './parse.ts';

export interface Column {
  /** As Postgres writes it, without a length: `character varying`, `uuid`, `billing."Status"`. */
  readonly type: string;
  /** The type below a domain, else the type itself. */
  readonly base: string;
  /** `pg_type.typcategory` of `base`: N for numbers and money. */
  readonly category: string;
  /** Whether it may hold a null, as far as the table says; of a view nobody knows. */
  readonly nullable: boolean;
}

/** A table or view as it stands in the database. */
export interface Relation {
  /** Quoted and with its schema, ready for a statement. */
  readonly name: string;
  readonly columns: ReadonlyMap<string, Column>;
  /** Empty where there is none, as with a view. */
  readonly primaryKey: readonly string[];
}

/** A check whose tables have been found and can be used. */
export interface InspectedCheck {
  readonly check: Check;
  readonly facts: Relation;
  readonly ledger: Relation;
  /** The column by which a reversing row names the one it cancels, where rows reverse each other that way. */
  readonly reversedId: string | undefined;
}

/** The service's table of published events. */
export interface EventsTable {
  readonly relation: Relation;
  /** Whether an index leads from each of these payload keys to the rows; else time has to bound the search. */
  readonly indexedKeys: ReadonlySet<string>;
  readonly hasPublishedHash: boolean;
}

interface Problem {
  readonly id: FailureId;
  readonly message: string;
}

interface FoundRelation extends Relation {
  readonly oid: string;
  readonly kind: RelationKind;
  readonly schema: string;
}

/** `pg_class.relkind`: table, partitioned table, view, materialised view, foreign table. */
type RelationKind = 'r' | 'p' | 'v' | 'm' | 'f';

/** @throws RunFailure with the first problem's id and a message that lists all of them */
export async function inspectCheck(transaction: Transaction, check: Check): Promise<InspectedCheck> {
  const problems: Problem[] = [];
  const facts = await findSide(transaction, check, 'facts', problems);
  const ledger = await findSide(transaction, check, 'ledger', problems);
  let reversedId: string | undefined;
  if (facts !== undefined && ledger !== undefined) {
    checkTypes(check, facts, ledger, problems);
    reversedId = findReversedId(check, ledger, problems);
    if (problems.length === 0) {
      const needed: [FoundRelation, CheckSide, readonly string[], 'range' | 'key'][] = [
        [facts, check.facts, [check.facts.at], 'range'],
        [facts, check.facts, check.facts.key, 'key'],
        [ledger, check.ledger, [check.ledger.at], 'range'],
        [ledger, check.ledger, check.ledger.key, 'key'],
      ];
      if (reversedId !== undefined && check.ledger.reverses !== null && 'column' in check.ledger.reverses) {
        needed.push([ledger, check.ledger, [check.ledger.reverses.column], 'key']);
        needed.push([ledger, check.ledger, [reversedId], 'key']);
      }
      for (const [relation, side, columns, use] of needed) {
        if (!(await hasIndex(transaction, relation, side, columns, use)))
          problems.push(indexProblem(check, relation, columns));
      }
    }
  }
  refuse(problems);
  if (facts === undefined || ledger === undefined)
    throw new RunFailure('internal', 'a table was neither found nor missed');
  return { check, facts, ledger, reversedId };
}

/**
 * The table of events, or why its rows cannot be used; without it the causes of findings stay unknown.
 * @param table as in the settings, found by the role's own search_path unless it names a schema
 * @param payloadKeys the keys by which checks find the events of a fact
 */
export async function inspectEvents(
  transaction: Transaction,
  table: string,
  payloadKeys: ReadonlySet<string>,
): Promise<EventsTable | string> {
  const problems: Problem[] = [];
  const columns = ['event_id', 'event_name', 'payload', 'status', 'created_at'];
  const relation = await findRelation(transaction, 'CF_EVENTS_TABLE', table, columns, problems, () => 'text');
  if (relation === undefined || problems.length > 0) return problems.map(({ message }) => message).join('; ');
  const definitions = await transaction.query<{ definition: string }>(
    `-- billing-reconciliation: inspectEvents (what the indices lead by)
     SELECT pg_get_indexdef(indexrelid, 1, true) AS definition
       FROM pg_index WHERE indrelid = $1::oid AND indisvalid AND indpred IS NULL`,
    [relation.oid],
  );
  const leading = new Set(definitions.map(({ definition }) => definition));
  return {
    relation,
    indexedKeys: new Set([...payloadKeys].filter((key) => leading.has(`(payload ->> '${key}'::text)`))),
    hasPublishedHash: relation.columns.has('published_hash'),
  };
}

function refuse(problems: readonly Problem[]): void {
  const [first] = problems;
  if (first === undefined) return;
  throw new RunFailure(first.id, [...new Set(problems.map(({ message }) => message))].join('; '));
}

async function findSide(
  transaction: Transaction,
  check: Check,
  name: 'facts' | 'ledger',
  problems: Problem[],
): Promise<FoundRelation | undefined> {
  const side: CheckSide = check[name];
  const wanted = new Set([
    ...side.key,
    side.at,
    ...(side.amount === null ? [] : [side.amount.column]),
    ...(side.currency === null ? [] : [side.currency]),
    ...side.where.map(({ column }) => column),
  ]);
  if (name === 'facts') for (const column of Object.values(check.event?.match ?? {})) wanted.add(column);
  const { reverses } = check.ledger;
  if (name === 'ledger' && reverses !== null) {
    if ('sign' in reverses) wanted.add(reverses.sign.column);
    else {
      wanted.add(reverses.column);
      if (reverses.references !== undefined) wanted.add(reverses.references);
    }
  }
  // A key of type text can be compared with keys of every other usable type.
  const mendingType = (column: string) =>
    column === side.at ? 'timestamptz' : side.amount?.column === column ? 'bigint' : 'text';
  return await findRelation(
    transaction,
    `check ${check.name}, ${name}`,
    side.table,
    [...wanted],
    problems,
    mendingType,
  );
}

async function findRelation(
  transaction: Transaction,
  whose: string,
  table: string,
  wanted: readonly string[],
  problems: Problem[],
  mendingType: (column: string) => string,
): Promise<FoundRelation | undefined> {
  const { schema, name } = splitTableName(table);
  const candidates = await transaction.query<{
    oid: string;
    schema: string;
    kind: RelationKind;
    usable: boolean;
    in_path: boolean;
    role: string;
    database: string;
    path: string;
    view_schema: string | null;
  }>(
    `-- billing-reconciliation: findRelation
     SELECT c.oid::text AS oid, n.nspname AS schema, c.relkind AS kind,
            has_schema_privilege(n.oid, 'USAGE') AS usable,
            n.nspname = ANY (current_schemas(false)) AS in_path,
            current_user::text AS role, current_database()::text AS database,
            current_setting('search_path') AS path
       FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE c.relname = $1::text AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
        AND ($2::text IS NULL OR n.nspname = $2::text)
        AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_%'
      ORDER BY array_position(current_schemas(false), n.nspname) NULLS LAST, n.nspname`,
    [name, schema ?? null],
  );
  const found = candidates.find((one) => one.usable && (schema !== undefined || one.in_path));
  if (found === undefined) {
    problems.push(missingTable(whose, { schema, name }, candidates[0], wanted, mendingType));
    return undefined;
  }
  const qualified = `${quoteIdentifier(found.schema)}.${quoteIdentifier(name)}`;
  const columns = await transaction.query<Column & { name: string; readable: boolean }>(
    `-- billing-reconciliation: findRelation (columns)
     WITH RECURSIVE base AS (
       SELECT a.attnum, a.atttypid AS type FROM pg_attribute a
        WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped
       UNION ALL
       SELECT base.attnum, t.typbasetype FROM base JOIN pg_type t ON t.oid = base.type WHERE t.typtype = 'd'
     )
     SELECT a.attname AS name, format_type(a.atttypid, -1) AS type, format_type(t.oid, -1) AS base,
            t.typcategory AS category, NOT a.attnotnull AS nullable, has_column_privilege($1::oid, a.attnum, 'SELECT') AS readable
       FROM pg_attribute a
       JOIN base ON base.attnum = a.attnum
       JOIN pg_type t ON t.oid = base.type AND t.typtype <> 'd'
      WHERE a.attrelid = $1::oid`,
    [found.oid],
  );
  const byName = new Map(columns.map((column) => [column.name, column]));
  const missing = wanted.filter((column) => !byName.has(column));
  if (missing.length > 0) {
    const additions = missing.map((column) => `ADD COLUMN ${quoteIdentifier(column)} ${mendingType(column)}`);
    problems.push({
      id: 'column_missing',
      message: `${whose}: ${qualified} has no column ${missing.join(', ')}; name the right one, or: ALTER TABLE ${qualified} ${additions.join(', ')};`,
    });
  }
  if (wanted.some((column) => byName.get(column)?.readable === false)) {
    problems.push({
      id: 'grant_missing',
      message: `${whose}: the role may not read ${qualified}: GRANT SELECT ON ${qualified} TO ${quoteIdentifier(found.role)};`,
    });
  }
  return {
    oid: found.oid,
    kind: found.kind,
    schema: found.schema,
    name: qualified,
    columns: byName,
    primaryKey: await findPrimaryKey(transaction, found.oid),
  };
}

function missingTable(
  whose: string,
  wanted: { readonly schema: string | undefined; readonly name: string },
  elsewhere:
    | { schema: string; usable: boolean; in_path: boolean; role: string; database: string; path: string }
    | undefined,
  columns: readonly string[],
  mendingType: (column: string) => string,
): Problem {
  if (elsewhere === undefined) {
    const qualified = [wanted.schema, wanted.name]
      .filter((part) => part !== undefined)
      .map(quoteIdentifier)
      .join('.');
    const definitions = columns.map((column) => `${quoteIdentifier(column)} ${mendingType(column)}`);
    return {
      id: 'table_missing',
      message: `${whose}: there is no table ${qualified}; name the right one, or make it, at least: CREATE TABLE ${qualified} (${definitions.join(', ')});`,
    };
  }
  const schema = quoteIdentifier(elsewhere.schema);
  const role = quoteIdentifier(elsewhere.role);
  if (!elsewhere.usable) {
    return {
      id: 'grant_missing',
      message: `${whose}: the role may not use the schema ${schema}: GRANT USAGE ON SCHEMA ${schema} TO ${role};`,
    };
  }
  return {
    id: 'table_missing',
    message: `${whose}: ${quoteIdentifier(wanted.name)} is not on the role's search_path; name it with its schema ${schema}, or: ALTER ROLE ${role} IN DATABASE ${quoteIdentifier(elsewhere.database)} SET search_path = ${elsewhere.path}, ${schema};`,
  };
}

async function findPrimaryKey(transaction: Transaction, oid: string): Promise<readonly string[]> {
  const rows = await transaction.query<{ name: string }>(
    `-- billing-reconciliation: findPrimaryKey
     SELECT a.attname AS name
       FROM pg_index i
       CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, position)
       JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
      WHERE i.indrelid = $1::oid AND i.indisprimary AND k.position <= i.indnkeyatts
      ORDER BY k.position`,
    [oid],
  );
  return rows.map(({ name }) => name);
}

/** Families of types that compare with each other and share indices, as in Postgres' btree operator families. */
export function keyFamily(column: Column): string {
  switch (column.base) {
    case 'smallint':
    case 'integer':
    case 'bigint':
      return 'integer';
    case 'text':
    case 'character varying':
      return 'text';
    default:
      return column.base;
  }
}

/** The families between which a key can be carried over without losing what it names. */
const convertible = new Set(['integer', 'numeric', 'text', 'uuid', 'bpchar']);

function checkTypes(check: Check, facts: Relation, ledger: Relation, problems: Problem[]): void {
  const unusable = (message: string) =>
    problems.push({ id: 'column_missing', message: `check ${check.name}, ${message}` });
  for (const [position, factColumn] of check.facts.key.entries()) {
    const fact = facts.columns.get(factColumn);
    const row = ledger.columns.get(check.ledger.key[position] ?? '');
    if (fact === undefined || row === undefined) continue;
    const families = [keyFamily(fact), keyFamily(row)];
    const textual = families.includes('text') || families.includes('bpchar');
    const numbers = families.every((family) => family === 'integer' || family === 'numeric');
    if (
      families[0] !== families[1] &&
      !(families.every((family) => convertible.has(family)) && (textual || numbers))
    )
      unusable(`key ${factColumn}: ${fact.type} cannot be compared with ${row.type}`);
  }
  for (const [name, relation] of [
    ['facts', facts],
    ['ledger', ledger],
  ] as const) {
    const side: CheckSide = check[name];
    const at = relation.columns.get(side.at);
    if (at !== undefined && !/^timestamp with/.test(at.base))
      unusable(`${name}: at has to be a timestamp, ${side.at} is ${at.type}`);
    const amount = side.amount === null ? undefined : relation.columns.get(side.amount.column);
    if (amount !== undefined && amount.category !== 'N')
      unusable(`${name}: amount has to be a number, ${side.amount?.column} is ${amount.type}`);
  }
}

function findReversedId(check: Check, ledger: Relation, problems: Problem[]): string | undefined {
  const { reverses } = check.ledger;
  if (reverses === null || 'sign' in reverses) return undefined;
  if (reverses.references !== undefined) return reverses.references;
  if (ledger.primaryKey.length !== 1) {
    problems.push({
      id: 'column_missing',
      message: `check ${check.name}, ledger.reverses: ${ledger.name} has no primary key of one column: say in ledger.reverses.references which column is named`,
    });
    return undefined;
  }
  return ledger.primaryKey[0];
}

async function hasIndex(
  transaction: Transaction,
  relation: FoundRelation,
  side: CheckSide,
  columns: readonly string[],
  use: 'range' | 'key',
): Promise<boolean> {
  const indices = await transaction.query<{ columns: (string | null)[]; unique: boolean; method: string }>(
    `-- billing-reconciliation: hasIndex
     SELECT i.indisunique AS "unique", m.amname AS method,
            array(SELECT a.attname::text
                    FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, position)
                    LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
                   WHERE k.position <= i.indnkeyatts ORDER BY k.position) AS columns
       FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam
      WHERE i.indrelid = $1::oid AND i.indisvalid AND i.indpred IS NULL`,
    [relation.oid],
  );
  const serves = indices.some((index) => {
    if (index.method !== 'btree' && (use === 'range' || index.method !== 'hash')) return false;
    const leading = new Set(index.columns.slice(0, columns.length));
    if (columns.every((column) => leading.has(column))) return true;
    // Part of a composite key is enough where it names one row by itself.
    return index.unique && index.columns.every((column) => column !== null && columns.includes(column));
  });
  return serves || (await planUsesIndex(transaction, relation, side, columns, use));
}

interface PlanNode {
  readonly 'Node Type': string;
  readonly 'Index Cond'?: string;
  readonly 'Index Name'?: string;
  readonly Filter?: string;
  readonly 'Join Filter'?: string;
  readonly Plans?: readonly PlanNode[];
}

/** Any time that stands out in a plan. */
const MARKER = '2001-02-03 04:05:06';

/**
 * Asks the planner, with sequential scans switched off: the answer for views, for partial indices whose
 * predicate the check implies, and for partitions that are indexed one by one.
 */
async function planUsesIndex(
  transaction: Transaction,
  relation: FoundRelation,
  side: CheckSide,
  columns: readonly string[],
  use: 'range' | 'key',
): Promise<boolean> {
  await transaction.query(
    `-- billing-reconciliation: planUsesIndex (settings of this transaction)
     SELECT set_config('enable_seqscan', 'off', true), set_config('enable_hashjoin', 'off', true),
            set_config('enable_mergejoin', 'off', true)`,
  );
  const quoted = columns.map(quoteIdentifier);
  const types = columns.map((column) => relation.columns.get(column)?.type ?? 'text');
  const predicates = side.where.flatMap((condition) =>
    condition.op === 'eq'
      ? [
          {
            text: `t.${quoteIdentifier(condition.column)} =`,
            value: String(condition.value),
            type: relation.columns.get(condition.column)?.type ?? 'text',
          },
        ]
      : [],
  );
  const notNull = [
    `t.${quoteIdentifier(side.at)} IS NOT NULL`,
    ...side.where.flatMap((condition) =>
      condition.op === 'notNull'
        ? [`t.${quoteIdentifier(condition.column)} IS NOT NULL`]
        : condition.op === 'isNull'
          ? [`t.${quoteIdentifier(condition.column)} IS NULL`]
          : [],
    ),
    ...predicates.map(({ text, type }, position) => `${text} $${position + 1}::${type}`),
  ];
  const text =
    use === 'range'
      ? `EXPLAIN (FORMAT JSON) SELECT FROM ${relation.name} AS t
          WHERE t.${quoted[0]} >= '${MARKER}'::${types[0]} AND ${notNull.join(' AND ')}`
      : `EXPLAIN (FORMAT JSON) WITH k AS MATERIALIZED (SELECT ${types.map((type, n) => `NULL::${type} AS cf_key_${n}`).join(', ')})
         SELECT FROM k JOIN ${relation.name} AS t ON ${quoted.map((column, n) => `t.${column} = k.cf_key_${n}`).join(' AND ')}
          WHERE ${notNull.join(' AND ')}`;
  const [row] = await transaction.query<{ 'QUERY PLAN': readonly { Plan: PlanNode }[] }>(
    `-- billing-reconciliation: planUsesIndex\n${text}`,
    predicates.map(({ value }) => value),
  );
  const root = row?.['QUERY PLAN'][0]?.Plan;
  if (root === undefined) return false;
  const nodes = flatten(root);
  const mark = use === 'range' ? MARKER : 'cf_key_0';
  const everyMark = use === 'range' ? [MARKER] : columns.map((_, n) => `cf_key_${n}`);
  const scanned = nodes.filter(
    (node) => node['Node Type'].includes('Scan') && node['Node Type'] !== 'CTE Scan',
  );
  const serving = scanned.filter((node) => everyMark.every((one) => node['Index Cond']?.includes(one)));
  const crawls = nodes.some((node) => node.Filter?.includes(mark) || node['Join Filter']?.includes(mark));
  const led: boolean[] = [];
  for (const node of serving) led.push(await leadsBy(transaction, node));
  return !crawls && led.every(Boolean) && (led.length > 0 || scanned.length === 0);
}

/** Whether the index begins with what is sought: one that only contains it is read from end to end. */
async function leadsBy(transaction: Transaction, node: PlanNode): Promise<boolean> {
  const [index] = await transaction.query<{ leading: string }>(
    `-- billing-reconciliation: leadsBy
     SELECT pg_get_indexdef(oid, 1, true) AS leading FROM pg_class
      WHERE relname = $1::text AND relkind IN ('i', 'I')`,
    [node['Index Name'] ?? ''],
  );
  return index !== undefined && node['Index Cond']?.includes(`${index.leading} `) === true;
}

const flatten = (node: PlanNode): PlanNode[] => [node, ...(node.Plans ?? []).flatMap(flatten)];

function indexProblem(check: Check, relation: FoundRelation, columns: readonly string[]): Problem {
  const list = columns.map(quoteIdentifier).join(', ');
  const whose = `check ${check.name}: ${relation.name} has no index on (${columns.join(', ')})`;
  switch (relation.kind) {
    case 'v':
      return {
        id: 'index_missing',
        message: `${whose} that its view can use: index the column in the table below the view`,
      };
    case 'f':
      return { id: 'index_missing', message: `${whose}: foreign tables cannot be reconciled in place` };
    case 'p':
      return { id: 'index_missing', message: `${whose}: CREATE INDEX ON ${relation.name} (${list});` };
    case 'r':
    case 'm':
      return {
        id: 'index_missing',
        message: `${whose}: CREATE INDEX CONCURRENTLY ON ${relation.name} (${list});`,
      };
  }
}
