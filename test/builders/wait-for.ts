/** Waits until a condition holds; fails with its description after ten seconds. */
import { setTimeout as delay } from 'node:timers/promises';

export async function waitFor(description: string, holds: () => Promise<boolean>): Promise<void> {
  const deadline = Date.now() + 10_000;
  while (!(await holds())) {
    if (Date.now() > deadline) throw new Error(`waited in vain: ${description}`);
    await delay(10);
  }
}
