/**
 * What keeps a processed event from going, beside its age: decided from rows that were read, without a clock. Where
 * something cannot be understood, everything stays.
 */
import { hashDefinition } from '../checks/hash.ts';
import type { Check } from '../checks/parse.ts';

const DAY_MS = 86_400_000;

export interface CheckState {
  readonly name: string;
  readonly definition_hash: string;
  readonly verified_through: string | null;
}

/**
 * The time before which an event may go: `days` before the moment up to which every check has verified, which is never
 * later than now. So nothing goes that nobody has looked at, and a clock that jumps ahead deletes nothing.
 * @returns the limit in UTC, or the names of the checks that hold everything back
 */
export function limitOf(
  now: string,
  days: number,
  declared: readonly Check[],
  states: readonly CheckState[],
): { readonly limit: string } | { readonly unverified: readonly string[] } {
  const through = [momentOf(now)];
  const unverified: string[] = [];
  // A check without an event asks nothing of the table of events.
  for (const check of declared.filter(({ event }) => event !== null)) {
    const state = states.find(({ name }) => name === check.name);
    // Under another definition it was another check that was verified.
    if (state?.verified_through == null || state.definition_hash !== hashDefinition(check))
      unverified.push(check.name);
    else through.push(momentOf(state.verified_through));
  }
  if (unverified.length > 0) return { unverified };
  return { limit: new Date(Math.min(...through) - days * DAY_MS).toISOString() };
}

/** Checks that look back further than events are kept, each with the days that it needs. */
export const needsOf = (declared: readonly Check[], days: number): readonly string[] =>
  declared
    .filter(({ event, lookback, grace }) => event !== null && lookback + grace > days * DAY_MS)
    .map(({ name, lookback, grace }) => `check ${name} needs ${Math.ceil((lookback + grace) / DAY_MS)}`);

/** Postgres' text of a time in UTC; what is finer than a millisecond is left out, which is the earlier side. */
const momentOf = (time: string): number => Date.parse(time.replace(' ', 'T').replace(/\+00$/, 'Z'));

export interface OpenRequest {
  readonly id: string;
  readonly scope: unknown;
}

/** What the open requests name. */
export interface RequestHolds {
  readonly eventIds: readonly string[];
  readonly findings: readonly string[];
  readonly ranges: readonly { readonly from: string; readonly to: string }[];
  /** A request whose scope is none of these: while it is open, everything stays. */
  readonly unreadable: string | undefined;
}

export function holdsOf(requests: readonly OpenRequest[]): RequestHolds {
  const eventIds: string[] = [];
  const findings: string[] = [];
  const ranges: { from: string; to: string }[] = [];
  let unreadable: string | undefined;
  for (const { id, scope } of requests) {
    const { event_ids, findings: named, from, to } = (scope ?? {}) as Record<string, unknown>;
    if (isListOf(event_ids, (one) => typeof one === 'string' && !one.includes('\0'))) {
      eventIds.push(...(event_ids as string[]));
    } else if (isListOf(named, (one) => /^\d{1,18}$/.test(String(one)))) {
      findings.push(...(named as unknown[]).map(String));
    } else if (isMoment(from) && isMoment(to)) {
      ranges.push({ from: new Date(from).toISOString(), to: new Date(to).toISOString() });
    } else unreadable ??= id;
  }
  return { eventIds, findings, ranges, unreadable };
}

const isListOf = (value: unknown, holds: (one: unknown) => boolean): boolean =>
  Array.isArray(value) && value.length > 0 && value.every(holds);

/** With an offset: a bare time would mean another one here. */
const isMoment = (value: unknown): value is string =>
  typeof value === 'string' && /(Z|[+-]\d{2}:?\d{2})$/.test(value) && !Number.isNaN(Date.parse(value));
