import { setTimeout as delay } from 'node:timers/promises';
import type { CommitAware, CounterfoilDriver, EventMetrics } from '@counterfoil/nestjs';
import { Inject, Injectable } from '@nestjs/common';
import { EVENT_METRICS } from '../metrics/http-metrics.js';
import type { SessionCompleted } from '../sessions/session-events.js';

/** Every fault that can be armed, with what it does. */
export const FAULTS = {
  lose: 'the event row is written, but no listener starts after the commit',
  skip_backup: 'the session is completed, but its event is not published at all',
  fail: 'billing fails before it writes anything',
  slow: 'billing waits `ms` milliseconds first',
  bill_twice: 'billing writes two ledger rows',
  bill_wrong: 'billing writes one minor unit too much',
  crash_before_commit: 'the process dies with the transaction still open',
  crash_after_commit: 'the process dies after the commit, before any listener starts',
  crash_after_handler: 'the process dies after the ledger row, inside the listener',
  crash_before_mark: 'the process dies after the listener, before its success is recorded',
} as const;

/** One of the words in FAULTS. */
export type Fault = keyof typeof FAULTS;

interface ArmedFault {
  rate: number;
  endsAt: number;
  waitMs: number;
}

const die = (): void => {
  process.kill(process.pid, 'SIGKILL');
};

/**
 * Makes the service do wrong on demand, as a faulty release would: it writes no log line, metric or row of its own.
 * Nothing strikes unless armed by `POST /admin/faults`.
 */
@Injectable()
export class FaultInjector {
  private readonly armed = new Map<Fault, ArmedFault>();

  constructor(@Inject(EVENT_METRICS) private readonly metrics: EventMetrics) {}

  /** Arms a fault, in place of an earlier one of its name: it strikes with probability `rate` until `forMs` is over. */
  arm(fault: Fault, rate: number, forMs: number, waitMs: number): void {
    this.armed.set(fault, { rate, endsAt: performance.now() + forMs, waitMs });
  }

  /** Disarms every fault. */
  clear(): void {
    this.armed.clear();
  }

  /** Publishes an event in `tx`, or does what an armed fault makes of that. */
  async whilePublishing(
    tx: CommitAware,
    eventName: string,
    publish: (tx: CommitAware) => Promise<unknown>,
  ): Promise<void> {
    if (this.strikes('skip_backup')) return;
    // Before the publisher's own callback, so that it never runs.
    if (this.strikes('crash_after_commit')) tx.afterCommit(die);
    if (this.strikes('lose')) {
      // A release that forgets its events has counted them as published.
      tx.afterCommit(() => this.metrics.published(eventName, 'committed'));
      await publish({ run: (sql, params) => tx.run(sql, params), afterCommit: () => undefined });
    } else {
      await publish(tx);
    }
    if (this.strikes('crash_before_commit')) die();
  }

  /** Bills an event by `writeLedger`, or does what an armed fault makes of that. */
  async whileBilling<Ledger>(
    event: SessionCompleted,
    writeLedger: (event: SessionCompleted, number: number) => Promise<Ledger>,
  ): Promise<Ledger> {
    const slow = this.strikes('slow');
    if (slow) await delay(slow.waitMs);
    if (this.strikes('fail')) throw new Error('billing failed');
    const billed = this.strikes('bill_wrong') ? { ...event, amountMinor: event.amountMinor + 1 } : event;
    const ledger = await writeLedger(billed, 1);
    if (this.strikes('bill_twice')) await writeLedger(billed, 2);
    if (this.strikes('crash_after_handler')) die();
    return ledger;
  }

  /** Lets a crash strike at the end of a correction's transaction, or after its commit, before its answer. */
  whileCorrecting(tx: CommitAware): void {
    if (this.strikes('crash_after_commit')) tx.afterCommit(die);
    if (this.strikes('crash_before_commit')) die();
  }

  /** The driver, through which a crash can strike just before an outcome is recorded. */
  within<Handle>(driver: CounterfoilDriver<Handle>): CounterfoilDriver<Handle> {
    return {
      transaction: (work) => driver.transaction(work),
      run: (sql, params) => {
        if (sql.startsWith('/* counterfoil mark-listeners') && this.strikes('crash_before_mark')) die();
        return driver.run(sql, params);
      },
    };
  }

  private strikes(fault: Fault): ArmedFault | undefined {
    const armed = this.armed.get(fault);
    if (armed === undefined || performance.now() >= armed.endsAt || Math.random() >= armed.rate)
      return undefined;
    return armed;
  }
}
