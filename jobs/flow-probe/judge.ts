/**
 * What the rows say of the flow: right, not there yet, or wrong for good. A pure function of what was read: no clock, no
 * table. What is only late becomes wrong when the caller's deadline has passed.
 */
import type { BillLook, EventRow } from './queries.ts';

/** What can be wrong, as it stands in the log. */
export type Fault =
  | 'bill_missing'
  | 'bill_duplicate'
  | 'bill_amount'
  | 'bill_currency'
  | 'event_never_written'
  | 'event_lost'
  | 'event_failed'
  | 'event_running'
  | 'event_pending';

export interface FoundEvent {
  readonly name: string;
  readonly rows: readonly EventRow[];
}

export interface Found {
  readonly bill: BillLook;
  /** Empty where events are not judged. */
  readonly events: readonly FoundEvent[];
}

export interface NamedFault {
  readonly fault: Fault;
  /** The event's name; nothing for a fault of the bill. */
  readonly event?: string;
}

export interface Verdict {
  readonly kind: 'right' | 'late' | 'wrong';
  readonly faults: readonly NamedFault[];
}

/** @param cardinality of the check: with `one`, a second live row is wrong at once */
export function judge(found: Found, cardinality: 'one' | 'at_least_one' | 'net_sum'): Verdict {
  const rows = BigInt(found.bill.rows);
  const faults: NamedFault[] = [];
  if (rows > 0n) {
    if (cardinality === 'one' && rows > 1n) faults.push({ fault: 'bill_duplicate' });
    // The parts of a sum may come one by one.
    const final = cardinality !== 'net_sum';
    if (found.bill.amount === 'wrong' && final) faults.push({ fault: 'bill_amount' });
    if (found.bill.currency === 'wrong') faults.push({ fault: 'bill_currency' });
  }
  if (faults.length > 0) return { kind: 'wrong', faults };
  const late: NamedFault[] = [];
  if (rows <= 0n) late.push({ fault: 'bill_missing' });
  else if (found.bill.amount === 'wrong') late.push({ fault: 'bill_amount' });
  for (const { name, rows: events } of found.events) {
    const fault = faultOf(events);
    if (fault !== undefined) late.push({ fault, event: name });
  }
  return late.length === 0 ? { kind: 'right', faults: [] } : { kind: 'late', faults: late };
}

function faultOf(rows: readonly EventRow[]): Fault | undefined {
  if (rows.length === 0) return 'event_never_written';
  const open = rows.find(({ status }) => status !== 'processed');
  if (open === undefined) return undefined;
  if (open.listeners_begun === null) return 'event_pending';
  if ((open.listeners_running ?? 0) > 0) return 'event_running';
  if ((open.listeners_failed ?? 0) > 0) return 'event_failed';
  return open.listeners_begun === 0 ? 'event_lost' : 'event_pending';
}

const words: Readonly<Record<Fault, string>> = {
  bill_missing: 'there is no bill',
  bill_duplicate: 'there is more than one live bill',
  bill_amount: 'the bill has a wrong amount',
  bill_currency: 'the bill has a wrong currency',
  event_never_written: 'was never written',
  event_lost: 'is pending and no listener was started: lost',
  event_failed: 'is pending because a listener failed',
  event_running: 'is pending and a listener is still running',
  event_pending: 'is still pending',
};

/** One sentence for a person. */
export const describeFaults = (faults: readonly NamedFault[]): string =>
  faults
    .map(({ fault, event }) => (event === undefined ? words[fault] : `the event ${event} ${words[fault]}`))
    .join('; ');
