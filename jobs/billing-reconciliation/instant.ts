/**
 * Points in time as whole microseconds since 1970, in UTC. Postgres counts microseconds and a JavaScript Date
 * only milliseconds: a watermark that went through a Date would lose rows.
 */
export type Instant = bigint;

const MICROSECONDS_PER_MS = 1000n;

const FORM =
  /^(\d{4})-(\d{2})-(\d{2})[T ](\d{2}):(\d{2})(?::(\d{2})(?:\.(\d{1,6}))?)?(Z|[+-]\d{2}(?::?\d{2})?)$/;

/** Reads what Postgres prints for a `timestamptz`, and the form of our settings. */
export function parseInstant(text: string): Instant {
  const parts = FORM.exec(text);
  if (parts === null) throw new RangeError('not a point in time between the years 1 and 9999');
  const [, year, month, day, hour, minute, second = '00', fraction = '', zone = 'Z'] = parts;
  const offset = zone === 'Z' || zone.length > 3 ? zone : `${zone}:00`;
  const ms = Date.parse(
    `${year}-${month}-${day}T${hour}:${minute}:${second}${offset === 'Z' ? offset : offset.replace(/^(...)(\d\d)$/, '$1:$2')}`,
  );
  return BigInt(ms) * MICROSECONDS_PER_MS + BigInt(fraction.padEnd(6, '0'));
}

/** As Postgres reads it: `2026-11-23T06:00:00.000000Z`. */
export function formatInstant(instant: Instant): string {
  const micros = ((instant % MICROSECONDS_PER_MS) + MICROSECONDS_PER_MS) % MICROSECONDS_PER_MS;
  const ms = Number((instant - micros) / MICROSECONDS_PER_MS);
  return `${new Date(ms).toISOString().slice(0, -1)}${String(micros).padStart(3, '0')}Z`;
}

export const addMs = (instant: Instant, ms: number): Instant =>
  instant + BigInt(Math.round(ms)) * MICROSECONDS_PER_MS;

/** Milliseconds from one to the other. */
export const msBetween = (from: Instant, to: Instant): number => Number(to - from) / 1000;

export function earliest(...instants: readonly [Instant, ...Instant[]]): Instant {
  let found = instants[0];
  for (const instant of instants) if (instant < found) found = instant;
  return found;
}

export function latest(...instants: readonly [Instant, ...Instant[]]): Instant {
  let found = instants[0];
  for (const instant of instants) if (instant > found) found = instant;
  return found;
}
