/**
 * The load of bench:service: the same two loops for every contender, run in the contender's own process. One keeps a
 * number of events under way and counts what is done; one starts events at a fixed rate, whatever the answers do, and
 * measures each from the moment it was due. A stall is then seen by every event that was due in it.
 */
import { createHistogram, type RecordableHistogram } from 'node:perf_hooks';
import { setTimeout as delay } from 'node:timers/promises';

/** One completion of a session, seen from outside. */
export interface Completion {
  /** The commit that completes the session was answered. */
  readonly published: Promise<unknown>;
  /** Its event is marked as processed, and that is committed. */
  readonly processed: Promise<unknown>;
}

/** Completes a session in the contender's way. */
export type Complete = (sessionId: string) => Completion;

export interface ClosedResult {
  readonly events: number;
  /** Those before it that were not measured. */
  readonly warmUpEvents: number;
  readonly seconds: number;
  /** CPU time of this process, as a share of one core. */
  readonly cpuShare: number;
}

export interface Quantiles {
  readonly p50: number;
  readonly p99: number;
  readonly max: number;
}

export interface PacedResult {
  readonly events: number;
  /** Those before it that were not measured. */
  readonly warmUpEvents: number;
  /** Published and left for a replay: no live delivery came to its end any more. */
  readonly leftPending: number;
  readonly seconds: number;
  readonly publishMs: Quantiles;
  readonly processedMs: Quantiles;
  readonly cpuShare: number;
  readonly firstRssMb: number;
  readonly lastRssMb: number;
}

/** Where the sessions of a round begin, and how many there are. */
export interface SessionRange {
  readonly first: number;
  readonly count: number;
}

/** A UUID from a number of twelve digits. */
export const sessionIdOf = (number: number): string =>
  `00000000-0000-4000-8000-${String(number).padStart(12, '0')}`;

/** In microseconds: no wait of interest is longer than five minutes. */
const LONGEST_WAIT = 300_000_000;
/** When nothing has come to its end for so long, the rest has no live delivery any more. */
const GIVEN_UP_AFTER_MS = 5_000;
/** Enough to open connections; sessions for it are needed beside those of the round. */
export const WARM_UP_SECONDS = 1;
const newHistogram = () => createHistogram({ lowest: 1, highest: LONGEST_WAIT, figures: 3 });
const note = (histogram: RecordableHistogram, sinceMs: number) =>
  histogram.record(Math.min(LONGEST_WAIT, Math.max(1, Math.round((performance.now() - sinceMs) * 1_000))));
const quantiles = (histogram: RecordableHistogram): Quantiles => ({
  p50: histogram.percentile(50) / 1_000,
  p99: histogram.percentile(99) / 1_000,
  max: histogram.max / 1_000,
});

function takeSessions({ first, count }: SessionRange): () => string {
  let taken = 0;
  return () => {
    if (taken >= count) throw new Error(`the round has no sessions left: ${count} were made`);
    taken += 1;
    return sessionIdOf(first + taken - 1);
  };
}

function startMeter(): () => { seconds: number; cpuShare: number } {
  const startedAt = performance.now();
  const startedCpu = process.cpuUsage();
  return () => {
    const seconds = (performance.now() - startedAt) / 1_000;
    const { user, system } = process.cpuUsage(startedCpu);
    return { seconds, cpuShare: (user + system) / 1e6 / seconds };
  };
}

/** Keeps `clients` events under way until the time is over, and counts those that were processed in it. */
export async function runClosed(
  complete: Complete,
  sessions: SessionRange,
  clients: number,
  seconds: number,
): Promise<ClosedResult> {
  const nextSession = takeSessions(sessions);
  const meter = startMeter();
  const endsAt = performance.now() + seconds * 1_000;
  let events = 0;
  const client = async () => {
    while (performance.now() < endsAt) {
      const { published, processed } = complete(nextSession());
      await Promise.all([published, processed]);
      events += 1;
    }
  };
  await Promise.all(Array.from({ length: clients }, client));
  // With what was still under way at the end, and the time that this took.
  return { events, warmUpEvents: 0, ...meter() };
}

/** Starts `perSecond` events a second, and measures each from the moment it was due. */
export async function runPaced(
  complete: Complete,
  sessions: SessionRange,
  perSecond: number,
  seconds: number,
  givenUpAfterMs = GIVEN_UP_AFTER_MS,
): Promise<PacedResult> {
  const nextSession = takeSessions(sessions);
  const publish = newHistogram();
  const processing = newHistogram();
  const total = Math.round(perSecond * seconds);
  const everyMs = 1_000 / perSecond;
  let failure: Error | undefined;
  let open = 0;
  const { promise: allDone, resolve: done } = Promise.withResolvers<void>();
  const settle = () => {
    open -= 1;
    if (open === 0 && started === total) done();
  };
  let started = 0;
  const start = (dueAt: number) => {
    started += 1;
    open += 1;
    const { published, processed } = complete(nextSession());
    const fail = (error: Error) => {
      failure ??= error;
    };
    const wholly = processed.then(() => note(processing, dueAt));
    Promise.all([published.then(() => note(publish, dueAt)), wholly]).then(settle, (error: Error) => {
      fail(error);
      settle();
    });
  };
  const firstRssMb = rssMb();
  const meter = startMeter();
  const beganAt = performance.now();
  while (started < total && failure === undefined) {
    const now = performance.now();
    while (started < total && beganAt + started * everyMs <= now) start(beganAt + started * everyMs);
    await delay(Math.max(0, beganAt + started * everyMs - performance.now()));
  }
  // As long as something comes to its end the rest is only late, and how late is measured.
  for (let before = Number.NaN; failure === undefined && open > 0 && open !== before; ) {
    before = open;
    await Promise.race([allDone, delay(givenUpAfterMs)]);
  }
  if (failure !== undefined) throw failure;
  const used = meter();
  return {
    events: total,
    warmUpEvents: 0,
    leftPending: open,
    seconds: used.seconds,
    // Of all the work, those that came late included, over the time that was meant for it.
    cpuShare: (used.cpuShare * used.seconds) / (total / perSecond),
    publishMs: quantiles(publish),
    processedMs: quantiles(processing),
    firstRssMb,
    lastRssMb: rssMb(),
  };
}

const rssMb = () => process.memoryUsage.rss() / 1024 / 1024;

/**
 * In a contender that had to wait for its turn the connections of an idle pool are closed, and that they are opened
 * again is no part of what is measured.
 */
async function afterWarmUp<Result extends { readonly events: number; readonly leftPending?: number }>(
  sessions: SessionRange,
  run: (sessions: SessionRange, seconds: number) => Promise<Result>,
  seconds: number,
): Promise<Result & { readonly warmUpEvents: number }> {
  const { events, leftPending = 0 } = await run(sessions, WARM_UP_SECONDS);
  if (leftPending > 0) throw new Error(`${leftPending} events were left pending while it warmed up`);
  const rest = { first: sessions.first + events, count: sessions.count - events };
  return { ...(await run(rest, seconds)), warmUpEvents: events };
}

/** What the parent asks of a contender's process. */
export type Order =
  | {
      readonly do: 'closed';
      readonly sessions: SessionRange;
      readonly clients: number;
      readonly seconds: number;
    }
  | {
      readonly do: 'paced';
      readonly sessions: SessionRange;
      readonly perSecond: number;
      readonly seconds: number;
    }
  | { readonly do: 'end' };

/** What it answers. */
export type Answer =
  | { readonly closed: ClosedResult }
  | { readonly paced: PacedResult }
  | { readonly ready: true }
  | { readonly failed: string };

/** Serves the parent's orders, one at a time, until it says `end`; `close` gives back what the contender holds. */
export async function serveOrders(complete: Complete, close: () => Promise<void>): Promise<void> {
  const tell = (answer: Answer) =>
    new Promise<void>((resolve, reject) => {
      process.send?.(answer, (error: Error | null) => (error === null ? resolve() : reject(error)));
    });
  await new Promise<void>((resolve) => {
    process.once('disconnect', resolve);
    process.on('message', (order: Order) => {
      if (order.do === 'end') {
        resolve();
        return;
      }
      const work =
        order.do === 'closed'
          ? afterWarmUp(
              order.sessions,
              (sessions, seconds) => runClosed(complete, sessions, order.clients, seconds),
              order.seconds,
            ).then((closed) => tell({ closed }))
          : afterWarmUp(
              order.sessions,
              (sessions, seconds) => runPaced(complete, sessions, order.perSecond, seconds),
              order.seconds,
            ).then((paced) => tell({ paced }));
      work.catch((error: Error) => tell({ failed: error.message }));
    });
    void tell({ ready: true });
  });
  await close();
  if (process.connected) process.disconnect();
}
