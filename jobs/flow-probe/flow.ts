/**
 * The flow as declared: steps over the service's public interface, and the bill and the events that they must lead to.
 * Reads a declaration and says everything that is wrong with it at once, by its path; never quotes a value, since what
 * stands in the wrong place may be a secret.
 */
import { readFileSync } from 'node:fs';
import { parse as parseYaml } from 'yaml';
import { z } from 'zod';
import { RunFailure } from '../runtime/failures.ts';
import { namesIn } from './placeholders.ts';

/** The name of a placeholder; `mark` and `run` are always there. */
const placeholder = z
  .string()
  .regex(/^[a-z][a-zA-Z0-9_]{0,62}$/, 'must be a plain name')
  .refine((name) => name !== 'mark' && name !== 'run', 'is a name that is always there');

/** Names of steps stand in logs and, with `_` for `-`, in the counts of a run. */
const stepName = z.string().regex(/^[a-z][a-z0-9-]{0,40}$/, 'must be a lower-case name with dashes');

/** Payload keys stand inside statements, as in the language of the checks: names only. */
const payloadKey = z.string().regex(/^[\w.-]{1,128}$/, 'must be a plain name of a payload key');

const step = z.strictObject({
  name: stepName,
  method: z.enum(['POST', 'PUT', 'PATCH', 'GET']).default('POST'),
  path: z.string().regex(/^\/(?!\/)[^\s?#]{0,500}$/, 'must begin with one / and have no query'),
  body: z.json().optional(),
  expect: z.array(z.number().int().min(200).max(599)).min(1).max(10),
  // Placeholder → where in the JSON of the answer its value stands, such as `id` or `data.id`.
  take: z
    .record(placeholder, z.string().regex(/^[\w-]+(\.[\w-]+)*$/, 'must be a path such as data.id'))
    .default({}),
});

const flow = z.strictObject({
  mark: z.string().regex(/^[\w.:-]{1,100}$/, 'must be a plain name'),
  ids: z.array(placeholder).max(20).default([]),
  steps: z.array(step).min(1).max(50),
  bill: z.strictObject({
    check: z.string().min(1).max(63),
    key: z.array(z.string().min(1).max(200)).min(1).max(8),
    amount: z.number().int().min(0).max(Number.MAX_SAFE_INTEGER).nullable().default(null),
    currency: z.string().min(1).max(10).nullable().default(null),
  }),
  events: z
    .array(
      z.strictObject({
        name: z.string().min(1).max(200),
        payload: z
          .record(payloadKey, z.string().min(1).max(200))
          .refine((keys) => Object.keys(keys).length > 0, 'needs a payload key'),
      }),
    )
    .max(20)
    .default([]),
});

export type Flow = z.output<typeof flow>;
export type Step = z.output<typeof step>;

/** The flow of the plan, in the same language as anybody's. */
const planFlow = new URL('plan-flow.yaml', import.meta.url);

/** @throws RunFailure `probe_invalid` with every problem of the declaration */
export function readFlow(file: string | undefined): Flow {
  let content: string;
  try {
    content = readFileSync(file ?? planFlow, 'utf8');
  } catch (error) {
    throw new RunFailure('probe_invalid', 'the file that CF_PROBE_FILE names cannot be read', {
      cause: error,
    });
  }
  let declared: unknown;
  try {
    declared = parseYaml(content, { prettyErrors: false });
  } catch (error) {
    // The parser's own message may quote the line.
    const code = (error as { code?: unknown }).code;
    throw new RunFailure('probe_invalid', `the file of the flow is not YAML (${String(code)})`);
  }
  return parseFlow(declared);
}

/** @throws RunFailure `probe_invalid` with every problem of the declaration */
export function parseFlow(declared: unknown): Flow {
  const parsed = flow.safeParse(declared);
  const problems = parsed.success
    ? contradictions(parsed.data)
    : parsed.error.issues.map((issue) => `${where(issue.path)}${describe(issue)}`);
  if (problems.length > 0 || !parsed.success)
    throw new RunFailure('probe_invalid', `the flow cannot be used: ${problems.join('; ')}`);
  return parsed.data;
}

/** Parts that are fine one by one and mean nothing together. */
function contradictions(given: Flow): string[] {
  const problems: string[] = [];
  const known = new Set(['mark', 'run', ...given.ids]);
  const names = new Set<string>();
  const check = (at: string, template: unknown) => {
    const unknown = namesIn(template).filter((name) => !known.has(name));
    if (unknown.length > 0)
      problems.push(`${at}: no placeholder ${[...new Set(unknown)].join(', ')} is known there`);
  };
  for (const [position, one] of given.steps.entries()) {
    if (names.has(one.name)) problems.push(`steps[${position}].name: is used twice`);
    names.add(one.name);
    check(`steps[${position}].path`, one.path);
    check(`steps[${position}].body`, one.body);
    if (one.method === 'GET' && one.body !== undefined)
      problems.push(`steps[${position}].body: a GET has none`);
    for (const name of Object.keys(one.take)) known.add(name);
  }
  check('bill.key', given.bill.key);
  for (const [position, { payload }] of given.events.entries()) check(`events[${position}].payload`, payload);
  return problems;
}

function where(path: readonly PropertyKey[]): string {
  if (path.length === 0) return '';
  const text = path.map((part) => (typeof part === 'number' ? `[${part}]` : `.${String(part)}`)).join('');
  return `${text.replace(/^\./, '')}: `;
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
    case 'invalid_key':
      return 'has a key of the wrong form';
    case 'invalid_union':
      return 'has no form that can be used';
    default:
      return issue.message;
  }
}
