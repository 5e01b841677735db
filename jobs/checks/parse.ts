/**
 * The check language: which facts must be billed, where their ledger rows are, and when the two agree. A check
 * is declared and never free SQL; this file reads declarations and says everything that is wrong with them at
 * once, by check and path. It never quotes a value: what stands in the wrong place may be a secret.
 */
import { readFileSync } from 'node:fs';
import { parse as parseYaml } from 'yaml';
import { z } from 'zod';
import { RunFailure } from '../runtime/failures.ts';

const column = z.string().min(1).max(63);
const columns = z.array(column).min(1).max(8);

/** `table`, `schema.table`, or with double quotes where a name holds a dot; never folded to lower case. */
const tableName = z
  .string()
  .regex(/^(?:"(?:[^"]|"")+"|[^".]+)(?:\.(?:"(?:[^"]|"")+"|[^".]+))?$/, 'must be table or schema.table');

const scalar = z.union([z.string(), z.number(), z.boolean()], {
  error: 'must be a text, a number, true or false',
});

const condition = z.discriminatedUnion('op', [
  z.strictObject({ column, op: z.enum(['eq', 'ne', 'gte', 'lt']), value: scalar }),
  z.strictObject({ column, op: z.enum(['in', 'notIn']), value: z.array(scalar).min(1).max(1000) }),
  z.strictObject({ column, op: z.enum(['isNull', 'notNull']) }),
]);

const currencyCode = z.string().regex(/^[A-Za-z0-9]{1,10}$/, 'must be a currency code');

/** A number for all currencies, or one per currency with `default` for the rest. */
const perCurrency = (number: z.ZodNumber) =>
  z
    .union([number, z.record(currencyCode, number).refine((map) => 'default' in map, 'needs default')], {
      error: 'must be a whole number, or a map from currency to whole number with default',
    })
    .transform((given): PerCurrency => {
      if (typeof given === 'number') return { default: given, byCurrency: {} };
      const { default: rest = 0, ...byCurrency } = given;
      return { default: rest, byCurrency };
    });

/** A whole number that may differ by currency. */
export interface PerCurrency {
  readonly default: number;
  readonly byCurrency: Readonly<Record<string, number>>;
}

/** A column of minor units, or of major units with the number of decimals that make them minor. */
const amount = z
  .union([column, z.strictObject({ column, scale: perCurrency(z.number().int().min(0).max(12)) })], {
    error: 'must be a column of minor units, or {column, scale}',
  })
  .transform((given) =>
    typeof given === 'string' ? { column: given, scale: { default: 0, byCurrency: {} } } : given,
  );

const reverses = z.union(
  [
    z.strictObject({ column, references: column.optional() }),
    z.strictObject({
      sign: z.strictObject({ column, negative: z.array(scalar).min(1).max(100) }),
    }),
  ],
  { error: 'must be {column, references} or {sign: {column, negative}}' },
);

const side = {
  table: tableName,
  key: columns,
  at: column,
  amount: amount.nullable().default(null),
  currency: column.nullable().default(null),
  where: z.array(condition).max(50).default([]),
};

const durationUnitsMs = { s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const;

/** `90s`, `10m`, `24h` or `7d`, in milliseconds to the code. */
const duration = (initial: string, minMs: number) =>
  z
    .string()
    .regex(/^\d{1,6}[smhd]$/, 'must be a number and one of s, m, h, d')
    .default(initial)
    .transform((text) => Number(text.slice(0, -1)) * durationUnitsMs[text.slice(-1) as 's'])
    .refine((ms) => ms >= minMs, `must be at least ${minMs / 1000}s`);

/** A point in time with its offset, or a date, which begins in UTC. */
const since = z
  .string()
  .regex(
    /^\d{4}-\d{2}-\d{2}(T\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?(Z|[+-]\d{2}:\d{2}))?$/,
    'must be a date, or a time with Z or an offset',
  )
  .refine((text) => !Number.isNaN(Date.parse(text)), 'must be a date that exists')
  .transform((text) => (text.includes('T') ? text : `${text}T00:00:00Z`));

/** Payload keys stand inside statements, where the expression index can be recognised: names only. */
const payloadKey = z.string().regex(/^[\w.-]{1,128}$/, 'must be a plain name of a payload key');

const event = z.strictObject({
  name: z.string().min(1).max(200),
  key: z.array(payloadKey).min(1).max(8),
  match: z.record(payloadKey, column).default({}),
});

const check = z.strictObject({
  name: z.string().regex(/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/, 'must be a lower-case name with dashes'),
  facts: z.strictObject(side),
  ledger: z.strictObject({ ...side, reverses: reverses.nullable().default(null) }),
  cardinality: z.enum(['one', 'at_least_one', 'net_sum']).default('one'),
  tolerance: perCurrency(z.number().int().min(0)).default({ default: 0, byCurrency: {} }),
  event: event.nullable().default(null),
  since: since.nullable().default(null),
  // Below a second the start of a transaction may not yet be visible to us.
  grace: duration('10m', 1000),
  lookback: duration('24h', 1000),
});

/** A declared check, with every default filled in; durations in milliseconds. */
export type Check = z.output<typeof check>;
export type CheckSide = Check['facts'] | Check['ledger'];
export type Condition = z.output<typeof condition>;
export type Amount = z.output<typeof amount>;

interface TableName {
  readonly schema: string | undefined;
  readonly name: string;
}

export function splitTableName(text: string): TableName {
  const parts = [...text.matchAll(/"((?:[^"]|"")+)"|([^".]+)/g)].map(
    ([, quoted, plain]) => quoted?.replaceAll('""', '"') ?? plain ?? '',
  );
  return parts.length > 1
    ? { schema: parts[0], name: parts[1] ?? '' }
    : { schema: undefined, name: parts[0] ?? '' };
}

/** What is checked where no file is named: the tables of the plan. */
const builtIn = {
  checks: [
    {
      name: 'session-billing',
      facts: { table: 'sessions', key: ['id'], at: 'completed_at' },
      ledger: { table: 'mentor_payable_ledgers', key: ['session_id'], at: 'created_at' },
      event: { name: 'services.session.completed.v1', key: ['sessionId'] },
    },
  ],
};

/**
 * The checks of the file, or the built-in one where no file is named.
 * @throws RunFailure `checks_invalid` with every problem of every check
 */
export function readChecks(file: string | undefined): readonly Check[] {
  if (file === undefined) return parseChecks(builtIn);
  let content: string;
  try {
    content = readFileSync(file, 'utf8');
  } catch (error) {
    throw new RunFailure('checks_invalid', 'the file that CF_CHECKS_FILE names cannot be read', {
      cause: error,
    });
  }
  let declared: unknown;
  try {
    declared = parseYaml(content, { prettyErrors: false });
  } catch (error) {
    // The parser's own message may quote the line.
    const code = (error as { code?: unknown }).code;
    throw new RunFailure('checks_invalid', `the file of checks is not YAML (${String(code)})`);
  }
  return parseChecks(declared);
}

/** @throws RunFailure `checks_invalid` with every problem of every check */
export function parseChecks(declared: unknown): readonly Check[] {
  const outer = z.strictObject({ checks: z.array(z.unknown()).min(1) }).safeParse(declared);
  if (!outer.success) refuse(outer.error.issues.map((issue) => `${where(issue.path)}${describe(issue)}`));
  const problems: string[] = [];
  const checks: Check[] = [];
  for (const [position, candidate] of outer.data.checks.entries()) {
    const name = nameOf(candidate) ?? `checks[${position}]`;
    const parsed = check.safeParse(candidate);
    if (!parsed.success) {
      for (const issue of parsed.error.issues)
        problems.push(`${name}: ${where(issue.path)}${describe(issue)}`);
      continue;
    }
    problems.push(...contradictions(parsed.data).map((problem) => `${name}: ${problem}`));
    if (checks.some((other) => other.name === parsed.data.name)) {
      problems.push(`${name}: is declared twice`);
    } else {
      checks.push(parsed.data);
    }
  }
  if (problems.length > 0) refuse(problems);
  return checks;
}

function refuse(problems: readonly string[]): never {
  throw new RunFailure('checks_invalid', `the checks cannot be used: ${problems.join('; ')}`);
}

/** The name of a check that may be wrong in everything else. */
function nameOf(candidate: unknown): string | undefined {
  const name = (candidate as { name?: unknown } | null)?.name;
  return typeof name === 'string' && /^[a-z0-9-]{1,63}$/.test(name) ? name : undefined;
}

function where(path: readonly PropertyKey[]): string {
  if (path.length === 0) return '';
  const text = path.map((part) => (typeof part === 'number' ? `[${part}]` : `.${String(part)}`)).join('');
  return `${text.replace(/^\./, '')}: `;
}

/** Parts that are fine one by one and mean nothing together. */
function contradictions(given: Check): string[] {
  const problems: string[] = [];
  const { facts, ledger, event: published, cardinality, tolerance } = given;
  if (facts.key.length !== ledger.key.length)
    problems.push('ledger.key: must have as many columns as facts.key');
  if (published !== null && published.key.length !== facts.key.length)
    problems.push('event.key: must have as many payload keys as facts.key has columns');
  for (const [name, { amount: money, currency }] of Object.entries({ facts, ledger })) {
    if (money !== null && currency === null && Object.keys(money.scale.byCurrency).length > 0)
      problems.push(`${name}.currency: is required where the scale differs by currency`);
    if (cardinality === 'net_sum' && money === null)
      problems.push(`${name}.amount: is required with cardinality net_sum`);
  }
  const currencies = [facts.currency, ledger.currency];
  if (Object.keys(tolerance.byCurrency).length > 0 && currencies.every((column) => column === null))
    problems.push('tolerance: needs a currency on one side to differ by currency');
  if (cardinality === 'at_least_one' && ledger.reverses !== null && 'sign' in ledger.reverses)
    problems.push('ledger.reverses: a sign column goes with cardinality one or net_sum');
  return problems;
}

/** The rule that was broken, in words that cannot quote what was given. */
function describe(issue: z.core.$ZodIssue): string {
  switch (issue.code) {
    case 'unrecognized_keys':
      return `${issue.keys.join(', ')}: unknown`;
    case 'invalid_type':
      return `must be ${issue.expected}`;
    case 'invalid_value':
      return `must be one of ${issue.values.join(', ')}`;
    case 'too_small':
      return 'is too short or too small';
    case 'too_big':
      return 'is too long or too large';
    case 'invalid_union':
      return issue.message.startsWith('Invalid') ? 'is not one of the known forms' : issue.message;
    case 'invalid_key':
      return 'has a key of the wrong form';
    default:
      return issue.message;
  }
}
