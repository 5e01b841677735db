/** Every fault that can be armed, with what it does. */
export const FAULTS = {
  lose: 'the event row is written, but no listener starts after the commit',
  lose_wrong: 'as lose, and the row of a completed session says one minor unit too much',
  skip_backup: 'the session is completed, but its event is not published at all',
  fail: 'billing fails before it writes anything',
  slow: 'billing waits `ms` milliseconds first',
  bill_twice: 'billing writes two ledger rows',
  bill_wrong: 'billing writes one minor unit too much',
  crash_before_commit: 'the process dies with the transaction still open',
  crash_after_commit: 'the process dies after the commit, before any listener starts',
  crash_after_handler: 'the process dies after the ledger row, inside the listener',
  crash_before_mark: 'the process dies after the listener, before its success is recorded',
  no_metrics: '/metrics is not found',
} as const;

/** One of the words in FAULTS. */
export type Fault = keyof typeof FAULTS;

export const isFault = (text: string): text is Fault => Object.hasOwn(FAULTS, text);

/** How long `slow` waits where nothing else is said. */
export const DEFAULT_WAIT_MS = 1_000;
