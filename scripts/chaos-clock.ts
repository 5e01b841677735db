/**
 * Preloaded into a service whose clock is to be wrong: `Date` is off by CHAOS_CLOCK_SHIFT_MS. All that a Node program
 * can ask about the time of day goes through it; timers and performance.now() count from the start of the process and
 * are not moved by a wrong clock either.
 */
const shiftMs = Number(process.env.CHAOS_CLOCK_SHIFT_MS ?? '0');
const TrueDate = globalThis.Date;

globalThis.Date = new Proxy(TrueDate, {
  construct: (target, given, newTarget) =>
    Reflect.construct(target, given.length === 0 ? [TrueDate.now() + shiftMs] : given, newTarget) as Date,
  apply: () => new TrueDate(TrueDate.now() + shiftMs).toString(),
  get: (target, name, receiver) =>
    name === 'now' ? () => TrueDate.now() + shiftMs : Reflect.get(target, name, receiver),
});
