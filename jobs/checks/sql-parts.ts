/**
 * What the statements of a check are made of: parameters, columns as values of other types, times and conditions.
 * Keys are compared in the type of the side that is looked up, so that its index stays usable. Where the types
 * differ, a text counts as the same key only in the form in which Postgres prints the other type.
 */
import { quoteIdentifier } from '../runtime/database.ts';
import { type Column, type InspectedCheck, keyFamily, type Relation } from './inspect.ts';
import { type CheckSide, type Condition } from './parse.ts';

export interface Statement {
  readonly text: string;
  readonly params: readonly unknown[];
}

export interface SqlOptions {
  /** The zone of the service's `timestamp` columns. */
  readonly timeZone: string;
  /** How far from a fact its ledger row is sought before the index has to find it, in milliseconds. */
  readonly slackMs: number;
}

export class Params {
  readonly values: unknown[] = [];

  /** A parameter with its cast. */
  add(value: unknown, type: string): string {
    this.values.push(value);
    return `$${this.values.length}::${type}`;
  }
}

export interface Build {
  readonly plan: InspectedCheck;
  readonly options: SqlOptions;
  readonly params: Params;
}

export const keyNames = (plan: InspectedCheck): readonly string[] =>
  plan.check.facts.key.map((_, n) => `k${n}`);

export const quoted = (name: string | undefined): string => quoteIdentifier(name ?? '');

export const textColumn: Column = { type: 'text', base: 'text', category: 'S', nullable: true };

export const factColumn = (plan: InspectedCheck, n: number): Column | undefined =>
  plan.facts.columns.get(plan.check.facts.key[n] ?? '');

export const ledgerColumn = (plan: InspectedCheck, n: number): Column | undefined =>
  plan.ledger.columns.get(plan.check.ledger.key[n] ?? '');

export const typeOf = (relation: Relation, column: string): string =>
  relation.columns.get(column)?.type ?? 'text';

/**
 * An expression of one type as a value of another, null where it cannot be one: a ledger key `manual-7` names no
 * uuid, and must not fail the statement.
 */
export function carry(expression: string, from: Column | undefined, to: Column | undefined): string {
  if (from === undefined || to === undefined) return expression;
  const source = keyFamily(from);
  const target = keyFamily(to);
  if (source === target) return expression;
  switch (target) {
    case 'text':
      return `${expression}::text`;
    case 'bpchar':
      return `${expression}::text::bpchar`;
    case 'uuid':
      return `CASE WHEN ${expression}::text ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN ${expression}::text::uuid END`;
    case 'integer':
      return source === 'numeric'
        ? `CASE WHEN ${expression} = trunc(${expression}) AND abs(${expression}) < 9223372036854775808 THEN ${expression}::bigint END`
        : `CASE WHEN ${expression}::text ~ '^(0|-?[1-9][0-9]{0,18})$' THEN
             CASE WHEN abs(${expression}::text::numeric) < 9223372036854775808 THEN ${expression}::text::bigint END END`;
    case 'numeric':
      return source === 'integer'
        ? `${expression}::numeric`
        : `CASE WHEN ${expression}::text ~ '^-?[0-9]{1,1000}([.][0-9]{1,1000})?$' THEN ${expression}::text::numeric END`;
    default:
      return `${expression}::${to.type}`;
  }
}

const isWallClock = (relation: Relation, column: string): boolean =>
  relation.columns.get(column)?.base === 'timestamp without time zone';

/** The instant that a column means. */
export function instant(build: Build, relation: Relation, column: string, alias: string): string {
  const value = `${alias}.${quoted(column)}`;
  return isWallClock(relation, column)
    ? `(${value} AT TIME ZONE ${build.params.add(build.options.timeZone, 'text')})`
    : value;
}

/**
 * A point in time in the type of a column, so that bounds tile whatever the column holds. On a wall clock that
 * is set back, an hour happens twice: through its first pass the bound stays at the start of that hour, so all
 * of its rows belong to windows of the second pass (and `settledInstant` keeps the horizon out of the first).
 */
export function bound(build: Build, relation: Relation, column: string, time: string): string {
  if (!isWallClock(relation, column)) return time;
  return wallBound(time, build.params.add(build.options.timeZone, 'text'));
}

export function wallBound(time: string, zone: string): string {
  const wall = `((${time}) AT TIME ZONE ${zone})`;
  const again = `(${wall} AT TIME ZONE ${zone} - (${time}))`;
  return `CASE WHEN ${again} > interval '0' THEN date_bin(${again}, ${wall}, timestamp '2000-01-01') ELSE ${wall} END`;
}

/** Whether a check reads a column that is a wall clock. */
export function readsWallClock(plan: InspectedCheck): boolean {
  return isWallClock(plan.facts, plan.check.facts.at) || isWallClock(plan.ledger, plan.check.ledger.at);
}

export function timeRange(
  build: Build,
  relation: Relation,
  side: CheckSide,
  alias: string,
  from: string,
  to: string,
): string {
  const at = `${alias}.${quoted(side.at)}`;
  return `${at} >= ${bound(build, relation, side.at, from)} AND ${at} < ${bound(build, relation, side.at, to)}`;
}

export const conditions = (
  build: Build,
  relation: Relation,
  declared: readonly Condition[],
  alias: string,
): string => declared.map((one) => `AND ${predicate(build, relation, one, alias)}`).join('\n     ');

function predicate(build: Build, relation: Relation, condition: Condition, alias: string): string {
  const column = `${alias}.${quoted(condition.column)}`;
  const type = typeOf(relation, condition.column);
  switch (condition.op) {
    case 'eq':
      return `${column} = ${build.params.add(String(condition.value), type)}`;
    case 'ne':
      return `${column} IS DISTINCT FROM ${build.params.add(String(condition.value), type)}`;
    case 'gte':
      return `${column} >= ${build.params.add(String(condition.value), type)}`;
    case 'lt':
      return `${column} < ${build.params.add(String(condition.value), type)}`;
    case 'in':
      return `${column} = ANY (${build.params.add(condition.value.map(String), `${type}[]`)})`;
    case 'notIn':
      // A null is in no list.
      return `(${column} = ANY (${build.params.add(condition.value.map(String), `${type}[]`)})) IS NOT TRUE`;
    case 'isNull':
      return `${column} IS NULL`;
    case 'notNull':
      return `${column} IS NOT NULL`;
  }
}
