/**
 * The number that a condition compares its result with, for the threshold line beside a measurement. Conditions are
 * expressions; only plain comparisons of the result with a number are understood, and only one number is a limit:
 * where there are two, or none, there is no line rather than a wrong one.
 */

/** `{{args.name}}` replaced by the run's arguments; undefined where one has no plain value. */
export function withArguments(text: string, args: ReadonlyMap<string, string>): string | undefined {
  let known = true;
  const replaced = text.replaceAll(/\{\{\s*args\.([\w.-]+)\s*\}\}/g, (_whole, name: string) => {
    const value = args.get(name);
    if (value === undefined) known = false;
    return value ?? '';
  });
  return known ? replaced : undefined;
}

const NUMBER = String.raw`[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?`;
const QUOTED = `asFloat\\(\\s*['"]?(${NUMBER})['"]?\\s*\\)`;
const OPERATOR = '(?:<=|>=|==|!=|<|>)';
/** `result`, `result[0]`, `result.rate`, `asFloat(result[0])`, or `#`, one of many inside any() and all(). */
const VALUE = String.raw`(?:#|result\b(?:\.\w+|\[[^\]]*\])*)`;
const OPERAND = `(?:as(?:Float|Int)\\(\\s*${VALUE}\\s*\\)|${VALUE})`;
const valueFirst = new RegExp(`${OPERAND}\\s*${OPERATOR}\\s*(?:${QUOTED}|(${NUMBER})(?![\\w.]))`, 'g');
const numberFirst = new RegExp(`(?:${QUOTED}|(?<![\\w.\\])])(${NUMBER}))\\s*${OPERATOR}\\s*${OPERAND}`, 'g');

export function limitOf(condition: string): number | undefined {
  // How many results there are is no limit of their value.
  const values = condition.replaceAll(/\blen\([^()]*\)/g, 'len');
  const found = new Set<number>();
  for (const pattern of [valueFirst, numberFirst])
    for (const [, quoted, plain] of values.matchAll(pattern)) found.add(Number(quoted ?? plain));
  const [limit] = found;
  return found.size === 1 ? limit : undefined;
}
