/** Statements that judge single keys and rows of a check by index, whatever their time. */
import { type InspectedCheck } from './inspect.ts';
import { type CheckSide } from './parse.ts';
import {
  carry,
  conditions,
  factColumn,
  instant,
  keyNames,
  ledgerColumn,
  Params,
  quoted,
  type SqlOptions,
  type Statement,
  textColumn,
} from './sql-parts.ts';
import {
  currencyOf,
  idArray,
  isLive,
  judgement,
  minorUnits,
  positive,
  type WindowRow,
} from './verdict-sql.ts';

/** A discrepancy among keys that were judged; `position` counts the keys as given, from 0. */
export interface JudgedRow extends WindowRow {
  readonly position: number;
}

/**
 * Single keys, whatever their time. Only keys with a discrepancy come back.
 * @param keys each the key's columns as text
 * @param settledTo facts from here on are not judged
 */
export function judgeKeys(
  plan: InspectedCheck,
  options: SqlOptions,
  keys: readonly (readonly string[])[],
  settledTo: string,
): Statement {
  const build = { plan, options, params: new Params() };
  const names = keyNames(plan);
  const limit = build.params.add(settledTo, 'timestamptz');
  const arrays = names.map((_, n) =>
    build.params.add(
      keys.map((key) => key[n]),
      'text[]',
    ),
  );
  return {
    text: `-- billing-reconciliation: judgeKeys; index on facts key, ledger key
WITH wanted AS MATERIALIZED (
  SELECT * FROM unnest(${arrays.join(', ')}) WITH ORDINALITY AS wanted (${names.join(', ')}, position)
), found AS (
  ${judgement(build, {
    source: 'wanted',
    keyText: (n) => `wanted.${names[n]}`,
    factKey: (n) => carry(`wanted.${names[n]}`, textColumn, factColumn(plan, n)),
    ledgerKey: (n) => carry(`wanted.${names[n]}`, textColumn, ledgerColumn(plan, n)),
    settledTo: limit,
    columns: '(wanted.position - 1)::integer AS position',
    keyless: 'false',
  })}
)
SELECT '0' AS rows, position, kind, key, NULL::text[] AS row_id, fact_at, ledger_rows, expected_minor,
       actual_minor, currency
  FROM found WHERE kind IS NOT NULL`,
    params: build.params.values,
  };
}

/**
 * Single rows whose key has a null: a fact that no ledger row can match, or a ledger row that can match no fact.
 * Only those that are still so come back.
 * @param ids each the primary key's columns as text
 */
export function judgeRows(
  plan: InspectedCheck,
  options: SqlOptions,
  side: 'facts' | 'ledger',
  ids: readonly (readonly string[])[],
  settledTo: string,
): Statement {
  const build = { plan, options, params: new Params() };
  const { check } = plan;
  const relation = plan[side];
  const declared: CheckSide = check[side];
  const limit = build.params.add(settledTo, 'timestamptz');
  const names = relation.primaryKey.map((_, n) => `id_${n}`);
  const arrays = names.map((_, n) =>
    build.params.add(
      ids.map((id) => id[n]),
      'text[]',
    ),
  );
  const { reverses } = check.ledger;
  const live =
    side === 'facts' || reverses === null
      ? ''
      : 'column' in reverses
        ? isLive(build, 't', undefined)
        : `AND ${positive(build, 't')}`;
  const time = instant(build, relation, declared.at, 't');
  const sinceBound =
    check.since === null ? '' : `AND ${time} >= ${build.params.add(check.since, 'timestamptz')}`;
  return {
    text: `-- billing-reconciliation: judgeRows; the primary key
SELECT '0' AS rows, (wanted.position - 1)::integer AS position,
       '${side === 'facts' ? 'missing' : 'orphan'}' AS kind,
       array[${declared.key.map((column) => `t.${quoted(column)}::text`).join(', ')}] AS key,
       ${idArray('t', relation)} AS row_id, ${time} AS fact_at, '${side === 'facts' ? 0 : 1}' AS ledger_rows,
       ${side === 'facts' ? `trim_scale(${minorUnits(build, declared, 't')})` : 'NULL::numeric'} AS expected_minor,
       ${side === 'ledger' ? `trim_scale(${minorUnits(build, declared, 't')})` : 'NULL::numeric'} AS actual_minor,
       ${currencyOf(declared, 't')} AS currency
  FROM unnest(${arrays.join(', ')}) WITH ORDINALITY AS wanted (${names.join(', ')}, position)
  JOIN ${relation.name} AS t ON ${relation.primaryKey.map((column, n) => `t.${quoted(column)} = ${carry(`wanted.${names[n]}`, textColumn, relation.columns.get(column))}`).join(' AND ')}
 WHERE (${declared.key.map((column) => `t.${quoted(column)} IS NULL`).join(' OR ')})
   AND ${time} < ${limit} ${sinceBound}
   ${conditions(build, relation, declared.where, 't')} ${live}`,
    params: build.params.values,
  };
}
