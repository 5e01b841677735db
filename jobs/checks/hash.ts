import { createHash } from 'node:crypto';
import type { Check } from './parse.ts';

/** The same for the same meaning: defaults are filled in, and the order of keys does not count. */
export function hashDefinition(check: Check): string {
  return createHash('sha256').update(stableJson(check)).digest('hex');
}

function stableJson(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(stableJson).join(',')}]`;
  if (typeof value !== 'object' || value === null) return JSON.stringify(value);
  const entries = Object.entries(value)
    .sort(([one], [other]) => (one < other ? -1 : 1))
    .map(([key, part]) => `${JSON.stringify(key)}:${stableJson(part)}`);
  return `{${entries.join(',')}}`;
}
