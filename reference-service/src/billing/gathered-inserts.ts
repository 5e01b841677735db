/** One item and whoever waits for its row. */
interface Waiting<Item, Row> {
  item: Item;
  resolve(row: Row | undefined): void;
  reject(error: unknown): void;
}

/** Rows of one statement: a hundred cost little more than one, and a statement stays short. */
const MAX_ROWS = 100;

/** One statement runs while the next fills up; two keep a slow one from holding up all others. */
const MAX_STATEMENTS = 2;

/**
 * Inserts that come while others are on their way travel together: under load many rows share a round trip and a
 * commit, without load none waits. Each caller still hears of its own row, and only after its commit; where one of them
 * is refused, the statement is repeated row by row, so that the bad row fails alone.
 */
export class GatheredInserts<Item, Row> {
  private waiting: Waiting<Item, Row>[] = [];
  private statements = 0;
  private scheduled = false;

  /** `insert` gives, for each item in order, its row, or undefined where it was there already. */
  constructor(private readonly insert: (items: readonly Item[]) => Promise<readonly (Row | undefined)[]>) {}

  /** The row written, or undefined where its key was taken. */
  submit(item: Item): Promise<Row | undefined> {
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
    const gathered = this.waiting.splice(0, MAX_ROWS);
    this.statements += 1;
    try {
      await this.write(gathered);
    } finally {
      this.statements -= 1;
      this.schedule();
    }
  }

  private async write(gathered: readonly Waiting<Item, Row>[]): Promise<void> {
    try {
      const rows = await this.insert(gathered.map(({ item }) => item));
      for (const [index, { resolve }] of gathered.entries()) resolve(rows[index]);
    } catch (error) {
      if (gathered.length === 1 || !isAboutARow(error)) {
        for (const { reject } of gathered) reject(error);
        return;
      }
      for (const one of gathered) await this.write([one]);
    }
  }
}

/** A value or a constraint (SQLSTATE classes 22 and 23), and not the database itself. */
function isAboutARow(error: unknown): boolean {
  const { code } = error as { code?: unknown };
  return typeof code === 'string' && /^2[23]...$/.test(code);
}
