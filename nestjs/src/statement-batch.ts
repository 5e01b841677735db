interface Waiting<Item, Result> {
  item: Item;
  resolve(result: Result): void;
  reject(error: unknown): void;
}

/** Bound on one statement: a hundred rows cost little more than one, and keep a statement short. */
const MAX_ITEMS = 100;

/** A second statement is sent beside one that has not been answered for this long, in ms: it may be stuck. */
const SLOW_MS = 25;

/** At most so many at once: a statement that is stuck must not hold up all others, nor take every connection. */
const MAX_STATEMENTS = 2;

/**
 * Gathers items that come while a statement is in flight and hands them on together, so that many small writes share
 * a round trip under load and none waits when there is none. `execute` gives one result per item, in order; when it
 * rejects, every item of that statement rejects.
 */
export class StatementBatch<Item, Result> {
  private waiting: Waiting<Item, Result>[] = [];
  private statements = 0;
  private scheduled = false;
  private sentAt = Number.NEGATIVE_INFINITY;
  private timer: NodeJS.Timeout | undefined;

  /**
   * @param spacingMs a statement is sent no sooner than this after the one before: under load a few more items share
   *   it, for a delay of no more than this; with less to do than that there is none
   */
  constructor(
    private readonly execute: (items: readonly Item[]) => Promise<readonly Result[]>,
    private readonly spacingMs = 0,
  ) {}

  submit(item: Item): Promise<Result> {
    return new Promise((resolve, reject) => {
      this.waiting.push({ item, resolve, reject });
      this.schedule();
    });
  }

  private schedule(): void {
    if (this.scheduled || this.waiting.length === 0 || this.statements >= MAX_STATEMENTS) return;
    const dueAt = this.sentAt + (this.statements > 0 ? SLOW_MS : this.spacingMs);
    const waitMs = dueAt - performance.now();
    if (this.statements > 0 || waitMs > 0) {
      this.timer ??= setTimeout(() => this.flushLate(), Math.max(1, waitMs));
      return;
    }
    this.scheduled = true;
    // After the current tick, so that what is submitted together travels together.
    queueMicrotask(() => {
      this.scheduled = false;
      void this.flush();
      this.schedule();
    });
  }

  private flushLate(): void {
    this.timer = undefined;
    if (this.statements < MAX_STATEMENTS) void this.flush();
  }

  private async flush(): Promise<void> {
    const batch = this.waiting.splice(0, MAX_ITEMS);
    if (batch.length === 0) return;
    clearTimeout(this.timer);
    this.timer = undefined;
    this.statements += 1;
    this.sentAt = performance.now();
    try {
      const results = await this.execute(batch.map(({ item }) => item));
      for (const [index, waiter] of batch.entries()) waiter.resolve(results[index] as Result);
    } catch (error) {
      for (const waiter of batch) waiter.reject(error);
    } finally {
      this.statements -= 1;
      // It may have waited for a second statement, and need not any more.
      clearTimeout(this.timer);
      this.timer = undefined;
      this.schedule();
    }
  }
}
