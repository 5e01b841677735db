/** Lets one loop sleep until another has something for it, or until a time has passed. */
export class Wakeup {
  #waiting: (() => void)[] = [];
  #rung = false;

  /** Wakes whoever waits; where nobody does, the next wait ends at once. */
  ring(): void {
    this.#rung = true;
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const wake of waiting) wake();
  }

  /** @param limitMs the longest wait, in milliseconds */
  async wait(limitMs: number): Promise<void> {
    if (!this.#rung) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, limitMs);
        this.#waiting.push(() => {
          clearTimeout(timer);
          resolve();
        });
      });
    }
    this.#rung = false;
  }
}
