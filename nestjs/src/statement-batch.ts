interface Waiting<Item, Result> {
  item: Item;
  resolve(result: Result): void;
  reject(error: unknown): void;
}

/** Bound on one statement: a hundred rows cost little more than one, and keep a statement short. */
const MAX_ITEMS = 100;

/** One statement runs while the next fills up; two keep one slow answer from holding up all others. */
const MAX_STATEMENTS = 2;

/**
 * Gathers items that come while statements are in flight and hands them on together, so that many small writes share
 * a round trip under load and none waits when there is none. `execute` gives one result per item, in order; when it
 * rejects, every item of that statement rejects.
 */
export class StatementBatch<Item, Result> {
  private waiting: Waiting<Item, Result>[] = [];
  private statements = 0;
  private scheduled = false;

  constructor(private readonly execute: (items: readonly Item[]) => Promise<readonly Result[]>) {}

  submit(item: Item): Promise<Result> {
    return new Promise((resolve, reject) => {
      this.waiting.push({ item, resolve, reject });
      this.schedule();
    });
  }

  private schedule(): void {
    if (this.scheduled || this.waiting.length === 0 || this.statements >= MAX_STATEMENTS) return;
    this.scheduled = true;
    // After the current tick, so that what is submitted together travels together.
    queueMicrotask(() => {
      this.scheduled = false;
      void this.flush();
      this.schedule();
    });
  }

  private async flush(): Promise<void> {
    const batch = this.waiting.splice(0, MAX_ITEMS);
    this.statements += 1;
    try {
      const results = await this.execute(batch.map(({ item }) => item));
      for (const [index, waiter] of batch.entries()) waiter.resolve(results[index] as Result);
    } catch (error) {
      for (const waiter of batch) waiter.reject(error);
    } finally {
      this.statements -= 1;
      this.schedule();
    }
  }
}
