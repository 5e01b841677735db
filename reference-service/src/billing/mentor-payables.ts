import type { SqlRunner } from '@counterfoil/nestjs';
import { Inject, Injectable } from '@nestjs/common';
import type { Logger } from 'pino';
import { DATABASE, type Database } from '../database.module.js';
import { LOG } from '../service-log.js';
import type { Ledger } from '../tables.js';
import { GatheredInserts } from './gathered-inserts.js';
import {
  billKey,
  type LedgerRow,
  LedgerTable,
  type NewLedgerRow,
  reversalKey,
  selectByKeys,
} from './ledger-rows.js';

/** What is owed for a session. */
export interface SessionBill {
  sessionId: string;
  mentorId: string;
  /** A text where it is larger than a number holds exactly. */
  amountMinor: number | string;
  currency: string;
}

/** A key that was free a moment ago is taken: what was read before is no longer so. */
export class LedgerChangedError extends Error {
  override readonly name = 'LedgerChangedError';
}

/** Owns what is owed to mentors: rows are written once for each key, and never changed; a wrong one is reversed. */
@Injectable()
export class MentorPayables {
  private readonly table = new LedgerTable();
  private readonly pool: SqlRunner;
  private readonly bills: GatheredInserts<NewLedgerRow, Ledger>;

  constructor(
    @Inject(DATABASE) database: Database,
    @Inject(LOG) private readonly log: Logger,
  ) {
    this.pool = { run: (sql, params) => database.$client.query(sql, [...params]) };
    this.bills = new GatheredInserts(async (rows) => {
      // Two of one key in one statement: one stands for both, and the other finds its row.
      const byKey = new Map(rows.map((row) => [row.idempotencyKey, row]));
      const written = await this.table.insert(this.pool, [...byKey.values()]);
      const made = new Map(written.map((row) => [row.idempotencyKey, row]));
      return rows.map((row) =>
        byKey.get(row.idempotencyKey) === row ? made.get(row.idempotencyKey) : undefined,
      );
    });
  }

  /** Writes bill `number` of a session; a repeat finds it by its key, returns the same row, and the log says so. */
  async bill(bill: SessionBill, number = 1): Promise<Ledger> {
    const row = newBill(bill, number);
    const created = await this.bills.submit(row);
    if (created !== undefined) return created;
    const [existing] = await selectByKeys(this.pool, [row.idempotencyKey]);
    if (existing === undefined)
      throw new Error(`ledger row ${row.idempotencyKey} was there and is gone: run it again`);
    this.log.info(
      { sessionId: bill.sessionId, ledgerId: existing.id },
      'Session is billed already; the same ledger row is returned',
    );
    return existing;
  }

  /** Cancels rows in `tx`, each by a row of its own, and leaves them as they are; throws LedgerChangedError. */
  async reverse(tx: SqlRunner, rows: readonly LedgerRow[]): Promise<Ledger[]> {
    if (rows.length === 0) return [];
    return await this.insertAll(
      tx,
      rows.map(({ id, sessionId, mentorId, amountMinor, currency }) => ({
        sessionId,
        mentorId,
        amountMinor: String(-BigInt(amountMinor)),
        currency,
        idempotencyKey: reversalKey(id),
        reversesId: id,
      })),
    );
  }

  /** Bills a session anew in `tx`, after its last bill of the given rows; throws LedgerChangedError. */
  async billAnew(tx: SqlRunner, bill: SessionBill, rows: readonly LedgerRow[]): Promise<Ledger> {
    const numbers = rows.map(({ idempotencyKey }) => billNumber(bill.sessionId, idempotencyKey));
    const [billed] = await this.insertAll(tx, [newBill(bill, Math.max(0, ...numbers) + 1)]);
    return billed as Ledger;
  }

  private async insertAll(tx: SqlRunner, rows: readonly NewLedgerRow[]): Promise<Ledger[]> {
    const written = await this.table.insert(tx, rows);
    if (written.length !== rows.length)
      throw new LedgerChangedError('a ledger row was written by somebody else');
    return written;
  }
}

const newBill = (
  { sessionId, mentorId, amountMinor, currency }: SessionBill,
  number: number,
): NewLedgerRow => ({
  sessionId,
  mentorId,
  amountMinor: String(amountMinor),
  currency,
  idempotencyKey: billKey(sessionId, number),
  reversesId: null,
});

/** The number in a bill's key; 0 for a row of another kind. */
function billNumber(sessionId: string, key: string): number {
  const start = billKey(sessionId, 0).slice(0, -1);
  return key.startsWith(start) && /^\d{1,9}$/.test(key.slice(start.length))
    ? Number(key.slice(start.length))
    : 0;
}
