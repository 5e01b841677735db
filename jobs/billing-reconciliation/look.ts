/**
 * Reads: windows of both sides, single keys, and the causes of what is missing. Each statement is one short
 * read-only transaction; nothing here writes.
 */
import type { EventsTable, InspectedCheck } from '../checks/inspect.ts';
import { type JudgedRow, judgeKeys, judgeRows } from '../checks/key-sql.ts';
import { readsWallClock, type SqlOptions, type Statement } from '../checks/sql-parts.ts';
import { type WindowRow } from '../checks/verdict-sql.ts';
import {
  type ComparedRow,
  compareWindow,
  firstRow,
  futureFacts,
  settledInstant,
} from '../checks/window-sql.ts';
import type { Transaction } from '../runtime/database.ts';
import { RunFailure } from '../runtime/failures.ts';
import { errorCode } from '../runtime/sqlstates.ts';
import {
  causeOf,
  type EventRow,
  type EventSearch,
  eventsOfFacts,
  oldestEvent,
  parseOldest,
} from './classify.ts';
import type { ReconciliationContext } from './env.ts';
import { asDiscrepancy, type Discrepancy, decodeRowId, type UnsettledFinding } from './findings.ts';
import { formatInstant, type Instant, parseInstant } from './instant.ts';
import { listParked } from './queries.ts';
import { type Range, ranIntoTimeLimit } from './windows.ts';

/** Why events could not be looked for and the run goes on without; nothing for what ends it. */
function whyUnsearched(error: unknown): string | undefined {
  if (ranIntoTimeLimit(error)) return 'make the expression index on the payload key';
  const code = error instanceof RunFailure ? errorCode(error.cause) : undefined;
  // Class 22, data exception: a json payload may hold a \u0000, which fails whoever reads beside it.
  return code?.startsWith('22')
    ? `a payload cannot be read (${code}); jsonb refuses such a row: ALTER TABLE … ALTER COLUMN payload TYPE jsonb USING payload::jsonb`
    : undefined;
}

/** How many keys one statement judges; each costs an index probe on both sides. */
const KEYS_PER_STATEMENT = 500;

/** Stands for "not looked", which is not the same as "none found". */
const unsearched: ReadonlyMap<Discrepancy, EventRow> = new Map();

interface WindowRead {
  readonly facts: number;
  readonly ledger: number;
  readonly tookMs: number;
  readonly discrepancies: readonly Discrepancy[];
}

export interface Judged {
  /** What is wrong with these keys now. */
  readonly seen: readonly Discrepancy[];
  /** Findings whose key was judged and shows nothing of their kind any more. */
  readonly gone: readonly string[];
}

export class Look {
  readonly #context: ReconciliationContext;
  readonly #plan: InspectedCheck;
  readonly #events: EventSearch | undefined;
  readonly #options: SqlOptions;
  #warned = false;
  #oldestKept: { readonly at: Instant | undefined } | undefined;

  constructor(context: ReconciliationContext, plan: InspectedCheck, events: EventsTable | undefined) {
    this.#context = context;
    this.#plan = plan;
    const { CF_SERVICE_TIME_ZONE: timeZone, CF_SLACK_SECONDS: slackMs } = context.settings;
    this.#options = { timeZone, slackMs };
    this.#events = events === undefined ? undefined : { table: events, timeZone, slackMs };
  }

  /**
   * Facts and ledger rows of one window.
   * @param settledTo facts from here on are left to a later window
   * @param provisionalFrom what lies from here on may still settle; undefined: nothing is settled
   */
  async window(
    window: Range,
    settledTo: Instant,
    provisionalFrom: Instant | undefined,
    timeoutMs: number,
  ): Promise<WindowRead> {
    const bounds = { from: formatInstant(window.from), to: formatInstant(window.to) };
    const began = performance.now();
    const rows = await this.#rows<ComparedRow>(
      compareWindow(this.#plan, this.#options, { ...bounds, settledTo: formatInstant(settledTo) }),
      timeoutMs,
    );
    const tookMs = performance.now() - began;
    const discrepancies = rows.flatMap((row) => asDiscrepancy(row, provisionalFrom) ?? []);
    return {
      facts: Number(rows[0]?.rows ?? 0),
      ledger: Number(rows[0]?.ledger_window_rows ?? 0),
      tookMs,
      discrepancies: await this.#withCauses(discrepancies),
    };
  }

  /**
   * Judges the keys of findings anew, whatever their time.
   * @param now facts from here on are in the future and not judged
   */
  async judge(
    findings: readonly UnsettledFinding[],
    now: Instant,
    provisionalFrom: Instant | undefined,
  ): Promise<Judged> {
    const keyed = findings.filter((finding) => finding.row_id === '' && this.#keyFits(finding));
    const keys = [...new Set(keyed.map((finding) => finding.key))].map((key) => JSON.parse(key) as string[]);
    const rows: WindowRow[] = await this.#inBatches(keys, (batch) =>
      judgeKeys(this.#plan, this.#options, batch, formatInstant(now)),
    );
    for (const [side, kind] of [
      ['facts', 'missing'],
      ['ledger', 'orphan'],
    ] as const) {
      const width = this.#plan[side].primaryKey.length;
      const ids = findings
        .filter((finding) => finding.row_id !== '' && finding.kind === kind && width > 0)
        .map((finding) => decodeRowId(finding.row_id, width));
      rows.push(
        ...(await this.#inBatches(ids, (batch) =>
          judgeRows(this.#plan, this.#options, side, batch, formatInstant(now)),
        )),
      );
    }
    const seen = await this.#withCauses(rows.flatMap((row) => asDiscrepancy(row, provisionalFrom) ?? []));
    const prints = new Set(seen.map((one) => `${one.kind} ${one.rowId} ${one.key}`));
    return {
      seen,
      gone: findings
        .filter((finding) => !prints.has(`${finding.kind} ${finding.row_id} ${finding.key}`))
        .map(({ id }) => id),
    };
  }

  /** Where a look at everything begins; nothing where both tables are empty. */
  async first(): Promise<Instant | undefined> {
    const [row] = await this.#rows<{ at: string | null }>(firstRow(this.#plan, this.#options));
    return row === undefined || row.at === null ? undefined : parseInstant(row.at);
  }

  async futureFacts(now: Instant): Promise<number> {
    const [row] = await this.#rows<{ rows: string }>(
      futureFacts(this.#plan, this.#options, formatInstant(now)),
    );
    return Number(row?.rows ?? 0);
  }

  /** Draws a horizon back out of an hour that the wall clock of the service will show once more. */
  async settle(horizon: Instant): Promise<Instant> {
    if (!readsWallClock(this.#plan)) return horizon;
    const [row] = await this.#rows<{ at: string }>(
      settledInstant(formatInstant(horizon), this.#options.timeZone),
    );
    return row === undefined ? horizon : parseInstant(row.at);
  }

  /** A finding of an earlier definition may have a key of another form: it can no longer be seen. */
  #keyFits(finding: UnsettledFinding): boolean {
    return (JSON.parse(finding.key) as unknown[]).length === this.#plan.check.facts.key.length;
  }

  /** The same discrepancies in the same order, with the causes of what is missing, and the versions that published them. */
  async #withCauses(discrepancies: readonly Discrepancy[]): Promise<readonly Discrepancy[]> {
    const facts = discrepancies.filter(({ kind }) => kind !== 'orphan');
    if (facts.length === 0) return discrepancies;
    const missing = facts.filter(({ kind }) => kind === 'missing');
    const events = await this.#findEvents(facts.filter(({ rowId }) => rowId === ''));
    const parked = await this.#parked([...events.values()].map(({ event_id: id }) => id));
    const searched = this.#events !== undefined && this.#plan.check.event !== null && events !== unsearched;
    const oldestKept =
      searched && missing.some((one) => !events.has(one)) ? await this.#oldest(this.#events) : undefined;
    return discrepancies.map((one) => {
      const row = events.get(one);
      // A wrong bill has no cause but its version.
      if (one.kind !== 'missing') return { ...one, publishedHash: row?.published_hash ?? null };
      const event =
        row === undefined
          ? undefined
          : { eventId: row.event_id, status: row.status, parked: parked.has(row.event_id) };
      return {
        ...one,
        // A fact without key names no event: that none is found says nothing.
        cause: causeOf(event, parseInstant(one.factAt), one.rowId === '' ? oldestKept : undefined),
        eventId: row?.event_id ?? null,
        publishedHash: row?.published_hash ?? null,
      };
    });
  }

  /** The event of each fact that has one; `unsearched` where that could not be found out. */
  async #findEvents(facts: readonly Discrepancy[]): Promise<ReadonlyMap<Discrepancy, EventRow>> {
    const { event } = this.#plan.check;
    const events = this.#events;
    if (event === null || events === undefined) return unsearched;
    const found = new Map<Discrepancy, EventRow>();
    for (let start = 0; start < facts.length; start += KEYS_PER_STATEMENT) {
      const batch = facts.slice(start, start + KEYS_PER_STATEMENT);
      const wanted = batch.map((one) => ({ key: JSON.parse(one.key) as string[], at: one.factAt }));
      try {
        for (const row of await this.#rows<EventRow>(eventsOfFacts(events, event, wanted))) {
          const fact = batch[row.position];
          if (fact !== undefined) found.set(fact, row);
        }
      } catch (error) {
        const reason = whyUnsearched(error);
        if (reason === undefined) throw error;
        if (!this.#warned) {
          this.#warned = true;
          this.#context.logger.warn(
            { check: this.#plan.check.name },
            `the events of some facts could not be found, their cause stays unknown: ${reason}`,
          );
        }
        return unsearched;
      }
    }
    return found;
  }

  async #parked(eventIds: readonly string[]): Promise<Set<string>> {
    if (this.#context.settings.CF_STATE === 'none' || eventIds.length === 0) return new Set();
    return await this.#context.database.read(async (transaction) => await listParked(transaction, eventIds), {
      signal: this.#context.signal,
    });
  }

  /** Asked once in a run; not known where it would take a scan. */
  async #oldest(events: EventSearch): Promise<Instant | undefined> {
    if (this.#oldestKept === undefined) {
      try {
        const [row] = await this.#rows<{ at: string | null }>(oldestEvent(events));
        this.#oldestKept = { at: parseOldest(row?.at) };
      } catch (error) {
        if (!ranIntoTimeLimit(error)) throw error;
        this.#oldestKept = { at: undefined };
      }
    }
    return this.#oldestKept.at;
  }

  async #inBatches<Item>(
    items: readonly Item[],
    statement: (batch: readonly Item[]) => Statement,
    size = KEYS_PER_STATEMENT,
  ): Promise<JudgedRow[]> {
    const rows: JudgedRow[] = [];
    for (let start = 0; start < items.length; start += size) {
      const batch = items.slice(start, start + size);
      try {
        rows.push(...(await this.#rows<JudgedRow>(statement(batch))));
      } catch (error) {
        if (!ranIntoTimeLimit(error) || batch.length === 1) throw error;
        rows.push(...(await this.#inBatches(batch, statement, Math.ceil(batch.length / 2))));
      }
    }
    return rows;
  }

  async #rows<Row>(
    statement: Statement,
    timeoutMs: number = this.#context.settings.CF_WINDOW_TIMEOUT_MILLISECONDS,
  ): Promise<Row[]> {
    return await this.#context.database.read(
      async (transaction: Transaction) => await transaction.query<Row>(statement.text, statement.params),
      { userSearchPath: true, statementTimeoutMs: timeoutMs, signal: this.#context.signal },
    );
  }
}
