import { z } from 'zod';
import { RunFailure } from './failures.ts';

/** Variables by name, as in `process.env`; passed in, so that no test has to change the process. */
export type Environment = Readonly<Record<string, string | undefined>>;

/** What a job may be told: the name of each environment variable and how it is read. */
export type SettingsShape = Readonly<Record<string, z.ZodType>>;

export type Settings<Shape extends SettingsShape> = { readonly [Name in keyof Shape]: z.output<Shape[Name]> };

/** Exactly `true` or `false`; nothing else is taken for either. */
export const flag = (initial: boolean) =>
  z
    .enum(['true', 'false'])
    .default(initial ? 'true' : 'false')
    .transform((text) => text === 'true');

const whole = (min: number, max: number) =>
  z
    .string()
    .regex(/^\d{1,15}$/, 'must be a whole number')
    .transform(Number)
    .pipe(z.number().min(min).max(max));

/** A whole number within bounds, both included. */
export const count = (initial: number, min: number, max: number) =>
  z.preprocess((text) => text ?? String(initial), whole(min, max));

/** A duration given in whole seconds by the environment, in milliseconds to the code. */
export const seconds = (initial: number, min: number, max: number) =>
  count(initial, min, max).transform((value) => value * 1000);

/** A text that has to be there and not empty. */
export const required = () =>
  z.string({ error: 'is required' }).min(1, { error: 'must not be empty', abort: true });

/** A text that may be left out; an empty one counts as left out, since Kubernetes cannot unset a variable. */
export const optional = () =>
  z.preprocess((text) => (text === '' ? undefined : text), z.string().min(1).optional());

/**
 * Reads the settings of a job. All problems come together in one failure; it names variables and rules and
 * never a value, since any of them may be a secret by mistake.
 *
 * A variable that begins with `CF_` and is not in `shape` is a problem: it is a misspelt name more often than
 * not, and a default in its place would be silent.
 * @throws RunFailure `settings_invalid`
 */
export function readSettings<Shape extends SettingsShape>(
  shape: Shape,
  environment: Environment,
): Settings<Shape> {
  const problems: string[] = [];
  const settings: Record<string, unknown> = {};
  for (const [name, rule] of Object.entries(shape)) {
    const result = rule.safeParse(environment[name]);
    if (result.success) settings[name] = result.data;
    else problems.push(`${name}: ${[...new Set(result.error.issues.map(describe))].join(', ')}`);
  }
  for (const name of Object.keys(environment)) {
    if (name.startsWith('CF_') && !Object.hasOwn(shape, name))
      problems.push(`${name}: is not a setting of this job`);
  }
  if (problems.length > 0) {
    throw new RunFailure(
      'settings_invalid',
      `${problems.length} of the settings cannot be used: ${problems.join('; ')}`,
    );
  }
  return Object.freeze(settings) as Settings<Shape>;
}

/** The rule that was broken. zod's own messages are kept only where they cannot quote what was given. */
function describe(issue: z.core.$ZodIssue): string {
  switch (issue.code) {
    case 'too_small':
      return issue.origin === 'string' ? 'must not be empty' : `must be at least ${issue.minimum}`;
    case 'too_big':
      return `must be at most ${issue.maximum}`;
    case 'invalid_value':
      return `must be one of ${issue.values.join(', ')}`;
    case 'invalid_type':
      return 'is required';
    case 'invalid_format':
    case 'custom':
      return issue.message;
    default:
      return 'cannot be used';
  }
}
