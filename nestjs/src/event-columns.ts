import type { SqlRunner } from './driver.js';
import { errorCode } from './error-code.js';
import { type OptionalColumn, selectOptionalColumns } from './statements.js';

/** How long what was found is used before it is looked up again, in ms: an added column is filled this soon. */
const REFRESH_MS = 10_000;

/** `undefined_column`: one was dropped under a running process. */
const UNDEFINED_COLUMN = '42703';

/** Knows which optional columns event_backups has, and finds out in time when the table is extended. */
export class EventColumns {
  private found: readonly OptionalColumn[] | undefined;
  private lookedUpAt = Number.NEGATIVE_INFINITY;
  private lookingUp = false;

  /** @param sql for looking up beside the transactions */
  constructor(private readonly sql: SqlRunner) {}

  /**
   * What is known, or undefined before the first look. Looks again in the background where that was long ago: no
   * publish waits for it.
   */
  get known(): readonly OptionalColumn[] | undefined {
    if (this.found !== undefined && performance.now() - this.lookedUpAt > REFRESH_MS) void this.refresh();
    return this.found;
  }

  /** The first look, on the caller's own connection: with a small pool, a second one might never come free. */
  async lookUp(sql: SqlRunner): Promise<readonly OptionalColumn[]> {
    this.lookedUpAt = performance.now();
    this.found = await selectOptionalColumns(sql);
    return this.found;
  }

  /** After a failed write: looks again before the next one where a column was missing, so that only this one fails. */
  noteFailure(error: unknown): void {
    if (errorCode(error) === UNDEFINED_COLUMN) this.found = undefined;
  }

  private async refresh(): Promise<void> {
    if (this.lookingUp) return;
    this.lookingUp = true;
    // Noted before, so that a database that is away is not asked with every publish.
    this.lookedUpAt = performance.now();
    try {
      const found = await selectOptionalColumns(this.sql);
      if (this.found !== undefined) this.found = found;
    } catch {
      // What was found last stays right until a write says otherwise.
    } finally {
      this.lookingUp = false;
    }
  }
}
