import { describe, expect, test } from 'vitest';
import { decideHorizon, type Observation, widenXid } from './horizon.ts';
import { addMs, type Instant, parseInstant } from './instant.ts';

const now = parseInstant('2026-11-23T12:00:00Z');
const MINUTE = 60_000;
const ago = (minutes: number): Instant => addMs(now, -minutes * MINUTE);
const settings = { graceMs: 10 * MINUTE, blindGraceMs: 30 * MINUTE, maxLagMs: 6 * 60 * MINUTE };
const seen = (override: Partial<Observation> = {}): Observation => ({
  now,
  seesAll: true,
  oldest: undefined,
  settledMemory: undefined,
  unsettledMemory: undefined,
  prepared: undefined,
  replica: undefined,
  remembers: true,
  ...override,
});
const transaction = (minutes: number) => ({ pid: 7, application: 'importer', since: ago(minutes) });

describe('the horizon of a role that sees all transactions', () => {
  test('is the grace before now while no transaction is older', () => {
    expect(decideHorizon(seen({ oldest: transaction(9) }), settings)).toMatchObject({
      settled: ago(10),
      lookTo: ago(10),
      exact: true,
      heldBackBy: undefined,
    });
  });

  test('is the start of the oldest transaction once that is older, and names it', () => {
    const horizon = decideHorizon(seen({ oldest: transaction(11) }), settings);
    expect(horizon).toMatchObject({ settled: ago(11), lookTo: ago(11) });
    expect(horizon.heldBackBy).toMatch(
      /^pid 7, application importer, transaction open since 2026-11-23T11:49/,
    );
  });

  test('past the maximum lag it looks on, and what is settled stays where it was', () => {
    expect(decideHorizon(seen({ oldest: transaction(361) }), settings)).toMatchObject({
      settled: ago(361),
      lookTo: ago(10),
    });
    expect(decideHorizon(seen({ oldest: transaction(360) }), settings)).toMatchObject({ lookTo: ago(360) });
  });

  test('a transaction without an application name is named all the same', () => {
    const nameless = { pid: 7, application: '', since: ago(20) };
    expect(decideHorizon(seen({ oldest: nameless }), settings).heldBackBy).toContain('without a name');
  });

  test('a prepared transaction holds it at the memory before its first write', () => {
    const prepared = { at: ago(5), memory: ago(20) };
    expect(decideHorizon(seen({ prepared }), settings)).toMatchObject({
      settled: ago(50),
      heldBackBy: expect.stringContaining('pg_prepared_xacts'),
    });
  });

  test('a prepared transaction older than every memory holds it at its own time', () => {
    const prepared = { at: ago(100), memory: undefined };
    expect(decideHorizon(seen({ prepared }), settings)).toMatchObject({ settled: ago(130) });
  });
});

describe('the horizon of a role that sees only its own transactions', () => {
  test('rests on the newest memory that is settled, with the longer grace', () => {
    expect(decideHorizon(seen({ seesAll: false, settledMemory: ago(1) }), settings)).toMatchObject({
      settled: ago(31),
      exact: false,
      heldBackBy: undefined,
    });
  });

  test('is unknown while nothing remembered is settled', () => {
    const horizon = decideHorizon(seen({ seesAll: false, unsettledMemory: ago(4) }), settings);
    expect(horizon).toMatchObject({ settled: undefined, lookTo: undefined, heldBackBy: undefined });
  });

  test('says so when a remembered time does not settle, and looks on past the maximum lag', () => {
    const stuck = { seesAll: false, settledMemory: ago(40), unsettledMemory: ago(39) };
    expect(decideHorizon(seen(stuck), settings)).toMatchObject({
      settled: ago(70),
      lookTo: ago(70),
      heldBackBy: expect.stringContaining('GRANT pg_read_all_stats'),
    });
    const unknown = { seesAll: false, unsettledMemory: ago(361) };
    expect(decideHorizon(seen(unknown), settings)).toMatchObject({ settled: undefined, lookTo: ago(10) });
  });

  test('without memory at all it is the longer grace before now', () => {
    expect(decideHorizon(seen({ seesAll: false, remembers: false }), settings)).toMatchObject({
      settled: ago(30),
    });
  });
});

describe('the horizon on a replica', () => {
  test('is bounded by what was replayed', () => {
    const replica = { replayedTo: ago(15) };
    expect(decideHorizon(seen({ replica, seesAll: false, remembers: false }), settings)).toMatchObject({
      settled: ago(45),
      heldBackBy: 'the replica has not replayed further',
    });
  });

  test('is unknown where nothing was replayed', () => {
    const replica = { replayedTo: undefined };
    expect(decideHorizon(seen({ replica, seesAll: false, remembers: false }), settings)).toMatchObject({
      settled: undefined,
      lookTo: undefined,
    });
  });
});

describe('a 32-bit transaction id', () => {
  test('takes the epoch of the next one, or the one before it after a wrap-around', () => {
    const epoch = 1n << 32n;
    expect(widenXid(100n, 3n * epoch + 200n)).toBe(3n * epoch + 100n);
    expect(widenXid(4_294_967_290n, 3n * epoch + 200n)).toBe(2n * epoch + 4_294_967_290n);
  });
});
