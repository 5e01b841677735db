/** Waits for what a database or a log says; fails with its description, and with what was last seen. */
import { setTimeout as delay } from 'node:timers/promises';

/** Many times what the slowest of these waits took on a machine with much else to do. */
const PATIENCE_SECONDS = 120;

export async function eventually(what: string, look: () => Promise<unknown> | unknown): Promise<void> {
  const deadline = Date.now() + PATIENCE_SECONDS * 1_000;
  for (;;) {
    const seen = await look();
    if (seen === true) return;
    if (Date.now() > deadline) throw new Error(`waited in vain: ${what}; last: ${String(seen)}`);
    await delay(50);
  }
}
