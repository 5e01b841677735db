import { setTimeout as delay } from 'node:timers/promises';

/** Waits for `ms` milliseconds; ends early, and without an error, when `signal` is aborted. */
export async function pause(ms: number, signal: AbortSignal): Promise<void> {
  await delay(ms, undefined, { signal }).catch(() => undefined);
}
