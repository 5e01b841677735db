/** `{name}` in paths, bodies and keys, and the ids that stand in for them. */
import { createHash } from 'node:crypto';

const pattern = /\{([A-Za-z]\w*)\}/g;

export type Values = Readonly<Record<string, string>>;

/** The names that a text, or the texts anywhere inside a value, refer to. */
export function namesIn(template: unknown): string[] {
  if (typeof template === 'string') return [...template.matchAll(pattern)].map(([, name = '']) => name);
  if (typeof template !== 'object' || template === null) return [];
  return Object.values(template).flatMap(namesIn);
}

/** The text with its placeholders filled in; each value is passed through `encode`. */
export const fill = (text: string, values: Values, encode = (value: string) => value): string =>
  text.replaceAll(pattern, (whole, name: string) => {
    const value = values[name];
    return value === undefined ? whole : encode(value);
  });

/** The same for every text anywhere inside a value; keys, numbers and the rest stay as they are. */
export function fillAll(template: unknown, values: Values): unknown {
  if (typeof template === 'string') return fill(template, values);
  if (Array.isArray(template)) return template.map((part) => fillAll(part, values));
  if (typeof template !== 'object' || template === null) return template;
  return Object.fromEntries(Object.entries(template).map(([key, part]) => [key, fillAll(part, values)]));
}

/**
 * A UUID that follows from the run and the name alone, so that an attempt after a kill names what the one before it has
 * made. Version 8, the one for ids that an application makes up by its own rule.
 */
export function idOf(installation: string, run: string, name: string): string {
  const bytes = createHash('sha256')
    .update(JSON.stringify([installation, run, name]))
    .digest()
    .subarray(0, 16);
  bytes[6] = ((bytes[6] ?? 0) & 0x0f) | 0x80;
  bytes[8] = ((bytes[8] ?? 0) & 0x3f) | 0x80;
  return bytes.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}
