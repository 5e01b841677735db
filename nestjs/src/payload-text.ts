/** A payload that cannot be stored as jsonb. Names the place, never the value. */
export class PayloadRefusedError extends Error {
  override readonly name = 'PayloadRefusedError';
  readonly retryable = false;
  constructor(
    eventName: string,
    /** Where in the payload, as a JSON path such as `$.lines[2].note`. */
    readonly path: string,
    problem: string,
  ) {
    super(`${eventName} was not published: ${problem} at ${path}`);
  }
}

// Every NUL and every lone surrogate is written by JSON.stringify as one of these escapes. The same letters may
// stand in a harmless text behind an escaped backslash, so a match only means that it is worth looking.
const SUSPICIOUS = /\\u(?:0000|d[89a-f])/;
const PLAIN_KEY = /^[A-Za-z_$][\w$]*$/;

const isStorable = (text: string): boolean => text.isWellFormed() && !text.includes('\u0000');

function findUnstorable(value: unknown, path: string): string | undefined {
  if (typeof value === 'string') return isStorable(value) ? undefined : path;
  if (typeof value !== 'object' || value === null) return undefined;
  if (Array.isArray(value)) {
    for (const [index, item] of value.entries()) {
      const found = findUnstorable(item, `${path}[${index}]`);
      if (found !== undefined) return found;
    }
    return undefined;
  }
  for (const [index, [key, item]] of Object.entries(value).entries()) {
    // A bad key is named by its position: the key itself is what cannot be printed.
    if (!isStorable(key)) return `${path}{key ${index}}`;
    const found = findUnstorable(
      item,
      PLAIN_KEY.test(key) ? `${path}.${key}` : `${path}[${JSON.stringify(key)}]`,
    );
    if (found !== undefined) return found;
  }
  return undefined;
}

/**
 * The payload as the JSON text that is stored. Throws PayloadRefusedError where it is not JSON, or holds what jsonb
 * refuses (`\u0000`, lone surrogates): found here, it does not break the caller's transaction.
 */
export function payloadText(eventName: string, payload: unknown): string {
  let text: string | undefined;
  try {
    text = JSON.stringify(payload);
  } catch {
    throw new PayloadRefusedError(eventName, '$', 'a value that is not JSON (a bigint or a cycle)');
  }
  if (text === undefined) throw new PayloadRefusedError(eventName, '$', 'a value that is not JSON');
  if (SUSPICIOUS.test(text)) {
    const path = findUnstorable(JSON.parse(text), '$');
    if (path !== undefined) {
      throw new PayloadRefusedError(
        eventName,
        path,
        'a character that jsonb refuses (\\u0000 or a lone surrogate)',
      );
    }
  }
  return text;
}
